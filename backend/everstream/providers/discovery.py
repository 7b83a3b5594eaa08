"""Which servers of models run on this machine, found by asking their usual ports who listens there.

Ollama, LM Studio, vLLM and llama.cpp are usable without a word of configuration, as `ollama/llama3.2` and the like.
The ports are asked on loopback and nowhere else, all at once, with one small request each, and what was found out is
kept for a while, so that a page that lists models every second asks no port every second.  A server counts where it
says who it is, not where something listens: vLLM's usual port is our own as well.

The requests are written by hand on a stream: where nothing listens, which is the usual case, nothing has to be imported
for it, and no proxy of the environment comes between.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

WITHIN_S: Final = 0.3  # for all ports together: a server of this machine answers within a few milliseconds
KEPT_S: Final = 15.0
ANSWER_BYTES_MAX: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Usual:
    """Where a kind of server usually listens, what it is asked, and by what answer it is known."""

    name: str
    base_url: str  # as its preset has it
    path: str
    known_by: Callable[[Any], bool]


def _says_version(answer: Any) -> bool:
    return isinstance(answer, dict) and isinstance(answer.get("version"), str)


def _lists_states(answer: Any) -> bool:
    """LM Studio's own list tells of each model whether it is loaded, and what kind it is."""
    rows = answer.get("data") if isinstance(answer, dict) else None
    return isinstance(rows, list) and all(isinstance(row, dict) and "state" in row and "type" in row for row in rows)


def _owned_by(owner: str) -> Callable[[Any], bool]:
    def known(answer: Any) -> bool:
        rows = answer.get("data") if isinstance(answer, dict) else None
        return isinstance(rows, list) and any(isinstance(row, dict) and row.get("owned_by") == owner for row in rows)

    return known


USUAL: Final = (
    Usual("ollama", "http://127.0.0.1:11434", "/api/version", _says_version),
    Usual("lmstudio", "http://127.0.0.1:1234/v1", "/api/v0/models", _lists_states),
    Usual("vllm", "http://127.0.0.1:8000/v1", "/v1/models", _owned_by("vllm")),
    Usual("llamacpp", "http://127.0.0.1:8080/v1", "/v1/models", _owned_by("llamacpp")),
)


class Discovery:
    """`left_alone` are names that the settings speak of, and `own_port` is where this server listens itself."""

    def __init__(
        self, places: Sequence[Usual] = USUAL, *, left_alone: Collection[str] = (), own_port: int | None = None
    ) -> None:
        self._places = [
            place
            for place in places
            if place.name not in left_alone and (own_port is None or urlsplit(place.base_url).port != own_port)
        ]
        self._found: frozenset[str] = frozenset()
        self._until_s = 0.0  # on the monotonic clock
        self._asking = asyncio.Lock()

    @property
    def addresses(self) -> Mapping[str, str]:
        """Where each would be found: a base URL by name."""
        return {place.name: place.base_url for place in self._places}

    async def found(self) -> frozenset[str]:
        """The names of the servers that run, as of `KEPT_S` ago at most.  Never raises; takes `WITHIN_S` at most."""
        async with self._asking:  # many may want to know at once
            if time.monotonic() >= self._until_s:
                there = await asyncio.gather(*(_is_there(place) for place in self._places))
                self._found = frozenset(place.name for place, yes in zip(self._places, there, strict=True) if yes)
                self._until_s = time.monotonic() + KEPT_S
            return self._found


async def _is_there(place: Usual) -> bool:
    try:
        async with asyncio.timeout(WITHIN_S):
            return place.known_by(msgspec.json.decode(await _got(place)))
    except (OSError, EOFError, TimeoutError, ValueError, asyncio.LimitOverrunError):
        return False


async def _got(place: Usual) -> bytes:
    """The body of an answer with status 200.  HTTP/1.0, so that it is never in chunks and ends with the connection."""
    parts = urlsplit(place.base_url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=ANSWER_BYTES_MAX)
    try:
        writer.write(f"GET {place.path} HTTP/1.0\r\nHost: {parts.netloc}\r\nAccept: application/json\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if head.split(b" ", 2)[1:2] != [b"200"]:
            raise ValueError("another status")
        length = next((line[15:] for line in head.split(b"\r\n") if line[:15].lower() == b"content-length:"), None)
        if length is not None:
            return await reader.readexactly(min(int(length), ANSWER_BYTES_MAX))
        body = b""
        while len(body) < ANSWER_BYTES_MAX and (data := await reader.read(65_536)):
            body += data
        return body
    finally:
        writer.transport.abort()  # nothing is owed to it, and nothing has to be waited for
