"""The two instruments of the page: the comparison of two models, and the developer drawer.

Both are loaded when they are first wanted, under the page's own content security policy: a canvas that it forbade
would be a complaint of the browser, and fail the test (`complaints.py`).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page
from tests.server import ServerProcess
from tests.web.browser import Chat, Line, counted, wait_until
from tests.web.people import signed

pytestmark = pytest.mark.browser

PHONE = {"width": 390, "height": 760}


def open_instrument(page: Page, name: str) -> None:
    page.click("#show-menu")
    page.click(f"#open-{name}")
    page.wait_for_selector(f"#{name}")


class Comparing:
    """The comparison, as a person at it sees it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        open_instrument(page, "compare")
        page.wait_for_selector('[data-side="left"] select option', state="attached")

    def side(self, place: str) -> Locator:
        return self.page.locator(f'.compare-side[data-side="{place}"]')

    def set(self, place: str, model: str, **fields: float | str) -> None:
        side = self.side(place)
        side.locator("select").select_option(model)
        if not side.locator(".compare-fields").get_attribute("open"):
            side.locator(".compare-fields summary").click()
        for name, value in fields.items():
            side.locator(f"#compare-{place}-{name.replace('_', '-')}").fill(str(value))
        side.locator(".compare-fields summary").click()

    def ask(self, prompt: str) -> None:
        self.page.fill("#compare-prompt", prompt)
        self.page.press("#compare-prompt", "Enter")

    def answers(self, place: str) -> list[str]:
        return self.side(place).locator(".exchange .answer").all_inner_texts()

    def states(self) -> list[str | None]:
        """How the last answer of each side stands."""
        both = [self.side(place).locator(".exchange").last for place in ("left", "right")]
        return [exchange.get_attribute("data-state") if exchange.count() else None for exchange in both]

    def wait_states(self, *states: str) -> None:
        wait_until(self.page, lambda: self.states() == list(states))

    def rows(self) -> list[list[str]]:
        return [row.locator("th, td").all_inner_texts() for row in self.page.locator("#compare-runs tbody tr").all()]


@pytest.fixture
def comparing(chat: Chat) -> Comparing:
    return Comparing(chat.page)


def drawn(canvas: Locator) -> bool:
    """Whether anything was painted on it."""
    script = """canvas => {
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return data.some((value) => value !== 0);
    }"""
    return canvas.count() == 1 and bool(canvas.evaluate(script))


# ------------------------------------------------------------------ compare


def test_two_models_answer_the_same_prompt_each_at_its_own_pace(comparing: Comparing) -> None:
    page = comparing.page
    comparing.set("left", "scripted/count", tokens=40, rate=400)
    comparing.set("right", "scripted/count", tokens=60, rate=30)
    comparing.ask("Count, both.")
    comparing.wait_states("complete", "complete")
    assert (comparing.answers("left"), comparing.answers("right")) == ([counted(40)], [counted(60)])
    left, right = comparing.rows()
    assert [left[0], left[1], left[3], left[-1]] == ["1", "scripted/count", "40", "complete"]
    assert [right[0], right[2], right[-1]] == ["scripted/count", "60", "complete"]
    assert float(left[4]) > float(right[3]) > 0
    assert page.locator('#compare-runs tr[data-side="left"] td.best[data-column="rate"]').count() == 1


def test_the_plots_are_drawn_and_are_there_as_tables_too(comparing: Comparing) -> None:
    page = comparing.page
    for place, rate in (("left", 200), ("right", 100)):
        comparing.set(place, "scripted/count", tokens=100, rate=rate)
    comparing.ask("Count.")
    comparing.wait_states("complete", "complete")
    for name in ("ttft", "rate"):
        plot = page.locator(f'[data-plot="{name}"]')
        wait_until(page, lambda plot=plot: drawn(plot.locator("canvas")))  # type: ignore[misc]
        assert "left" in (plot.locator("[role=img]").get_attribute("aria-label") or "").lower()
        plot.locator("summary").click()
        assert plot.locator("tbody tr").count() >= 1
    first = page.locator('[data-plot="ttft"] tbody tr td').all_inner_texts()
    assert first[0] == "1"
    assert all(re.fullmatch(r"\d+(\.\d)? m?s", text) for text in first[1:]), first


