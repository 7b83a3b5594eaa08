"""The dialect of Gemini's Interactions API (ai.google.dev/api/interactions-api): the answers, and how to read on.

`interactions_request.py` writes what is asked.

An interaction is a list of numbered steps: `step.start`, deltas, `step.stop`.  Text of the model's output is shown,
summaries of its thoughts as thinking, and function calls, whose arguments come with the start or as pieces of JSON.
What the provider runs itself (searches, code, MCP) is not ours to answer and is not shown.

`interaction.completed` is the end, whatever came of it: its status tells.  `requires_action` means that a function's
result is wanted.  A status that only an update tells makes the answer whole, and what follows is still read.

An interaction in the background goes on whatever becomes of the connection, and is read on after an event by the
event's id.  A `Run` is that place.  The ids tell no order, so an answer to "after this event" is taken at its word but
in two cases that show: it begins with that very event, or with the interaction's beginning; then everything up to the
event is passed over.  Not every event has an id; content that has none moves no mark, and is compared when it is told
again (`carry_join`).  A service that gives no ids at all still gives the run a name, by which it is cancelled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from everstream.core.events import Counted, Finish, FinishReason, Mark, Usage
from everstream.providers.base import ProviderError, ProviderEvent
from everstream.providers.batching import Batcher
from everstream.providers.gemini_api import error_in_stream
from everstream.providers.http_errors import garbage
from everstream.providers.sse import JsonEvents


class _Struct(msgspec.Struct, gc=False):
    pass


class _Content(_Struct):
    type: str | None = None
    text: str | None = None


class _Step(_Struct):
    type: str | None = None
    id: str | None = None
    name: str | None = None
    arguments: Any = None
    content: list[_Content | None] | None = None
    summary: list[_Content | None] | None = None
    error: Any = None


class _Delta(_Struct):
    type: str | None = None
    text: str | None = None
    content: _Content | None = None
    arguments: Any = None


class _Usage(_Struct):
    total_tokens: int | None = None
    total_input_tokens: int | None = None
    total_cached_tokens: int | None = None
    total_output_tokens: int | None = None
    total_tool_use_tokens: int | None = None
    total_thought_tokens: int | None = None


class _Metadata(_Struct):
    usage: _Usage | None = None
    total_usage: _Usage | None = None


class _Interaction(_Struct):
    id: str | None = None
    status: str | None = None
    usage: _Usage | None = None
    steps: list[_Step | None] | None = None
    error: Any = None


class _Event(_Struct):
    event_type: str | None = None
    event_id: str | None = None
    index: int | None = None
    interaction_id: str | None = None
    interaction: _Interaction | None = None
    status: str | None = None
    step: _Step | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    metadata: _Metadata | None = None
    error: Any = None


_DECODER = msgspec.json.Decoder(_Event)

_ENDS: dict[str, FinishReason] = {
    "completed": "stop",
    "requires_action": "tool_calls",
    "incomplete": "length",
    "budget_exceeded": "length",
    "requires_continuation": "length",
}
_FAILURES = ("failed", "cancelled")
_FILES = ("image", "audio", "video", "document")

# How a call's arguments came.
_NOT_YET, _IN_PIECES, _WHOLE = range(3)


class Run(msgspec.Struct, omit_defaults=True):
    """An interaction of `model` in the background, read up to the event `after`; as plain data a mark's cursor."""

    model: str = ""
    interaction: str = ""
    after: str = ""
    calls: list[tuple[int, int, int]] = []  # step, our index, how its arguments came; bounded by the answer's steps

    @classmethod
    def of(cls, cursor: Any) -> Run | None:
        """None: the cursor is another provider's, or of no run."""
        try:
            run = msgspec.convert(cursor, cls)
        except msgspec.ValidationError:
            return None
        return run if run.interaction else None


