"""Several people in one session, each at a page of their own, before a real server that knows who they are."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext
from tests.server import ServerProcess
from tests.web.browser import Chat, Line, counted, wait_until
from tests.web.people import Visitor, signed

pytestmark = pytest.mark.browser

Come = Callable[..., Visitor]


@pytest.fixture
def come(browser: Browser, guarded: ServerProcess) -> Iterator[Come]:
    """Have somebody come, with a browser of their own, to the page or to an address in it."""
    contexts: list[BrowserContext] = []
    visitors: list[Visitor] = []

    def come(user: str, address: str | None = None) -> Visitor:
        contexts.append(browser.new_context(viewport={"width": 900, "height": 700}))
        visitor = Visitor(contexts[-1].new_page(), address or guarded.url, signed(user, 3600))
        visitors.append(visitor)
        return visitor

    yield come
    for context in contexts:
        context.close()
    assert [visitor.errors for visitor in visitors] == [[]] * len(visitors)


def invite(owner: Visitor, user: str, role: str = "editor") -> None:
    owner.page.click("#show-about")
    owner.page.fill("#member-id", user)
    owner.page.select_option("#member-role", role)
    owner.page.click("#add-member button")
    owner.page.wait_for_selector(f"#members li[data-user={user}]")
    owner.page.click("#about-close")


def here(visitor: Visitor) -> list[str]:
    return sorted(visitor.texts("#presence li"))


@pytest.fixture
def pair(come: Come) -> tuple[Visitor, Visitor]:
    """Ann with a chat of two messages, and Bob whom she has let in, at its address."""
    ann = come("ann")
    ann.choose("scripted/count", tokens=3, rate=0)
    ann.ask("What is a lighthouse for?")
    assert ann.wait_ended() == "complete"
    invite(ann, "bob")
    bob = come("bob", ann.page.url)
    bob.wait_texts(".said .text", ["What is a lighthouse for?"])
    return ann, bob


def test_two_people_see_the_same_stream_as_it_comes_and_who_has_stopped_it(pair: tuple[Visitor, Visitor]) -> None:
    ann, bob = pair
    for one in pair:
        wait_until(one.page, lambda one=one: here(one) == ["ann", "bob"])
    bob.choose("scripted/count", tokens=400, rate=40)
    bob.ask("And who keeps it?")
    wait_until(ann.page, lambda: ann.turns == 2)
    shown = ann.wait_answer(60)
    assert ann.state() == "live"
    assert counted(400).startswith(shown)
    assert ann.texts(".author")[-2] == "bob"
    ann.page.click("#stop")
    assert ann.wait_ended() == bob.wait_ended() == "cancelled"
    wait_until(bob.page, lambda: bob.figure("end") == "stopped by ann")
    assert ann.figure("end") == "stopped"
    assert ann.answer() == bob.answer()
    assert ann.answer().startswith(shown)


@pytest.mark.parametrize("seed", [1, 4])
def test_whatever_gets_lost_on_the_way_both_end_with_the_same_conversation(
    browser: Browser, server: ServerProcess, seed: int
) -> None:
    """Frames are lost, connections cut, pages loaded anew, by chance; then the network is whole again."""
    chance = random.Random(seed)
    contexts = [browser.new_context() for _ in range(2)]
    try:
        pages = [context.new_page() for context in contexts]
        lines = [Line(page) for page in pages]
        chats = [Chat(pages[0], server.url)]
        chats[0].choose("scripted/count", tokens=30, rate=60)
        chats[0].ask("0")
        chats.append(Chat(pages[1], pages[0].url))
        chats[1].choose("scripted/count", tokens=30, rate=60)
        said = 1
        for _ in range(8):
            for page, line, chat in zip(pages, lines, chats, strict=True):
                line.drop = lambda frame: "after" in frame and chance.random() < 0.05
                what = chance.random()
                if what < 0.35:
                    chat.send(str(said))
                    said += 1
                elif what < 0.6:
                    line.cut()
                elif what < 0.75:
                    page.reload()
                    chat.wait_ready()
                page.wait_for_timeout(chance.randint(10, 200))  # pause: for something to happen meanwhile
        for line in lines:
            line.drop = lambda frame: False
            line.cut()  # what was lost last is noticed when something follows, or somebody comes back
        for page, chat in zip(pages, chats, strict=True):
            wait_until(page, lambda chat=chat: [chat.answer(n) for n in range(said)] == [counted(30)] * said, 40)
            assert sorted(chat.texts(".said .text"), key=int) == [str(number) for number in range(said)]
            assert chat.texts(".queued, .pending") == []
        assert chats[0].texts(".said .text") == chats[1].texts(".said .text")
        assert chats[0].errors == chats[1].errors == []
    finally:
        for context in contexts:
            context.close()


def test_a_second_device_counts_and_a_closed_one_goes(come: Come, pair: tuple[Visitor, Visitor]) -> None:
    ann, bob = pair
    device = come("bob", ann.page.url)
    wait_until(ann.page, lambda: here(ann) == ["ann", "bob ×2"])
    device.page.close()
    bob.page.click("#new-chat")
    wait_until(ann.page, lambda: not ann.page.is_visible("#presence") or here(ann) == ["ann"])


def test_typing_is_seen_by_the_other_and_ends_with_sending(pair: tuple[Visitor, Visitor]) -> None:
    ann, bob = pair
    bob.choose("scripted/count", tokens=3, rate=0)
    bob.page.locator("#prompt").press_sequentially("Wel")
    wait_until(ann.page, lambda: ann.page.text_content("#typing") == "bob is typing …")
    assert bob.page.text_content("#typing") == ""
    bob.page.fill("#prompt", "")
    wait_until(ann.page, lambda: ann.page.text_content("#typing") == "")


def test_only_the_own_messages_can_be_edited_and_a_branch_is_everybodys(pair: tuple[Visitor, Visitor]) -> None:
    _, bob = pair
    assert not bob.page.is_visible(".said .edit")
    bob.choose("scripted/count", tokens=5, rate=0)
    bob.page.click(".reply .again")
    for one in pair:
        one.wait_texts(".reply .branches span", ["2 / 2"])
        wait_until(one.page, lambda one=one: one.answer() == counted(5))


def test_a_role_changes_what_is_offered_at_once(pair: tuple[Visitor, Visitor]) -> None:
    ann, bob = pair
    assert bob.page.is_visible("#composer")
    ann.page.click("#show-about")
    ann.page.select_option("#members li[data-user=bob] select", "viewer")
    bob.page.wait_for_selector("#reads-only:not([hidden])")
    assert not bob.page.is_visible("#composer")
    assert not bob.page.is_visible(".again")
    ann.page.select_option("#members li[data-user=bob] select", "owner")
    wait_until(bob.page, lambda: bob.page.is_visible("#composer"))
    bob.page.click("#show-about")
    assert bob.page.is_visible("#add-member")
    assert bob.page.is_visible("#delete")


def test_who_is_removed_is_told_and_who_leaves_sees_it_no_more(come: Come, pair: tuple[Visitor, Visitor]) -> None:
    ann, bob = pair
    invite(ann, "carla", "viewer")
    carla = come("carla", ann.page.url)
    carla.wait_texts(".said .text", ["What is a lighthouse for?"])
    ann.page.click("#show-about")
    ann.page.click("#members li[data-user=bob] button")
    wait_until(bob.page, lambda: "not in it" in bob.page.inner_text("#notice"))
    assert (bob.turns, bob.texts(".said")) == (0, [])
    assert "#s_" not in bob.page.url
    carla.page.click("#show-about")
    carla.page.click("#leave")
    wait_until(carla.page, lambda: carla.turns == 0)
    wait_until(ann.page, lambda: ann.texts("#members .member") == ["ann (you)"])


def test_a_stranger_at_the_address_sees_nothing(come: Come, pair: tuple[Visitor, Visitor]) -> None:
    ann, _ = pair
    stranger = come("mallory", ann.page.url)
    wait_until(stranger.page, lambda: "not in it" in stranger.page.inner_text("#notice"))
    assert (stranger.turns, stranger.texts(".said"), stranger.texts("#sessions li")) == (0, [], [])


def test_a_name_and_a_message_that_look_like_html_stay_text(come: Come) -> None:
    evil = "<img src=x onerror='window.broken=1'>"
    ann = come(evil)
    ann.choose("scripted/echo", rate=0)
    ann.ask(evil)
    assert ann.wait_ended() == "complete"
    invite(ann, "bob")
    bob = come("bob", ann.page.url)
    bob.wait_texts(".said .text", [evil])
    wait_until(bob.page, lambda: evil in here(bob))
    assert bob.texts(".said .author") == [evil]
    assert bob.page.text_content("#title") == evil
    for one in (ann, bob):
        assert one.page.locator("img:not([src='assets/favicon.svg'])").count() == 0
        assert one.page.evaluate("window.broken") is None


def test_another_token_in_the_tab_shows_nothing_of_the_first_ones_chat(
    come: Come, pair: tuple[Visitor, Visitor]
) -> None:
    ann, _ = pair
    ann.page.click("#forget-token")
    wait_until(ann.page, lambda: (ann.turns, ann.texts(".said"), ann.texts("#sessions li")) == (0, [], []))
    assert "lighthouse" not in ann.page.evaluate("JSON.stringify([document.title, Object.values(sessionStorage)])")
    ann.page.click("#notice-action")
    ann.enter(signed("mallory", 3600))
    wait_until(ann.page, lambda: "not in it" in ann.page.inner_text("#notice"))
    assert (ann.turns, ann.texts(".said"), ann.texts("#sessions li")) == (0, [], [])
