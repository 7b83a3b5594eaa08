"""The generate API: what is asked.  One input and what was said before it, of a model of a service."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from typing import Any, Literal

import msgspec

from everstream.core.commands import check_model
from everstream.core.errors import EverstreamError
from everstream.core.events import ImagePart, Message, Params, Request, TextPart, ToolCall

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,(.*)", re.DOTALL)
# How the files of each kind begin, which is all that plain base64 tells.
_BEGINNINGS = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}
_BEGINNING_CHARS = 16


class GeneratePart(msgspec.Struct, frozen=True):
    """`name` is the caller's own."""

    type: Literal["text", "image"]
    content: str
    name: str | None = None


class GenerateSaid(msgspec.Struct, frozen=True):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[GeneratePart]
    tool_calls: list[ToolCall] | None = None
    call_id: str | None = None
    is_error: bool = False


class GenerateAsked(msgspec.Struct, frozen=True):
    model_name: str
    service_name: str | None = None
    input: str | list[GeneratePart] | None = None
    parameters: dict[str, Any] | None = None
    history: list[GenerateSaid] | None = None


def asked(body: dict[str, Any]) -> Request:
    """What a body asks for.  Raises EverstreamError `request.invalid`."""
    try:
        given = msgspec.convert(body, GenerateAsked)
    except msgspec.ValidationError as error:
        raise EverstreamError("request.invalid", str(error)) from error
    model = _model(given.service_name or "", given.model_name)
    params, extra = _params(given.parameters or {})
    messages = [_message(said) for said in given.history or []]
    if given.input:
        messages.append(Message("user", _content(given.input)))
    elif not messages or messages[-1].role != "tool":
        raise EverstreamError("request.invalid", "`input` is missing or empty")
    return Request(model, messages, params, extra)


def _model(service: str, name: str) -> str:
    """`service/name`; `name` may hold the whole of it."""
    model = name if not service or name.startswith(f"{service}/") else f"{service}/{name}"
    try:
        check_model(model)
    except EverstreamError as error:
        raise EverstreamError("request.invalid", "`service_name` and `model_name` must name a model") from error
    return model


def _params(given: dict[str, Any]) -> tuple[Params, dict[str, Any]]:
    given = {name: value for name, value in given.items() if value is not None}
    if isinstance(given.get("enable_thinking"), bool):
        thinking = given.pop("enable_thinking")
        given.setdefault("thinking", thinking)
    known = {name: value for name, value in given.items() if name in Params.__struct_fields__}
    try:
        params = msgspec.convert(known, Params)
    except msgspec.ValidationError as error:
        raise EverstreamError("request.invalid", f"parameters: {error}") from error
    return params, {name: value for name, value in given.items() if name not in known}


def _message(said: GenerateSaid) -> Message:
    content = _content(said.content)
    if said.role != "user" and not isinstance(content, str):
        raise EverstreamError("request.invalid", "only a user's message may have images")
    return Message(said.role, content, said.tool_calls, said.call_id, said.is_error)


def _content(given: str | list[GeneratePart]) -> str | list[TextPart | ImagePart]:
    if isinstance(given, str):
        return given
    parts: list[TextPart | ImagePart] = [
        _image(part.content) if part.type == "image" else TextPart(part.content) for part in given
    ]
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    return "\n\n".join(texts) if len(texts) == len(parts) else parts


def _image(content: str) -> ImagePart:
    """An image by its address, as a data URL, or as base64."""
    inline = _DATA_URL.fullmatch(content)
    if inline is not None:
        return ImagePart(data=inline[2], media_type=inline[1])
    if content.startswith(("http://", "https://")):
        return ImagePart(url=content)
    try:
        beginning = b64decode(content[:_BEGINNING_CHARS], validate=True)
    except binascii.Error:
        beginning = b""
    for known, media_type in _BEGINNINGS.items():
        if beginning.startswith(known):
            return ImagePart(data=content, media_type=media_type)
    raise EverstreamError(
        "request.invalid", "an image is an http(s) address, a data URL, or base64 of a PNG, JPEG, GIF or WebP"
    )
