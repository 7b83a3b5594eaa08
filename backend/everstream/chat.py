"""A chat in the terminal, over the same WebSocket as any other client.

    > why is the sky blue?
    (thinking, dimmed)
    Because …
    0.31 s to first token · 41.2 tokens/s · 14 in, 230 out

Lines come in as they are typed, also while an answer runs; they wait their turn.  Ctrl-C while an answer runs stops it
on the server and keeps the part; at the prompt it leaves, as Ctrl-D does.  The client goes on by itself when the
connection or the server behind it changes; a mark says so.  With standard input a pipe, each line is answered and then
the program ends; with standard output no terminal, the answers alone go there, and marks and figures to standard error.

A question or a file on the command line is the first turn.  It is answered and the program ends, unless it is to stay.

The conversation is kept here and sent whole each time, so any server can answer the next line.  In a session the
server keeps it, and only the line is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TextIO

from everstream.attachment import Unreadable, opening_turn
from everstream.client import UNSET, Client, Session
from everstream.core.errors import EverstreamError
from everstream.link import LinkState
from everstream.reader import Stream
from everstream.reducer import Frame
from everstream.showing import ENDINGS, Answer, figures
from everstream.terminal import Lines, Page

TURNS_MAX = 1000  # of the conversation kept; older ones are forgotten
NEW_SESSION = "new"
TRIES_MAX = 5  # to start an answer, where the server says that trying again can help
RETRY_S = 0.5
HELP = """\
/model NAME   ask another model
/models       what there is
/new          forget the conversation (in a session: begin anew in it)
/help         this
/quit         leave (also Ctrl-C or Ctrl-D)
Ctrl-C while an answer runs stops it and keeps the part."""


class Chat:
    """One conversation, until the lines end."""

    def __init__(
        self, client: Client, lines: Lines, page: Page, model: str, params: Frame, session: Session | None = None
    ) -> None:
        self._client = client
        self._session = session
        self._anew = False  # the next line follows nothing
        self._lines = lines
        self._page = page
        self.model = model
        self._params = params
        self._messages: list[Frame] = []
        self._reading: asyncio.Task[str | None] | None = None  # at the prompt
        self._asking: asyncio.Task[None] | None = None  # while an answer runs
        self._stream: Stream | None = None
        self.stopped = False  # the last answer, by the person
        self._cancels: set[asyncio.Task[None]] = set()
        self._away = False
        self.failed = False

    async def run(self, prompt: str) -> None:
        """Until the lines end, the person leaves, or the server refuses for good."""
        while not self.closed:
            self._page.margin()
            self._page.ask(prompt)
            line = await self._read()
            if line is None:
                break
            if prompt:
                self._page.entered()
            line = line.strip()
            if line.startswith("/"):
                if not await self._command(line):
                    return
            elif line:
                await self.turn(line)
        self._page.margin()

    @property
    def closed(self) -> bool:
        """Whether the server has refused for good."""
        return self._client.link_state is LinkState.CLOSED

    def interrupt(self) -> None:
        """Ctrl-C: at the prompt leave; during an answer stop it, and the second time do not wait for the server."""
        if self._asking is None:
            if self._reading is not None:
                self._reading.cancel()
        elif self.stopped:
            self._asking.cancel()
        else:
            self.stopped = True
            if self._stream is not None:
                self._cancel(self._stream)

    def link_changed(self, state: LinkState) -> None:
        """A quiet mark, once for each time the connection is away while an answer runs."""
        if state is LinkState.OPEN:
            self._away = False
        elif state is LinkState.WAITING and self._asking is not None and not self._away:
            self._away = True
            self._page.dim(" [reconnecting…] ")

    async def _read(self) -> str | None:
        self._reading = asyncio.create_task(self._lines.next())
        try:
            await asyncio.wait({self._reading})
            return None if self._reading.cancelled() else self._reading.result()
        finally:
            self._reading.cancel()
            self._reading = None

    # ------------------------------------------------------------------ a turn

    async def turn(self, line: str) -> None:
        """Ask, and show the answer to its end."""
        self._messages.append({"role": "user", "content": line})
        asking = self._begin()
        if self._client.link_state is not LinkState.OPEN:
            self.link_changed(LinkState.WAITING)
        try:
            await asyncio.wait({asking})
            if not asking.cancelled() and (error := asking.exception()) is not None:
                if isinstance(error, BrokenPipeError):
                    await self._stop_for_nobody()
                    raise error
                self._fail(error)
            else:
                self._conclude()
        finally:
            asking.cancel()
            self._asking = None
        text = self._stream.state.text if self._stream is not None else ""
        if text:
            self._messages.append({"role": "assistant", "content": text})
            del self._messages[: -2 * TURNS_MAX]
        else:  # a question without an answer would stand before the next one
            self._messages.pop()

    def _begin(self) -> asyncio.Task[None]:
        self._stream, self.stopped = None, False
        self._asking = asyncio.create_task(self._ask())
        return self._asking

    async def _stop_for_nobody(self) -> None:
        """Whoever read the answer (`| head`) has seen enough of it, and has gone."""
        if self._stream is not None:
            with contextlib.suppress(EverstreamError, ConnectionError):
                await self._stream.cancel()

    def _cancel(self, stream: Stream) -> None:
        """Tell the server, in the background: even if nobody waits for it any more, it shall not go on."""

        async def tell() -> None:
            with contextlib.suppress(EverstreamError, ConnectionError):
                if self._session is not None and stream.over:  # its turn waits for tools
                    await self._session.cancel()
                else:
                    await stream.cancel()

        task = asyncio.create_task(tell())
        self._cancels.add(task)
        task.add_done_callback(self._cancels.discard)

    async def _ask(self) -> None:
        async for stream in self._rounds(await self._generate()):
            self._stream = stream
            if self.stopped:
                self._cancel(stream)
            answer = Answer(self._page)
            async for frame in stream:
                self._page.frame(frame)
                answer.show(frame, stream)

    async def _rounds(self, stream: Stream) -> AsyncIterator[Stream]:
        """The streams of a turn: several, where tools are called in a session."""
        if self._session is None:
            yield stream
            return
        async for each in self._session.rounds(stream):
            yield each

    async def _generate(self) -> Stream:
        tries = 0
        while True:
            tries += 1
            try:
                if self._session is None:
                    return await self._client.generate(model=self.model, messages=self._messages, params=self._params)
                line, parent = self._messages[-1]["content"], None if self._anew else UNSET
                stream = await self._session.send(line, model=self.model, parent=parent, params=self._params)
                self._anew = False
                return stream
            except EverstreamError as error:
                if not error.retryable or tries >= TRIES_MAX:
                    raise
                await asyncio.sleep(max(RETRY_S, (error.retry_after_ms or 0) / 1000))

    def _fail(self, error: BaseException) -> None:
        self.failed = True
        self._page.note(f"[{error}]")

    def _conclude(self) -> None:
        end = self._stream.state.end if self._stream is not None else None
        if end is None or end["reason"] == "cancelled":
            self._page.dim(" [stopped]")
        elif end["reason"] != "complete":
            error = end.get("error") or {}
            why = f": {error['code']}, {error['message']}" if error else ""
            self._page.dim(f" [{ENDINGS.get(end['reason'], end['reason'])}{why}]")
            self.failed = True
        elif end.get("finish_reason") in ENDINGS:
            self._page.dim(f" [{ENDINGS[end['finish_reason']]}]")
        if end is not None:
            self._page.note(figures(end))

    # ------------------------------------------------------------------ commands

    async def _command(self, line: str) -> bool:
        """False: leave."""
        name, _, rest = line.partition(" ")
        if name in ("/quit", "/exit"):
            return False
        if name == "/new":
            self._messages.clear()
            self._anew = True
            self._page.note("a new conversation")
        elif name == "/model":
            self.model = rest.strip() or self.model
            self._page.note(self.model)
        elif name == "/models":
            await self._models()
        else:
            self._page.note(HELP)
        return True

    async def _models(self) -> None:
        try:
            models = await self._client.models()
        except (EverstreamError, ConnectionError) as error:
            self._fail(error)
        else:
            self._page.note("\n".join(shown_model(model, self.model) for model in models))


def shown_model(model: Frame, current: str) -> str:
    mark = "*" if model["id"] == current else " "
    return f"{mark} {model['id']}" + ("" if model.get("usable") else f"  (not usable: {model.get('why_not', '')})")


def choose(models: list[Frame]) -> str | None:
    """The first usable model, a real one before a scripted one."""
    usable = [str(model["id"]) for model in models if model.get("usable")]
    return min(usable, key=lambda name: name.startswith("scripted/"), default=None)


@dataclass(frozen=True, slots=True)
class Wish:
    """What the person asked for on the command line.  `params` are the request's, the system's text among them."""

    url: str
    model: str | None = None  # None: the first usable one
    params: Frame = field(default_factory=dict)
    token: str | None = None
    question: str = ""
    files: Sequence[str] = ()
    stay: bool = False  # go on after the question
    tee: str | None = None
    frames: bool = False
    session: str | None = None  # to go on in; NEW_SESSION makes one


def main(wish: Wish) -> int:
    """Chat until the person leaves.  Returns the exit code.

    1 where the server was not to be had, or an answer failed and nobody sits at the terminal; 2 where a file cannot be
    read or written; 130 where the one answer was interrupted.  Raises BrokenPipeError where nobody reads any more.
    """
    try:
        opening = opening_turn(wish.files, wish.question, sys.stdin.buffer)
        with _appending(wish.tee) as tee:
            page = Page(sys.stdout, sys.stderr, tee, frames=wish.frames)
            return asyncio.run(_chat(wish, opening, page))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        raise
    except Unreadable as error:
        print(f"everstream chat: {error}", file=sys.stderr)
        return 2
    except (EverstreamError, ConnectionError, ValueError) as error:
        print(f"everstream: {error}", file=sys.stderr)
        return 1


@contextlib.contextmanager
def _appending(path: str | None) -> Iterator[TextIO | None]:
    if path is None:
        yield None
        return
    try:
        file = open(path, "a", encoding="utf-8")  # noqa: SIM115  # closing can fail too
    except OSError as error:
        raise Unreadable(f"cannot write to {path}: {error.strerror}") from None
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):  # said when it was written to
            file.close()


async def _chat(wish: Wish, opening: str | None, page: Page) -> int:
    chats: list[Chat] = []

    def on_state(state: LinkState, _detail: str) -> None:
        for chat in chats:
            chat.link_changed(state)

    async with Client(wish.url, wish.token, on_state=on_state) as client:
        session = await _session(client, wish)
        model = wish.model or (session.state.model if session else None) or choose(await client.models())
        if model is None:
            page.note("no model is usable here: give one a key, or name one")
            return 1
        lines = Lines(sys.stdin.fileno())
        if session is not None:
            page.note(f"session {session.id}" + (f" · {session.state.title}" if session.state.title else ""))
        chat = Chat(client, lines, page, model, wish.params, session)
        chats.append(chat)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, chat.interrupt)
        try:
            return await _talk(chat, opening, page, stay=wish.stay)
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            lines.close()


async def _session(client: Client, wish: Wish) -> Session | None:
    """Raises EverstreamError `session.unknown`."""
    if wish.session is None:
        return None
    if wish.session == NEW_SESSION:
        return await client.create_session(model=wish.model)
    return await client.open_session(wish.session, history=1)


async def _talk(chat: Chat, opening: str | None, page: Page, *, stay: bool) -> int:
    interactive = sys.stdin.isatty() and (opening is None or stay)
    if interactive:
        page.note(f"{chat.model} · /help")
    if opening is not None:
        await chat.turn(opening)
        page.margin()
    if opening is None or stay:
        await chat.run("> " if interactive else "")
    elif chat.stopped:
        return 130
    return 1 if chat.closed or page.torn or (chat.failed and not interactive) else 0
