"""The AI SDK's chat: what is asked (ai-sdk.dev/docs/ai-sdk-ui/transport), as a request to a model.

A client sends the whole conversation as messages made of parts.  What models are told of is text, images, calls of
tools and their results; reasoning, sources, data and step marks are for people and are left out.  So is a call without
a result: models refuse a conversation that has one, and a person who stopped the answer may still write on.

The same parts in chunks are what a client is sent again when it empties its message (`ui_format`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import msgspec

from everstream.core.commands import Generate
from everstream.core.errors import EverstreamError
from everstream.core.events import Budget, ImagePart, Message, Request, TextPart, Tool, ToolCall

ID_CHARS_MAX = 256
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)(?:;[\w.+-]+=[^;,]*)*;base64,(.*)", re.DOTALL)
_UNTOLD = frozenset(("reasoning", "reasoning-file", "custom", "source-url", "source-document"))
_TRIGGERS = ("submit-message", "regenerate-message")

Chunk = dict[str, Any]
Part = dict[str, Any]


class UiAsked(msgspec.Struct, frozen=True):
    """`message` is the id of the assistant's message that the answer continues, "" where it is a new one; `earlier` are
    the chunks of what that holds already.  `likeness` is the same for the same thing asked again."""

    chat: str
    request: Request
    message: str
    earlier: tuple[Chunk, ...]
    likeness: str


def asked(body: dict[str, Any], model: str) -> UiAsked:
    """What a body asks for, of `model` where it names none.  Raises EverstreamError `request.invalid`."""
    chat, messages = _id(body, "id"), body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _invalid("`messages` is missing or empty")
    trigger = body.get("trigger") or "submit-message"
    if trigger not in _TRIGGERS:
        raise _invalid(f"`trigger` is {' or '.join(_TRIGGERS)}")
    wanted = _id(body, "messageId")
    request = _request(body, model, [said for message in messages for said in _said(message)])
    continued = _continued(messages, wanted) if trigger == "submit-message" else None
    if continued is None and all(message.role == "system" for message in request.messages):
        raise _invalid("`messages` holds nothing to answer")
    about = (chat, trigger, wanted, str(messages[-1].get("id") or ""), request)
    return UiAsked(
        chat,
        request,
        str(continued["id"]) if continued else "",
        tuple(_chunks(continued["parts"])) if continued else (),
        blake2b(msgspec.json.encode(about), digest_size=16).hexdigest(),
    )


def _request(body: dict[str, Any], model: str, messages: list[Message]) -> Request:
    given = body.get("params")
    if given is not None and not isinstance(given, dict):
        raise _invalid("`params` must be an object")
    params = dict(given or {})
    if body.get("system") is not None:
        params["system"] = body["system"]
    if body.get("tools"):
        params["tools"] = _tools(body["tools"])
    chosen = body.get("model") or model
    if not isinstance(chosen, str):
        raise _invalid("`model` must be text: provider/name")
    try:
        budget = msgspec.convert(body.get("budget"), Budget | None)
    except msgspec.ValidationError as error:
        raise _invalid(f"budget: {error}") from error
    return Generate(model=chosen, messages=messages, params=params, budget=budget).request()


def _tools(given: Any) -> list[dict[str, Any]]:
    """Tools as a list, or by name; the schema of what they take is `parameters` or `inputSchema`."""
    if isinstance(given, dict):
        given = [{**tool, "name": name} if isinstance(tool, dict) else tool for name, tool in given.items()]
    if not isinstance(given, list) or not all(isinstance(tool, dict) for tool in given):
        raise _invalid("`tools` must be a list of objects, or an object of them by name")
    tools = []
    for tool in given:
        shape = {"name": tool.get("name"), "parameters": tool.get("parameters") or tool.get("inputSchema") or {}}
        if tool.get("description"):
            shape["description"] = tool["description"]
        try:
            tools.append(msgspec.to_builtins(msgspec.convert(shape, Tool)))
        except msgspec.ValidationError as error:
            raise _invalid(f"tools: {error}") from error
    return tools


def _continued(messages: list[Any], wanted: str) -> dict[str, Any] | None:
    """The assistant's message that the client will go on writing: the one it names, else the last."""
    named = [message for message in messages if wanted and message.get("id") == wanted]
    message = named[0] if named else messages[-1]
    if message.get("role") != "assistant" or not message.get("id") or not message.get("parts"):
        return None
    return dict(message)


