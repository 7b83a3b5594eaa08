"""The short form of `make fuzz`, and that it notices what it looks for."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter

import pytest

from everstream.core import protocol
from everstream.gateway import openapi
from tests.fuzz import codec, frames, requests
from tests.fuzz.inputs import frame, request
from tests.fuzz.siege import Attack, besiege

SEED = 7


def test_no_mutated_frame_makes_the_protocol_raise() -> None:
    answers = codec.feed(20_000, SEED)
    assert answers.total() == 20_000
    assert {"run", "request.invalid", "protocol.bad_frame", "protocol.unknown_type"} <= set(answers)


def test_an_input_that_raises_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def undone(*_: object) -> None:
        raise KeyError("undone")

    monkeypatch.setattr(protocol, "decode", undone)
    with pytest.raises(KeyError) as raised:
        codec.feed(10, SEED)
    assert raised.value.__notes__[0].startswith(f"input 0 of seed {SEED}")


@pytest.mark.parametrize(("attack", "count", "least"), [(frames.run, 6_000, 1_000), (requests.run, 1_000, 1_000)])
def test_a_server_under_a_fuzz_answers_everybody_and_stays_well(attack: Attack, count: int, least: int) -> None:
    outcome = besiege(attack, count, SEED)
    print(outcome.told(attack.__module__))
    assert not outcome.faults
    assert outcome.said["frames"] + outcome.said["requests"] == count
    assert outcome.said["answers"] + outcome.said["requests"] >= least
    before, most, _ = outcome.rss_mib
    assert most < before + 200


async def test_a_request_that_is_answered_with_500_or_not_at_all_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "BOUND_S", 0.2)
    answers = iter((b"HTTP/1.1 500 No\r\n\r\n", None))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        said = next(answers)
        if said is not None:
            writer.write(said)
        else:
            await reader.read()
        writer.close()

    said: Counter[str] = Counter()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        for _ in range(2):
            await requests._ask(port, b"GET / HTTP/1.1\r\n\r\n", said)
    assert (said["500"], said["hangs"], said["none"]) == (1, 1, 1)
    assert sum(name.startswith(("500: ", "hang: ")) for name in said) == 2


def test_the_same_seed_makes_the_same_inputs_and_some_of_them_are_valid() -> None:
    document = openapi.document()
    operations = [(m.upper(), path, o) for path, methods in document["paths"].items() for m, o in methods.items()]
    components = document["components"]["schemas"]
    assert request(random.Random(3), operations, components) == request(random.Random(3), operations, components)
    assert frame(random.Random(3), True) == frame(random.Random(3), True)
    made = [request(random.Random(n), operations, components) for n in range(2_000)]
    assert {one.split(b" ")[0] for one in made} >= {b"GET", b"POST", b"PUT", b"PATCH", b"DELETE"}
    bodies = [one.partition(b"\r\n\r\n")[2] for one in made]
    assert sum(_is_json(body) for body in bodies) > 100
    assert sum(not _is_json(body) for body in bodies if body) > 50


def _is_json(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict)
    except ValueError:
        return False
