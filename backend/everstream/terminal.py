"""The two ends of a terminal: lines that come in while something else runs, and a page that is written to.

Reading never blocks the loop and leaves the descriptor as it is (it may be shared with other programs): the loop
watches a terminal or a pipe, and a thread reads a plain file, which never lets anybody wait.  Editing the line is the
terminal's own matter.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import os
from collections import deque
from typing import TextIO

from everstream.reducer import Frame

LINES_WAITING_MAX = 64
LINE_CHARACTERS_MAX = 1_000_000
READ_BYTES = 65_536
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


class Lines:
    """Lines of a file descriptor, as they come: by the loop where it can watch it, by a thread for plain files."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._lines: deque[str] = deque()
        self._part = ""
        self._ended = False
        self._news = asyncio.Event()
        self._watched = False
        self._watchable = True

    async def next(self) -> str | None:
        """The next line without its end; None after the last."""
        while not self._lines and not self._ended:
            self._news.clear()
            self._watch()
            if self._watchable:
                await self._news.wait()
            else:
                self._feed(await asyncio.to_thread(os.read, self._descriptor, READ_BYTES))
        return self._lines.popleft() if self._lines else None

    def close(self) -> None:
        self._ended = True
        if self._watched:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            self._watched = False

    def _watch(self) -> None:
        if self._watched or not self._watchable:
            return
        try:
            asyncio.get_running_loop().add_reader(self._descriptor, self._readable)
            self._watched = True
        except OSError:  # a plain file cannot be watched, and need not be
            self._watchable = False

    def _readable(self) -> None:
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:  # the terminal is gone
            data = b""
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        self._part += self._decoder.decode(data, final=not data)
        *whole, self._part = self._part.split("\n")
        self._lines.extend(line.removesuffix("\r") for line in whole)
        if not data or len(self._part) > LINE_CHARACTERS_MAX:
            if self._part:
                self._lines.append(self._part)
            self._part = ""
        if not data:
            self.close()
        elif len(self._lines) >= LINES_WAITING_MAX and self._watched:
            asyncio.get_running_loop().remove_reader(self._descriptor)  # `next` watches again
            self._watched = False
        self._news.set()


class Page:
    """What is on the screen.  Answers go to `out`; marks and figures too where that is a terminal.

    `tee` gets the answers as well.  If it cannot be written to any more that is said, and `torn` from then on.  With
    `frames`, `out` gets nothing but frames, one JSON object a line.
    """

    def __init__(self, out: TextIO, aside: TextIO, tee: TextIO | None = None, *, frames: bool = False) -> None:
        terminal = out.isatty() and not frames
        self.torn = False
        self._out = out
        self._aside = out if terminal else aside
        self._tee = tee
        self._frames = frames
        self._colours = terminal and "NO_COLOR" not in os.environ
        self._begun: set[TextIO] = set()  # where a line has been begun and not ended

    def say(self, text: str) -> None:
        """A piece of the answer."""
        if not self._frames:
            self._write(self._out, text, text)
        if self._tee is not None:
            self._write(self._tee, text, text)

    def frame(self, frame: Frame) -> None:
        if self._frames:
            self._write(self._out, json.dumps(frame, ensure_ascii=False) + "\n", "\n")

    def ask(self, prompt: str) -> None:
        self._write(self._aside, prompt, prompt)

    def think(self, text: str) -> None:
        """What comes with an answer and is none of it: to be read by people, and in the frames already."""
        if not self._frames:
            self.dim(text)

    def dim(self, text: str) -> None:
        """Thinking and marks: not part of the answer."""
        self._write(self._aside, f"{DIM}{text}{PLAIN}" if self._colours else text, text)

    def note(self, text: str) -> None:
        """A line of its own, or several."""
        self.margin()
        self.dim(text)
        self.margin()

    def margin(self) -> None:
        """End the line that was begun."""
        for to in list(self._begun):
            self._write(to, "\n", "\n")

    def entered(self) -> None:
        """The person has pressed Enter: the terminal has ended the line."""
        self._begun.clear()

    def _write(self, to: TextIO, written: str, seen: str) -> None:
        if not seen:
            return
        try:
            to.write(written)
            to.flush()
        except OSError as error:
            if to is not self._tee:
                raise
            self._tear(error)
            return
        if seen.endswith("\n"):
            self._begun.discard(to)
        else:
            self._begun.add(to)

    def _tear(self, error: OSError) -> None:
        """The answer is worth more than its copy: it goes on."""
        if self._tee is not None:
            name = self._tee.name
            self._begun.discard(self._tee)
            self._tee, self.torn = None, True
            self.dim(f" [cannot write to {name} any more: {error.strerror}] ")
