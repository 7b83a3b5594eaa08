"""The page's modules in Chromium, without a server: their files are handed to the browser by the test."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Route, WebSocketRoute
from tests.web.browser import wait_until

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
PAGE_DIR = ROOT / "web" / "page"
CASES: list[dict[str, Any]] = json.loads((ROOT / "tests" / "conformance" / "cases.json").read_text())
ORIGIN = "http://page.test/"
CONTENT_TYPES = {".js": "text/javascript", ".html": "text/html", ".css": "text/css", ".svg": "image/svg+xml"}


def from_disk(route: Route) -> None:
    """Serve the page's files as a server would; anything else is an empty document."""
    path = PAGE_DIR / (route.request.url.removeprefix(ORIGIN).removeprefix("assets/") or "index.html")
    if path.is_file():
        route.fulfill(status=200, content_type=CONTENT_TYPES[path.suffix], body=path.read_text("utf-8"))
    else:
        route.fulfill(status=200, content_type="text/html", body="<!doctype html><title>empty</title>")


# Runs in the page: `run(given)` is called with the exports of all modules in scope.
Run = Callable[..., Any]


@pytest.fixture(scope="module")
def run(browser: Browser) -> Iterator[Run]:
    context = browser.new_context()

    context.route("**/*", from_disk)
    page = context.new_page()
    page.goto(f"{ORIGIN}empty")

    def run(script: str, given: Any = None) -> Any:
        return page.evaluate(
            """async ([names, script, given]) => {
                const modules = await Promise.all(names.map((name) => import(`/assets/${name}.js`)));
                const all = Object.assign({}, ...modules);
                return new Function(...Object.keys(all), "given", script)(...Object.values(all), given);
            }""",
            [["wire", "stream", "meter", "conversation"], script, given],
        )

    yield run
    context.close()


REDUCE = """
    const start = given.start ?? {epoch: null, offset: 0};
    const stream = newStream(given.stream, start.epoch);
    stream.offset = start.offset;
    const verdicts = [], actions = [];
    for (const frame of given.frames) {
        const verdict = apply(stream, frame);
        verdicts.push(verdict);
        if (verdict === Verdict.HOLE) {
            actions.push({subscribe: {stream: stream.id, epoch: stream.epoch, offset: stream.offset}});
        }
    }
    return {
        text: stream.text, thinking: stream.thinking, refusal: stream.refusal, tool_calls: stream.tool_calls,
        position: {epoch: stream.epoch, offset: stream.offset},
        ended: stream.end !== null, end_reason: stream.end?.reason ?? null, actions, verdicts,
    };
"""


@pytest.mark.parametrize("case", CASES, ids=[case["name"].replace(" ", "-") for case in CASES])
def test_the_pages_reducer_conforms(run: Run, case: dict[str, Any]) -> None:
    assert run(REDUCE, case) == case["expect"]


def test_a_state_stored_in_mid_answer_goes_on_as_if_nothing_had_been(run: Run) -> None:
    for case in CASES:
        stored = """
            const whole = newStream(given.stream), parted = {now: newStream(given.stream)};
            for (const frame of given.frames) {
                apply(whole, frame);
                parted.now = JSON.parse(JSON.stringify(parted.now));
                apply(parted.now, frame);
            }
            return [whole, parted.now];
        """
        whole, parted = run(stored, case)
        assert parted == whole, case["name"]


def test_the_place_of_a_stream_not_yet_read_is_its_start(run: Run) -> None:
    assert run("return position(newStream('r_1', 7))") == {"stream": "r_1"}
    assert run("return position({...newStream('r_1', 7), offset: 3})") == {"stream": "r_1", "epoch": 7, "offset": 3}


def test_the_wait_doubles_from_a_quarter_second_to_fifteen_and_is_jittered_from_nought(run: Run) -> None:
    ceilings = run("return Array.from({length: 12}, (_, attempt) => backoffMs(attempt, () => 1))")
    assert ceilings == [250, 500, 1000, 2000, 4000, 8000, 15000, 15000, 15000, 15000, 15000, 15000]
    assert run("return backoffMs(5, () => 0)") == 0
    assert run("return backoffMs(5000, () => 1)") == 15000


