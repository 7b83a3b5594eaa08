"""What clients do that mean no good, or cannot do better: each an attack by many sockets, and what came of it.

    trickle   heads and bodies that come a byte a second, and sockets that never say a word
    slow      readers that take 1 kB a second of a fast stream
    stuck     one that never reads, and comes back when it was cut off
    flood     pings, and pieces of a message that are empty, as fast as the server takes them
    burst     very many connections in the same moment

A slow reader's receive buffer is small, or the kernel would read for it; and its segments are those of a network, since
of the loopback's the server's kernel takes megabytes before it says that a socket is full.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

HOST = "127.0.0.1"
PORTS_OF_ADDRESS = 5_000  # taken of one source address
RECEIVE_BYTES = 4_096
READ_BYTES = 1_024
SEGMENT_BYTES = 1_460
TICKS_PER_S = 10
CHUNK_BYTES = 16_384
LOOK_EVERY_S = 0.02
AT_ONCE = 100
PROOF_BYTES = 100_000  # of a stream that is read after having been cut off
LIMIT_S = 30.0
QUIET_S = 0.5  # after which nothing more will come of a fast stream
SLOW_READERS = b"everstream_slow_readers"  # the counter, in front of its value
TEXT, PING, CONTINUATION = 0x1, 0x9, 0x0
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-protocol: everstream.v1.json\r\n\r\n"
)
HEAD = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nx-slow: "
BODY = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    b'content-length: 10000\r\n\r\n{"model": "'
)
OPENINGS = {"head": HEAD, "silent": b"", "body": BODY}

# This process's, from one attack to the next: the streams of which there is much already, and who reads them slowly,
# connected until he is told to go, so that memory can be looked at meanwhile.
_fast: list[dict[str, Any]] = []
_slow: list[socket.socket] = []


def frame(payload: bytes, opcode: int = TEXT, *, whole: bool = True) -> bytes:
    """A client's frame whose mask is zero."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes([(0x80 if whole else 0) | opcode]) + length + bytes(4) + payload


def generate(**params: Any) -> bytes:
    """The command that asks for a stream."""
    messages = [{"role": "user", "content": "Count."}]
    command = {"type": "generate", "model": "scripted/count", "messages": messages, "params": params}
    return json.dumps(command).encode()


def address_of(number: int) -> str:
    """Of the loopback network, for the client of that number."""
    return f"127.0.0.{2 + number // PORTS_OF_ADDRESS}"


def percentiles(values: list[float]) -> list[float]:
    """p50, p99 and the largest; nothing of nothing."""
    ordered = sorted(values)
    return [ordered[min(len(ordered) - 1, int(part * len(ordered)))] for part in (0.5, 0.99, 1.0) if ordered]


# ---------------------------------------------------------------------- sockets


async def _connected(port: int, receive_bytes: int = 0) -> socket.socket:
    made = socket.socket()
    made.setblocking(False)
    if receive_bytes:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
    await asyncio.get_running_loop().sock_connect(made, (HOST, port))
    return made


async def _greeted(port: int, resume: list[dict[str, Any]], receive_bytes: int = 0) -> socket.socket:
    """A WebSocket that has said hello, and read nothing but the head.  Raises ConnectionError."""
    loop = asyncio.get_running_loop()
    made = await _connected(port, receive_bytes)
    await loop.sock_sendall(made, UPGRADE)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = await loop.sock_recv(made, 1)
        if not data:
            raise ConnectionError("the server hung up in the handshake")
        head += data
    await loop.sock_sendall(made, frame(json.dumps({"type": "hello", "resume": resume}).encode()))
    return made


# ---------------------------------------------------------------------- attacks


async def trickle(port: int, kind: str, count: int, limit_s: float) -> dict[str, Any]:
    """`cut_s`: when the sockets were cut off, after they were connected: p50, p99, last."""
    opening = OPENINGS[kind]
    loop = asyncio.get_running_loop()
    room = asyncio.Semaphore(AT_ONCE)

    async def one() -> float | None:
        async with room:
            slow = await _connected(port)
            start = time.monotonic()
        with slow:
            heard = asyncio.ensure_future(_ended(slow))
            try:
                await loop.sock_sendall(slow, opening)
                while time.monotonic() - start < limit_s and not heard.done():
                    await asyncio.wait({heard}, timeout=1.0)
                    if opening and not heard.done():
                        await loop.sock_sendall(slow, b"x")
            except ConnectionError:
                pass  # cut off
            else:
                if not heard.done():
                    return None
            finally:
                heard.cancel()
            return time.monotonic() - start

    cut_s = await asyncio.gather(*(one() for _ in range(count)))
    return {"cut": sum(at is not None for at in cut_s), "cut_s": percentiles([at for at in cut_s if at is not None])}


async def _ended(one: socket.socket) -> None:
    """Reads to the end.  An answer may come before it."""
    loop = asyncio.get_running_loop()
    try:
        while await loop.sock_recv(one, READ_BYTES):
            pass
    except OSError:
        pass


