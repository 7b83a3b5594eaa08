"""Every recorded wire through the whole server: what a client on a WebSocket holds is what the provider said.

    WireServer ──bytes, a few at a time──▶ provider ─▶ relay ─▶ log ─▶ WebSocket ──frames──▶ `everstream.reducer`

The providers are the configured ones; only their address is the test's.  A wire is asked for by its number, as the
model's name, so that any number of them can be under way on one connection.  No wire of the corpus is left out.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from tests.gateway.conftest import JSON, MESSAGES, MSGPACK, Client, client_of, serving
from tests.providers.wire_server import Asked, Reply, WireServer
from tests.providers.wires import (
    ASKED_OF,
    ROOT,
    ErrorBody,
    Wire,
    anthropic_wires,
    cohere_wires,
    cut_short,
    cuts,
    error_bodies,
    fold_of,
    in_pieces,
    manifest,
    ollama_wires,
    openai_wires,
    parsed,
    vendors_at,
)
from tests.providers.wires_gemini import gemini_error_bodies, gemini_wires

from everstream.core.events import EVENTS, Event, StreamEnd
from everstream.core.order import ORDER, Phase
from everstream.providers.registry import registry_of
from everstream.reducer import StreamState, Verdict

pytestmark = [
    pytest.mark.skipif(not ROOT.is_dir(), reason="the recorded wires are not beside this checkout"),
    pytest.mark.asyncio(loop_scope="module"),  # one server for all: it takes a second to import the vendors' packages
]

WIRES = [*openai_wires(), *anthropic_wires(), *gemini_wires(), *ollama_wires(), *cohere_wires()]
ERROR_BODIES = [*error_bodies(), *gemini_error_bodies()]
MODEL_IN_PATH = re.compile(r"/models/(\w+):")
STREAMS_MAX = 64  # on one connection, as the server announces
KIND_OF: dict[str, type[Event]] = {str(kind.__struct_config__.tag): kind for kind in EVENTS}


@dataclass
class Rig:
    """The provider's side, and a client of the server for each encoding."""

    replies: dict[str, Reply]  # by model
    client: Client
    packed: Client

    async def play(self, *asked: tuple[str, Reply], packed: bool = False) -> list[StreamState]:
        """Generate from each API and reply, as many at once as a connection may; what a client holds at their ends."""
        client = self.packed if packed else self.client
        states: dict[int, StreamState] = {}  # by their place in `asked`
        begun = ended = 0
        while ended < len(asked):
            while begun < len(asked) and begun - ended < STREAMS_MAX:
                await self._ask(client, begun, *asked[begun])
                begun += 1
            frame = await client.next()
            assert frame["type"] != "error", frame
            if frame["type"] == "accepted":
                states[frame["id"]] = StreamState(frame["stream"], frame["epoch"])
                continue
            [state] = [state for state in states.values() if state.stream == frame["stream"]]
            assert state.apply(frame) is Verdict.APPLIED, frame
            ended += state.ended
        self.replies.clear()
        return [states[place] for place in range(len(asked))]

    async def _ask(self, client: Client, place: int, api: str, reply: Reply) -> None:
        model = f"w{place}"
        self.replies[model] = reply
        provider, params = ASKED_OF[api]
        await client.send(type="generate", id=place, model=f"{provider}/{model}", messages=MESSAGES, params=params)

    def entries(self, state: StreamState) -> list[dict[str, Any]]:
        client = self.packed if state.stream in self.packed.streams else self.client
        return client.streams[state.stream].frames


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def rig() -> AsyncIterator[Rig]:
    replies: dict[str, Reply] = {}

    def reply(asked: Asked) -> Reply:
        in_path = MODEL_IN_PATH.search(asked.path)
        return replies[asked.json["model"] if in_path is None else in_path[1]]

    async with (
        WireServer() as wires,
        serving(
            registry=registry_of,
            provider_max_retries=0,
            commands_per_s=1_000_000,
            heartbeat_ms=600_000,  # between two tests of a busy machine a client may be told nothing for long
            **vendors_at(wires.url),
        ) as gateway,
        client_of(gateway.ws_url, JSON) as client,
        client_of(gateway.ws_url, MSGPACK) as packed,
    ):
        wires.reply = reply
        await gateway.node._providers.prepare()  # what a package does while another is imported is not tried here
        yield Rig(replies, client, packed)


