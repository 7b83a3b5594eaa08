"""`EventSource` as a browser really has it: it loses its connection and comes back, and other sites try it too."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from playwright.sync_api import Page
from tests.chaos.proxy import Proxy
from tests.server import ServerProcess
from tests.web.browser import counted, wait_until

pytestmark = pytest.mark.browser
# What another site tries is refused, and the browser says so.
EXPECTED_COMPLAINTS = ("Access to resource at ", "Failed to load resource: the server responded with a status of 403")

TOKENS = 120  # three seconds of the scripted model's usual rate
LISTEN = """(url) => {
    const seen = { text: "", ids: [], done: null, opened: 0, failed: 0, state: () => source.readyState };
    const source = new EventSource(url);
    source.onopen = () => { seen.opened += 1; };
    source.onerror = () => { seen.failed += 1; };
    source.onmessage = (message) => {
        const said = JSON.parse(message.data);
        seen.ids.push(message.lastEventId);
        if (said.type === "token") seen.text += said.text;
        else seen.done = said;
    };
    window.seen = seen;
}"""
SEEN = "() => ({ ...window.seen, state: window.seen.state() })"


class ProxyThread:
    """A proxy before a server, in a thread of its own: the browser's interface blocks this one."""

    def __init__(self, port: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._proxy = Proxy(port)
        self._thread = threading.Thread(target=self._loop.run_forever)

    def _run(self, what: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(10)

    def __enter__(self) -> ProxyThread:
        self._thread.start()
        self._run(self._proxy.start())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._proxy.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._proxy.port}"

    def cut(self) -> None:
        self._loop.call_soon_threadsafe(self._proxy.reset)


def begun(server: ServerProcess) -> int:
    """How many answers the server has begun."""
    _, body = server.get("/metrics")
    return int(float(re.findall(rb"^everstream_streams_started_total(?:\{.*\})? (\S+)", body, re.MULTILINE)[0]))


def seen(page: Page) -> Any:
    return page.evaluate(SEEN)


def read_through(page: Page, server: ServerProcess, cut: Any) -> Any:
    """What a page saw of one answer that was cut twice on its way, once its `EventSource` has given up."""
    before = begun(server)
    page.evaluate(LISTEN, f"/stream?prompt=hi&provider=scripted&model=count&max_tokens={TOKENS}")
    for length in (20, 120):
        wait_until(page, lambda: len(seen(page)["text"]) >= length)  # noqa: B023
        cut()
    wait_until(page, lambda: seen(page)["done"] is not None)
    wait_until(page, lambda: seen(page)["state"] == 2)  # closed: it will not come back
    assert begun(server) == before + 1
    return seen(page)


def test_a_browser_that_loses_the_connection_goes_on_in_the_same_answer(page: Page, server: ServerProcess) -> None:
    with ProxyThread(server.port) as proxy:
        page.goto(proxy.url)
        told = read_through(page, server, proxy.cut)
        page.goto("about:blank")
    assert told["text"] == counted(TOKENS)
    assert told["done"]["type"] == "done"
    assert len({name.partition(":")[0] for name in told["ids"]}) == 1
    assert told["opened"] == 3
    assert told["failed"] >= 3  # two cuts, and the end, after which it asked once more


class Elsewhere(BaseHTTPRequestHandler):
    """Another site on this machine; a browser keeps those on others from it anyway."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<p>elsewhere</p>")

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""


@pytest.fixture
def elsewhere() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Elsewhere) as other:
        thread = threading.Thread(target=other.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://localhost:{other.server_port}"
        other.shutdown()
        thread.join(10)


def test_pages_of_other_sites_cannot_begin_an_answer(page: Page, server: ServerProcess, elsewhere: str) -> None:
    before = begun(server)
    url = f"{server.url}/stream?prompt=hi&provider=scripted&model=count"
    page.goto(elsewhere)
    page.evaluate("(url) => { document.body.append(Object.assign(new Image(), { src: url })); }", url)
    page.evaluate("(url) => { window.source = new EventSource(url); }", url)
    page.evaluate(
        """(url) => fetch(url, { mode: "no-cors", headers: { accept: "text/event-stream" } }).catch(() => {})""", url
    )
    wait_until(page, lambda: server.log_text().count("a page of another site was refused") == 3)
    wait_until(page, lambda: page.evaluate("() => window.source.readyState") == 2)
    assert begun(server) == before
    page.goto("about:blank")