def test_only_close_codes_that_say_so_are_final(run: Run) -> None:
    codes = [1000, 1001, 1006, 1009, 1012, 4000, 4001, 4005, 4499, 4500, 4503, 4999, 5000]
    assert run("return given.filter(isFinal)", codes) == [1009, 4500, 4503, 4999]


@pytest.mark.parametrize(
    ("base", "address"),
    [
        ("http://host:8000/", "ws://host:8000/ws"),
        ("https://host/chat/?a=1#b", "wss://host/chat/ws"),
    ],
)
def test_the_address_lies_beside_the_page(run: Run, base: str, address: str) -> None:
    assert run("return addressBeside(given)", base) == address


def test_what_is_replayed_does_not_count_as_speed(run: Run) -> None:
    rates = """
        const meter = new Meter();
        meter.catchUp(500);
        meter.note(0, 100, 100);
        meter.note(10, 497, 500);
        const early = meter.perSecond(20, 497);
        for (let step = 1; step <= 10; step++) meter.note(10 + step * 100, 497 + step * 4, 500 + step * 4);
        return [early, meter.perSecond(1010, 537)];
    """
    assert run(rates) == [None, 40]


TURNS = """
    const turn = (prompt, answer) => {
        const made = newTurn(prompt, "a/b", {});
        if (answer !== null) { made.phase = Phase.ENDED; made.stream = {...newStream("r_1"), text: answer}; }
        return made;
    };
"""


def test_the_oldest_turns_are_left_out_of_a_command_that_would_be_too_long(run: Run) -> None:
    script = f"""{TURNS}
        const turns = [turn("old ".repeat(500), "x"), turn("new", "y"), turn("now", null)];
        return [commandOf(turns, 1_000_000), commandOf(turns, 5_500)];
    """
    whole, short = run(script)
    assert [message["content"] for message in whole["command"]["messages"]][1:] == ["x", "new", "y", "now"]
    assert whole["leftOut"] == 0
    assert [message["content"] for message in short["command"]["messages"]] == ["new", "y", "now"]
    assert short["leftOut"] == 2
    assert len(json.dumps(short["command"])) < 5_500


def test_a_prompt_longer_than_a_frame_is_not_sent(run: Run) -> None:
    assert run(f"{TURNS} return commandOf([turn('ä'.repeat(3000), null)], 10_000)") is None


def test_a_prompt_without_an_answer_is_not_repeated_to_the_model(run: Run) -> None:
    command = run(f"{TURNS} return commandOf([turn('failed', ''), turn('again', null)], 1_000_000)")["command"]
    assert [message["content"] for message in command["messages"]] == ["again"]


def test_a_full_storage_keeps_the_running_stream_as_from_the_start(run: Run) -> None:
    script = f"""{TURNS}
        const running = turn("now", "much text ".repeat(1000));
        running.phase = Phase.RUNNING;
        running.stream.offset = 1003;
        const small = {{
            kept: null,
            setItem(key, value) {{ if (value.length > 2000) throw new Error("full"); this.kept = value; }},
            getItem() {{ return this.kept; }},
        }};
        save(small, [turn("before", "short"), running]);
        return load(small);
    """
    before, running = run(script)
    assert before["stream"]["text"] == "short"
    assert running["phase"] == "running"
    assert (running["stream"]["id"], running["stream"]["offset"], running["stream"]["text"]) == ("r_1", 0, "")


def test_a_silent_connection_is_given_up_after_two_heartbeats(browser: Browser) -> None:
    context = browser.new_context()
    page = context.new_page()
    hellos: list[dict[str, Any]] = []

    def silent(route: WebSocketRoute) -> None:
        def on_message(data: str | bytes) -> None:
            frame = json.loads(data)
            if frame["type"] == "hello":
                hellos.append(frame)
                route.send(json.dumps({"type": "welcome", "protocol": 1, "heartbeat_ms": 200, "limits": {}}))

        route.on_message(on_message)

    page.route("**/*", from_disk)
    page.route_web_socket("**/ws", silent)
    page.goto(ORIGIN)
    wait_until(page, lambda: len(hellos) >= 2)
    assert hellos[0]["resume"] == []
    context.close()