# ---------------------------------------------------------------------- messages


def _said(message: Any) -> list[Message]:
    if not isinstance(message, dict):
        raise _invalid("a message must be an object")
    role, parts = message.get("role"), message.get("parts")
    if parts is None and isinstance(message.get("content"), str):
        parts = [{"type": "text", "text": message["content"]}]
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise _invalid("a message needs `parts`, a list of objects")
    if role == "system":
        return [Message("system", "".join(_text(part) for part in parts if part.get("type") == "text"))]
    if role == "user":
        return _by_user(parts)
    if role == "assistant":
        return _by_assistant(parts)
    raise _invalid("a message's `role` must be system, user or assistant")


def _by_user(parts: list[Part]) -> list[Message]:
    content: list[TextPart | ImagePart] = []
    for part in parts:
        kind = part.get("type")
        if kind == "text":
            content.append(TextPart(_text(part)))
        elif kind == "file":
            content.append(_image(part))
        elif not _untold(kind):
            raise _invalid(f"a user's message cannot have a part of the type {str(kind)[:64]!r}")
    if len(content) == 1 and isinstance(content[0], TextPart):
        return [Message("user", content[0].text)]
    return [Message("user", content)] if content else []


def _by_assistant(parts: list[Part]) -> list[Message]:
    """One message of the model's for each step, with the results of its calls after it."""
    said: list[Message] = []
    step: list[Part] = []
    for part in [*parts, {"type": "step-start"}]:
        kind = part.get("type")
        if kind == "steering-message":  # what a person said meanwhile
            said += [*_step(step), *_by_user(_list(part.get("parts"), "parts"))]
            step = []
        elif kind == "step-start":
            said += _step(step)
            step = []
        elif kind == "text" or _is_tool(kind):
            step.append(part)
        elif kind != "file" and not _untold(kind):
            raise _invalid(f"an assistant's message cannot have a part of the type {str(kind)[:64]!r}")
    return said


def _step(parts: list[Part]) -> list[Message]:
    text = "".join(_text(part) for part in parts if part["type"] == "text")
    calls, results = [], []
    for part in parts:
        result = _result(part) if _is_tool(part["type"]) else None
        if result is not None:
            given = part.get("input", part.get("rawInput"))
            arguments = msgspec.json.encode({} if given is None else given).decode()
            calls.append(ToolCall(_call_id(part), _tool_name(part), arguments))
            results.append(result)
    if not text and not calls:
        return []
    return [Message("assistant", text, calls or None), *results]


def _result(part: Part) -> Message | None:
    """What a tool answered; None where it has not."""
    state = part.get("state")
    if state == "output-available":
        output = part.get("output")
        content = output if isinstance(output, str) else msgspec.json.encode(output).decode()
        return Message("tool", content, call_id=_call_id(part))
    if state == "output-error":
        return Message("tool", str(part.get("errorText") or "the tool failed"), call_id=_call_id(part), is_error=True)
    approval = part.get("approval")
    denied = isinstance(approval, dict) and approval.get("approved") is False
    if state == "output-denied" or (state == "approval-responded" and denied):
        reason = approval.get("reason") if isinstance(approval, dict) else None
        return Message("tool", str(reason or "the user denied this"), call_id=_call_id(part), is_error=True)
    return None


