"""The chat page's files, as the build leaves them in the package.

    /           index.html      a browser asks each time whether it has changed, and is told so in a few bytes
    /assets/…   the rest        named after what is in them, so a browser asks once and never again

Beside a file may lie what is left of it compressed (`.br`, `.gz`): the build does that, once; here is only chosen which
of them a browser takes.  A tag is a digest of what is sent and not of a file's time: packages are made with the same
time for all of their files, and all versions of `index.html` have the same length.

A package can be without the page (`hatch_build.py`); then `/` says how to build it.  The files are looked for at each
request, so a page that is built anew is there without a restart.
"""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.types import Scope

INDEX = "index.html"
API = "api.html"

# What a machine's own table of types says varies with the machine.
TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
}
ENCODINGS = {"br": ".br", "gzip": ".gz"}  # the smaller one first
NAMED_AFTER_CONTENT = re.compile(r"-[\w-]{8}\.\w+$")
FOREVER = "public, max-age=31536000, immutable"
ASK_AGAIN = "no-cache"
FILES_MAX = 1000  # whose digests are kept

MISSING = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Everstream: no page</title>
<h1>This server runs, and its chat page has not been built</h1>
<p>In a checkout, <code>make page</code> builds it; nothing is needed for that but Python and the network. Then load
this address again. A package that was made without the page (<code>EVERSTREAM_SKIP_WEB</code>, or no network) has it
once it is installed again.</p>
<p>All else is here: <code>everstream chat</code> in a terminal, the WebSocket at <code>/ws</code>, and what
<a href="openapi.json">openapi.json</a> and <a href="asyncapi.json">asyncapi.json</a> describe.</p>
</html>
"""


def web_folder() -> Path:
    """The page's files: inside the package, or in the checkout that an editable install points to."""
    return Path(str(files("everstream").joinpath("_web")))


class Page:
    """The routes of the page in `folder`, which need not be there."""

    def __init__(self, folder: Path) -> None:
        assets = folder / "assets"
        self._files = PageFiles(directory=folder, check_dir=False)
        self._assets = PageFiles(
            directory=assets if assets.is_dir() or not folder.is_dir() else folder, check_dir=False
        )

    def routes(self) -> list[BaseRoute]:
        return [Route("/", self.index), Route("/docs", self.docs), Mount("/assets", self._assets)]

    async def index(self, request: Request) -> Response:
        return await self._html(INDEX, request.scope)

    async def docs(self, request: Request) -> Response:
        return await self._html(API, request.scope)

    async def _html(self, name: str, scope: Scope) -> Response:
        try:
            return await self._files.get_response(name, scope)
        except HTTPException as error:
            if error.status_code != 404:
                raise
            # Not "not found": this is the right address, and the page will be here.
            return HTMLResponse(MISSING, status_code=503, headers={"cache-control": ASK_AGAIN})


class PageFiles(StaticFiles):
    """Files below a folder, as small as the browser takes them."""

    async def check_config(self) -> None:
        """A folder that is not there yet has no files; that is no mistake."""

    def file_response(
        self, full_path: str | os.PathLike[str], stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        plain, asked = Path(full_path), Headers(scope=scope)
        path, encoding = _smallest(plain, asked.get("accept-encoding", ""))
        known = path.stat() if encoding else stat_result
        headers = {
            "etag": f'"{_digest(path, known.st_mtime_ns, known.st_ino)}"',
            "cache-control": FOREVER if NAMED_AFTER_CONTENT.search(plain.name) else ASK_AGAIN,
            "vary": "accept-encoding",
        }
        if encoding:
            headers["content-encoding"] = encoding
        media_type = TYPES.get(plain.suffix, "application/octet-stream")
        response = FileResponse(path, status_code, headers, media_type, stat_result=known)
        if self.is_not_modified(response.headers, asked):
            return NotModifiedResponse(response.headers)
        return response


def _smallest(plain: Path, accepted: str) -> tuple[Path, str]:
    """The file to send for `plain`, and its encoding: "" for the file itself.  `accepted` is the header's text."""
    taken = {
        name.strip().lower() for name, _, q in (one.partition(";") for one in accepted.split(",")) if not _never(q)
    }
    for encoding, ending in ENCODINGS.items():
        path = plain.with_name(plain.name + ending)
        if encoding in taken and path.is_file():
            return path, encoding
    return plain, ""


def _never(weight: str) -> bool:
    """Does `q=0` stand here?"""
    return re.fullmatch(r"\s*q=0(?:\.0*)?\s*", weight) is not None


@lru_cache(maxsize=FILES_MAX)
def _digest(path: Path, modified_ns: int, inode: int) -> str:
    """Of what is in the file.  Its time and inode tell one build's file from the next one's while this process runs."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:32]
