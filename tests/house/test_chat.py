"""The terminal chat, as a person or a pipe meets it: a real process on a pseudo-terminal, and the fake server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.house.chat_process import chat, piped
from tests.house.fake_server import FakeServer, answer, end, fake_server, text, until

from everstream.chat import choose
from everstream.showing import figures
from everstream.terminal import LINES_WAITING_MAX, Lines


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with fake_server() as fake:
        yield fake


async def test_tokens_are_shown_as_they_come_and_the_figures_after(server: FakeServer) -> None:
    server.allowed = 2
    async with chat(server, "--param", "max_tokens=9") as terminal:
        await terminal.prompt()
        assert "fake/one" in terminal.seen
        terminal.type("hello\n")
        await terminal.sees("one")
        assert "two" not in terminal.since
        server.streams["r_1"].allow()
        await terminal.sees("one two three\n0.12 s to first token · 5.6 tokens/s · 3 in, 5 out\n> ")
    assert server.said("generate")[0]["params"] == {"max_tokens": 9}


async def test_the_whole_conversation_is_sent_each_time_until_it_is_new(server: FakeServer) -> None:
    async with chat(server, "--system", "be brief") as terminal:
        for line in ("first", "second", "/new", "third"):
            await terminal.prompt()
            terminal.type(line + "\n")
        await terminal.sees("three\n")
    first, second, third = server.said("generate")
    assert [message["content"] for message in first["messages"]] == ["first"]
    assert [message["content"] for message in second["messages"]] == ["first", "one two three", "second"]
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "user"]
    assert [message["content"] for message in third["messages"]] == ["third"]
    assert first["params"]["system"] == "be brief"


async def test_ctrl_c_stops_the_answer_on_the_server_and_keeps_the_part(server: FakeServer) -> None:
    server.allowed = 3
    async with chat(server) as terminal:
        await terminal.prompt()
        terminal.type("hello\n")
        await terminal.sees("one two")
        terminal.type("\x03")
        await terminal.sees("[stopped]")
        await terminal.prompt()
        assert server.streams["r_1"].entries[-1]["reason"] == "cancelled"
        server.allowed = None
        terminal.type("again\n")
        await terminal.sees("one two three\n")
        await terminal.prompt()
        terminal.type("\x03")
        assert await terminal.left() == 0
    assert server.said("generate")[1]["messages"][1] == {"role": "assistant", "content": "one two"}


async def test_ctrl_c_before_the_server_has_accepted_stops_the_answer_too(server: FakeServer) -> None:
    server.allowed = 2
    server.hold["generate"] = asyncio.Event()
    async with chat(server) as terminal:
        await terminal.prompt()
        terminal.type("hello\n")
        await until(lambda: server.said("generate"))
        terminal.type("\x03")
        await terminal.sees("^C")
        server.hold["generate"].set()
        await terminal.sees("[stopped]")
        await terminal.prompt()
    assert server.streams["r_1"].entries[-1]["reason"] == "cancelled"


async def test_a_second_ctrl_c_does_not_wait_for_the_server(server: FakeServer) -> None:
    server.allowed = 2
    server.hold["cancel"] = asyncio.Event()
    async with chat(server) as terminal:
        await terminal.prompt()
        terminal.type("hello\n")
        await terminal.sees("one")
        server.streams["r_1"].cancel = lambda: 2  # type: ignore[method-assign]  # the end does not come
        terminal.type("\x03")
        await until(lambda: server.said("cancel"))
        terminal.type("\x03")
        await terminal.sees("[stopped]")
        await terminal.prompt()


@pytest.mark.parametrize("keys", ["\x03", "\x04", "/quit\n"])
async def test_at_the_prompt_these_keys_leave(server: FakeServer, keys: str) -> None:
    async with chat(server) as terminal:
        await terminal.prompt()
        terminal.type(keys)
        assert await terminal.left() == 0


async def test_an_answer_goes_on_after_the_connection_was_lost(server: FakeServer) -> None:
    server.allowed = 2
    async with chat(server) as terminal:
        await terminal.prompt()
        terminal.type("hello\n")
        await terminal.sees("one")
        server.drop_all()
        await terminal.sees("[reconnecting…]")
        await until(lambda: server.connected == 2)
        server.streams["r_1"].allow()
        await terminal.sees("three")
        await terminal.prompt()
        assert terminal.since.replace(" [reconnecting…] ", "").startswith("hello\none two three\n")


async def test_a_change_of_servers_is_marked_and_the_answer_goes_on(server: FakeServer) -> None:
    seam: dict[str, Any] = {"type": "seam", "epoch": 9, "attempt": 2, "reason": "node_lost", "check": None, "node": "b"}
    server.script = lambda _: [text("one"), {**seam, "continuation": "exact"}, text(" two"), end()]
    async with chat(server) as terminal:
        await terminal.prompt()
        terminal.type("hello\n")
        await terminal.sees("one [carried on after a server loss]  two\n")


async def test_an_answer_that_starts_again_is_the_one_that_is_kept(server: FakeServer) -> None:
    seam: dict[str, Any] = {"type": "seam", "epoch": 9, "attempt": 2, "reason": "drain", "check": None, "node": "b"}
    server.script = lambda _: [text("bad"), {**seam, "continuation": "restart"}, text("good"), end()]
    async with chat(server) as terminal:
        await terminal.prompt()
        terminal.type("hello\n")
        await terminal.sees("bad [carried on by another server] \ngood\n")
        await terminal.prompt()
        terminal.type("more\n")
        await until(lambda: len(server.said("generate")) == 2)
    assert server.said("generate")[1]["messages"][1]["content"] == "good"


async def test_thinking_is_dimmed_and_stands_apart(server: FakeServer) -> None:
    server.script = lambda _: [{"type": "delta_thinking", "text": "hm"}, text("yes"), end()]
    async with chat(server) as terminal:
        await terminal.prompt()
        terminal.type("hello\n")
        await terminal.sees("hm\nyes\n")
        assert "\x1b[2mhm\x1b[0m" in terminal.raw


async def test_a_failed_answer_says_why_and_the_question_is_not_kept(server: FakeServer) -> None:
    fault = {"code": "provider.auth", "message": "the key was refused", "retryable": False}
    server.script = lambda _: [end("failed", fault)]
    async with chat(server) as terminal:
        await terminal.prompt()
        terminal.type("hello\n")
        await terminal.sees("[failed: provider.auth, the key was refused]")
        await terminal.prompt()
        server.script = lambda _: answer("fine")
        terminal.type("again\n")
        await terminal.sees("fine")
    assert [message["content"] for message in server.said("generate")[1]["messages"]] == ["again"]


async def test_models_are_listed_and_another_can_be_asked(server: FakeServer) -> None:
    async with chat(server) as terminal:
        await terminal.prompt()
        terminal.type("/models\n")
        await terminal.sees("  scripted/count\n  far/away  (not usable: no key)\n* fake/one\n")
        await terminal.prompt()
        terminal.type("/model scripted/count\n")
        await terminal.prompt()
        terminal.type("hello\n")
        await terminal.sees("three")
    assert server.said("generate")[0]["model"] == "scripted/count"


async def test_help_names_every_command(server: FakeServer) -> None:
    async with chat(server) as terminal:
        await terminal.prompt()
        terminal.type("/help\n")
        for command in ("/model", "/models", "/new", "/help", "/quit", "Ctrl-C"):
            await terminal.sees(command)


async def test_a_server_that_refuses_for_good_ends_the_chat(server: FakeServer) -> None:
    server.close_with = [(4501, {"code": "auth.required", "message": "a token is needed", "retryable": False})]
    async with chat(server) as terminal:
        assert await terminal.left() == 1
        await terminal.sees("a token is needed")


# --------------------------------------------------------------------------- pipes


async def test_a_pipe_gets_an_answer_for_each_line_and_nothing_else(server: FakeServer) -> None:
    server.script = lambda request: answer("to ", request["messages"][-1]["content"])
    code, out, aside = await piped(server, b"first\n\nsecond\nlast without an end")
    assert code == 0
    assert out == "to first\nto second\nto last without an end\n"
    assert aside.count("tokens/s") == 3


async def test_a_plain_file_is_read_like_a_pipe(server: FakeServer, tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("first\nsecond\n")
    server.script = lambda request: answer("to ", request["messages"][-1]["content"])
    assert (await piped(server, lines))[:2] == (0, "to first\nto second\n")


async def test_a_pipe_whose_answer_failed_is_told_by_the_exit_code(server: FakeServer) -> None:
    server.script = lambda _: [text("part"), end("interrupted")]
    code, out, aside = await piped(server, b"first\n")
    assert code == 1
    assert out == "part\n"
    assert "interrupted" in aside


async def test_without_a_usable_model_the_chat_says_so(server: FakeServer) -> None:
    server.models = [{"id": "far/away", "usable": False, "why_not": "no key"}]
    code, out, aside = await piped(server, b"first\n")
    assert code == 1
    assert out == ""
    assert "no model is usable" in aside


# --------------------------------------------------------------------------- its parts


async def test_more_lines_than_are_wanted_wait_in_the_pipe_and_none_is_lost() -> None:
    reading, writing = os.pipe()
    given = [f"line {n}" for n in range(10 * LINES_WAITING_MAX)]
    os.write(writing, ("\n".join(given) + "\nend ü").encode())
    os.close(writing)
    lines = Lines(reading)
    got = []
    async with asyncio.timeout(10):
        while (line := await lines.next()) is not None:
            got.append(line)
    os.close(reading)
    assert got == [*given, "end ü"]


def test_a_real_model_is_chosen_before_a_scripted_one() -> None:
    def model(name: str, usable: bool = True) -> dict[str, Any]:
        return {"id": name, "usable": usable}

    assert choose([model("scripted/count"), model("a/x", False), model("b/y"), model("c/z")]) == "b/y"
    assert choose([model("a/x", False), model("scripted/count"), model("scripted/echo")]) == "scripted/count"
    assert choose([model("a/x", False)]) is None


def test_figures_leave_out_what_is_not_known() -> None:
    usage = {"input_tokens": 1, "output_tokens": 2, "source": "estimated"}
    assert figures({"metrics": {"ttft_ms": None, "tokens_per_s": None}, "usage": usage}) == "about 1 in, 2 out"
    assert figures({"usage": usage, "cost": {"total": 0.00125, "currency": "USD"}}).endswith("0.001250 USD")