async def fast(port: int, count: int, tokens: int) -> dict[str, Any]:
    """Start the streams that `slow` and `stuck` read; each says so many tokens at once, and then is not at its end."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        with await _greeted(port, []) as asking:
            await loop.sock_sendall(asking, frame(generate(tokens=tokens + 1, rate=0, hang_at=tokens)))
            said = b""
            with contextlib.suppress(TimeoutError):
                while True:
                    async with asyncio.timeout(QUIET_S):
                        said += await loop.sock_recv(asking, 262_144)
            start = said.index(b'{"type":"accepted"')
            accepted, _ = json.JSONDecoder().raw_decode(said[start:].decode("latin-1"))
            _fast.append({"stream": accepted["stream"], "epoch": accepted["epoch"], "offset": 0})
    return {"streams": _fast}


async def slow(port: int, count: int, seconds: float) -> dict[str, Any]:
    """`cut`: how many were cut off; `bytes`: what one read."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> socket.socket:
        async with room:
            return await _greeted(port, [_fast[number % len(_fast)]], RECEIVE_BYTES)

    readers = list(await asyncio.gather(*map(one, range(count))))
    cut = read = ticks = 0
    start = time.monotonic()
    while time.monotonic() - start < seconds:
        for reader in readers[ticks % TICKS_PER_S :: TICKS_PER_S]:
            if reader.fileno() < 0:
                continue
            try:
                data = reader.recv(READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            read += len(data)
            if not data:
                cut += 1
                reader.close()
        ticks += 1
        await asyncio.sleep(max(0.0, start + ticks / TICKS_PER_S - time.monotonic()))  # pause: a slow reader's
    _slow.extend(readers)
    return {"cut": cut, "bytes": read / count}


async def release(port: int) -> dict[str, Any]:
    """The slow readers go."""
    while _slow:
        _slow.pop().close()
    return {}


async def stuck(port: int, limit_s: float) -> dict[str, Any]:
    """`cut_s`: when the one that never reads was cut off, after its hello; `resumed`: how much of the stream's text
    came, from its start and without a fault, to the same client on a new connection."""
    before, start = await _counted(port), time.monotonic()
    with await _greeted(port, _fast, RECEIVE_BYTES):
        while not (is_cut := await _counted(port) > before) and time.monotonic() - start < limit_s:
            await asyncio.sleep(LOOK_EVERY_S)  # pause: between two looks at a counter
        cut_s = time.monotonic() - start if is_cut else None
    async with asyncio.timeout(LIMIT_S):
        return {"cut_s": cut_s, "resumed": await _resumed(port, _fast[0])}


async def _counted(port: int) -> float:
    """How many slow readers the server has cut off.  The end itself cannot reach one whose window is shut."""
    loop = asyncio.get_running_loop()
    said = b""
    with await _connected(port) as asking:
        await loop.sock_sendall(asking, b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")
        while data := await loop.sock_recv(asking, 65_536):
            said += data
    line = next(line for line in said.splitlines() if line.startswith(SLOW_READERS))
    return float(line.split()[-1])


async def _resumed(port: int, place: dict[str, Any]) -> int:
    loop = asyncio.get_running_loop()
    said = b""
    text = ""
    with await _greeted(port, [place]) as reader:
        while len(text) < PROOF_BYTES:
            data = await loop.sock_recv(reader, 65_536)
            if not data:
                break
            said += data
            text, at, decoder = "", 0, json.JSONDecoder()
            whole = said.decode("latin-1")
            while (at := whole.find('{"type":"delta_text"', at)) >= 0:
                try:
                    found, at = decoder.raw_decode(whole, at)
                except ValueError:
                    break
                text += found["text"]
    expected = " ".join(map(str, range(1, PROOF_BYTES)))
    return len(text) if expected.startswith(text.rstrip()[:PROOF_BYTES]) else 0


async def flood(port: int, kind: str, count: int, seconds: float) -> dict[str, Any]:
    """`frames`: what the server took a second of all; `cut`: connections that it ended."""
    loop = asyncio.get_running_loop()
    one_frame = frame(b"", PING if kind == "ping" else CONTINUATION, whole=kind == "ping")
    chunk = one_frame * (CHUNK_BYTES // len(one_frame))
    opening = b"" if kind == "ping" else frame(b"", TEXT, whole=False)
    sent = [0] * count
    cut = 0

    async def send(place: int, to: socket.socket) -> None:
        await loop.sock_sendall(to, opening)
        while True:
            await loop.sock_sendall(to, chunk)
            sent[place] += len(chunk) // len(one_frame)

    async def one(place: int) -> None:
        nonlocal cut
        with await _greeted(port, []) as to:
            sending, hearing = asyncio.ensure_future(send(place, to)), asyncio.ensure_future(_ended(to))
            await asyncio.wait({sending, hearing}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            cut += sending.done() or hearing.done()
            for task in (sending, hearing):
                task.cancel()
            await asyncio.wait({sending, hearing})

    await asyncio.gather(*map(one, range(count)))
    return {"offered_per_s": sum(sent) / seconds, "cut": cut}


async def burst(port: int, count: int) -> dict[str, Any]:
    """`ms`: until a connection was welcomed, all begun at once: p50, p99, last."""
    loop = asyncio.get_running_loop()

    async def one() -> float:
        start = time.monotonic()
        with await _greeted(port, []) as made:
            said = b""
            while b'"welcome"' not in said:
                data = await loop.sock_recv(made, READ_BYTES)
                if not data:
                    raise ConnectionError("the server hung up")
                said += data
            return (time.monotonic() - start) * 1000

    async with asyncio.timeout(LIMIT_S):
        found = await asyncio.gather(*(one() for _ in range(count)), return_exceptions=True)
    taken_ms = [taken for taken in found if isinstance(taken, float)]
    return {"welcomed": len(taken_ms), "ms": percentiles(taken_ms)}


ATTACKS: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
    "trickle": trickle,
    "fast": fast,
    "slow": slow,
    "release": release,
    "stuck": stuck,
    "flood": flood,
    "burst": burst,
}
