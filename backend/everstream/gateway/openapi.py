"""`/openapi.json`: what can be asked over HTTP, as OpenAPI 3.1 (spec.openapis.org/oas/v3.1).

Nothing is written down twice: the routes are the rows of `described` and `rest`, and the schemas are those of the
types that requests are read into and answers are made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from everstream import __version__
from everstream.gateway.described import EVENTS, JSON, Answer, Described, Header, types_of
from everstream.gateway.described_routes import OTHERS
from everstream.gateway.rest import REST

TEMPLATE = "#/components/schemas/{name}"
GROUPS = {
    "sessions": "Conversations that the server keeps.",
    "members": "Who is in a session, and what they may do.",
    "streams": "Any stream, read and stopped.",
    "openai": "OpenAI's API.",
    "apis": "Other APIs for the same streams.",
    "operation": "For those who run the server.",
    "documents": "Pages and descriptions.",
}
_INTRODUCTION = (
    "Streams of answers that outlive their client, their connection and their server. What is asked for here is "
    "answered by a stream, which is read at `/v1/streams/{stream}` from any place on, or over the WebSocket "
    "(`/asyncapi.json`). Times are Unix time in milliseconds."
)
_RETRY_AFTER = {
    "description": "Seconds to wait before trying again, where somebody said so.",
    "schema": {"type": "integer", "minimum": 1},
}


ROWS: tuple[Described, ...] = (*(route.row for route in REST), *OTHERS)


def document(rows: Sequence[Described] = ROWS) -> dict[str, Any]:
    """The whole document, but for `servers`."""
    components = schemas_of(types_of(rows))
    paths: dict[str, Any] = {}
    for row in rows:
        paths.setdefault(row.path, {})[row.method.lower()] = _operation(row, components)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Everstream",
            "version": __version__,
            "description": _INTRODUCTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": name, "description": what} for name, what in GROUPS.items()],
        "paths": paths,
        "components": {
            "schemas": reached(paths, components),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def schemas_of(types: Iterable[Any]) -> dict[str, Any]:
    """The schemas of types, and of those that they are made of, by name."""
    _, components = msgspec.json.schema_components(list(types), ref_template=TEMPLATE)
    for schema in components.values():
        schema.pop("title", None)  # it is the name
        given = schema.get("properties", {}).get("params")
        if given is not None and "anyOf" in given:  # beside those that all providers know, others may be there
            given["anyOf"] = [{"$ref": TEMPLATE.format(name="Params")}, {"type": "null"}]
    return components


def reached(schema: Any, components: dict[str, Any]) -> dict[str, Any]:
    """Those of the schemas that are needed to understand this one, by name."""
    found: dict[str, Any] = {}
    unread = [schema]
    while unread:
        for name in _referred(unread.pop()):
            if name not in found:
                found[name] = components[name]
                unread.append(components[name])
    return dict(sorted(found.items()))


def _referred(schema: Any) -> Iterator[str]:
    """The names of the schemas that a schema refers to."""
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"].rpartition("/")[2]
        schema = list(schema.values())
    if isinstance(schema, list):
        for part in schema:
            yield from _referred(part)


def without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema for what is left out rather than null, as in a query."""
    kept = {name: value for name, value in schema.items() if name != "default" or value is not None}
    choices = [choice for choice in kept.get("anyOf", ()) if choice != {"type": "null"}]
    if "anyOf" not in kept or len(choices) == len(kept["anyOf"]):
        return kept
    del kept["anyOf"]
    return kept | (choices[0] if len(choices) == 1 else {"anyOf": choices})


def _operation(row: Described, components: dict[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {"operationId": row.name, "tags": [row.group], "summary": row.what}
    if row.more:
        said["description"] = row.more
    asked = components[row.asked.__name__] if row.asked is not None else {}
    parameters = [_parameter(name, "path", asked) for name in row.in_path]
    parameters += [_parameter(name, "query", asked) for name in row.in_query]
    if row.query is not None:
        shape = components[row.query.__name__]
        parameters += [_parameter(name, "query", shape) for name in shape["properties"]]
    parameters += [_header(header) for header in row.headers]
    if parameters:
        said["parameters"] = parameters
    if row.in_body or row.body is not None:
        said["requestBody"] = {"required": row.body_needed, "content": {JSON: {"schema": _body(row, asked)}}}
    said["responses"] = {str(answer.status): _answer(answer) for answer in row.answers}
    for status, codes in row.statuses().items():
        said["responses"][str(status)] = _failure(row, codes)
    said["security"] = [{"bearer": []}, {"key": []}, {}] if row.secured else []
    return said


def _parameter(name: str, place: str, asked: dict[str, Any]) -> dict[str, Any]:
    needed = place == "path" or name in asked.get("required", ())
    return {"name": name, "in": place, "required": needed, "schema": without_null(asked["properties"][name])}


def _header(header: Header) -> dict[str, Any]:
    said = {"name": header.name, "in": "header", "required": False, "description": header.what}
    return said | {"schema": msgspec.json.schema(header.schema)}


def _body(row: Described, asked: dict[str, Any]) -> dict[str, Any]:
    """The type itself where all of it is in the body, else what is left of it."""
    if row.body is not None:
        return msgspec.json.schema(row.body)
    names = row.in_body
    assert row.asked is not None
    if set(asked["properties"]) == set(names):
        return {"$ref": TEMPLATE.format(name=row.asked.__name__)}
    kept = {"properties": {name: asked["properties"][name] for name in names}}
    needed = [name for name in asked.get("required", ()) if name in names]
    said = {"description": asked["description"]} if "description" in asked else {}
    return {"type": "object", **said, **kept, **({"required": needed} if needed else {})}


def _answer(answer: Answer) -> dict[str, Any]:
    said: dict[str, Any] = {"description": answer.what}
    if answer.headers:
        said["headers"] = {name: {"schema": {"type": "string"}} for name in answer.headers}
    if answer.status == 204:
        return said
    # Of what comes piece by piece a schema would be that of all pieces at once.
    said["content"] = {media: {} if media == EVENTS else {"schema": _shape(answer, media)} for media in answer.media}
    return said


def _shape(answer: Answer, media: str) -> dict[str, Any]:
    if media != JSON:
        return {"type": "string"}
    schema, _ = msgspec.json.schema_components([answer.shape], ref_template=TEMPLATE)
    return dict(schema[0])


def _failure(row: Described, codes: list[str]) -> dict[str, Any]:
    shapes = [{"$ref": TEMPLATE.format(name=shape.__name__)} for shape in row.failed]
    schema = shapes[0] if len(shapes) == 1 else {"anyOf": shapes}
    return {
        "description": " ".join(f"`{code}`" for code in codes),
        "headers": {"Retry-After": _RETRY_AFTER},
        "content": {media: {"schema": schema if media == JSON else {"type": "string"}} for media in row.failed_media},
    }
