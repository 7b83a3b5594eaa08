"""What is described is what is served: every route, whatever is sent to it, answered as `/openapi.json` says.

Requests are made up from the description, such as fit it and such as do not.  Nothing of them may be answered with a
status, a body or a content type that is not described, or be too much for the server.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import CHECKS
from schemathesis.config import GenerationConfig
from schemathesis.generation import GenerationMode
from starlette.routing import Mount, Route, WebSocketRoute
from tests.gateway.conftest import serving
from tests.server import ServerProcess

from everstream.core.errors import FAULTS
from everstream.gateway import openapi
from everstream.gateway.app import Site
from everstream.gateway.described import Described

CALL_S = 10.0
EXAMPLES = 6  # for each of the operations, beside those that cover what its schema says
# Answers that go on until their stream ends are given streams that end at once.
SHORT = {"tokens": 2, "rate": 0}
DOCUMENT = openapi.document()
# A test harness may have its own ideas of a web server; those of ours that differ, and why:
NOT_CHECKED = (
    # What is decided by more than the schema (a model's id, white space alone, one of two fields) is a 400 too.
    "positive_data_acceptance",
    # Nobody asks who is there, in the server under test.
    "ignored_auth",
)


# --------------------------------------------------------------------------- the document and the routes


def _routes() -> dict[str, set[str]]:
    """The methods of each path that is served, as the document writes paths."""
    found: dict[str, set[str]] = {}
    for route in Site().routes():
        if isinstance(route, Route):
            path = re.sub(r":\w+}", "}", route.path)
            found.setdefault(path, set()).update((route.methods or set()) - {"HEAD", "OPTIONS"})
        else:
            assert isinstance(route, Mount | WebSocketRoute), route
    return found


def test_every_route_is_described_and_none_that_is_not_there() -> None:
    served = {(path, method) for path, methods in _routes().items() for method in methods}
    described = {(path, method.upper()) for path, operations in DOCUMENT["paths"].items() for method in operations}
    assert served == described


def test_every_reference_leads_somewhere_and_every_schema_is_referred_to() -> None:
    text = json.dumps(DOCUMENT)
    names = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names == set(DOCUMENT["components"]["schemas"])


def test_every_operation_has_a_name_of_its_own_and_a_group() -> None:
    names = [row.name for row in openapi.ROWS]
    assert len(names) == len(set(names))
    assert {row.group for row in openapi.ROWS} <= set(openapi.GROUPS)


@pytest.mark.parametrize("row", openapi.ROWS, ids=lambda row: row.name)
def test_what_a_route_may_be_asked_with_is_in_its_path_its_query_or_its_body(row: Described) -> None:
    assert set(row.codes) <= set(FAULTS)
    assert not set(row.in_path) & set(row.fields)
    if row.asked is not None:
        assert set(row.in_path) | set(row.left_out) <= set(row.asked.__struct_fields__)


async def test_the_document_names_the_place_it_is_served_at() -> None:
    async with serving() as gateway, aiohttp.ClientSession(gateway.url) as session:
        async with session.get("/openapi.json") as answer:
            served = await answer.json()
        assert served.pop("servers") == [{"url": "/"}]
        assert served == json.loads(json.dumps(DOCUMENT))


# --------------------------------------------------------------------------- whatever is sent


class Served:
    """A server, to be asked about a session and a stream that it has."""

    def __init__(self, url: str, http: requests.Session) -> None:
        self.url = url
        self.http = http
        http.trust_env = False  # no proxy stands before it
        http.headers["connection"] = "close"  # what is kept open, a test has left behind

    def session(self) -> str:
        """A session that somebody has talked in."""
        made = self.http.post(f"{self.url}/v1/sessions", json={"title": "t"}, timeout=CALL_S)
        name = str(made.json()["session"])
        sent = {"content": "count", "model": "scripted/count", "params": SHORT}
        self.http.post(f"{self.url}/v1/sessions/{name}/messages", json=sent, timeout=CALL_S).raise_for_status()
        return name

    def stream(self) -> str:
        asked = {"model": "scripted/count", "messages": [{"role": "user", "content": "a"}], **SHORT}
        answer = self.http.post(f"{self.url}/v1/chat/completions", json=asked, timeout=CALL_S)
        return str(answer.headers["x-everstream-stream"])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data = tmp_path_factory.mktemp("served") / "data"
    with (
        ServerProcess(data, args=["--store", "memory://", "--default-model", "scripted/echo"]) as server,
        requests.Session() as http,
    ):
        yield Served(server.start().url, http)
        assert "Traceback" not in server.log_text()


def _checked(case: Case, served: Served) -> None:
    """Send it, and hold the answer to the description."""
    _shorten(case)
    excluded = CHECKS.get_by_names(NOT_CHECKED)
    case.call_and_validate(served.url, session=served.http, excluded_checks=excluded, timeout=CALL_S)


def _shorten(case: Case) -> None:
    if not isinstance(case.body, dict):
        return
    if "messages" in case.body and "model" in case.body:  # a model that there is
        case.body.update(SHORT)
    if isinstance(case.body.get("params"), dict):
        case.body["params"].update(SHORT)


def _schema(*modes: GenerationMode) -> Any:
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    schema.config.generation = GenerationConfig(modes=list(modes), deterministic=True, database="none")
    return schema


ENDLESS = "read_events"  # it ends when its client goes
anything = _schema(GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
sensible = _schema(GenerationMode.POSITIVE)
bounded = settings(
    max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True
)


@anything.exclude(operation_id=ENDLESS).parametrize()
@bounded
def test_whatever_is_sent_is_answered_as_described(case: Case, served: Served) -> None:
    _checked(case, served)


@sensible.include(path_regex=r"\{(session|stream)\}").parametrize()
@bounded
def test_what_is_sent_about_what_there_is_is_answered_as_described(case: Case, served: Served) -> None:
    if "session" in case.path_parameters:
        case.path_parameters["session"] = served.session()
    else:
        case.path_parameters["stream"] = served.stream()
    if isinstance(case.body, dict) and "model" in case.body:
        case.body["model"] = "scripted/count"
    _checked(case, served)
