"""What MessagePack looks like, for the TypeScript client, which has an encoder of its own.

`python -m tests.house.client_messagepack` writes `web/client/test/messagepack.json`: values, and the bytes that the
usual library makes of them.  The client's tests read these bytes, and write the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgpack
import msgspec
from tests.house.tree import ROOT

FILE = ROOT / "web" / "client" / "test" / "messagepack.json"
EDGES = [2**power + step for power in (5, 7, 8, 15, 16, 31, 32, 52) for step in (-1, 0, 1)] + [2**53 - 1]
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    *EDGES,
    *(-edge for edge in EDGES),
    *(1.5, -0.25, 1e300, 5e-324, 0.1),
    *("", "a", "é", "🙂", "\ufeff", "\x00", "x" * 31, "x" * 32, "é" * 127, "é" * 128),
    *([], [1, [2, [None]]], list(range(16)), ["ab"] * 20),
    *({}, {"a": {"b": []}}, {f"k{n}": n for n in range(16)}),
    {"type": "delta_text", "stream": "r_4z", "after": 3, "upto": 5, "text": "Hello 🙂"},
    {"type": "hello", "id": 1, "client": "c/1", "resume": [{"stream": "r_4z", "epoch": 1763769600000, "offset": 71}]},
    {"type": "stream_end", "cost": None, "metrics": {"ttft_ms": 12.5, "tokens_per_s": 80.125}, "warnings": []},
]


def messagepack_cases() -> str:
    cases = []
    for value in VALUES:
        written: bytes = msgpack.packb(value)
        assert written == msgspec.msgpack.encode(value)
        cases.append(json.dumps({"value": value, "hex": written.hex()}))
    return "[\n" + ",\n".join(cases) + "\n]\n"


def write(path: Path = FILE) -> None:
    path.write_text(messagepack_cases(), encoding="utf-8")


if __name__ == "__main__":
    write()
