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
SESSION_CASES: list[dict[str, Any]] = json.loads((ROOT / "tests" / "conformance" / "session_cases.json").read_text())
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
            [["wire", "stream", "meter", "session", "tree", "outbox", "kept"], script, given],
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


SESSION = """
    const start = given.start ?? {epoch: null, offset: 0};
    const session = newSession(given.session, given.user);
    Object.assign(session, start);
    const verdicts = [], actions = [];
    for (const frame of given.frames) {
        const verdict = isOwn(session, frame) ? take(session, frame) : Verdict.IGNORED;
        verdicts.push(verdict);
        if (verdict === Verdict.HOLE) {
            actions.push({subscribe: {stream: session.id, epoch: session.epoch, offset: session.offset}});
        }
    }
    const shown = ({turn, stream, model, message, user, state, ...more}) => {
        const set = Object.entries(more).filter(([name, value]) => value && !["interrupt", "behind"].includes(name));
        return {turn, stream, model, message, user, state, ...Object.fromEntries(set)};
    };
    // Of messages alone: an answer that is still coming may lie on another branch.
    const path = pathOf(treeOf({...session, turns: []}), {}).map(({node}) => node.message.id);
    return {
        title: session.title, system: session.system, model: session.model, deleted: session.deleted,
        members: Object.fromEntries(session.members.map(({user, role}) => [user, role])), role: session.role,
        messages: session.messages.map(({id}) => id), more: session.more, path,
        turns: busyTurns(session).map(shown), queue: queuedTurns(session).map(shown),
        users: session.users.map(({id}) => id),
        position: {epoch: session.epoch, offset: session.offset}, actions, verdicts,
    };
"""


@pytest.mark.parametrize("case", SESSION_CASES, ids=[case["name"].replace(" ", "-") for case in SESSION_CASES])
def test_the_pages_reducer_of_sessions_conforms(run: Run, case: dict[str, Any]) -> None:
    # Which results are missing and which tools run the page reads from the messages and the streams, not from a turn.
    expected = json.loads(json.dumps(case["expect"]))
    for turn in expected["turns"]:
        turn.pop("missing", None)
        turn.pop("started", None)
    assert run(SESSION, case) == expected


def test_a_session_stored_at_any_moment_goes_on_as_if_nothing_had_been(run: Run) -> None:
    for case in SESSION_CASES:
        stored = """
            const whole = newSession(given.session, given.user), parted = {now: newSession(given.session, given.user)};
            for (const frame of given.frames) {
                take(whole, frame);
                parted.now = JSON.parse(JSON.stringify(parted.now));
                take(parted.now, frame);
            }
            return [JSON.parse(JSON.stringify(whole)), JSON.parse(JSON.stringify(parted.now))];
        """
        whole, parted = run(stored, case)
        assert parted == whole, case["name"]


TREE = """
    const said = (id, parent, stream) =>
        ({id, parent, role: stream ? "assistant" : "user", author: "ann", content: id, created: 1, stream});
    const session = newSession("s_1", "ann");
    session.messages = [
        said("m1", null), said("a1", "m1", "r1"), said("m2", "a1"), said("a2", "m2", "r2"),
        said("m1b", null), said("a1b", "m1b", "r3"), said("a1c", "m1b", "r4"),
    ];
    const keys = (path) => path.map(({node, siblings, place}) => `${node.key} ${place + 1}/${siblings.length}`);
    const path = (choices) => pathOf(treeOf(session), choices);
"""


def test_without_a_choice_the_newest_branch_is_looked_at(run: Run) -> None:
    assert run(f"{TREE} return keys(path({{}}))") == ["m1b 2/2", "r4 2/2"]
    assert run(f"{TREE} return isNewest(path({{}}))") is True
    grown = f"{TREE} session.messages.push(said('m3', 'a2')); return keys(path({{}}))"
    assert run(grown) == ["m1 1/2", "r1 1/1", "m2 1/1", "r2 1/1", "m3 1/1"]


