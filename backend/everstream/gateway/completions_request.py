"""OpenAI's chat completions: what is asked (platform.openai.com/docs/api-reference/chat/create).

What the protocol's own request has a place for is put there, so that any model can be asked; the rest travels to the
provider as it came.  `model` is `provider/name`.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from everstream.core.commands import check_model
from everstream.core.errors import EverstreamError
from everstream.core.events import ImagePart, Message, Params, Request, TextPart, Tool, ToolCall

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,(.*)", re.DOTALL)
_KNOWN = ("temperature", "top_p", "stop", "seed")
# What is about the answer's form on this wire, or about the caller, and is no matter of the provider.
_OURS = frozenset(
    (
        *("model", "messages", "stream", "stream_options", "tools", "tool_choice", "max_tokens"),
        *("max_completion_tokens", "reasoning_effort", "n", "user", "metadata", "store", "safety_identifier"),
        *("prompt_cache_key", *_KNOWN),
    )
)
# What OpenAI's clients may say although it is so anyway: other providers refuse what they do not know.
_SAY_NOTHING: dict[str, Any] = {
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logprobs": False,
    "modalities": ["text"],
    "parallel_tool_calls": True,
    "response_format": {"type": "text"},
    "service_tier": "auto",
}
# What a stream has no entries for: asked for, paid for, and never shown.
_NOT_KEPT = {
    "audio": "answers are text here",
    "modalities": "answers are text here",
    "logprobs": "a stream keeps no logprobs",
    "top_logprobs": "a stream keeps no logprobs",
    "functions": "use `tools`",
    "function_call": "use `tool_choice`",
}


class CompletionsAsked(msgspec.Struct, frozen=True):
    request: Request
    streams: bool
    include_usage: bool


def asked(body: dict[str, Any]) -> CompletionsAsked:
    """What a body asks for.  Raises EverstreamError `request.invalid`."""
    body = {name: value for name, value in body.items() if value is not None and not _says_nothing(name, value)}
    model = body.get("model")
    if not isinstance(model, str):
        raise _invalid("`model` is missing")
    check_model(model)
    if body.get("n", 1) != 1:
        raise _invalid("`n` must be 1: one answer is one stream")
    given = body.get("messages")
    if not isinstance(given, list) or not given:
        raise _invalid("`messages` is missing or empty")
    options = body.get("stream_options", {})
    if not isinstance(options, dict):
        raise _invalid("`stream_options` must be an object")
    streams = body.get("stream", False)
    if not isinstance(streams, bool):
        raise _invalid("`stream` must be true or false")
    for name, why in _NOT_KEPT.items():
        if name in body:
            raise _invalid(f"`{name}`: {why}")
    extra = {name: value for name, value in body.items() if name not in _OURS}
    request = Request(model, [_message(message) for message in given], _params(body), extra)
    return CompletionsAsked(request, streams, bool(options.get("include_usage")))


def _says_nothing(name: str, value: Any) -> bool:
    usual = _SAY_NOTHING.get(name)
    return usual is not None and type(value) in (type(usual), float) and value == usual


def _params(body: dict[str, Any]) -> Params:
    values = {name: body[name] for name in _KNOWN if name in body}
    limit = body.get("max_completion_tokens", body.get("max_tokens"))
    if limit is not None:
        values["max_tokens"] = limit
    if body.get("tools"):
        values["tools"] = [_tool(tool) for tool in _list(body["tools"], "tools")]
    if "tool_choice" in body:
        values["tool_choice"] = _choice(body["tool_choice"])
    if "reasoning_effort" in body:
        effort = body["reasoning_effort"]
        values["thinking"] = False if effort == "none" else effort
    try:
        return msgspec.convert(values, Params)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from error


def _message(said: Any) -> Message:
    if not isinstance(said, dict):
        raise _invalid("a message must be an object")
    role = "system" if said.get("role") == "developer" else said.get("role")
    content = said.get("content")
    if role == "tool":
        return Message("tool", _text(content), call_id=str(said.get("tool_call_id") or ""))
    if role == "assistant":
        calls = [_call(call) for call in _list(said.get("tool_calls") or [], "tool_calls")]
        return Message("assistant", _text(content if content is not None else said.get("refusal")), calls or None)
    if role == "system":
        return Message("system", _text(content))
    if role != "user":
        raise _invalid("a message's `role` must be system, developer, user, assistant or tool")
    return Message("user", content if isinstance(content, str) else [_part(part) for part in _list(content, "content")])


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    texts = []
    for part in _list(content, "content"):
        said = _part(part)
        if not isinstance(said, TextPart):
            raise _invalid("only a user's message may have images")
        texts.append(said.text)
    return "".join(texts)


def _part(part: Any) -> TextPart | ImagePart:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "refusal") and isinstance(part.get(kind), str):
        return TextPart(part[kind])
    image = part.get("image_url") if kind == "image_url" else None
    url = image.get("url") if isinstance(image, dict) else image
    if not isinstance(url, str):
        raise _invalid("a part of `content` must be text or image_url")
    inline = _DATA_URL.fullmatch(url)
    return ImagePart(data=inline[2], media_type=inline[1]) if inline else ImagePart(url=url)


def _call(call: Any) -> ToolCall:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise _invalid("a tool call needs `function.name`")
    arguments = function.get("arguments") or "{}"
    if not isinstance(arguments, str):
        raise _invalid("a tool call's `arguments` must be JSON text")
    return ToolCall(str(call.get("id") or ""), function["name"], arguments)


def _tool(tool: Any) -> Tool:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict):
        raise _invalid("a tool must be {type: function, function: {name, …}}")
    try:
        return msgspec.convert({name: value for name, value in function.items() if value is not None}, Tool)
    except msgspec.ValidationError as error:
        raise _invalid(f"tools: {error}") from error


def _choice(choice: Any) -> Any:
    if isinstance(choice, dict) and isinstance(choice.get("function"), dict):
        name = choice["function"].get("name")
        if not isinstance(name, str):
            raise _invalid("`tool_choice` names no function")
        return {"type": "function", "name": name}
    return choice


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise _invalid(f"`{name}` must be a list")
    return value


def _invalid(message: str) -> EverstreamError:
    return EverstreamError("request.invalid", message)