def test_a_further_prompt_goes_on_with_both_conversations(comparing: Comparing) -> None:
    page = comparing.page
    comparing.set("left", "scripted/echo", rate=0)
    comparing.set("right", "scripted/count", tokens=3, rate=0)
    comparing.ask("One.")
    comparing.wait_states("complete", "complete")
    open_instrument(page, "developer")
    comparing.ask("Two.")
    wait_until(page, lambda: len(comparing.answers("left")) == 2 and comparing.states() == ["complete", "complete"])
    assert comparing.answers("left") == ["One.", "Two."]
    assert comparing.answers("right") == [counted(3)] * 2
    sent = frames_of(page, "generate")
    assert [[message["content"] for message in frame["messages"]] for frame in sent] == [
        ["One.", "One.", "Two."],
        ["One.", counted(3), "Two."],
    ]
    assert [row[0] for row in comparing.rows()][::2] == ["2", "1"]


def test_stop_both_and_stop_one(comparing: Comparing) -> None:
    page = comparing.page
    for place in ("left", "right"):
        comparing.set(place, "scripted/count", tokens=4000, rate=40)
    comparing.ask("Count far.")
    wait_until(page, lambda: all(comparing.answers(place) for place in ("left", "right")))
    page.get_by_role("button", name="Stop the left answer").click()
    wait_until(page, lambda: comparing.states()[0] == "cancelled")
    assert comparing.states()[1] == "running"
    page.keyboard.press("Escape")
    comparing.wait_states("cancelled", "cancelled")
    assert page.is_visible("#compare")
    assert [row[-1] for row in comparing.rows()] == ["stopped", "stopped"]


def test_run_again_and_swap(comparing: Comparing) -> None:
    page = comparing.page
    comparing.set("left", "scripted/count", tokens=5, rate=0)
    comparing.set("right", "scripted/count", tokens=7, rate=0)
    comparing.ask("Count.")
    comparing.wait_states("complete", "complete")
    page.click("#compare-swap")
    wait_until(page, lambda: comparing.answers("left") == [counted(7)] and comparing.answers("right") == [counted(5)])
    page.click("#compare-again")
    wait_until(page, lambda: len(comparing.rows()) == 4 and comparing.states() == ["complete", "complete"])
    assert (comparing.answers("left"), comparing.answers("right")) == ([counted(7)], [counted(5)])
    assert page.locator('td[data-column="tokens"]').all_inner_texts() == ["7", "5"] * 2


def test_the_figures_are_copied_as_markdown(browser: Browser, server: ServerProcess) -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    comparing = Comparing(Chat(page, server.url).page)
    for place in ("left", "right"):
        comparing.set(place, "scripted/count", tokens=5, rate=0)
    comparing.ask("Count to | five.")
    comparing.wait_states("complete", "complete")
    page.click("#compare-copy")
    page.wait_for_selector("text=Copied")
    lines = page.evaluate("() => navigator.clipboard.readText()").splitlines()
    assert lines[0].startswith("| Run | Prompt | Model | First token |")
    assert [line.startswith("| 1 | Count to \\| five. | scripted/count |") for line in lines[2:]] == [True, True]
    context.close()


def test_a_lost_connection_loses_nothing_of_either_answer(page: Page, server: ServerProcess) -> None:
    line = Line(page)
    comparing = Comparing(Chat(page, server.url).page)
    comparing.set("left", "scripted/count", tokens=90, rate=60)
    comparing.set("right", "scripted/count", tokens=60, rate=40)
    comparing.ask("Count through it.")
    wait_until(page, lambda: all(comparing.answers(place) for place in ("left", "right")))
    line.cut()
    comparing.wait_states("complete", "complete")
    assert (comparing.answers("left"), comparing.answers("right")) == ([counted(90)], [counted(60)])


