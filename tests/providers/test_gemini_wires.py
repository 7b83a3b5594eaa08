"""Gemini's recorded wires through a real server give what they should; cut anywhere, their part."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.providers import wires
from tests.providers.wire_server import Reply, WireServer
from tests.providers.wires import (
    ROOT,
    ErrorBody,
    Outcome,
    Wire,
    cut_short,
    cuts,
    drain,
    fold_of,
    in_pieces,
    manifest,
    parsed,
    usage_told,
)
from tests.providers.wires_gemini import DIFFERS, gemini_error_bodies, gemini_wires

from everstream.core.events import Message, Request
from everstream.providers.gemini import GeminiProvider

pytestmark = [
    pytest.mark.skipif(not ROOT.is_dir(), reason="the recorded wires are not beside this checkout"),
    pytest.mark.asyncio(loop_scope="module"),  # one server and one client for all
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server() -> AsyncIterator[WireServer]:
    async with WireServer() as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def provider(server: WireServer) -> AsyncIterator[GeminiProvider]:
    provider = GeminiProvider("k", server.url, max_retries=0)
    yield provider
    await provider.aclose()


@pytest.fixture(autouse=True)
def no_leaks() -> None:
    """Instead of the check of every test: the pool keeps connections from one to the next."""


def asked(wire: Wire | ErrorBody) -> Request:
    return Request("gemini/gemini-3-flash", [Message("user", "hello")], extra={"api": wire.api})


def check(outcome: Outcome, wire: Wire) -> None:
    assert (outcome.error.code if outcome.error else None) == wire.error
    assert outcome.text == wire.text
    assert outcome.thinking == wire.thinking
    assert outcome.refusal == ""
    told = list(outcome.calls.values())
    assert [(name, parsed(args)) for _, name, args in told] == [(name, parsed(args)) for _, name, args in wire.calls]
    assert all(call_id for call_id, _, _ in told)
    assert all(mine[0] == theirs for mine, (theirs, _, _) in zip(told, wire.calls, strict=True) if theirs is not None)
    assert len({call_id for call_id, _, _ in told}) == len(told)
    assert outcome.finish == wire.finish
    assert outcome.headers == 1
    if wire.error is None:
        assert outcome.finishes
        assert (usage_told(outcome.usage) if outcome.usage else None) == wire.usage


async def test_no_file_of_the_corpus_is_left_out() -> None:
    tried = {wire.key for wire in gemini_wires()} | {recorded.key for recorded in gemini_error_bodies()}
    assert tried == {key for key in manifest() if key.startswith("gemini/")}
    assert set(DIFFERS) <= tried


@pytest.mark.parametrize("poured", [False, True], ids=["pulled", "poured"])
@pytest.mark.parametrize("wire", gemini_wires(), ids=lambda wire: wire.key)
async def test_a_wire_in_random_pieces_gives_the_whole_answer(
    wire: Wire, poured: bool, server: WireServer, provider: GeminiProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.reply = in_pieces(wire)
    monkeypatch.setattr(wires, "poured", poured)
    check(await drain(provider, asked(wire)), wire)


@pytest.mark.parametrize("wire", gemini_wires(), ids=lambda wire: wire.key)
async def test_a_wire_in_one_piece_gives_the_whole_answer_in_few_entries(
    wire: Wire, server: WireServer, provider: GeminiProvider
) -> None:
    server.reply = Reply(wire.body, framing="length")
    outcome = await drain(provider, asked(wire))
    check(outcome, wire)
    assert outcome.batches <= 2 + len(wire.body) // 4096


@pytest.mark.parametrize("wire", gemini_wires(), ids=lambda wire: wire.key)
async def test_line_ends_do_not_matter(wire: Wire, server: WireServer, provider: GeminiProvider) -> None:
    plain = wire.body.replace(b"\r\n", b"\n")
    server.reply = Reply(plain.replace(b"\n", b"\r\n") if plain == wire.body else plain, segments=(1, 300))
    check(await drain(provider, asked(wire)), wire)


@pytest.mark.parametrize("wire", gemini_wires(), ids=lambda wire: wire.key)
async def test_a_wire_cut_anywhere_keeps_its_part_and_is_never_called_complete(
    wire: Wire, server: WireServer, provider: GeminiProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, cut in enumerate(cuts(wire)):
        server.reply = cut_short(wire, cut)
        monkeypatch.setattr(wires, "poured", number % 2 == 1)
        outcome = await drain(provider, asked(wire))
        whole = fold_of(wire, cut)
        assert outcome.error is not None, f"cut after {cut} of {len(wire.body)} bytes"
        assert outcome.error.code == "provider.connection"
        assert outcome.error.retryable
        assert outcome.finish is None
        assert wire.text.startswith(outcome.text)
        assert outcome.text.startswith(whole.text)
        assert wire.thinking.startswith(outcome.thinking)
        assert outcome.thinking.startswith(whole.thinking)
        for at, call in whole.calls.items():
            assert outcome.calls[at][2].startswith(call[2])


@pytest.mark.parametrize("wire", [wire for wire in gemini_wires() if wire.usage], ids=lambda wire: wire.key)
async def test_what_was_counted_before_a_cut_is_told(wire: Wire, server: WireServer, provider: GeminiProvider) -> None:
    begun = re.search(rb'"(?:candidatesTokenCount|total_output_tokens)"', wire.body)
    lines = wire.body.splitlines(keepends=True)
    before = b"".join(
        lines[: next(n for n, line in enumerate(lines) if b"finishReason" in line or b".completed" in line)]
    )
    server.reply = Reply(before)
    outcome = await drain(provider, asked(wire))
    assert outcome.error is not None
    counted = begun is not None and begun.start() < len(before)
    if counted:
        assert outcome.counted is not None
        assert wire.usage is not None
        assert 0 < outcome.counted.total_tokens <= wire.usage[2]


@pytest.mark.parametrize("recorded", gemini_error_bodies(), ids=lambda recorded: recorded.key)
async def test_a_recorded_error_body_gets_its_code(
    recorded: ErrorBody, server: WireServer, provider: GeminiProvider
) -> None:
    server.reply = recorded.reply()
    outcome = await drain(provider, asked(recorded))
    assert outcome.error is not None
    assert outcome.error.code == recorded.code
    assert outcome.error.retryable is (recorded.status == 429)
    assert 0 < len(outcome.error.message) <= 500
    assert outcome.headers == 0
