"""The page before a server of the test's own, which says what it must say in the oddest order that it may."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, WebSocketRoute
from tests.web.browser import wait_until
from tests.web.fake_sessions import ORIGIN, FakeSession, Seat, answer, message, serve_page

pytestmark = pytest.mark.browser


class Reader(Seat):
    """A page that has a session open."""

    def __init__(self, page: Page, session: FakeSession | None, user: str = "ann") -> None:
        super().__init__(page, session, user)
        self.page = page
        serve_page(page)
        page.goto(f"{ORIGIN}#{session.name}" if session else ORIGIN)
        page.wait_for_selector("#model:not([disabled])", state="attached")
        if session is not None:
            wait_until(page, lambda: self in session.seats)

    def wait_text(self, selector: str, text: str) -> None:
        shown = self.page.locator(selector)
        wait_until(self.page, lambda: [part.strip() for part in shown.all_text_contents()] == [text])

    def texts(self, selector: str) -> list[str]:
        return [text.strip() for text in self.page.locator(selector).all_text_contents()]


@pytest.fixture
def session() -> FakeSession:
    return FakeSession("s_one")


@pytest.fixture
def reader(page: Page, session: FakeSession) -> Iterator[Reader]:
    reader = Reader(page, session)
    yield reader
    assert reader.errors == []


def test_a_silent_connection_is_given_up_after_two_heartbeats(page: Page) -> None:
    hellos: list[dict[str, Any]] = []

    def silent(route: WebSocketRoute) -> None:
        def on_message(data: str | bytes) -> None:
            frame = json.loads(data)
            if frame["type"] == "hello":
                hellos.append(frame)
                user = {"id": "ann", "name": "ann"}
                welcome = {"type": "welcome", "protocol": 1, "user": user, "heartbeat_ms": 200, "limits": {}}
                route.send(json.dumps(welcome))

        route.on_message(on_message)

    serve_page(page)
    page.route_web_socket("**/ws", silent)
    page.goto(ORIGIN)
    wait_until(page, lambda: len(hellos) >= 2)
    assert hellos[0]["resume"] == []


def ask(reader: Reader, text: str) -> None:
    reader.page.fill("#prompt", text)
    reader.page.press("#prompt", "Enter")


def test_a_first_message_makes_a_session_and_opens_it_under_its_own_address(page: Page) -> None:
    reader = Reader(page, None)
    ask(reader, "Hello.")
    wait_until(page, lambda: page.url.endswith("#s_made"))
    wait_until(page, lambda: reader.commands("session.open") != [])
    (sent,) = reader.commands("generate")
    assert sent["content"] == "Hello."
    assert "session" not in sent
    assert len(sent["request_id"]) == 32
    session = reader.session
    assert session is not None
    wait_until(page, lambda: session.seats != [])
    session.add(message("m_said1", None, "ann", "Hello."))
    session.start("t_1", "r_answer1", "m_said1")
    session.delta("r_answer1", "Good day.")
    reader.wait_text(".answer", "Good day.")
    assert reader.texts(".said .text") == ["Hello."]
    assert reader.texts(".pending") == []
    assert reader.errors == []


def test_frames_before_their_turn_and_a_message_before_its_streams_end_are_no_matter(
    reader: Reader, session: FakeSession
) -> None:
    session.add(message("m1", None, "ann", "Hello."))
    session.delta("r_1", "One ")
    session.start("t_1", "r_1", "m1")
    session.delta("r_1", "two ")
    reader.wait_text(".answer", "One two")
    session.add(answer("m2", "m1", "r_1", "One two three"))
    session.end("t_1", "r_1", "m2")
    reader.wait_text(".answer", "One two three")
    session.delta("r_1", "three")
    session.finish("r_1")
    reader.page.wait_for_selector(".reply[data-state=complete]")
    assert reader.texts(".answer") == ["One two three"]
    assert [command["stream"] for command in reader.commands("subscribe")] == ["r_1"]


def test_entries_that_come_twice_or_with_a_hole_change_nothing_that_was_shown(
    reader: Reader, session: FakeSession
) -> None:
    session.add(message("m1", None, "ann", "First."))
    session.send(session.entries[0])
    session.say("message", lost=True, message=answer("m2", "m1", "r_0", "Answer."))
    session.add(message("m3", "m2", "ann", "Second."))
    wait_until(reader.page, lambda: reader.texts(".said .text") == ["First.", "Second."])
    assert reader.texts(".answer") == ["Answer."]
    (asked,) = reader.commands("subscribe")
    assert (asked["stream"], asked["offset"]) == ("s_one", 1)


def test_a_cut_and_a_reload_resume_the_session_and_its_streams_in_one_hello(
    reader: Reader, session: FakeSession
) -> None:
    session.add(message("m1", None, "ann", "Hello."))
    session.start("t_1", "r_1", "m1")
    session.delta("r_1", "One ", entries=4)
    reader.wait_text(".answer", "One")
    for come_back in (reader.cut, reader.page.reload):
        before = len(reader.hellos)
        come_back()
        wait_until(reader.page, lambda before=before: len(reader.hellos) > before)
        places = {place["stream"]: place["offset"] for place in reader.hellos[-1]["resume"]}
        assert places["s_one"] == 2
        assert places["r_1"] >= 4
        session.delta("r_1", "more ")
    reader.wait_text(".answer", "One more more")
    assert len(reader.commands("session.open")) == 1


def test_a_snapshot_of_a_session_replaces_what_was_held(reader: Reader, session: FakeSession) -> None:
    session.add(message("m1", None, "ann", "Lost."))
    wait_until(reader.page, lambda: reader.texts(".said .text") == ["Lost."])
    session.messages[:] = [message("m9", None, "ann", "Kept.")]
    reader.send({**session.opened("ann"), "type": "snapshot", "stream": "s_one", "upto": 5, "offset": 5, "epoch": 9})
    wait_until(reader.page, lambda: reader.texts(".said .text") == ["Kept."])
    assert reader.texts(".answer") == []


def test_queued_turns_are_shown_in_their_order_and_go_by_their_stream(reader: Reader, session: FakeSession) -> None:
    session.add(message("m1", None, "ann", "Hello."))
    session.start("t_1", "r_1", "m1")
    session.queue("t_2", "r_2", "second")
    session.queue("t_3", "r_3", "at once", interrupt=True)
    wait_until(reader.page, lambda: reader.texts(".queued .text") == ["at once", "second"])
    reader.page.click(".queued[data-stream=r_2] .remove")
    wait_until(reader.page, lambda: reader.commands("cancel") != [])
    assert reader.commands("cancel")[0]["stream"] == "r_2"
    session.end("t_2", "r_2", None, "cancelled", by="ann")
    wait_until(reader.page, lambda: reader.texts(".queued .text") == ["at once"])


def test_a_turn_goes_on_after_results_of_tools_and_shows_them_folded(reader: Reader, session: FakeSession) -> None:
    session.add(message("m1", None, "ann", "What is it like out there?"))
    session.start("t_1", "r_1", "m1")
    calls = [
        {"call_id": "c1", "name": "weather", "arguments": '{"city":"Turin"}'},
        {"call_id": "c2", "name": "door", "arguments": "{}", "server": True, "approval": True},
    ]
    session.add(answer("m2", "m1", "r_1", "", tool_calls=calls))
    first, second = (reader.page.locator(".tool").nth(place) for place in (0, 1))
    second.locator(".approve").click()
    assert reader.commands("tool_approval")[0]["approvals"] == [{"call_id": "c2", "approved": True}]
    session.say("tool_start", turn="t_1", stream="r_1", call_id="c2", user="ann")
    wait_until(reader.page, lambda: "approved by ann" in (second.text_content() or ""))
    first.locator("textarea").fill("rain")
    first.locator("form button").click()
    (given,) = reader.commands("tool_result")
    assert (given["stream"], given["results"]) == ("r_1", [{"call_id": "c1", "content": "rain"}])
    session.add(message("m3", "m2", "ann", "rain", role="tool", call_id="c1", stream="r_1"))
    session.add(message("m4", "m3", "server", "open", role="tool", call_id="c2", stream="r_1", is_error=True))
    session.start("t_1", "r_2", "m4")
    session.delta("r_2", "Wet.")
    reader.wait_text(".answer", "Wet.")
    assert first.locator("details").get_attribute("open") is None
    assert "Failed (server)" in (second.text_content() or "")
    assert first.locator("form").is_hidden()
    assert reader.texts(".said .text") == ["What is it like out there?"]


def test_who_may_only_read_is_offered_nothing_else(page: Page, session: FakeSession) -> None:
    session.members["bob"] = "viewer"
    session.messages.append(message("m1", None, "bob", "Mine, from before."))
    reader = Reader(page, session, "bob")
    page.wait_for_selector("#reads-only:not([hidden])")
    assert not page.is_visible("#composer")
    assert not page.is_visible(".edit")
    page.click("#show-about")
    assert not page.is_visible("#about-save")
    assert not page.is_visible("#add-member")
    assert not page.is_visible("#delete")
    assert page.is_visible("#leave")
    assert reader.errors == []


def test_who_is_removed_is_told_and_sees_the_session_no_more(reader: Reader, session: FakeSession) -> None:
    session.add(message("m1", None, "ann", "A secret."))
    wait_until(reader.page, lambda: reader.texts(".said .text") == ["A secret."])
    reader.send({"type": "error", "session": "s_one", "code": "session.unknown", "message": "gone", "retryable": False})
    wait_until(reader.page, lambda: "not in it" in reader.page.inner_text("#notice"))
    assert reader.texts(".said") == []
    assert "#s_" not in reader.page.url
    reader.page.reload()
    reader.page.wait_for_selector("#model:not([disabled])")
    assert reader.hellos[-1]["resume"] == []


def test_a_refused_message_can_be_sent_again_or_removed(reader: Reader, session: FakeSession) -> None:
    reader.refuse["generate"] = {"code": "limit.streams", "message": "the queue is full", "retryable": True}
    ask(reader, "Me too.")
    reader.page.wait_for_selector(".pending.failed")
    assert reader.texts(".pending code") == ["limit.streams"]
    reader.refuse.clear()
    reader.page.click(".pending .again")
    wait_until(reader.page, lambda: len(reader.commands("generate")) == 2)
    first, second = reader.commands("generate")
    assert first["request_id"] != second["request_id"]
    assert (second["content"], second["session"]) == ("Me too.", "s_one")
    session.add(message("m_said2", None, "ann", "Me too."))
    session.start("t_2", "r_answer2", "m_said2")
    wait_until(reader.page, lambda: reader.texts(".pending") == [])


def test_left_out_messages_and_a_stopping_person_are_named(reader: Reader, session: FakeSession) -> None:
    session.add(message("m1", None, "ann", "Hello."))
    session.start("t_1", "r_1", "m1", left_out=3)
    session.delta("r_1", "One ")
    reader.wait_text("[data-figure=left-out]", "3 earlier messages were left out: the model's window is full")
    session.finish("r_1", "cancelled")
    session.add(answer("m2", "m1", "r_1", "One ", reason="cancelled"))
    session.end("t_1", "r_1", "m2", "cancelled", by="bob")
    reader.wait_text("[data-figure=end]", "stopped by bob")
    assert reader.page.text_content("#spoken") == "One  Stopped by bob."


def test_what_others_are_called_is_never_html(page: Page) -> None:
    evil = "<img src=x onerror='window.broken=1'>"
    session = FakeSession("s_one")
    session.members |= {evil: "editor"}
    session.state |= {"title": evil, "system": evil}
    session.messages.append(message("m1", None, evil, evil))
    reader = Reader(page, session)
    session.queue("t_2", "r_2", evil, user=evil)
    session.send({"type": "typing", "session": "s_one", "user": evil, "typing": True})
    people = [{"id": evil, "name": evil, "connections": 2}, {"id": "ann", "name": "ann", "connections": 1}]
    session.send({"type": "presence", "session": "s_one", "users": people})
    wait_until(page, lambda: page.locator("#presence li").count() == 2)
    page.click("#show-about")
    assert page.locator("#members li").count() == 2
    assert page.locator("main img, aside li img, dialog img, #presence img, footer img").count() == 0
    assert page.evaluate("window.broken") is None
    assert (page.text_content("#title"), reader.texts(".said .text")) == (evil, [evil])
    assert page.text_content("#typing") == f"{evil} is typing …"
    assert reader.errors == []