class InteractionsFold:
    """One streamed interaction: bytes to events.  A `http_answer.Fold`.

    With a `run`, new or read before, the batch that has the run's name begins with a mark, and each batch that ends
    with an event that can be found again ends with one.  `failed` is told the run's name where it has come to nothing.
    """

    def __init__(
        self,
        name: str,
        warnings: tuple[str, ...] = (),
        run: Run | None = None,
        failed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.finished = False
        self.ended = False
        self.trouble: ProviderError | None = None
        self._name = name
        self._warnings = warnings
        self._events = JsonEvents(_DECODER)
        self._batch = Batcher()
        self._kinds: dict[int, str] = {}  # of the steps; bounded by the answer's, as are the calls
        self._calls: dict[int, tuple[int, int]] = {}  # step -> our index, how its arguments came
        self._usage: Usage | None = None
        self._run = run
        self._reads_on = self._again = run is not None and bool(run.after)  # the latter until its first event
        self._skip_to = ""  # the event up to which everything is known
        self._findable = False  # the last content can be read on after
        self._failed_run = failed
        self._gave_up = False
        if run is not None:
            self._calls.update({step: (index, how) for step, index, how in run.calls})
            self._batch.calls = len(run.calls)

    def feed(self, data: bytes) -> list[ProviderEvent]:
        events = self._events.feed(data)
        return self._fold(events) if self._run is None else self._marked(self._run, events)

    def end(self) -> list[ProviderEvent]:
        events = self._events.end()
        batch = self._fold(events) if self._run is None else self._marked(self._run, events)
        if self._run is not None and self._skip_to and self.trouble is None:
            self._failed_run(self._run.interaction)
            self.trouble = ProviderError("provider.connection", f"{self._name} has lost the place in its answer")
        return batch

    def _marked(self, run: Run, events: list[_Event]) -> list[ProviderEvent]:
        named = not run.interaction
        fresh = []
        for event in events:
            if self._is_known(run, event):
                continue
            fresh.append(event)
            if event.event_id:
                run.after = event.event_id
                self._findable = True
            elif event.step is not None or event.delta is not None:
                self._findable = False
            told = event.interaction.id if event.interaction is not None else event.interaction_id
            run.interaction = run.interaction or told or ""
        marks: list[ProviderEvent] = []
        if named and run.interaction:
            marks.append(Mark(cursor=msgspec.to_builtins(Run(run.model, run.interaction))))
        batch = self._fold(fresh)
        if run.interaction and (self._gave_up or (self.trouble is not None and not self._batch.shown)):
            self._failed_run(run.interaction)
        if run.interaction and self._findable and batch and not self.ended and self.trouble is None:
            run.calls = [(step, index, how) for step, (index, how) in self._calls.items()]
            batch.append(Mark(cursor=msgspec.to_builtins(run)))
        return [*marks, *batch] if marks else batch

    def _is_known(self, run: Run, event: _Event) -> bool:
        """Whether an event is told a second time, where a run is read on."""
        if self._again:
            self._again = False
            if event.event_id == run.after:
                return True
            if event.event_type == "interaction.created":
                self._skip_to = run.after
        if self._skip_to:
            if event.event_id == self._skip_to:
                self._skip_to = ""
            return True
        return False

    def _fold(self, events: list[_Event]) -> list[ProviderEvent]:
        before = self._usage
        for event in events:
            if event.metadata is not None:
                self._count(event.metadata.total_usage or event.metadata.usage)
            handle = _HANDLERS.get(event.event_type or "")
            if handle is not None:
                handle(self, event)
            elif event.error:
                self._error(event)
            if self.ended or self.trouble is not None:
                return self._batch.take()
        if self._events.trouble is not None:
            self.trouble = garbage(self._name, self._events.trouble)
        batch = self._batch.take()
        if self._usage is not None and self._usage != before and not self.finished:
            batch.append(Counted(self._usage))
        return batch

    # ------------------------------------------------------------------ steps

    def _step_start(self, event: _Event) -> None:
        if event.step is not None:
            self._begin(event.index or 0, event.step)

    def _begin(self, number: int, step: _Step) -> None:
        kind = self._kinds[number] = step.type or ""
        if kind == "function_call":
            if number not in self._calls:
                given = _json(step.arguments) if step.arguments else ""
                index = self._batch.new_call(step.id, step.name, given)
                self._calls[number] = (index, _WHOLE if given else _NOT_YET)
        elif kind in ("model_output", "thought"):
            for content in (*(step.content or ()), *(step.summary or ())):
                if content is not None:
                    self._content(content, thought=kind == "thought")
            if step.error:
                self.trouble = error_in_stream(self._name, step.error)

    def _content(self, content: _Content, *, thought: bool) -> None:
        if content.text and thought:
            self._batch.thinking(content.text)
        elif content.text:
            self._batch.text(content.text)
        elif content.type in _FILES:
            self._warn_of(content.type)

    def _step_delta(self, event: _Event) -> None:
        delta, number = event.delta, event.index or 0
        if delta is None:
            return
        if delta.type in ("thought_summary", "thought"):
            text = delta.text or (delta.content.text if delta.content is not None else None)
            if text:
                self._batch.thinking(text)
        elif delta.type in (None, "text"):
            if delta.text:
                self._content(_Content("text", delta.text), thought=self._kinds.get(number) == "thought")
        elif delta.type == "arguments_delta":
            call = self._calls.get(number)
            if call is not None and delta.arguments and call[1] != _WHOLE:
                self._batch.arguments(call[0], _json(delta.arguments))
                self._calls[number] = (call[0], _IN_PIECES)
        elif delta.type in _FILES:
            self._warn_of(delta.type)

    def _step_stop(self, event: _Event) -> None:
        self._stop(event.index or 0)

    def _stop(self, number: int) -> None:
        call = self._calls.get(number)
        if call is not None and call[1] == _NOT_YET:
            self._batch.arguments(call[0], "{}")
            self._calls[number] = (call[0], _WHOLE)

    # ------------------------------------------------------------------ the end

    def _status(self, event: _Event) -> None:
        said = event.interaction
        status = (said.status if said is not None else None) or event.status or ""
        self._count(said.usage if said is not None else event.usage)
        if status in _FAILURES:
            self._fail(status, event)
        elif status in _ENDS and not self.finished:
            self._finish(status)

    def _completed(self, event: _Event) -> None:
        said = event.interaction
        if said is not None and not (self._batch.shown or self._reads_on):  # it may all be told at once
            for number, step in enumerate(said.steps or ()):
                if step is not None:
                    self._begin(number, step)
                    self._stop(number)
        before = self._usage
        self._status(event)
        if self.trouble is None:
            if not self.finished:
                self._finish("completed")
            elif self._usage != before:
                self._batch.finish(Finish(None, self._usage))
            self.ended = True

    def _finish(self, status: str) -> None:
        for number in self._calls:
            self._stop(number)
        reason = _ENDS[status]
        if status not in ("completed", "requires_action", "incomplete"):
            self._warnings += (f"the interaction ended early: {status}",)
        if reason == "tool_calls" and not self._batch.calls:
            self._warnings += ("the provider waits for an action that it has not told of",)
            reason = "stop"
        self.finished = True
        self._batch.finish(
            Finish("tool_calls" if self._batch.calls and reason == "stop" else reason, self._usage, self._warnings)
        )
        self._warnings = ()

    def _fail(self, status: str, event: _Event) -> None:
        self._gave_up = True
        if status == "cancelled":
            self.trouble = ProviderError("provider.connection", f"{self._name} cancelled the interaction")
            return
        error = (event.interaction.error if event.interaction is not None else None) or event.error
        self.trouble = error_in_stream(self._name, error or "the interaction failed")

    def _error(self, event: _Event) -> None:
        self.trouble = error_in_stream(self._name, event.error or "the interaction failed")

    def _count(self, said: _Usage | None) -> None:
        if said is not None:
            self._usage = _usage(said) or self._usage

    def _warn_of(self, kind: str | None) -> None:
        warning = f"the answer holds {kind}, which cannot be shown here"
        if warning not in self._warnings:
            self._warnings += (warning,)


_HANDLERS = {
    "step.start": InteractionsFold._step_start,
    "step.delta": InteractionsFold._step_delta,
    "step.stop": InteractionsFold._step_stop,
    "interaction.created": InteractionsFold._status,
    "interaction.status_update": InteractionsFold._status,
    "interaction.completed": InteractionsFold._completed,
    "interaction.complete": InteractionsFold._completed,
    "error": InteractionsFold._error,
}


def _json(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _usage(said: _Usage) -> Usage | None:
    if said.total_input_tokens is None and said.total_output_tokens is None:
        return None
    given = (said.total_input_tokens or 0) + (said.total_tool_use_tokens or 0)
    made = (said.total_output_tokens or 0) + (said.total_thought_tokens or 0)
    total = said.total_tokens if said.total_tokens is not None else given + made
    return Usage(given, made, total, "provider", said.total_thought_tokens, said.total_cached_tokens)
