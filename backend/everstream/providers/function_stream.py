"""What a developer's function says its answer through, and the way from there to the relay.

    function ──▶ ModelStream ──▶ Outbox ──one batch a turn of the loop──▶ (Replayed) ──▶ sink

Whatever is said in one turn of the loop is one batch, given on at the end of that turn: it is shown while the function
waits for something else, a burst of words costs one entry, and a checkpoint that is set right after a word is stored
with that word.  A function in a thread says it through the loop, and is held up there where readers cannot keep up.

A checkpoint is a provider's mark, and a mark lies beside an entry that is not stored yet.  Where the last word may have
been stored already, an empty one is said to carry it; before the first word it waits for that.  It notes how much had
been said when it was set, so where it lies does not matter.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from everstream.core.events import (
    CONTENT,
    Content,
    Counted,
    DeltaRefusal,
    DeltaText,
    DeltaThinking,
    DeltaToolCall,
    Finish,
    Mark,
    ToolCall,
    Usage,
)
from everstream.core.summary import CalledTool, Summary
from everstream.providers.base import Batch, Progress, ProviderError, ProviderEvent, Sink
from everstream.providers.carry_join import Astray, Reattached

TURN_CHARS_MAX = 8_192  # said in one turn without a pause: then the batch is given on at once
TURN_EVENTS_MAX = 256
THREAD_WORDS_MAX = 64  # that a thread says before it waits to hear that they were taken
CHECKPOINT_BYTES_MAX = 65_536

Status = Literal["running", "cancelled", "ended"]


@dataclass(frozen=True, slots=True)
class Resume:
    """What was sent of an answer before it broke off, for a function that goes on from there.

    `checkpoint` is the last that was stored, None where there is none; `text_since` is the text that was sent after
    it (all of it, where there is none).
    """

    text: str
    thinking: str
    tool_calls: tuple[ToolCall, ...]
    checkpoint: Any
    text_since: str


class Saved(msgspec.Struct, frozen=True):
    """A checkpoint as it lies in the store: whose it is, how much text had been said, and the developer's data."""

    model: str
    text_chars: int
    data: Any

    @classmethod
    def of(cls, progress: Progress, model: str) -> Saved | None:
        """The checkpoint beside what is shown; None: there is none, or it is another model's."""
        try:
            saved = msgspec.convert(progress.cursor, cls)
        except msgspec.ValidationError:
            return None
        return saved if saved.model == model and saved.text_chars <= len(progress.text) else None


def resume_of(progress: Progress, saved: Saved | None) -> Resume:
    since = progress.text[saved.text_chars :] if saved else progress.text
    return Resume(progress.text, progress.thinking, progress.tool_calls, saved.data if saved else None, since)


class Replayed:
    """A join for a function that is run again from its beginning: what is shown must come again, and is left out."""

    def __init__(self, progress: Progress) -> None:
        calls = tuple(
            CalledTool(index, call.call_id or None, call.name or None, call.arguments)
            for index, call in enumerate(progress.tool_calls)
        )
        self._calls = dict(enumerate(calls))
        self._join = Reattached(Summary(progress.text, progress.thinking, progress.refusal, calls))

    def take(self, batch: Batch) -> list[ProviderEvent]:
        """What of a batch is to be shown.  Raises ProviderError where something else comes."""
        try:
            for event in batch:
                if isinstance(event, DeltaToolCall) and (call := self._calls.get(event.index)) is not None:
                    if event.name and event.name != call.name:
                        raise Astray("the run that is read again calls another tool")
                    if event.call_id and event.call_id != call.call_id:
                        raise Astray("the run that is read again calls a tool by another id")
            return self._join.take(batch)
        except Astray:
            # Not a broken connection, which asking once more might mend: it would say something else again.
            why = "the function was run again and said something else than before"
            raise ProviderError("provider.unknown", why, retryable=False) from None