def test_it_is_all_still_there_after_the_chat_was_looked_at(comparing: Comparing) -> None:
    page = comparing.page
    for place in ("left", "right"):
        comparing.set(place, "scripted/count", tokens=5, rate=0)
    comparing.ask("Count.")
    comparing.wait_states("complete", "complete")
    page.click("#compare-close")
    wait_until(page, lambda: page.is_visible("#prompt") and not page.is_visible("#compare"))
    again = Comparing(page)
    assert again.answers("left") == [counted(5)]
    assert again.side("left").locator("#compare-left-tokens").input_value() == "5"


def test_on_a_phone_the_sides_stand_one_below_the_other(browser: Browser, server: ServerProcess) -> None:
    context = browser.new_context(viewport=PHONE, has_touch=True)
    comparing = Comparing(Chat(context.new_page(), server.url).page)
    left, right = (comparing.side(place).bounding_box() for place in ("left", "right"))
    assert left is not None
    assert right is not None
    assert right["y"] >= left["y"] + left["height"]
    assert right["x"] == left["x"]
    assert comparing.page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    context.close()


# ------------------------------------------------------------------ the developer drawer


def exported(page: Page) -> list[dict[str, Any]]:
    """What the list holds, by the file that is made of it."""
    with page.expect_download() as taken:
        page.click("#frame-export")
    return [json.loads(line) for line in Path(taken.value.path()).read_text().splitlines()]


def frames_of(page: Page, kind: str) -> list[dict[str, Any]]:
    page.select_option("#frame-type", kind)
    frames = [line["frame"] for line in exported(page) if line["direction"] != "mark"]
    page.select_option("#frame-type", "")
    return frames


def types(page: Page) -> list[str]:
    """Of the rows that exist: those in sight, and some around."""
    return page.locator(".frame-type").all_inner_texts()


@pytest.fixture
def watched(chat: Chat) -> Chat:
    open_instrument(chat.page, "developer")
    return chat


def ask(chat: Chat, tokens: int, rate: float) -> None:
    chat.choose("scripted/count", tokens=tokens, rate=rate)
    chat.ask("Count.")


def test_the_frames_of_an_answer_are_listed_and_can_be_looked_at(watched: Chat) -> None:
    page = watched.page
    ask(watched, 12, 40)
    assert watched.wait_ended() == "complete"
    text = "".join(str(frame["text"]) for frame in frames_of(page, "delta_text"))
    assert text == counted(12)
    [end] = frames_of(page, "stream_end")
    assert end["reason"] == "complete"
    [generate] = frames_of(page, "generate")
    assert generate["content"] == "Count."
    page.select_option("#frame-direction", "out")
    wait_until(page, lambda: len(types(page)) > 0 and "delta_text" not in types(page))
    page.fill("#frame-search", '"type":"generate"')  # behind it more was sent than a small list shows
    wait_until(page, lambda: types(page) == ["generate"])
    row = page.locator('.frame-row[data-type="generate"]')
    assert row.locator(".frame-way").inner_text().startswith("↑")
    row.click()
    assert json.loads(page.inner_text("#frame-text")) == generate


def test_the_list_is_sifted_by_text_and_by_stream(watched: Chat) -> None:
    page = watched.page
    ask(watched, 5, 0)
    assert watched.wait_ended() == "complete"
    page.fill("#frame-search", '"reason":"complete"')
    wait_until(page, lambda: len(types(page)) > 0 and set(types(page)) <= {"stream_end", "turn_end"})
    page.fill("#frame-search", "")
    stream = page.locator("#frame-stream option").evaluate_all("all => all.map((one) => one.value)")
    response = next(value for value in stream if value.startswith("r_"))
    page.select_option("#frame-stream", response)
    wait_until(page, lambda: "stream_end" in types(page) and "message" not in types(page))


