"""Mutated frames through the codec and the protocol's state machine, in this process: nothing may be raised."""

from __future__ import annotations

import random
from collections import Counter

from everstream.core.protocol import ClientProtocol, Refuse
from everstream.core.wire import Encoding
from tests.fuzz.inputs import frame

FRAME_BYTES = 1_048_576
FRAMES_OF_ONE = 100  # that one protocol is fed, before the next one begins


def feed(count: int, seed: int) -> Counter[str]:
    """What was answered, and how often.  Whatever is raised says which input it was, by a note."""
    rng = random.Random(seed)
    answers: Counter[str] = Counter()
    protocols: dict[Encoding, ClientProtocol] = {}
    for n in range(count):
        encoding = rng.choice((Encoding.JSON, Encoding.MSGPACK))
        if n % FRAMES_OF_ONE == 0 or encoding not in protocols:
            protocols[encoding] = ClientProtocol(encoding, FRAME_BYTES, ready=rng.random() < 0.9)
        data = frame(rng, encoding is Encoding.MSGPACK)
        given = data.decode("utf-8", "replace") if encoding is Encoding.JSON else data
        try:
            action = protocols[encoding].receive(given)
        except BaseException as error:
            error.add_note(f"input {n} of seed {seed}: {encoding} {data[:200]!r}")
            raise
        if isinstance(action, Refuse):
            answers[action.frame["code"]] += 1
            if action.close_code is not None:
                del protocols[encoding]
        else:
            answers["run"] += 1
    return answers
