"""Sessions on the page, before a real server: lists and addresses, branches, queues, tools, exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from tests.server import ServerProcess
from tests.web.browser import Chat, Line, counted, wait_until
from websockets.sync.client import connect
from websockets.typing import Subprotocol

pytestmark = pytest.mark.browser


def slow(chat: Chat, tokens: int = 400) -> None:
    chat.choose("scripted/count", tokens=tokens, rate=40)


def quick(chat: Chat, tokens: int = 3) -> None:
    chat.choose("scripted/count", tokens=tokens, rate=0)


def listed(chat: Chat) -> list[str]:
    return [title.strip() for title in chat.texts("#sessions a")]


def ask_all(server: ServerProcess, commands: list[dict[str, Any]]) -> None:
    """Send commands by another connection, each after the reply to the one before it, and after the answer it made."""
    with connect(server.ws_url, subprotocols=[Subprotocol("everstream.v1.json")]) as socket:
        for number, command in enumerate([{"type": "hello"}, *commands]):
            socket.send(json.dumps({"id": number, **command}))
            while (reply := json.loads(socket.recv(timeout=10))).get("id") != number:
                pass
            assert reply["type"] != "error", reply
            while reply["type"] == "accepted" and json.loads(socket.recv(timeout=10))["type"] != "stream_end":
                pass


# ------------------------------------------------------------------ the list and the address


def test_a_chat_stands_in_the_list_under_its_first_words_and_opens_by_its_address(chat: Chat, page: Page) -> None:
    quick(chat)
    chat.ask("What is a lighthouse for?")
    assert chat.wait_ended() == "complete"
    wait_until(page, lambda: listed(chat)[:1] == ["What is a lighthouse for?"])
    assert page.title() == "What is a lighthouse for? – Everstream"
    other = page.context.new_page()
    second = Chat(other, page.url)
    second.wait_texts(".said .text", ["What is a lighthouse for?"])
    assert second.answer() == counted(3)
    assert second.errors == []


def test_a_chat_is_renamed_for_every_device_and_deleted_after_a_question(chat: Chat, page: Page) -> None:
    quick(chat)
    chat.ask("To be renamed.")
    assert chat.wait_ended() == "complete"
    other = Chat(page.context.new_page(), page.url)
    page.bring_to_front()  # one behind another is drawn once a second
    page.click("#show-about")
    page.fill("#about-title-field", "Renamed")
    page.click("#about-save")
    wait_until(other.page, lambda: other.page.text_content("#title") == "Renamed")
    wait_until(page, lambda: listed(chat)[0] == "Renamed")
    page.locator("#sessions li").first.hover()
    page.locator("#sessions .delete").first.click()
    page.click("#confirm button[value=no]")
    assert listed(chat)[0] == "Renamed"
    page.locator("#sessions .delete").first.click()
    page.click("#confirm-yes")
    wait_until(page, lambda: "Renamed" not in listed(chat))
    wait_until(other.page, lambda: "deleted" in other.page.inner_text("#notice"))
    assert chat.turns == other.turns == 0
    assert "#s_" not in page.url
    assert chat.errors == other.errors == []


def test_the_list_comes_a_page_at_a_time_and_newest_first(page: Page, tmp_path_factory: pytest.TempPathFactory) -> None:
    with ServerProcess(tmp_path_factory.mktemp("pages") / "data") as server:
        server.start()
        chats = [{"type": "session.create", "title": f"chat {number}"} for number in range(52)]
        for some in (chats[:1], chats[1:-1], chats[-1:]):  # those of one millisecond are in no order
            ask_all(server, some)
        chat = Chat(page, server.url)
        wait_until(page, lambda: len(listed(chat)) == 50)
        assert listed(chat)[0] == "chat 51"
        page.click("#more-sessions")
        wait_until(page, lambda: len(listed(chat)) == 52)
        assert listed(chat)[-1] == "chat 0"
        assert not page.is_visible("#more-sessions")


def test_an_address_that_names_nothing_says_so(chat: Chat, page: Page) -> None:
    page.evaluate("location.hash = 's_00aaaaaaaaaaaaaaaaaaaaaaaaaa'")
    wait_until(page, lambda: "does not exist" in page.inner_text("#notice"))
    assert "#s_" not in page.url
    quick(chat)
    chat.ask("Nevertheless.")
    assert chat.wait_ended() == "complete"


def test_an_answer_goes_on_while_another_chat_is_looked_at(chat: Chat, page: Page) -> None:
    slow(chat, tokens=80)
    chat.ask("Count in the background.")
    chat.wait_answer(20)
    page.click("#new-chat")
    wait_until(page, lambda: chat.turns == 0)
    quick(chat)
    chat.ask("Meanwhile.")
    assert chat.wait_ended() == "complete"
    page.locator("#sessions a", has_text="Count in the background.").click()
    chat.wait_texts(".said .text", ["Count in the background."])
    assert chat.wait_ended() == "complete"
    assert chat.answer() == counted(80)


def test_earlier_messages_are_loaded_when_they_are_asked_for(chat: Chat, page: Page, server: ServerProcess) -> None:
    quick(chat, tokens=1)
    chat.ask("number 0")
    assert chat.wait_ended() == "complete"
    more = {"type": "generate", "session": page.url.partition("#")[2], "model": "scripted/count"}
    said = [f"number {number}" for number in range(1, 55)]
    params = {"tokens": 1, "rate": 0}
    ask_all(server, [{**more, "content": text, "params": params} for text in said])
    wait_until(page, lambda: chat.turns == 55)
    other = Chat(page.context.browser.new_context().new_page(), page.url)
    wait_until(other.page, lambda: len(other.texts(".said")) == 50)
    other.page.click("#earlier")
    wait_until(other.page, lambda: len(other.texts(".said")) == 55)
    assert other.texts(".said .text") == ["number 0", *said]
    assert not other.page.is_visible("#earlier")
    other.page.context.close()


# ------------------------------------------------------------------ branches


def test_an_edit_and_a_regeneration_are_branches_and_the_choice_outlasts_a_reload(chat: Chat, page: Page) -> None:
    quick(chat)
    chat.ask("First.")
    assert chat.wait_ended() == "complete"
    page.click(".said .edit")
    page.fill(".editing textarea", "First, better.")
    page.press(".editing textarea", "Control+a")
    page.fill(".editing textarea", "First, better.")
    page.click(".editing button:not(.plain)")
    chat.wait_texts(".said .text", ["First, better."])
    chat.wait_texts(".said .branches span", ["2 / 2"])
    assert chat.wait_ended() == "complete"
    quick(chat, tokens=5)
    page.click(".reply .again")
    chat.wait_texts(".reply .branches span", ["2 / 2"])
    wait_until(page, lambda: chat.answer() == counted(5))
    assert chat.wait_ended() == "complete"
    page.focus(".reply .branches button[aria-label='Previous version']")
    page.keyboard.press("Enter")
    wait_until(page, lambda: chat.answer() == counted(3))
    page.keyboard.press("Enter")
    wait_until(page, lambda: chat.answer() == counted(5))
    page.keyboard.press("Enter")
    wait_until(page, lambda: chat.answer() == counted(3))
    page.reload()
    chat.wait_ready()
    wait_until(page, lambda: chat.answer() == counted(3))
    assert chat.texts(".reply .branches span") == ["1 / 2"]
    page.click(".said .branches button[aria-label='Previous version']")
    chat.wait_texts(".said .text", ["First."])
    page.reload()
    chat.wait_ready()
    chat.wait_texts(".said .text", ["First."])
    assert chat.texts(".said .branches span") == ["1 / 2"]


def test_what_is_said_in_an_older_branch_goes_on_there(page: Page, server: ServerProcess) -> None:
    line = Line(page)
    chat = Chat(page, server.url)
    quick(chat)
    chat.ask("First.")
    assert chat.wait_ended() == "complete"
    quick(chat, tokens=5)
    page.click(".reply .again")
    chat.wait_texts(".reply .branches span", ["2 / 2"])
    wait_until(page, lambda: chat.answer() == counted(5))
    assert chat.wait_ended() == "complete"
    page.click(".reply .branches button[aria-label='Previous version']")
    wait_until(page, lambda: chat.answer() == counted(3))
    chat.ask("Behind the older one.")
    assert chat.wait_ended() == "complete"
    assert chat.answer(0) == counted(3)
    assert chat.texts(".said .text") == ["First.", "Behind the older one."]
    first, again, behind = line.commands("generate")
    assert "parent" not in first
    assert "content" not in again
    assert behind["parent"] != again["parent"]


# ------------------------------------------------------------------ turns


def test_what_is_sent_while_an_answer_runs_is_queued_and_can_be_removed(chat: Chat, page: Page) -> None:
    slow(chat, tokens=160)
    chat.ask("First.")
    chat.wait_answer(10)
    chat.send("Second.")
    chat.wait_texts(".queued .text", ["Second."])
    quick(chat)
    chat.send("Third.")
    chat.wait_texts(".queued .text", ["Second.", "Third."])
    page.locator(".queued .remove").first.click()
    chat.wait_texts(".queued .text", ["Third."])
    wait_until(page, lambda: chat.turns == 2)
    assert chat.state(0) == "complete"
    assert chat.answer(0) == counted(160)
    assert chat.texts(".queued") == []
    assert chat.wait_ended() == "complete"
    assert chat.texts(".said .text") == ["First.", "Third."]


def test_an_interruption_stops_what_runs_and_goes_first(chat: Chat, page: Page) -> None:
    slow(chat)
    chat.ask("Far.")
    chat.wait_answer(20)
    page.select_option("#on-busy", "interrupt")
    quick(chat)
    chat.ask("At once.")
    assert chat.wait_ended() == "complete"
    assert chat.state(0) == "cancelled"
    assert chat.answer(1) == counted(3)


def test_what_is_sent_beside_an_answer_runs_at_the_same_time_on_a_branch(chat: Chat, page: Page) -> None:
    slow(chat)
    chat.ask("Far.")
    chat.wait_answer(20)
    page.select_option("#on-busy", "parallel")
    quick(chat)
    chat.send("Beside.")
    chat.wait_texts(".said .branches span", ["2 / 2"])
    wait_until(page, lambda: chat.answer() == counted(3))
    page.click(".said .branches button[aria-label='Previous version']")
    chat.wait_texts(".said .text", ["Far."])
    assert chat.state() == "live"
    page.click("#stop")
    assert chat.wait_ended() == "cancelled"


def test_a_reload_in_mid_answer_keeps_the_queue(chat: Chat, page: Page) -> None:
    slow(chat, tokens=160)
    chat.ask("First.")
    shown = chat.wait_answer(20)
    chat.send("Second.")
    chat.wait_texts(".queued .text", ["Second."])
    page.reload()
    chat.wait_ready()
    wait_until(page, lambda: chat.answer().startswith(shown))
    chat.wait_texts(".queued .text", ["Second."])
    wait_until(page, lambda: chat.turns == 2)
    assert chat.wait_ended() == "complete"
    assert (chat.answer(0), chat.answer(1)) == (counted(160), counted(160))


def test_a_stop_that_the_network_has_eaten_is_told_again_and_stops_nothing_else(
    page: Page, server: ServerProcess
) -> None:
    line = Line(page)
    chat = Chat(page, server.url)
    slow(chat)
    chat.ask("Far.")
    chat.wait_answer(20)
    line.broken = True
    line.cut()
    chat.wait_connection("waiting")
    page.click("#stop")
    wait_until(page, lambda: chat.figure("end") == "stopping …")
    page.reload()
    page.wait_for_selector("#stop:not([hidden])")
    assert page.is_disabled("#stop")
    line.broken = False
    assert chat.wait_ended() == "cancelled"
    assert page.is_hidden("#stop")
    slow(chat, tokens=20)
    chat.ask("Near.")
    assert chat.wait_ended() == "complete"


def test_what_was_said_without_a_connection_is_sent_when_there_is_one_also_after_a_reload(
    page: Page, server: ServerProcess
) -> None:
    line = Line(page)
    chat = Chat(page, server.url)
    quick(chat)
    chat.ask("First.")
    assert chat.wait_ended() == "complete"
    line.broken = True
    line.cut()
    chat.wait_connection("waiting")
    for text in ("Second.", "Third."):
        chat.send(text)
    chat.wait_texts(".pending .text", ["Second.", "Third."])
    page.reload()
    chat.wait_texts(".pending .text", ["Second.", "Third."])
    assert chat.texts(".said .text") == ["First."]
    line.broken = False
    wait_until(page, lambda: chat.turns == 3)
    assert chat.wait_ended() == "complete"
    assert chat.texts(".pending") == []
    assert chat.texts(".said .text") == ["First.", "Second.", "Third."]
    assert len(line.commands("generate")) == 3


def test_a_killed_server_comes_back_with_the_queue_and_the_page_notices_nothing_else(
    page: Page, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with ServerProcess(tmp_path_factory.mktemp("killed") / "data") as server:
        server.start()
        chat = Chat(page, server.url)
        slow(chat, tokens=120)
        chat.ask("First.")
        shown = chat.wait_answer(40)
        chat.send("Second.")
        chat.wait_texts(".queued .text", ["Second."])
        server.kill9()
        chat.wait_connection("waiting")
        server.start()
        chat.wait_connection("open")
        assert chat.answer(0).startswith(shown)
        wait_until(page, lambda: chat.turns == 2, within_s=40)
        assert chat.wait_ended() == "complete"
        assert (chat.answer(0), chat.answer(1)) == (counted(120), counted(120))
        assert chat.texts(".said .text") == ["First.", "Second."]
        assert chat.errors == []


def test_on_a_phone_the_list_is_a_drawer_that_keys_and_the_rest_of_the_screen_close(
    browser: Browser, server: ServerProcess
) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 640}, has_touch=True)
    try:
        page = context.new_page()
        chat = Chat(page, server.url)
        quick(chat)
        chat.ask("On a phone, with a title that is longer than the screen is wide, and then some.")
        assert chat.wait_ended() == "complete"
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
        for close in (lambda: page.keyboard.press("Escape"), lambda: page.mouse.click(350, 300)):
            assert not page.is_visible("#new-chat")
            page.click("#show-drawer")
            page.wait_for_selector("#new-chat", state="visible")
            close()
            page.wait_for_selector("#new-chat", state="hidden")
        page.click("#show-drawer")
        page.click("#new-chat")
        page.wait_for_selector("#new-chat", state="hidden")
        assert chat.turns == 0
    finally:
        context.close()


# ------------------------------------------------------------------ tools and taking along


def test_a_tools_result_is_typed_in_and_the_turn_goes_on(page: Page, server: ServerProcess) -> None:
    line = Line(page)
    call = {"name": "weather", "arguments": {"city": "Turin"}}
    line.alter = lambda command: command["params"].update(tool_call=call) if command["type"] == "generate" else None
    chat = Chat(page, server.url)
    quick(chat)
    chat.ask("What is it like out there?")
    page.wait_for_selector(".reply[data-state=waiting]")
    assert "weather" in (page.text_content(".tool-head") or "")
    assert "Turin" in (page.text_content(".tool-arguments") or "")
    page.fill(".tool-giving textarea", "rain")
    page.click(".tool-giving button")
    wait_until(page, lambda: chat.turns == 2)
    assert chat.wait_ended() == "complete"
    assert chat.texts(".tool-result summary") == ["Result (anonymous)"]
    assert chat.texts(".tool-result pre") == ["rain"]
    assert chat.errors == []


def test_a_chat_is_taken_along_as_markdown_and_as_json(chat: Chat, page: Page) -> None:
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    quick(chat)
    chat.ask("Count / to three.")
    assert chat.wait_ended() == "complete"
    quick(chat, tokens=5)
    page.click(".reply .again")
    chat.wait_texts(".reply .branches span", ["2 / 2"])
    assert chat.wait_ended() == "complete"
    page.click(".reply .branches button[aria-label='Previous version']")
    wait_until(page, lambda: chat.answer() == counted(3))
    page.click("#show-about")
    contents = {}
    for name in ("markdown", "json"):
        with page.expect_download() as download:
            page.click(f"#export-{name}")
        contents[download.value.suggested_filename] = Path(download.value.path()).read_text("utf-8")
    assert list(contents) == ["Count-to-three.md", "Count-to-three.json"]
    assert "Count / to three." in contents["Count-to-three.md"]
    assert counted(3) in contents["Count-to-three.md"]
    assert counted(4) not in contents["Count-to-three.md"], "it is the path that is looked at"
    branches = {said["content"] for said in json.loads(contents["Count-to-three.json"])["messages"]}
    assert branches == {"Count / to three.", counted(3), counted(5)}
    assert complaints == []
