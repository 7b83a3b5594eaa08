"""How the page is served: whole, small, kept as long as it may be, and honest where there is none."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient
from tests.gateway.conftest import Gateway, get

from everstream.gateway.app import CONTENT_SECURITY_POLICY, SafeHeaders
from everstream.gateway.page import MISSING, TYPES, Page, web_folder

HASHED = "assets/index-BNAIVkJ7.js"
SCRIPT = "export const answer = 42;\n" * 100
POLICY = (
    "default-src 'self'",
    "script-src 'self'",
    "style-src 'self'",
    "object-src 'none'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
    "trusted-types 'none'",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A page as a build leaves it."""
    folder = tmp_path / "_web"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html><title>one</title>")
    (folder / HASHED).write_text(SCRIPT)
    (folder / f"{HASHED}.gz").write_bytes(gzip.compress(SCRIPT.encode()))
    (folder / f"{HASHED}.br").write_bytes(b"as brotli has it")
    return folder


def served(folder: Path) -> TestClient:
    client = TestClient(Starlette(routes=Page(folder).routes(), middleware=[Middleware(SafeHeaders)]))
    client.headers["accept-encoding"] = "identity"
    return client


async def test_the_page_is_served_and_may_load_nothing_from_elsewhere(gateway: Gateway) -> None:
    for path in ("/", "/docs"):
        status, headers, body = await get(gateway, path)
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert b"<html" in body
        assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-cache")
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert "camera=()" in headers["permissions-policy"]
        assert "vary" in headers


@pytest.mark.parametrize("rule", POLICY)
def test_the_policy_lets_nothing_in_and_runs_no_text(rule: str) -> None:
    assert rule in CONTENT_SECURITY_POLICY.split("; ")
    assert "unsafe" not in CONTENT_SECURITY_POLICY


async def test_every_file_of_the_page_is_served_with_a_type_that_browsers_take(gateway: Gateway) -> None:
    files = [path for path in (web_folder() / "assets").rglob("*") if path.suffix in TYPES]
    assert {path.suffix for path in files} >= {".js", ".css", ".svg"}
    for path in files:
        status, headers, body = await get(gateway, f"/assets/{path.relative_to(web_folder() / 'assets').as_posix()}")
        assert (status, body) == (200, path.read_bytes())
        assert headers["content-type"].split(";")[0] == TYPES[path.suffix]
        assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert headers["cache-control"] == "public, max-age=31536000, immutable"


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/assets/nothing.js",
        "/assets/index.html",
        "/assets/../app.py",
        "/assets/%2e%2e/index.html",
        "/assets/%2e%2e/%2e%2e/README.md",
        "/assets/%00",
    ],
)
async def test_what_is_not_there_is_not_found_and_nothing_outside_is_shown(gateway: Gateway, path: str) -> None:
    status, headers, _ = await get(gateway, path)
    assert status == 404
    assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip, deflate, br, zstd", "br"),
        ("gzip;q=1.0, identity;q=0.5", "gzip"),
        ("br;q=0, GZIP", "gzip"),
        ("br;q=0.000, gzip;q=0", None),
        ("identity", None),
        ("", None),
    ],
)
def test_a_file_is_sent_as_small_as_the_browser_takes_it(folder: Path, accepted: str, encoding: str | None) -> None:
    with served(folder).stream("GET", f"/{HASHED}", headers={"accept-encoding": accepted}) as answer:
        raw = b"".join(answer.iter_raw())
    ending = {"br": ".br", "gzip": ".gz", None: ""}[encoding]
    assert raw == (folder / f"{HASHED}{ending}").read_bytes()
    assert answer.headers.get("content-encoding") == encoding
    assert answer.headers["vary"] == "accept-encoding"
    assert answer.headers["content-type"].startswith("text/javascript")


def test_each_encoding_has_a_tag_of_its_own(folder: Path) -> None:
    client = served(folder)
    tags = {client.head(f"/{HASHED}", headers={"accept-encoding": name}).headers["etag"] for name in ("gzip", "br", "")}
    assert len(tags) == 3


def test_a_page_that_a_browser_has_is_not_sent_again(folder: Path) -> None:
    client = served(folder)
    first = client.get("/")
    again = client.get("/", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["cache-control"] == "no-cache"
    assert "content-security-policy" in again.headers


def test_a_page_of_the_same_size_and_time_that_says_something_else_is_sent(folder: Path) -> None:
    # Packages are made with one time for all files, and each build's index.html differs from the last by a hash in it.
    page = folder / "index.html"
    times = (page.stat().st_atime_ns, page.stat().st_mtime_ns)
    client = served(folder)
    first = client.get("/")
    fresh = folder / "fresh.html"
    fresh.write_text(page.read_text().replace("one", "two"))
    os.utime(fresh, ns=times)
    fresh.replace(page)
    again = client.get("/", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.text) == (200, "<!doctype html><title>two</title>")


def test_a_server_without_the_page_says_how_to_build_it_and_shows_it_once_it_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "_web"
    client = served(folder)
    for path in ("/", "/docs"):
        answer = client.get(path)
        assert (answer.status_code, answer.text) == (503, MISSING)
        assert answer.headers["cache-control"] == "no-cache"
    assert "make page" in MISSING
    assert client.get(f"/{HASHED}").status_code == 404
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("built")
    (folder / HASHED).write_text(SCRIPT)
    assert client.get("/").text == "built"
    assert client.get(f"/{HASHED}").text == SCRIPT