def test_a_paused_list_stands_still_and_catches_up(watched: Chat) -> None:
    page = watched.page
    ask(watched, 4000, 200)
    watched.wait_answer(10)
    page.click("#frame-pause")
    wait_until(page, lambda: "paused" in page.inner_text("#frame-count"))
    before = types(page)
    wait_until(page, lambda: since(page) > 50)
    assert types(page) == before
    page.click("#frame-pause")
    wait_until(page, lambda: "paused" not in page.inner_text("#frame-count"))
    assert listed(page) > len(before)
    page.click("#stop")
    assert watched.wait_ended() == "cancelled"
    page.click("#frame-clear")
    wait_until(page, lambda: listed(page) < 5)


def since(page: Page) -> int:
    found = re.search(r"paused, (\d+) since", page.inner_text("#frame-count"))
    return int(found[1]) if found else 0


def listed(page: Page) -> int:
    return int(page.inner_text("#frame-count").split()[0])


def test_only_the_rows_in_sight_exist_however_many_frames_there_are(watched: Chat) -> None:
    page = watched.page
    ask(watched, 1500, 1000)
    wait_until(page, lambda: listed(page) > 300)
    assert page.locator(".frame-row").count() < 100
    assert watched.wait_ended() == "complete"
    assert listed(page) <= 2000
    page.focus("#frame-list")
    page.keyboard.press("Home")
    wait_until(page, lambda: page.locator("#frame-list").evaluate("list => list.scrollTop") == 0)
    assert page.locator(".frame-row[aria-selected=true]").count() == 1
    page.keyboard.press("ArrowDown")
    wait_until(page, lambda: page.locator(".frame-row[aria-selected=true]").get_attribute("aria-posinset") == "2")


def test_a_token_never_appears_in_the_list(page: Page, guarded: ServerProcess) -> None:
    token = signed("ann", 600)
    page.goto(guarded.url)
    page.fill("#token", token)
    page.press("#token", "Enter")
    page.wait_for_selector("#model:not([disabled])", state="attached")
    open_instrument(page, "developer")
    page.click("#drop-connection")
    wait_until(page, lambda: page.locator('.frame-row[data-type="welcome"]').count() == 1)
    [hello] = frames_of(page, "hello")
    assert hello["token"] == "…"
    lines = json.dumps(exported(page))
    assert '"type": "hello"' in lines
    assert token not in lines
    assert token not in page.content()


def test_the_frames_are_exported_one_to_a_line(watched: Chat) -> None:
    page = watched.page
    ask(watched, 5, 0)
    assert watched.wait_ended() == "complete"
    page.select_option("#frame-type", "delta_text")
    with page.expect_download() as taken:
        page.click("#frame-export")
    assert taken.value.suggested_filename.endswith(".ndjson")
    lines = [line for line in exported(page) if line["direction"] != "mark"]
    assert "".join(line["frame"]["text"] for line in lines) == counted(5)
    assert {line["direction"] for line in lines} == {"in"}


