"""The page in a real browser, before a real server."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page
from tests.server import ServerProcess
from tests.web.browser import Chat, Line, counted, wait_until
from tests.web.complaints import Complaints

pytestmark = pytest.mark.browser


def test_an_answer_streams_to_its_end_with_live_figures(chat: Chat) -> None:
    chat.choose("scripted/count", tokens=160, rate=40)
    chat.ask("Count, please.")
    part = chat.wait_answer(40)
    assert counted(160).startswith(part)
    assert chat.state() == "live"
    wait_until(chat.page, lambda: "tokens/s" in chat.figure("rate"))
    assert chat.figure("ttft").startswith("first token ")
    assert chat.figure("tokens").startswith("≈ ")
    assert chat.wait_ended() == "complete"
    assert chat.answer() == counted(160)
    assert chat.figure("tokens").endswith(" 160 tokens")


def test_stop_keeps_the_part_and_nothing_comes_after(chat: Chat) -> None:
    chat.choose("scripted/count", tokens=400, rate=40)
    chat.ask("Count far.")
    shown = chat.wait_answer(60)
    chat.page.click("#stop")
    assert chat.wait_ended() == "cancelled"
    kept = chat.answer()
    assert kept.startswith(shown)
    assert counted(400).startswith(kept)
    assert kept != counted(400)
    assert chat.figure("end") == "stopped"
    # What else would have come has had the time of a whole second answer.
    chat.choose("scripted/count", tokens=20)
    chat.ask("And once more.")
    assert chat.wait_ended() == "complete"
    assert chat.answer(0) == kept


def test_escape_stops_too(chat: Chat) -> None:
    chat.choose("scripted/count", tokens=400, rate=40)
    chat.ask("Count far.")
    chat.wait_answer(10)
    chat.page.keyboard.press("Escape")
    assert chat.wait_ended() == "cancelled"


def test_a_reload_in_mid_answer_goes_on_where_it_was(chat: Chat) -> None:
    chat.choose("scripted/count", tokens=160, rate=40)
    chat.ask("Count through a reload.")
    shown = chat.wait_answer(60)
    chat.page.reload()
    chat.wait_ready()
    wait_until(chat.page, lambda: chat.answer().startswith(shown))
    assert chat.turns == 1
    assert chat.state() == "live"
    assert chat.wait_ended() == "complete"
    assert chat.answer() == counted(160)


def test_a_second_reload_shows_the_ended_conversation(chat: Chat) -> None:
    chat.choose("scripted/count", tokens=10, rate=0)
    chat.ask("Count to ten.")
    assert chat.wait_ended() == "complete"
    chat.page.reload()
    chat.wait_ready()
    wait_until(chat.page, lambda: chat.answer() == counted(10))
    assert chat.state() == "complete"
    assert chat.page.locator(".said .text").text_content() == "Count to ten."


def test_a_reload_while_no_server_can_be_reached_still_shows_the_part(page: Page, server: ServerProcess) -> None:
    line = Line(page)
    chat = Chat(page, server.url)
    chat.choose("scripted/count", tokens=160, rate=40)
    chat.ask("Count through an outage.")
    shown = chat.wait_answer(60)
    line.broken = True
    line.cut()
    page.reload()
    chat.wait_connection("waiting")
    assert chat.answer().startswith(shown)
    assert chat.state() == "live"
    line.broken = False
    assert chat.wait_ended() == "complete"
    assert chat.answer() == counted(160)


def test_a_cut_connection_resumes_from_the_held_position(page: Page, server: ServerProcess) -> None:
    line = Line(page)
    chat = Chat(page, server.url)
    chat.choose("scripted/count", tokens=160, rate=40)
    chat.ask("Count through a cut.")
    chat.wait_answer(60)
    line.cut()
    wait_until(page, lambda: len(line.sent) == 2)
    assert chat.wait_ended() == "complete"
    assert chat.answer() == counted(160)
    session, stream = line.sent[1][0]["resume"]
    assert line.sent[1][0]["type"] == "hello"
    assert session["stream"].startswith("s_")
    assert stream["stream"].startswith("r_")
    assert stream["offset"] > 10
    assert len(line.commands("generate")) == 1
    assert len(line.commands("session.open")) == 1


def test_a_lost_frame_is_asked_for_again(page: Page, server: ServerProcess) -> None:
    line = Line(page)
    lost: list[int] = []

    def the_first_piece_past_ten(frame) -> bool:
        if lost or frame["type"] != "delta_text" or frame["after"] < 10:
            return False
        lost.append(frame["after"])
        return True

    line.drop = the_first_piece_past_ten
    chat = Chat(page, server.url)
    chat.choose("scripted/count", tokens=80, rate=40)
    chat.ask("Count through a hole.")
    assert chat.wait_ended() == "complete"
    assert chat.answer() == counted(80)
    (asked,) = line.commands("subscribe")
    assert asked["offset"] == lost[0]


def test_a_request_whose_answer_got_lost_is_sent_again_and_starts_nothing_twice(
    page: Page, server: ServerProcess
) -> None:
    line = Line(page)
    line.cut_after = lambda command: command["type"] == "generate" and len(line.commands("generate")) == 1
    accepted: list[str] = []
    line.drop = lambda frame: bool(frame["type"] == "accepted" and accepted.append(frame["stream"]))
    chat = Chat(page, server.url)
    chat.choose("scripted/count", tokens=80, rate=40)
    chat.ask("Count once.")
    assert chat.wait_ended() == "complete"
    assert chat.answer() == counted(80)
    first, second = line.commands("generate")
    assert first["request_id"] == second["request_id"]
    assert len(set(accepted)) == 1


def test_goaway_moves_to_a_new_connection_in_mid_answer(page: Page, server: ServerProcess) -> None:
    line = Line(page)
    chat = Chat(page, server.url)
    chat.choose("scripted/count", tokens=120, rate=40)
    chat.ask("Count through a deploy.")
    chat.wait_answer(40)
    line.inject({"type": "goaway", "after_ms": 50, "reason": "drain"})
    wait_until(page, lambda: len(line.sent) == 2)
    assert chat.wait_ended() == "complete"
    assert chat.answer() == counted(120)


@pytest.mark.parametrize("code", [4500, 4503, 4999])
def test_a_final_close_code_ends_the_reconnecting(page: Page, server: ServerProcess, code: int) -> None:
    line = Line(page)
    chat = Chat(page, server.url)
    line.cut(code)
    chat.wait_connection("refused")
    page.evaluate("window.dispatchEvent(new Event('online'))")
    assert chat.connection == "refused"
    assert len(line.sent) == 1
    assert str(code) in page.inner_text("#notice")
    page.click("#notice-action")
    chat.wait_connection("open")


def test_an_unauthorized_close_asks_for_a_token_and_sends_it(page: Page, server: ServerProcess) -> None:
    line = Line(page)
    chat = Chat(page, server.url)
    line.cut(4501)
    page.wait_for_selector("#token-dialog[open]")
    page.fill("#token", "a token")
    page.press("#token", "Enter")
    chat.wait_connection("open")
    assert "token" not in line.sent[0][0]
    assert line.sent[1][0]["token"] == "a token"
    assert "a token" not in page.url


def test_only_what_is_new_goes_with_each_prompt_and_a_new_chat_is_another_session(
    page: Page, server: ServerProcess
) -> None:
    line = Line(page)
    chat = Chat(page, server.url)
    chat.choose("scripted/count", tokens=3, rate=0)
    for prompt in ("first", "second"):
        chat.ask(prompt)
        assert chat.wait_ended() == "complete"
    first = page.url
    page.click("#new-chat")
    wait_until(page, lambda: chat.turns == 0)
    chat.ask("third")
    assert chat.wait_ended() == "complete"
    sent = [(command.get("session"), command["content"]) for command in line.commands("generate")]
    assert sent == [(None, "first"), (first.partition("#")[2], "second"), (None, "third")]
    page.go_back()
    chat.wait_texts(".said .text", ["first", "second"])
    assert page.url == first


def test_options_travel_as_parameters_and_outlast_a_reload(page: Page, server: ServerProcess) -> None:
    line = Line(page)
    chat = Chat(page, server.url)
    chat.choose("scripted/count", tokens=9, rate=0, max_tokens=5, temperature=0.5)
    page.click("#options summary")
    page.fill("#system", "Be brief.")
    page.click("#options summary")
    page.reload()
    chat.wait_ready()
    chat.ask("Count.")
    assert chat.wait_ended() == "complete"
    (command,) = line.commands("generate")
    assert command["model"] == "scripted/count"
    assert command["params"] == {"system": "Be brief.", "temperature": 0.5, "max_tokens": 5, "tokens": 9, "rate": 0}
    assert chat.answer() == counted(5)
    assert chat.figure("end") == "cut at the most tokens"
    # The session keeps its system prompt from then on.
    wait_until(page, lambda: line.commands("session.update") != [])
    chat.ask("Again.")
    assert chat.wait_ended() == "complete"
    assert "system" not in line.commands("generate")[-1]["params"]
    page.click("#show-about")
    assert page.input_value("#about-system") == "Be brief."


def test_thinking_is_folded_away_from_the_answer(chat: Chat) -> None:
    chat.choose("scripted/count", tokens=5, rate=0)
    chat.page.click("#options summary")
    chat.page.check("#thinking")
    chat.ask("Think, then count.")
    assert chat.wait_ended() == "complete"
    assert chat.answer() == counted(5)
    thinking = chat.page.locator("details.thinking")
    assert thinking.get_attribute("open") is None
    assert len(thinking.locator(".text").text_content() or "") > 20
    thinking.locator("summary").click()
    assert thinking.locator(".text").is_visible()


def test_a_refusal_is_shown_with_its_code_and_message_and_can_be_sent_again(chat: Chat) -> None:
    chat.choose("scripted/count", rate=10_000_000_000)
    chat.ask("Too fast.")
    failure = chat.page.locator(".pending .failure")
    assert failure.locator("code").text_content() == "request.invalid"
    assert "rate" in (failure.text_content() or "")
    chat.choose("scripted/count", tokens=3, rate=0)
    chat.page.click(".pending .again")
    wait_until(chat.page, lambda: chat.turns == 1)
    assert chat.wait_ended() == "complete"
    assert chat.texts(".said .text") == ["Too fast."]
    assert chat.texts(".pending") == []


def test_enter_sends_and_shift_enter_breaks_the_line(chat: Chat) -> None:
    chat.choose("scripted/echo", rate=0)
    chat.page.focus("#prompt")
    chat.page.keyboard.type("one")
    chat.page.keyboard.press("Shift+Enter")
    chat.page.keyboard.type("two")
    chat.page.keyboard.press("Enter")
    assert chat.wait_ended() == "complete"
    assert chat.answer() == "one\ntwo"
    assert chat.page.input_value("#prompt") == ""


def test_what_a_model_says_is_never_html(chat: Chat) -> None:
    sample = (
        "<script>window.broken = 1</script><img src=x onerror='window.broken = 2'>"
        "<svg onload='window.broken = 3'><a href='javascript:window.broken = 4'>x</a> &lt;b&gt; "
        "</textarea><iframe src=/>"
    )
    requested: list[str] = []
    chat.page.on("request", lambda request: requested.append(request.url))
    chat.choose("scripted/echo", rate=0)
    chat.ask(sample)
    assert chat.wait_ended() == "complete"
    assert chat.answer() == sample
    assert chat.page.locator("#log").locator("script, img, svg, a, iframe, b").count() == 0
    assert chat.page.evaluate("window.broken") is None
    # A new address has the browser look for the page's icon again.
    assert [url for url in requested if "/assets/favicon" not in url] == []


def test_the_page_speaks_to_its_own_server_only_and_keeps_to_its_policy(page: Page, server: ServerProcess) -> None:
    requested: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.on("websocket", lambda socket: requested.append(socket.url))
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    reply = page.goto(server.url)
    assert reply is not None
    policy = reply.headers["content-security-policy"]
    for promised in ("default-src 'self'", "require-trusted-types-for 'script'", "trusted-types 'none'"):
        assert promised in policy
    assert "unsafe" not in policy
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"
    chat = Chat(page, server.url)
    chat.choose("scripted/count", tokens=10, rate=0)
    chat.ask("Count.")
    assert chat.wait_ended() == "complete"
    assert {urlsplit(url).netloc for url in requested} == {urlsplit(server.url).netloc}
    assert any(url.startswith("ws://") for url in requested)
    assert complaints == []


def test_a_selection_survives_the_streaming(chat: Chat) -> None:
    chat.choose("scripted/count", tokens=200, rate=60)
    chat.ask("Count.")
    chat.wait_answer(60)
    chat.page.evaluate("""() => {
        const text = document.querySelector('.answer .run').firstChild;
        document.getSelection().setBaseAndExtent(text, 0, text, 20);
    }""")
    chosen = chat.page.evaluate("document.getSelection().toString()")
    before = len(chat.answer())
    chat.wait_answer(before + 100)
    assert chat.page.evaluate("document.getSelection().toString()") == chosen == counted(60)[:20]


def test_a_long_answer_copies_as_it_was_said(chat: Chat) -> None:
    """It may be laid out in several blocks; whoever copies it must not see where they meet."""
    chat.choose("scripted/count", tokens=4_000, rate=0)
    chat.ask("At length, please.")
    assert chat.wait_ended() == "complete"
    wait_until(chat.page, lambda: chat.answer() == counted(4_000))
    copied = chat.page.evaluate("""() => {
        const selection = document.getSelection();
        selection.selectAllChildren(document.querySelector('.answer'));
        return selection.toString();
    }""")
    assert copied.strip("\n") == counted(4_000)


def test_the_text_is_followed_only_by_a_reader_who_is_at_its_end(chat: Chat) -> None:
    chat.choose("scripted/lorem", tokens=1_200, rate=400)
    chat.ask("At length, please.")
    gap = """(() => {
        const { scrollHeight, scrollTop, clientHeight } = document.querySelector('#scroller');
        return scrollHeight - scrollTop - clientHeight;
    })()"""
    top = "document.querySelector('#scroller').scrollTop"
    chat.wait_answer(2_500)
    assert chat.page.evaluate(gap) < 60
    chat.page.mouse.move(450, 300)
    chat.page.mouse.wheel(0, -600)
    chat.page.wait_for_selector("#to-latest:not([hidden])")
    where = chat.page.evaluate(top)
    assert chat.wait_ended() == "complete"
    assert chat.page.evaluate(top) == where
    chat.page.click("#to-latest")
    assert chat.page.evaluate(gap) < 60


def test_a_screen_reader_hears_sentences_and_the_end(chat: Chat) -> None:
    chat.choose("scripted/count", tokens=12, rate=0)
    chat.ask("Count.")
    assert chat.wait_ended() == "complete"
    spoken = chat.page.locator("#spoken")
    assert spoken.get_attribute("aria-live") == "polite"
    assert spoken.text_content() == f"{counted(12)} The answer is complete."


def test_every_control_has_a_name(chat: Chat) -> None:
    unnamed = chat.page.evaluate("""() => [...document.querySelectorAll('input, select, textarea, button')]
        .filter((field) => !field.labels?.length && !field.textContent.trim() && !field.getAttribute('aria-label'))
        .map((field) => field.id)""")
    assert unnamed in ([], ["notice-action"])  # that one has its text when it is shown


def test_a_browser_that_complains_fails_its_test(page: Page, complaints: Complaints) -> None:
    """Of this kind is every test here; this one forgives what it has caused."""
    policy = {"content-type": "text/html", "content-security-policy": "script-src 'self'"}
    page.route("**/*", lambda route: route.fulfill(headers=policy, body="<!doctype html><script>let a</script>"))
    page.goto("http://page.test/")
    page.evaluate("() => { console.warn('a warning'); console.error('an error'); }")
    page.evaluate("() => { setTimeout(() => { throw new Error('an exception'); }); }")
    page.evaluate("() => fetch('http://elsewhere.test/', { mode: 'no-cors' }).then(() => {})")
    wait_until(page, lambda: len(complaints) == 4)
    heard = sorted(complaints)
    complaints.clear()
    assert "an error" in heard[1]
    assert "Content Security Policy" in heard[0]
    assert heard[2:] == ["exception: an exception", "request: http://elsewhere.test/"]