def _image(part: Part) -> ImagePart:
    """A file that a model can look at.  Raises EverstreamError `request.invalid` for any other."""
    url, kind = part.get("url"), str(part.get("mediaType") or "")
    if not isinstance(url, str) or not url:
        raise _invalid("a file needs a `url`: an address, or a data URL")
    inline = _DATA_URL.fullmatch(url)
    kind = inline[1] if inline else kind
    if not kind.startswith("image"):
        raise _invalid(f"files of the type {kind[:64]!r} are not taken: only images are")
    if inline:
        return ImagePart(data=inline[2], media_type=kind)
    if not url.startswith(("https://", "http://")):
        raise _invalid("a file's `url` must be an http address or a base64 data URL")
    return ImagePart(url=url)


# ---------------------------------------------------------------------- the same parts as chunks


def _chunks(parts: list[Part]) -> Iterator[Chunk]:
    for number, part in enumerate(parts):
        kind, name = part.get("type"), f"earlier-{number}"
        if kind in ("text", "reasoning"):
            yield {"type": f"{kind}-start", "id": name}
            yield {"type": f"{kind}-delta", "id": name, "delta": _text(part)}
            yield {"type": f"{kind}-end", "id": name}
        elif _is_tool(kind):
            yield from _call_chunks(part)
        elif kind == "step-start":
            yield {"type": "start-step"}
        else:  # such a part has the same fields as its chunk
            yield part


def _call_chunks(part: Part) -> Iterator[Chunk]:
    """A call and its result.  That it is whole is not said where there is one: the client would carry it out again."""
    call: Chunk = {"toolCallId": _call_id(part)}
    begun: Chunk = {"type": "tool-input-start", **call, "toolName": _tool_name(part)}
    for name in ("title", "toolMetadata", "providerExecuted"):
        if part.get(name) is not None:
            begun[name] = part[name]
    if part["type"] == "dynamic-tool":
        begun["dynamic"] = True
    yield begun
    if part.get("input") is not None:
        text = msgspec.json.encode(part["input"]).decode()
        yield {"type": "tool-input-delta", **call, "inputTextDelta": text}
    state = part.get("state")
    if state == "output-available":
        yield {"type": "tool-output-available", **call, "output": part.get("output")}
    elif state == "output-error":
        yield {"type": "tool-output-error", **call, "errorText": str(part.get("errorText") or "")}
    elif state == "output-denied":
        yield {"type": "tool-output-denied", **call}
    elif state == "input-available":
        yield {**begun, "type": "tool-input-available", "input": part.get("input")}


# ---------------------------------------------------------------------- fields


def _is_tool(kind: Any) -> bool:
    return isinstance(kind, str) and (kind == "dynamic-tool" or kind.startswith("tool-"))


def _untold(kind: Any) -> bool:
    return isinstance(kind, str) and (kind in _UNTOLD or kind.startswith("data-"))


def _tool_name(part: Part) -> str:
    name = part.get("toolName") if part["type"] == "dynamic-tool" else part["type"].removeprefix("tool-")
    if not isinstance(name, str) or not name:
        raise _invalid("a part of a dynamic tool needs its `toolName`")
    return name


def _call_id(part: Part) -> str:
    call_id = part.get("toolCallId")
    if not isinstance(call_id, str) or not call_id:
        raise _invalid("a part of a tool needs its `toolCallId`")
    return call_id


def _text(part: Part) -> str:
    text = part.get("text")
    if not isinstance(text, str):
        raise _invalid(f"a part of the type {part.get('type')!r} needs `text`")
    return text


def _id(body: dict[str, Any], name: str) -> str:
    given = body.get(name)
    if given is None:
        return ""
    if not isinstance(given, str) or len(given) > ID_CHARS_MAX:
        raise _invalid(f"`{name}` is text of at most {ID_CHARS_MAX} characters")
    return given


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
        raise _invalid(f"`{name}` must be a list of objects")
    return value


def _invalid(message: str) -> EverstreamError:
    return EverstreamError("request.invalid", message)