def test_a_choice_holds_below_its_parent_and_an_unknown_one_does_not_count(run: Run) -> None:
    assert run(f"{TREE} return keys(path({{'': 'm1b', m1b: 'r3'}}))") == ["m1b 2/2", "r3 1/2"]
    assert run(f"{TREE} return isNewest(path({{m1b: 'r3'}}))") is False
    assert run(f"{TREE} return keys(path({{'': 'm7', m1b: 'r9'}}))") == ["m1b 2/2", "r4 2/2"]


def test_an_answer_that_is_still_coming_is_a_branch_beside_the_others(run: Run) -> None:
    running = "session.turns = [{turn: 't', stream: 'r9', message: 'm1b', behind: 'a1c', state: 'running'}];"
    assert run(f"{TREE} {running} return keys(path({{}}))") == ["m1b 2/2", "r9 3/3"]
    assert run(f"{TREE} {running} return keys(path({{m1b: 'r4'}}))") == ["m1b 2/2", "r4 2/3"]


def test_an_answer_that_is_still_coming_is_as_new_as_its_beginning(run: Run) -> None:
    running = "session.turns = [{turn: 't', stream: 'r9', message: 'm2', behind: 'm2', state: 'running'}];"
    assert run(f"{TREE} {running} return keys(path({{}}))") == ["m1b 2/2", "r4 2/2"]
    assert run(f"{TREE} {running} return keys(path({{'': 'm1'}}))") == ["m1 1/2", "r1 1/1", "m2 1/1", "r2 1/2"]


def test_what_hangs_on_a_message_that_is_not_loaded_is_a_path_of_its_own(run: Run) -> None:
    assert run(f"{TREE} session.messages.splice(0, 1); return keys(path({{}}))") == ["m1b 1/1", "r4 2/2"]
    cut = "session.messages = [said('a1', 'm0', 'r1'), said('m2', 'a1')];"
    assert run(f"{TREE} {cut} return keys(path({{}}))") == ["r1 1/1", "m2 1/1"]


def test_a_command_is_the_same_each_time_it_is_sent(run: Run) -> None:
    script = """
        const request = newRequest({...given, params: {tokens: 3}, model: "a/b", on_busy: "queue"});
        return [commandOf(request), commandOf(JSON.parse(JSON.stringify(request)))];
    """
    first, second = run(script, {"session": None, "content": "Hello.", "system": "Be brief."})
    assert first == second
    assert first["params"] == {"tokens": 3, "system": "Be brief."}
    assert {"session", "parent", "on_busy"}.isdisjoint(first)
    again, _ = run(script, {"session": "s_1", "parent": "m1", "system": ""})
    assert (again["session"], again["parent"], again["on_busy"]) == ("s_1", "m1", "queue")
    assert "content" not in again


def test_a_full_storage_keeps_streams_as_from_the_start_and_what_was_sent(run: Run) -> None:
    script = """
        const session = newSession("s_1", "ann");
        session.streams = {r_1: {...newStream("r_1", 7), offset: 1003, text: "much text ".repeat(1000)}};
        const tab = {session, outbox: [{content: "now"}], stopping: ["t_1"]};
        const tried = (room) => {
            const small = {
                setItem(key, value) { if (value.length > room) throw new Error("full"); this.kept = value; },
                getItem() { return this.kept; },
            };
            saveTab(small, tab);
            return loadTab(small);
        };
        return [tried(1500), tried(100), loadTab({getItem: () => "{"})];
    """
    streams, sent, nothing = run(script)
    assert (streams["session"]["streams"]["r_1"]["offset"], streams["session"]["streams"]["r_1"]["text"]) == (0, "")
    assert (sent["session"], sent["outbox"], sent["stopping"]) == (None, [{"content": "now"}], ["t_1"])
    assert nothing == {"session": None, "outbox": [], "stopping": []}


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