class Outbox:
    """Gathers what is said in a turn of the loop, and gives it on.  Made in the loop; `put` may come from a thread."""

    def __init__(self, sink: Sink, join: Replayed | None, on_failure: Callable[[], None]) -> None:
        """`on_failure`: what was said cannot be given on; `failure` says why."""
        self.open = True
        self.spoken = False  # some content was said
        self.finish = Finish()
        self.failure: BaseException | None = None
        self._sink = sink
        self._join = join
        self._on_failure = on_failure
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._batch: list[ProviderEvent] = []
        self._chars = 0
        self._due = False
        self.crowded = False  # whoever says more should `drain` first
        self._draining = asyncio.Lock()
        self._held: Mark | None = None  # until the first word
        self._last: Content = DeltaText("")
        self._unheard = 0  # words of a thread since it last waited
        self._gates: list[threading.Event] = []
        self._gated = asyncio.Event()

    def put(self, event: ProviderEvent) -> None:
        if threading.get_ident() == self._thread:
            self._put(event)
            return
        with contextlib.suppress(RuntimeError):  # the loop has closed
            self._loop.call_soon_threadsafe(self._put, event)
            self._unheard += 1
            if self.crowded or self._unheard >= THREAD_WORDS_MAX:
                self._unheard = 0
                gate = threading.Event()
                self._loop.call_soon_threadsafe(self._at_gate, gate)
                gate.wait()

    def _put(self, event: ProviderEvent) -> None:
        if not self.open or self.failure is not None:
            return
        last = self._batch[-1] if self._batch else None
        if isinstance(event, CONTENT):
            said = event.arguments if type(event) is DeltaToolCall else event.text  # type: ignore[union-attr]
            self._chars += len(said)
            self._last = event  # type: ignore[assignment]
            self.spoken = True
        if type(event) is DeltaText and type(last) is DeltaText:
            self._batch[-1] = DeltaText(last.text + event.text)
        else:
            self._batch.append(event)
        if self._held is not None and self.spoken:
            self._batch.append(self._held)
            self._held = None
        if self._chars >= TURN_CHARS_MAX or len(self._batch) >= TURN_EVENTS_MAX:
            self.flush()
            self.crowded = True  # and let others have the loop
        elif not self._due:
            self._due = True
            self._loop.call_soon(self.flush)

    def mark(self, mark: Mark) -> None:
        """Put it beside what was said last.  In the loop."""
        if not self.spoken:
            self._held = mark
            return
        if not any(isinstance(event, CONTENT) for event in self._batch):
            self._put(_empty(self._last))
        self._put(mark)

    def alive(self) -> None:
        """A sign of life, with nothing to show."""
        if not self._due:
            self._due = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Give on what was gathered."""
        if not self._due and not self._batch:
            return
        self._due = False
        batch, self._batch, self._chars = self._batch, [], 0
        self.give(batch)

    def give(self, batch: Batch) -> None:
        """Give a batch on, now."""
        if not self.open or self.failure is not None:
            return
        try:
            shown = batch if self._join is None else self._join.take(batch)
            if not self._sink.take(shown):
                self.crowded = True
        except Exception as error:
            self.failure = error
            self._on_failure()

    async def drain(self) -> None:
        """Until what was said is given on and there is room for more; at least one turn of the loop."""
        self.flush()
        async with self._draining:
            if self.crowded and self.open and self.failure is None:
                await self._sink.room()
                self.crowded = False
        await asyncio.sleep(0)

    def close(self) -> None:
        """Nothing more is taken.  A thread that waits goes on."""
        self.open = False
        self._open_gates()

    # ------------------------------------------------------------------ a function in a thread

    async def attend(self) -> None:
        """Let the function's thread go on whenever it waits and there is room."""
        while True:
            await self._gated.wait()
            await self.drain()
            self._open_gates()

    def _at_gate(self, gate: threading.Event) -> None:
        if self.open and self.failure is None:
            self._gates.append(gate)
            self._gated.set()
        else:
            gate.set()

    def _open_gates(self) -> None:
        self._gated.clear()
        gates, self._gates = self._gates, []
        for gate in gates:
            gate.set()

    def in_loop(self, call: Callable[[], None]) -> None:
        """Do it in the loop, whichever thread this is."""
        if threading.get_ident() == self._thread:
            call()
        else:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(call)


