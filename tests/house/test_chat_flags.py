"""What the flags of `everstream chat` ask for: questions and files from the command line, copies, frames, tokens."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.house.chat_process import chat, piped, started
from tests.house.fake_server import FakeServer, answer, end, fake_server, text, until
from tests.house.fake_sessions import session_server

from everstream.attachment import FILE_BYTES_MAX, Unreadable, opening_turn, text_of
from everstream.cli import TOKEN_ENV, main
from everstream.config import CLIENTS_ENV
from everstream.terminal import Page


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with fake_server() as fake:
        yield fake


def asked(server: FakeServer) -> list[str]:
    return [str(request["messages"][-1]["content"]) for request in server.said("generate")]


# --------------------------------------------------------------------------- a question


async def test_a_question_is_answered_and_that_is_it(server: FakeServer) -> None:
    code, out, aside = await piped(server, b"not read\n", "what is", "this?", "--system", "be brief", "--model", "a/b")
    assert (code, out) == (0, "one two three\n")
    assert "tokens/s" in aside
    [request] = server.said("generate")
    assert request["messages"] == [{"role": "user", "content": "what is this?"}]
    assert (request["model"], request["params"]) == ("a/b", {"system": "be brief"})


async def test_a_question_at_a_terminal_is_answered_without_a_prompt(server: FakeServer) -> None:
    async with chat(server, "why?") as terminal:
        assert await terminal.left() == 0
        await terminal.sees("one two three\n")
        assert "> " not in terminal.seen


async def test_who_wants_to_stay_goes_on_after_the_question(server: FakeServer) -> None:
    async with chat(server, "why?", "--stay") as terminal:
        await terminal.prompt()
        terminal.type("and then?\n")
        await terminal.sees("one two three\n")
    assert [message["content"] for message in server.said("generate")[1]["messages"]] == [
        "why?",
        "one two three",
        "and then?",
    ]


async def test_a_question_whose_answer_fails_is_told_by_the_exit_code(server: FakeServer) -> None:
    server.script = lambda _: [text("part"), end("interrupted")]
    assert (await piped(server, b"", "why?"))[:2] == (1, "part\n")


async def test_an_interrupted_question_stops_the_answer_and_leaves(server: FakeServer) -> None:
    server.allowed = 2
    async with chat(server, "why?") as terminal:
        await terminal.sees("one")
        terminal.type("\x03")
        assert await terminal.left() == 130
    assert server.streams["r_1"].entries[-1]["reason"] == "cancelled"


async def test_an_answer_that_nobody_reads_any_more_is_stopped_without_a_word(server: FakeServer) -> None:
    server.allowed = 2
    process = await started(server, "why?")
    assert process.stdout is not None
    assert process.stderr is not None
    assert await process.stdout.read(3) == b"one"
    process.stdout._transport.close()  # type: ignore[attr-defined]  # as `head` leaves
    server.streams["r_1"].allow(3)
    async with asyncio.timeout(20):
        await process.wait()
        aside = await process.stderr.read()
    assert (process.returncode, aside) == (0, b"")
    assert server.said("cancel")


# --------------------------------------------------------------------------- files


async def test_a_file_alone_is_the_question_and_with_one_it_stands_before_it(
    server: FakeServer, tmp_path: Path
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("\ufeffgrün\n", encoding="utf-8")
    assert (await piped(server, b"", "--file", str(notes)))[0] == 0
    assert (await piped(server, b"ein Satz\n", "--file", str(notes), "--file", "-", "worum geht es?"))[0] == 0
    assert asked(server) == [
        "grün\n",
        '<file name="notes.txt">\ngrün\n</file>\n\n<file name="standard input">\nein Satz\n</file>\n\nworum geht es?',
    ]


@pytest.mark.parametrize(
    ("content", "why"), [(b"\x89PNG\r\n\x1a\n\xff", "not a text file"), (b"a\0b", "not a text file"), (b" \n", "empty")]
)
async def test_what_is_no_text_is_refused_before_anything_is_asked(
    server: FakeServer, tmp_path: Path, content: bytes, why: str
) -> None:
    file = tmp_path / "picture"
    file.write_bytes(content)
    with pytest.raises(Unreadable, match=why) as caught:
        text_of(str(file), io.BytesIO())
    assert str(file) in str(caught.value)


def test_what_cannot_be_read_is_named_with_its_reason(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, why in ((tmp_path / "none.txt", "No such file"), (tmp_path, "Is a directory")):
        assert main(["chat", "--file", str(name)]) == 2
        said = capfd.readouterr()
        assert said.err.startswith(f"everstream chat: cannot read {name}: {why}")
        assert (said.out, said.err.count("\n")) == ("", 1)


def test_a_file_is_read_no_further_than_it_may_be_large() -> None:
    class Endless(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            assert size > 0
            return b"a" * size

    with pytest.raises(Unreadable, match="standard input is larger than 8 MiB"):
        text_of("-", Endless())  # type: ignore[arg-type]
    assert len(text_of("-", io.BytesIO(b"a" * FILE_BYTES_MAX))) == FILE_BYTES_MAX


def test_without_question_and_file_there_is_no_first_turn() -> None:
    assert opening_turn([], "", io.BytesIO()) is None
    assert opening_turn([], "why?", io.BytesIO()) == "why?"


def test_standard_input_cannot_be_a_file_and_lines_too(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--file", "-", "--stay"]) == 2
    assert "--stay reads standard input" in capfd.readouterr().err


# --------------------------------------------------------------------------- copies and frames


async def test_a_copy_grows_as_the_answer_comes_and_is_added_to(server: FakeServer, tmp_path: Path) -> None:
    server.allowed = 2
    copy = tmp_path / "answers.txt"
    copy.write_text("before\n")
    async with chat(server, "--tee", str(copy)) as terminal:
        await terminal.prompt()
        terminal.type("hello\n")
        await until(lambda: copy.read_text() == "before\none")
        server.streams["r_1"].allow()
        await terminal.prompt()
        server.script, server.allowed = lambda _: [{"type": "delta_thinking", "text": "hm"}, *answer("yes")], None
        terminal.type("more\n")
        await terminal.sees("yes")
        await terminal.prompt()
    assert copy.read_text() == "before\none two three\nyes\n"


def test_a_copy_that_cannot_be_written_is_refused_at_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, why in ((tmp_path, "Is a directory"), (tmp_path / "no" / "x", "No such file")):
        assert main(["chat", "why?", "--tee", str(name)]) == 2
        assert capfd.readouterr().err.startswith(f"everstream chat: cannot write to {name}: {why}")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
async def test_a_copy_that_breaks_off_costs_no_answer(server: FakeServer) -> None:
    code, out, aside = await piped(server, b"", "why?", "--tee", "/dev/full")
    assert (code, out) == (1, "one two three\n")
    assert aside.count("cannot write to /dev/full any more: No space left on device") == 1
    assert "Traceback" not in aside


async def test_frames_are_written_a_line_each_and_nothing_else(server: FakeServer, tmp_path: Path) -> None:
    server.script = lambda _: [{"type": "delta_thinking", "text": "hm"}, *answer("grün")]
    copy = tmp_path / "answers.txt"
    code, out, aside = await piped(server, b"", "why?", "--json", "--tee", str(copy))
    frames = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [frame["type"] for frame in frames] == ["delta_thinking", "request_start", "delta_text", "stream_end"]
    assert frames[2] == {"type": "delta_text", "text": "grün", "stream": "r_1", "after": 2, "upto": 3}
    assert frames[3]["usage"]["output_tokens"] == 5
    assert "hm" not in aside
    assert copy.read_text() == "grün\n"


def test_the_prompt_goes_where_the_person_looks() -> None:
    out, aside = io.StringIO(), io.StringIO()
    Page(out, aside).ask("> ")
    assert (out.getvalue(), aside.getvalue()) == ("", "> ")


# --------------------------------------------------------------------------- tokens


async def test_a_token_comes_from_the_flag_or_else_from_the_environment(server: FakeServer) -> None:
    await piped(server, b"", "why?", **{TOKEN_ENV: "from-env"})
    await piped(server, b"", "why?", "--token", "from-flag", **{TOKEN_ENV: "from-env"})
    await piped(server, b"", "why?", **{TOKEN_ENV: ""})
    assert [hello.get("token") for hello in server.said("hello")] == ["from-env", "from-flag", None]


def test_the_clients_environment_is_none_of_a_servers_business(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(TOKEN_ENV, "t-hidden")
    assert TOKEN_ENV in CLIENTS_ENV
    assert main(["config"]) == 0
    assert "t-hidden" not in capfd.readouterr().out


async def test_a_refused_token_is_said_in_one_line(server: FakeServer) -> None:
    server.tokens = {"good"}
    code, out, aside = await asyncio.wait_for(piped(server, b"", "why?", "--token", "bad"), 20)
    assert (code, out) == (1, "")
    assert aside == "everstream: auth.denied: this token will not do\n"


# --------------------------------------------------------------------------- sessions


async def test_an_answer_that_waits_for_tools_goes_on_or_is_stopped_with_its_turn() -> None:
    async with session_server() as server:
        calls = [{"call_id": "c_1", "name": "look", "arguments": "{}"}]
        server.script = lambda _: [*answer("let me see")[:-1], {**end(), "finish_reason": "tool_calls"}]
        server.allowed = 1
        made = server.new_session()
        async with chat(server, "--session", made.name, "--model", "fake/one") as terminal:
            await terminal.prompt()
            terminal.type("what is it?\n")
            await until(lambda: made.state().turns)
            server.finish(made, "r_2", tool_calls=calls)
            await terminal.sees("let me see")
            server.script = lambda _: answer("it is six")
            result = made.message("tool", made.state().newest, "six", stream="r_2", call_id="c_1")
            server.new_stream({}).allow()
            made.say("turn_start", turn="t_r_2", stream="r_3", model="fake/one", message=result, user="ann")
            await terminal.sees("it is six")
            server.finish(made, "r_3")
            await terminal.prompt()
            server.script = lambda _: [*answer("once more")[:-1], {**end(), "finish_reason": "tool_calls"}]
            terminal.type("really?\n")
            await until(lambda: made.state().turns)
            server.finish(made, "r_4", tool_calls=calls)
            await terminal.sees("once more")
            terminal.type("\x03")
            await until(lambda: server.said("cancel"))
            made.say("turn_end", turn="t_r_4", stream="r_4", reason="cancelled", message=made.state().newest)
            await terminal.prompt()
    assert server.said("cancel")[0]["session"] == made.name


async def test_a_session_is_made_gone_on_in_and_begun_anew() -> None:
    async with session_server() as server:
        code, out, aside = await piped(server, b"", "--session", "new", "--model", "fake/one", "hi")
        assert (code, out) == (0, "one two three\n")
        assert "session s_1" in aside
        code, out, _ = await piped(server, b"and then?\n/new\nagain\n", "--session", "s_1")
        assert (code, out) == (0, "one two three\none two three\n")
        path = server.sessions["s_1"].state().path()
        assert [message["content"] for message in path] == ["again", "one two three"]
        code, _, aside = await piped(server, b"", "--session", "s_9", "hi")
        assert (code, "session.unknown" in aside) == (1, True)
    sent = server.said("generate")
    assert [(command["content"], command.get("parent", "behind")) for command in sent] == [
        ("hi", "behind"),
        ("and then?", "behind"),
        ("again", None),
    ]
    assert not any("messages" in command for command in sent)
