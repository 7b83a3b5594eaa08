"""Answers as Markdown in the real page: what they look like, and that nothing a model says does anything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page
from tests.web.browser import Chat, wait_until
from tests.web.fake_sessions import FakeSession, answer, message
from tests.web.test_sessions_fake import Reader

pytestmark = pytest.mark.browser

SAMPLES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "xss.json").read_text("utf-8"))
PIECE = 9
ELEMENTS = (
    *("P", "H3", "H4", "H5", "H6", "UL", "OL", "LI", "BLOCKQUOTE", "HR", "BR", "WBR", "DIV", "CODE", "PRE", "SPAN"),
    *("TABLE", "THEAD", "TBODY", "TR", "TH", "TD", "STRONG", "EM", "DEL", "SUB", "SUP", "KBD", "MARK", "U", "SMALL"),
    *("A", "IMG", "INPUT", "BUTTON"),
)
KINDS = ("h3", "p", "strong", "em", "code", "del", "sub", "ol", "ul", "li", "input", "blockquote", "pre", "table", "th")
# What became of the answers: elements and attributes that they must not have, and addresses that lead somewhere else.
STRANGE = """(allowed) => [...document.querySelectorAll(".answer *")].flatMap((element) => {
    const found = allowed.includes(element.tagName) ? [] : [element.tagName];
    for (const { name, value } of element.attributes) {
        if (/^(on.*|style|id|name|srcset|action|formaction)$/.test(name)) found.push(name);
        if (name === "href" && !/^(https?:\\/\\/[^@]+|mailto:[^"<>]+)$/.test(value)) found.push(value);
        if (name === "src" && !/^data:image\\/(png|jpeg|webp|gif);base64,/.test(value)) found.push(value);
    }
    if (element.tagName === "A" && (element.target !== "_blank" || !element.rel.includes("noopener"))) found.push("A");
    return found;
})"""
TEXT = """# Lighthouses

A tower with a **bright lamp**, *seen* from `afar`, ~~never~~ H<sub>2</sub>O. See [more][1] and https://example.org/a?b=1.
The second line.

1. one
2. two
   - inner
3. three

- [x] done
- [ ] open

> quoted **words**

```python
def visible(height):
    return 2.08 * height ** 0.5
```

| Name | Height |
|:-----|-------:|
| Pharos | **100 m** |
| Jeddah | 133 m |

- loose

- items

[1]: https://example.org/more "More"

The end.
"""


@pytest.fixture
def session() -> FakeSession:
    return FakeSession("s_one")


@pytest.fixture
def reader(page: Page, session: FakeSession) -> Iterator[Reader]:
    reader = Reader(page, session)
    yield reader
    assert reader.errors == []


class Watch:
    """What a page does beside showing text: it asks for something, goes somewhere, or opens something."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._url = page.url
        self.done: list[str] = []
        page.on("request", lambda request: self._note("request", request.url))
        page.on("dialog", lambda dialog: (self._note("dialog", dialog.message), dialog.dismiss()))
        page.on("popup", lambda popup: self._note("popup", popup.url))
        page.on("download", lambda download: self._note("download", download.url))
        page.on("framenavigated", lambda frame: self._note("navigation", frame.url))

    def _note(self, kind: str, what: str) -> None:
        # What colours code is loaded with the first block of it; pictures that lie in an answer are no request.
        if not what.startswith("data:image/") and "/assets/languages" not in what:
            self.done.append(f"{kind} {what}")

    def expect_nothing(self) -> None:
        assert self._page.evaluate(STRANGE, list(ELEMENTS)) == []
        assert self._page.evaluate("window.broken") is None
        assert (len(self._page.frames), self._page.url, self.done) == (1, self._url, [])


def stream(session: FakeSession, number: int, text: str, parent: str | None, size: int = PIECE) -> str:
    """Have an answer come in pieces, to its end; the id of its message."""
    asked, said, response, turn = f"m{number}", f"a{number}", f"r_{number}", f"t_{number}"
    session.add(message(asked, parent, "ann", "Say it."))
    session.start(turn, response, asked)
    for start in range(0, len(text), size):
        session.delta(response, text[start : start + size])
    session.finish(response)
    session.add(answer(said, asked, response, text))
    session.end(turn, response, said)
    return said


def test_nothing_that_a_saved_answer_says_does_anything(page: Page, session: FakeSession) -> None:
    parent: str | None = None
    for number, sample in enumerate(SAMPLES):
        session.messages += [
            message(f"m{number}", parent, "ann", sample["text"]),
            answer(f"a{number}", f"m{number}", f"r_{number}", sample["text"], thinking=sample["text"]),
        ]
        parent = f"a{number}"
    reader = Reader(page, session)
    watch = Watch(page)
    wait_until(page, lambda: page.locator(".reply").count() == len(SAMPLES))
    page.mouse.move(450, 300)
    page.mouse.wheel(0, -3000)
    page.wait_for_timeout(300)  # pause: for what an element might do once it is seen
    watch.expect_nothing()
    assert (
        page.locator("#log :is(script, svg, iframe, object, embed, form, video, style, link, base, meta)").count() == 0
    )
    for number, sample in enumerate(SAMPLES):
        if "links" in sample:
            links = page.locator(".reply").nth(number).locator("a")
            assert links.evaluate_all("(links) => links.map(({ href }) => href)") == sample["links"], sample["name"]
    assert reader.errors == []
    # It would be seen if there were something.
    page.evaluate("document.querySelector('.answer').append(Object.assign(document.createElement('a'), {href: 'x:y'}))")
    assert page.evaluate(STRANGE, list(ELEMENTS)) == ["x:y", "A"]


def test_nothing_that_an_answer_says_does_anything_while_it_comes(reader: Reader, session: FakeSession) -> None:
    watch = Watch(reader.page)
    parent: str | None = None
    for number, sample in enumerate(SAMPLES):
        parent = stream(session, number, sample["text"], parent)
    wait_until(reader.page, lambda: reader.page.locator(".reply[data-state=complete]").count() == len(SAMPLES), 60)
    watch.expect_nothing()


def test_nothing_that_a_real_server_sends_does_anything(chat: Chat) -> None:
    chat.choose("scripted/echo", rate=0)
    chat.ask("First.")
    assert chat.wait_ended() == "complete"
    watch = Watch(chat.page)
    readable = [sample["text"] for sample in SAMPLES if sample["text"].isprintable()]
    chat.ask("\n\n".join([*readable, "The end."]))
    assert chat.wait_ended() == "complete"
    wait_until(chat.page, lambda: chat.answer().endswith("The end."))
    watch.expect_nothing()


def shape(page: Page) -> str:
    """The last answer's elements and text, without what only a growing text has."""
    return page.locator(".answer").last.evaluate(
        """(answer) => {
            const copy = answer.cloneNode(true);
            for (const span of copy.querySelectorAll(".run, .lines, code > span")) span.replaceWith(...span.childNodes);
            for (const span of copy.querySelectorAll("[class^=hljs]")) span.replaceWith(...span.childNodes);
            copy.normalize();
            return [...copy.querySelectorAll("*")].map(({ tagName, className }) => `${tagName}.${className}`).join(" ")
                + " " + copy.textContent;
        }"""
    )


def test_an_answer_looks_the_same_while_it_came_and_when_it_is_loaded_again(
    reader: Reader, session: FakeSession
) -> None:
    stream(session, 1, TEXT, None, size=5)
    reader.page.wait_for_selector(".reply[data-state=complete] a[href='https://example.org/more']")
    came = shape(reader.page)
    session.messages[-1]["stream"] = None
    reader.page.reload()
    reader.page.wait_for_selector(".reply[data-state=complete] a[href='https://example.org/more']")
    assert shape(reader.page) == came
    assert [kind for kind in KINDS if reader.page.locator(f".answer {kind}").count() == 0] == []
    assert reader.page.locator(".answer li.task input:checked").count() == 1
    assert reader.page.locator(".answer td.right").count() == 2


def test_half_of_something_is_shown_as_what_it_will_be(reader: Reader, session: FakeSession) -> None:
    session.add(message("m1", None, "ann", "Go."))
    session.start("t_1", "r_1", "m1")
    session.delta("r_1", "Some **bold wor")
    reader.wait_text(".answer strong", "bold wor")
    session.delta("r_1", "ds** and `co")
    reader.wait_text(".answer code", "co")
    session.delta("r_1", "de`.\n\n| a | b |\n|--")
    wait_until(reader.page, lambda: reader.texts(".answer th") == ["a", "b"])
    session.delta("r_1", "-|---|\n| 1 | 2 |\n\n```js\nlet a")
    wait_until(reader.page, lambda: reader.texts(".answer pre code") == ["let a"])
    assert reader.texts(".answer td") == ["1", "2"]
    assert "**" not in (reader.page.text_content(".answer") or "")


def test_what_is_selected_stays_selected_while_the_answer_goes_on(reader: Reader, session: FakeSession) -> None:
    session.add(message("m1", None, "ann", "Go."))
    session.start("t_1", "r_1", "m1")
    session.delta("r_1", "The first paragraph.\n\nThe second one")
    reader.wait_text(".answer p:last-child", "The second one")
    reader.page.evaluate("""() => {
        const [first, second] = document.querySelectorAll(".answer p");
        document.getSelection().setBaseAndExtent(first, 0, second.querySelector(".run").firstChild, 10);
    }""")
    chosen = reader.page.evaluate("document.getSelection().toString()")
    session.delta("r_1", " goes on with **bold** words.\n\nAnd a third.\n\n- item")
    reader.wait_text(".answer li", "item")
    assert reader.page.evaluate("document.getSelection().toString()") == chosen
    assert chosen.endswith("The second")


def test_code_is_coloured_wrapped_and_copied(chat: Chat) -> None:
    page = chat.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    loaded: list[str] = []
    page.on("request", lambda request: loaded.append(request.url))
    chat.choose("scripted/echo", rate=0)
    chat.ask("No code.")
    assert chat.wait_ended() == "complete"
    assert not any("languages" in url for url in loaded)
    code = "def f(x):\n    return 'a' + x  # why"
    said = f"Look:\n\n```python\n{code}\n```\n\nThat was it."
    chat.ask(said)
    assert chat.wait_ended() == "complete"
    page.wait_for_selector(".code .hljs-keyword")
    assert any("languages" in url for url in loaded)
    assert chat.texts(".code-lang") == ["python"]
    assert chat.texts(".code pre code") == [code]
    page.click(".code .wrap")
    assert page.get_attribute(".code .wrap", "aria-pressed") == "true"
    page.focus(".code .copy")
    page.keyboard.press("Enter")
    chat.wait_texts(".code .copy", ["Copied"])
    assert page.locator(".code .copy [aria-live=polite]").count() == 1
    assert page.evaluate("navigator.clipboard.readText()") == code
    page.locator(".reply").last.locator(".foot .copy").click()
    wait_until(page, lambda: page.evaluate("navigator.clipboard.readText()") == said)


def test_a_seam_stands_in_the_text_and_is_not_copied_with_it(reader: Reader, session: FakeSession) -> None:
    seam = {"type": "seam", "epoch": 8, "attempt": 2, "continuation": "exact", "check": "verified", "node": "n_2"}
    session.add(message("m1", None, "ann", "Go."))
    session.start("t_1", "r_1", "m1")
    session.delta("r_1", "One **two th")
    session._extend("r_1", {**seam, "reason": "node_lost"}, 1)
    session.delta("r_1", "ree four** five.\n\n```js\nlet a")
    session._extend("r_1", {**seam, "reason": "provider_lost", "check": "unverified"}, 1)
    session.delta("r_1", " = 1;\n```\n")
    session.finish("r_1")
    session.add(answer("a1", "m1", "r_1", "One **two three four** five.\n\n```js\nlet a = 1;\n```\n"))
    session.end("t_1", "r_1", "a1")
    wait_until(reader.page, lambda: reader.page.locator(".seam").count() == 2)
    labels = reader.page.locator(".seam").evaluate_all("(marks) => marks.map(({ dataset }) => dataset.label)")
    assert labels == ["carried on after a server loss", "carried on after the provider broke off (join not verified)"]
    assert reader.page.locator("strong .seam").count() == 1
    assert reader.page.locator("pre .seam").count() == 1
    assert reader.texts(".answer p") == ["One two three four five."]
    assert reader.texts(".answer pre") == ["let a = 1;"]


def test_a_denial_may_say_why(reader: Reader, session: FakeSession) -> None:
    session.add(message("m1", None, "ann", "Open the door."))
    session.start("t_1", "r_1", "m1")
    call = {"call_id": "c1", "name": "door", "arguments": '{"door":1,"wide":true}', "server": True, "approval": True}
    session.add(answer("a1", "m1", "r_1", "", tool_calls=[call]))
    reader.page.wait_for_selector(".tool .deny")
    assert json.loads(reader.page.text_content(".tool-arguments") or "") == {"door": 1, "wide": True}
    reader.page.fill(".tool .deny-reason", "It is cold.")
    reader.page.click(".tool .deny")
    wait_until(reader.page, lambda: reader.commands("tool_approval") != [])
    approval = {"call_id": "c1", "approved": False, "reason": "It is cold."}
    assert reader.commands("tool_approval")[0]["approvals"] == [approval]
    assert reader.page.is_disabled(".tool .approve")


def test_pictures_of_people_are_shown_and_those_from_elsewhere_are_named(page: Page, session: FakeSession) -> None:
    dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    said: Any = [
        {"type": "text", "text": "What is this?"},
        {"type": "image", "data": dot, "media_type": "image/png"},
        {"type": "image", "data": "PHN2Zy8+", "media_type": "image/svg+xml"},
        {"type": "image", "url": "https://example.org/a.png"},
    ]
    session.messages.append(message("m1", None, "ann", said))
    reader = Reader(page, session)
    reader.wait_text(".said .text", "What is this?")
    assert page.locator(".said img").evaluate_all("(all) => all.map(({ naturalWidth }) => naturalWidth)") == [1]
    assert reader.texts(".said .pictures a") == ["Picture 3"]
    assert reader.errors == []


def test_versions_are_changed_with_the_arrow_keys(page: Page, session: FakeSession) -> None:
    session.messages += [
        message("m1", None, "ann", "Go."),
        answer("a1", "m1", "r_1", "first"),
        answer("a2", "m1", "r_2", "second"),
    ]
    reader = Reader(page, session)
    reader.wait_text(".answer", "second")
    page.focus(".reply .branches button[aria-label='Previous version']")
    page.keyboard.press("ArrowLeft")
    reader.wait_text(".answer", "first")
    page.keyboard.press("ArrowRight")
    reader.wait_text(".answer", "second")
    assert reader.errors == []