class ModelStream:
    """One answer, as the function that makes it sees it.

    What is said is shown at once, also while the function waits for something else.  `cancelled` is set before the
    function is stopped, when nobody wants the rest of this run: the client cancelled, the budget is spent, the server
    goes away.  All methods but `drain` are plain calls, and a function that runs in a thread may make them too.
    """

    def __init__(
        self, model: str, outbox: Outbox, resume_from: Resume | None, *, keeps: bool, mark_of_call: int
    ) -> None:
        """`keeps`: checkpoints are stored.  `mark_of_call` tells the calls of one turn from those of another."""
        self.model = model
        self.resume_from = resume_from
        self.cancelled = asyncio.Event()
        self._outbox = outbox
        self._keeps = keeps
        self._text_chars = len(resume_from.text) if resume_from else 0
        self._calls = len(resume_from.tool_calls) if resume_from else 0
        self._mark_of_call = mark_of_call

    @property
    def status(self) -> Status:
        if self.cancelled.is_set():
            return "cancelled"
        return "running" if self._outbox.open else "ended"

    def text(self, text: str) -> None:
        """Say a piece of the answer.  An empty one is shown to nobody, and keeps a silent function from timing out."""
        self.event(DeltaText(_text(text, "text")))

    def thinking(self, text: str) -> None:
        """Say a piece of the thinking before or between the answer."""
        self.event(DeltaThinking(_text(text, "thinking")))

    def tool_call(self, name: str, arguments: str | dict[str, Any] = "{}", call_id: str | None = None) -> str:
        """Ask for a tool; `arguments` is JSON text, or a map.  Returns the call's id: the same run gives the same."""
        said = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        index = self._calls
        if call_id is None:
            call_id = f"call_{zlib.crc32(f'{self._mark_of_call} {index} {name} {said}'.encode()):08x}"
        self.event(DeltaToolCall(index, said, call_id, _text(name, "a tool's name")))
        return call_id

    def usage(
        self,
        input_tokens: int,
        output_tokens: int,
        *,
        thinking_tokens: int | None = None,
        cached_tokens: int | None = None,
    ) -> None:
        """Tell the tokens that this run has taken so far; a later call takes the place of an earlier one."""
        total = input_tokens + output_tokens
        self.event(Usage(input_tokens, output_tokens, total, "provider", thinking_tokens, cached_tokens))

    def checkpoint(self, data: Any) -> None:
        """Store plain data (what JSON can say) with what was said so far, for `resume_from.checkpoint`.

        Raises TypeError for other data, and ValueError where it is larger than 64 KiB.
        """
        if not self._keeps:
            return
        saved = msgspec.to_builtins(Saved(self.model, self._text_chars, data))
        try:
            size = len(msgspec.msgpack.encode(saved))
        except OverflowError as error:
            raise TypeError(f"a checkpoint must be plain data: {error}") from None
        if size > CHECKPOINT_BYTES_MAX:
            raise ValueError(f"a checkpoint may have {CHECKPOINT_BYTES_MAX} bytes, this one has {size}")
        self._check_open()
        self._outbox.in_loop(lambda: self._outbox.mark(Mark(cursor=saved)))

    async def drain(self) -> None:
        """Wait while readers or the store cannot keep up.  What is yielded waits by itself."""
        await self._outbox.drain()

    def event(self, event: Content | Usage | Counted | Finish) -> None:
        """Say an event of `everstream.core.events`."""
        self._check_open()
        outbox = self._outbox
        if isinstance(event, Usage):
            event = Counted(event)
        if isinstance(event, Counted):
            usage = event.usage
            outbox.finish = msgspec.structs.replace(outbox.finish, usage=usage)
            outbox.put(event)
        elif isinstance(event, Finish):
            before = outbox.finish
            outbox.finish = Finish(
                event.finish_reason or before.finish_reason,
                event.usage or before.usage,
                before.warnings + event.warnings,
            )
        elif isinstance(event, DeltaToolCall):
            self._calls = max(self._calls, event.index + 1)
            outbox.put(event)
        elif event.text:
            self._text_chars += len(event.text) if isinstance(event, DeltaText) else 0
            outbox.put(event)
        else:
            outbox.in_loop(outbox.alive)

    @property
    def calls_tools(self) -> bool:
        return self._calls > (len(self.resume_from.tool_calls) if self.resume_from else 0)

    def _check_open(self) -> None:
        if self.status == "ended":
            raise RuntimeError(f"the answer of {self.model} has ended: nothing can be added to it")


EVENTS = (DeltaText, DeltaThinking, DeltaToolCall, DeltaRefusal, Usage, Counted, Finish)


def _empty(like: Content) -> Content:
    """A piece of the same kind, with nothing in it."""
    return DeltaToolCall(like.index, "") if isinstance(like, DeltaToolCall) else type(like)("")


def _text(said: object, what: str) -> str:
    if not isinstance(said, str):
        raise TypeError(f"{what} must be str, not {type(said).__name__}")
    return said
