"""What the bench and the process that it measures say to each other about a turn of the fan-out."""

from __future__ import annotations

import msgspec


class Turn(msgspec.Struct, frozen=True):
    """One stream of so many tokens, and who reads it.  `stuck`: a socket and a reader that take nothing, besides."""

    name: str
    inside: int
    sockets: int
    tokens: int
    per_s: float
    stuck: bool = False


class Stuck(msgspec.Struct, frozen=True):
    """What the server kept for the readers that take nothing.  `woken`: the one in the process."""

    woken: int
    moved: int  # entries that either cursor went on
    held_before: int  # bytes unsent, of its socket
    held_after: int


class Told(msgspec.Struct, frozen=True):
    """What one turn was.  Delays are from the moment a token was due, in µs: p50, p99, max."""

    name: str
    cpu_s: float
    kernel_s: float  # of `cpu_s`, what the kernel used
    unit_ns: float  # what a step of plain interpreter work cost afterwards (`micro.calibrate`)
    inside_frames: int  # given to all readers together, with tokens in them
    socket_frames: int
    encoded: int  # frames with tokens that were made
    inside_bytes: float | None  # of memory, a reader
    socket_bytes: float | None
    inside_delay_us: tuple[float, ...]
    socket_delay_us: tuple[float, ...]
    spread_us: tuple[float, ...]  # of one token, from the first reader in the process to the last
    stuck: Stuck | None
    complaints: list[str]
