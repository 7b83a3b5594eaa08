"""What the server's own code costs a delta, without a socket, a loop or a second process.

The real modules are driven by hand along a token's path: SSE bytes -> parse, deltas of one read joined -> append to
the log -> pack the commit and take its reply -> encode the frame.  Nothing waits and nothing is noisy but the
processor itself, so this is the figure for a gate: each stage is given in nanoseconds and, because machines differ, as
a multiple of a calibration loop that ran in the same moment.  The smallest of several rounds counts: noise only adds.

Three shapes: one delta a read (paced streams on an idle machine), eight (a busy one), 128 (a flood).
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

from everstream.core.cursor import runs
from everstream.core.events import DeltaText, FirstToken, HeadersReceived, RequestStart
from everstream.core.log import Log
from everstream.core.wire import Encoding
from everstream.gateway.frames import FRAMED
from everstream.providers.chat_completions import ChatFold
from everstream.store.base import Reply, Write
from everstream.store.valkey import ValkeyStore

SHAPES = {"paced": 1, "busy": 8, "flood": 128}
DELTAS = 4096
ROUNDS = 7
QUICK_ROUNDS = 2
CALIBRATION_STEPS = 20_000
FRAME_CHARS = 65_536
STREAM = "r_070123456789abcdefghijklmnop"
TEXT = b" token"
STAGES = ("parse", "append", "commit", "frame")

EVENT = (
    b'data: {"id":"chatcmpl-Bm9kQ3vTz7LxWc2RfYh5NdPs8uJ1a","object":"chat.completion.chunk","created":1763700000,'
    b'"model":"sim","service_tier":"default","system_fingerprint":"fp_5e1a0c93d7","choices":[{"index":0,"delta":'
    b'{"content":"%b"},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"k3Vd9QxZ"}\n\n' % TEXT
)


class AgreeableStore(ValkeyStore):
    """Packs commits like the real one and takes its own word for the reply: as many entries as the log has."""

    tail = 0

    async def _exchange(self, place: int, command: bytes) -> tuple[list[int], bool]:
        return [0, self.tail, 0], True


class Path:
    """One stream from the provider's bytes to the client's frame; counts nanoseconds by stage."""

    def __init__(self, per_read: int) -> None:
        self.per_read = per_read
        self.ns = dict.fromkeys(STAGES, 0)
        self.frames_bytes = 0
        self._read = EVENT * per_read
        self._fold = ChatFold("openai")
        self._store = AgreeableStore("unix:///none")
        self._log = Log(STREAM, ((1_763_700_000_000, 0),))
        for event in (RequestStart("openai/sim", 0), HeadersReceived(0), FirstToken(1.0)):
            self._log.append(event)
        self._reader = 0
        self._commit()
        self._take_frames()

    def step(self) -> None:
        """One read of the provider's socket, all the way."""
        clock, ns = time.perf_counter_ns, self.ns
        begun = clock()
        events = self._fold.feed(self._read)
        parsed = clock()
        append = self._log.append
        for event in events:
            append(event)  # type: ignore[arg-type]
        appended = clock()
        self._commit()
        committed = clock()
        self._take_frames()
        ns["parse"] += parsed - begun
        ns["append"] += appended - parsed
        ns["commit"] += committed - appended
        ns["frame"] += clock() - committed

    def _commit(self) -> None:
        log = self._log
        write = Write(STREAM, log.epochs, log.acked, log.pending(), log.closed, "n_bench")
        self._store.tail = log.acked + len(write.entries)
        for reply in _finish(self._store.commit([write])):
            log.on_reply(reply.verdict, reply.tail)

    def _take_frames(self) -> None:
        encoder = FRAMED[Encoding.JSON]
        for run in runs(self._log, self._reader, FRAME_CHARS):
            self.frames_bytes += len(encoder.entry(STREAM, run))
            self._reader = run.upto

    @property
    def shown(self) -> int:
        """How many deltas a reader has been shown."""
        entries = self._log.slice(0, self._reader)
        return sum(len(entry.text) for entry in entries if isinstance(entry, DeltaText)) // len(TEXT)


def _finish(coroutine: Any) -> list[Reply]:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: list[Reply] = stop.value
        return result
    raise AssertionError("the store waited for something")


def calibrate() -> float:
    """Nanoseconds of one step of plain interpreter work: the unit that the ratios are in."""
    begun = time.perf_counter_ns()
    held: dict[int, bytes] = {}
    for i in range(CALIBRATION_STEPS):
        held[i & 255] = b"%d,%d" % (i, len(held))
    return (time.perf_counter_ns() - begun) / CALIBRATION_STEPS


def measure(*, quick: bool = False) -> dict[str, Any]:
    """`calibration_ns`, and for each shape nanoseconds a delta by stage, their `total` and its `ratio`."""
    rounds = QUICK_ROUNDS if quick else ROUNDS
    collecting = gc.isenabled()
    gc.disable()
    try:
        unit_ns = min(calibrate() for _ in range(rounds))
        found: dict[str, Any] = {"calibration_ns": unit_ns, "shapes": {}}
        for name, per_read in SHAPES.items():
            best = min((_shape(per_read) for _ in range(rounds)), key=_total)
            unit_ns = min(unit_ns, calibrate())
            found["shapes"][name] = {"deltas_per_read": per_read, **best, "total": _total(best)}
    finally:
        if collecting:
            gc.enable()
    found["calibration_ns"] = unit_ns
    for shape in found["shapes"].values():
        shape["ratio"] = shape["total"] / unit_ns
    return found


def _shape(per_read: int) -> dict[str, float]:
    path = Path(per_read)
    _repeat(path.step, DELTAS // per_read)
    if path.shown != DELTAS:
        raise AssertionError(f"{path.shown} of {DELTAS} deltas arrived")
    return {stage: ns / DELTAS for stage, ns in path.ns.items()}


def _repeat(step: Callable[[], None], times: int) -> None:
    for _ in range(times):
        step()


def _total(stages: dict[str, float]) -> float:
    return sum(stages[stage] for stage in STAGES)


def table(found: dict[str, Any]) -> str:
    lines = [
        f"micro: the server's own code, no sockets; ns per delta; unit {found['calibration_ns']:.0f} ns",
        f"  {'':16}" + "".join(f"{name:>10}" for name in (*STAGES, "total", "units")),
    ]
    for name, shape in found["shapes"].items():
        cells = [f"{shape[stage]:.0f}" for stage in (*STAGES, "total")] + [f"{shape['ratio']:.1f}"]
        label = f"{name} ({shape['deltas_per_read']} a read)"
        lines.append(f"  {label:16}" + "".join(f"{cell:>10}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(measure()))