def test_a_timeline_of_the_gaps_is_drawn_and_a_dropped_connection_is_marked_in_it(watched: Chat) -> None:
    page = watched.page
    ask(watched, 100, 40)
    watched.wait_answer(20)
    page.click("#tab-timing")
    page.click("#drop-connection")
    kinds = "all => all.map((one) => one.dataset.kind)"
    marks = page.locator(".interruptions li")
    wait_until(page, lambda: marks.evaluate_all(kinds)[:2] == ["lost", "back"])
    assert watched.wait_ended() == "complete"
    assert watched.answer() == counted(100)
    assert drawn(page.locator('[data-plot="gaps"] canvas'))
    figures = {name: page.inner_text(f'.timing [data-figure="{name}"]') for name in ("p50", "p95", "max", "entries")}
    assert figures["entries"] == "100"
    assert all(re.fullmatch(r"\d+(\.\d)? m?s", figures[name]) for name in ("p50", "p95", "max")), figures
    page.click('[data-plot="gaps"] summary')
    counts = page.locator('[data-plot="gaps"] tbody td:nth-child(2)').all_inner_texts()
    assert 0 < sum(map(int, counts)) < 100
    page.click("#tab-facts")
    assert page.inner_text('[data-fact="reconnects"]') == "1"
    assert page.inner_text('[data-fact="state"]') == "open"
    page.fill("#frame-search", "on purpose")
    wait_until(page, lambda: page.locator('.frame-row[data-direction="mark"]').count() == 1)


def test_a_seam_is_marked_in_the_timeline_and_in_the_answers(page: Page, server: ServerProcess) -> None:
    line = Line(page)
    line.alter = lambda command: command["type"] == "generate" and command["params"].update(fail_at=30)
    comparing = Comparing(Chat(page, server.url).page)
    open_instrument(page, "developer")
    for place in ("left", "right"):
        comparing.set(place, "scripted/count", tokens=60, rate=200)
    comparing.ask("Count through it.")
    comparing.wait_states("complete", "complete")
    assert [len(frames_of(page, kind)) for kind in ("seam", "stream_end")] == [2, 2]
    assert comparing.side("left").locator(".exchange .seam").count() == 1
    page.click("#tab-timing")
    streams = page.locator("#gaps-stream option").evaluate_all("all => all.map((one) => one.value)")
    assert len(streams) == 3  # the newest, and each of the two
    for stream in streams:
        page.select_option("#gaps-stream", stream)
        wait_until(page, lambda: page.locator(".interruptions li").all_inner_texts() != [])
        [seam] = page.locator(".interruptions li").all_inner_texts()
        assert re.fullmatch(r"\d\.\d\d s: seam: provider lost, exact", seam)


def test_the_facts_tell_where_each_stream_stands(watched: Chat) -> None:
    page = watched.page
    ask(watched, 10, 0)
    assert watched.wait_ended() == "complete"
    page.click("#tab-facts")
    facts = {name: page.inner_text(f'[data-fact="{name}"]') for name in ("transport", "encoding", "node", "connection")}
    assert (facts["transport"], facts["encoding"]) == ("websocket", "json")
    assert facts["node"].startswith("n_")
    assert facts["connection"].startswith("c_")
    session = page.locator('#places tr[data-stream^="s_"]')
    response = page.locator('#places tr[data-stream^="r_"]')
    assert (session.count(), response.count()) == (1, 1)
    assert (session.get_attribute("data-ended"), response.get_attribute("data-ended")) == ("false", "true")


def test_the_drawer_is_sized_and_moved_by_keys_alone_and_comes_back_as_it_was(watched: Chat) -> None:
    page = watched.page
    handle = page.locator("#developer-handle")
    before = int(handle.get_attribute("aria-valuenow") or "")
    handle.focus()
    page.keyboard.press("ArrowDown")
    wait_until(page, lambda: handle.get_attribute("aria-valuenow") == str(before - 24))
    box = page.locator("#developer").bounding_box()
    composer = page.locator("#prompt").bounding_box()
    assert box is not None
    assert composer is not None
    assert round(box["height"]) == before - 24
    assert composer["y"] + composer["height"] <= box["y"]  # the page makes room
    page.focus("#developer-dock")
    page.keyboard.press("Enter")
    page.wait_for_selector('#developer[data-dock="right"]')
    page.reload()
    watched.wait_ready()
    if page.locator("#developer").count() == 0:
        open_instrument(page, "developer")
    page.wait_for_selector('#developer[data-dock="right"]')
    page.click("#developer-close")
    wait_until(page, lambda: page.locator("#developer").count() == 0)