@pytest.fixture(autouse=True)
def no_leaks() -> None:
    """Instead of the check of every test: the pools of these providers keep connections from one to the next."""


def check_order(entries: list[dict[str, Any]]) -> None:
    """The entries are in the order that the core's table allows, and the last one is the end."""
    phase = Phase.NEW
    for entry in entries:
        kind = KIND_OF[entry["type"]]
        assert kind in ORDER[phase], f"{entry} in phase {phase.value}"
        phase = ORDER[phase][kind]
    assert phase is Phase.ENDED
    assert sum(KIND_OF[entry["type"]] is StreamEnd for entry in entries) == 1


def check_whole(state: StreamState, wire: Wire) -> None:
    end = state.end
    assert end is not None
    assert (state.text, state.thinking, state.refusal) == (wire.text, wire.thinking, wire.refusal)
    calls = [(call["name"], parsed(call["arguments"])) for call in state.tool_calls]
    assert calls == [(name, parsed(arguments)) for _, name, arguments in wire.calls]
    for call, (call_id, _, _) in zip(state.tool_calls, wire.calls, strict=True):
        if call_id is not None or wire.provider != "gemini":  # whose calls get an id here, where they have none
            assert call["call_id"] == call_id
    if wire.error is not None:
        assert (end["reason"], end["error"]["code"], end["finish_reason"]) == ("failed", wire.error, None)
        return
    assert (end["reason"], end["error"], end["finish_reason"]) == ("complete", None, wire.finish)
    usage = end["usage"]
    if wire.usage is None:
        assert usage["source"] == "estimated"
    else:
        told = tuple(usage[f"{name}_tokens"] for name in ("input", "output", "total"))
        assert (*told, usage.get("thinking_tokens"), usage.get("cached_tokens")) == wire.usage
        assert usage["source"] == "provider"


async def test_no_file_of_the_corpus_is_left_out() -> None:
    assert {wire.key for wire in WIRES} | {recorded.key for recorded in ERROR_BODIES} == manifest()
    assert len(WIRES) + len(ERROR_BODIES) == len(manifest()) == 260


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.key)
async def test_a_client_holds_what_the_wire_says(wire: Wire, rig: Rig) -> None:
    [state] = await rig.play((wire.api, in_pieces(wire)))
    check_whole(state, wire)
    check_order(rig.entries(state))


async def test_all_wires_on_one_connection_do_not_mix(rig: Rig) -> None:
    states = await rig.play(*((wire.api, in_pieces(wire)) for wire in WIRES), packed=True)
    for state, wire in zip(states, WIRES, strict=True):
        check_whole(state, wire)
        check_order(rig.entries(state))


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.key)
async def test_a_client_keeps_the_part_of_a_wire_that_breaks_off(wire: Wire, rig: Rig) -> None:
    places = cuts(wire)
    states = await rig.play(*((wire.api, cut_short(wire, cut)) for cut in places))
    for state, cut in zip(states, places, strict=True):
        end, least = state.end, fold_of(wire, cut)
        assert end is not None
        assert (end["reason"], end["finish_reason"]) == ("failed", None), f"cut after {cut} of {len(wire.body)} bytes"
        assert (end["error"]["code"], end["error"]["retryable"]) == ("provider.connection", True)
        assert wire.text.startswith(state.text)
        assert state.text.startswith(least.text)
        assert wire.thinking.startswith(state.thinking)
        assert state.thinking.startswith(least.thinking)
        held = {call["index"]: call["arguments"] for call in state.tool_calls}
        for index, (_, _, arguments) in least.calls.items():
            assert held[index].startswith(arguments)
        check_order(rig.entries(state))


@pytest.mark.parametrize("recorded", ERROR_BODIES, ids=lambda recorded: recorded.key)
async def test_an_error_body_is_the_streams_end_with_its_code(recorded: ErrorBody, rig: Rig) -> None:
    [state] = await rig.play((recorded.api, recorded.reply()))
    assert state.end is not None
    assert (state.end["reason"], state.end["error"]["code"]) == ("failed", recorded.code)
    assert state.end["error"]["message"]
    assert [entry["type"] for entry in rig.entries(state)] == ["request_start", "stream_end"]
