"""The dialect of Anthropic's Messages API: what is asked.

`messages_body` writes a request as that API's JSON, with the headers it needs.  The API is stricter than ours, so
some things are put in its order: system messages go to the front, results of tools belong to a user's turn, turns of
the same role are joined, empty texts are left out, and the last assistant text does not end in white space.

What a model takes depends on its generation, which its name tells:

    before 4.6   thinking with a budget; `temperature` and `top_p`
    4.6          thinking adapts by itself; `temperature` and `top_p`
    from 4.7     thinking adapts, and is only shown when `display` asks for it; no `temperature`, no `top_p`

The package speaks an API version that knows no sampling parameters at all, so a request that has them is sent in the
version before it.  A name that is not Claude's (another vendor behind the same API) is treated as before 4.6.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from everstream.core.events import ImagePart, Message, Request
from everstream.providers.chat_request import chosen_function

MAX_TOKENS_DEFAULT = 8192
VERSION_WITH_SAMPLING = "2023-06-01"

_BUDGET_TOKENS_MIN = 1024
_BUDGET_TOKENS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 24576, "max": 31999}
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_OFF = ("none", "off", "disabled")

_GENERATION = re.compile(r"claude-(?:[a-z]+-)?(\d{1,2})(?:[.-](\d{1,2}))?(?![\d])")
_DATA_URL = re.compile(r"data:([\w.+/-]+);base64,(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class MessagesRequest:
    body: dict[str, Any]
    headers: dict[str, str]
    warnings: tuple[str, ...]


def generation(model: str) -> tuple[int, int]:
    """A Claude model's generation, (4, 7) for claude-opus-4-7; (0, 0) for any other name."""
    found = _GENERATION.search(model)
    return (int(found[1]), int(found[2] or 0)) if found else (0, 0)


def messages_body(request: Request) -> MessagesRequest:
    """The JSON body, the headers beside the package's own, and warnings about what could not be said."""
    params, model = request.params, request.model_name
    warnings: list[str] = []
    system, turns = _turns(request.messages)
    system = "\n\n".join(text for text in (params.system, system) if text)
    body: dict[str, Any] = {"model": model, "max_tokens": params.max_tokens or MAX_TOKENS_DEFAULT, "messages": turns}
    if system:
        body["system"] = system
    if params.stop:
        body["stop_sequences"] = [params.stop] if isinstance(params.stop, str) else params.stop
    if params.seed is not None:
        warnings.append("seed is unknown to this API and was left out")
    if params.tools:
        body["tools"] = [
            {
                "name": tool.name,
                **({"description": tool.description} if tool.description else {}),
                "input_schema": tool.parameters or {"type": "object", "properties": {}},
            }
            for tool in params.tools
        ]
    if params.tool_choice is not None:
        body["tool_choice"] = _tool_choice(params.tool_choice)
    if params.thinking is not None:
        _think(body, request, warnings)
    headers = _sample(body, request, warnings)
    body.update(request.extra)
    body["stream"] = True
    return MessagesRequest(body, headers, tuple(warnings))


def _sample(body: dict[str, Any], request: Request, warnings: list[str]) -> dict[str, str]:
    thinks = body.get("thinking", {}).get("type", "disabled") != "disabled"
    headers: dict[str, str] = {}
    for key in ("temperature", "top_p"):
        value = getattr(request.params, key)
        if value is None:
            continue
        if generation(request.model_name) >= (4, 7):
            warnings.append(f"{key} is not taken by {request.model_name} and was left out")
        elif thinks:
            warnings.append(f"{key} does not go together with thinking and was left out")
        else:
            body[key] = value
            headers["anthropic-version"] = VERSION_WITH_SAMPLING
    return headers


def _think(body: dict[str, Any], request: Request, warnings: list[str]) -> None:
    thinking = request.params.thinking
    model = generation(request.model_name)
    if thinking is False or thinking in _OFF:
        body["thinking"] = {"type": "disabled"}
        return
    if isinstance(thinking, dict):
        told = dict(thinking)
        effort = told.pop("effort", None)
        if effort is not None:
            body["output_config"] = {"effort": effort}
            told.setdefault("type", "adaptive")
        if model >= (4, 7) and told.get("type") in ("adaptive", "enabled"):
            told.setdefault("display", "summarized")
        body["thinking"] = told
    elif model >= (4, 6):
        body["thinking"] = {"type": "adaptive", **({"display": "summarized"} if model >= (4, 7) else {})}
        if isinstance(thinking, str):
            effort = "low" if thinking == "minimal" else thinking
            if effort in _EFFORTS:
                body["output_config"] = {"effort": effort}
            else:
                warnings.append(f"thinking {effort[:40]!r} is unknown; the model decides how much it thinks")
    else:
        _budget(body, request, warnings)


def _budget(body: dict[str, Any], request: Request, warnings: list[str]) -> None:
    """Thinking with a budget, which must be smaller than `max_tokens` and at least 1,024 tokens."""
    thinking = request.params.thinking
    budget = _BUDGET_TOKENS.get(thinking if isinstance(thinking, str) else "medium", _BUDGET_TOKENS["medium"])
    if request.params.max_tokens is None:
        body["max_tokens"] = MAX_TOKENS_DEFAULT + budget
    elif request.params.max_tokens <= _BUDGET_TOKENS_MIN:
        warnings.append("max_tokens leaves no room for thinking; it was left out")
        return
    else:
        budget = max(_BUDGET_TOKENS_MIN, min(budget, request.params.max_tokens // 2))
    body["thinking"] = {"type": "enabled", "budget_tokens": budget}


def _turns(messages: list[Message]) -> tuple[str, list[dict[str, Any]]]:
    """The system text, and the turns as alternating user and assistant blocks."""
    system: list[str] = []
    turns: list[dict[str, Any]] = []
    for message in messages:
        if message.role == "system":
            system.append(_plain(message))
            continue
        role = "assistant" if message.role == "assistant" else "user"
        blocks = _blocks(message)
        if not blocks:
            continue
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"].extend(blocks)
        else:
            turns.append({"role": role, "content": blocks})
    for turn in turns:
        if turn["role"] == "user":  # results of tools come first in their turn, or the API refuses it
            turn["content"].sort(key=lambda block: block["type"] != "tool_result")
    if turns and turns[-1]["role"] == "assistant" and turns[-1]["content"][-1]["type"] == "text":
        last = turns[-1]["content"][-1]
        last["text"] = last["text"].rstrip()
        if not last["text"]:
            turns[-1]["content"].pop()
            if not turns[-1]["content"]:
                turns.pop()
    for turn in turns:
        content = turn["content"]
        if len(content) == 1 and content[0]["type"] == "text":
            turn["content"] = content[0]["text"]
    return "\n\n".join(text for text in system if text), turns


def _blocks(message: Message) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    if isinstance(message.content, str):
        if message.content:
            blocks.append({"type": "text", "text": message.content})
    else:
        for part in message.content:
            if isinstance(part, ImagePart):
                blocks.append({"type": "image", "source": _image(part)})
            elif part.text:
                blocks.append({"type": "text", "text": part.text})
    if message.role == "tool":
        content: Any = message.content if isinstance(message.content, str) else blocks
        failed = {"is_error": True} if message.is_error else {}
        return [{"type": "tool_result", "tool_use_id": message.call_id or "", "content": content, **failed}]
    blocks += [
        {"type": "tool_use", "id": call.call_id, "name": call.name, "input": _input(call.arguments)}
        for call in message.tool_calls or ()
    ]
    return blocks


def _input(arguments: str) -> Any:
    """Arguments as the object this API wants; a text that is no object is handed over under one key, not lost."""
    try:
        given = msgspec.json.decode(arguments or "{}")
    except msgspec.DecodeError:
        given = None
    return given if isinstance(given, dict) else {"arguments": arguments}


def _image(part: ImagePart) -> dict[str, Any]:
    if part.url is not None:
        inline = _DATA_URL.fullmatch(part.url)
        if inline is None:
            return {"type": "url", "url": part.url}
        return {"type": "base64", "media_type": inline[1], "data": inline[2]}
    return {"type": "base64", "media_type": part.media_type or "image/png", "data": part.data or ""}


def _plain(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    return "".join(part.text for part in message.content if not isinstance(part, ImagePart))


def _tool_choice(choice: str | dict[str, Any]) -> dict[str, Any]:
    name = chosen_function(choice)
    if name is not None:
        return {"type": "tool", "name": name}
    if isinstance(choice, dict):
        return choice
    return {"type": "any" if choice in ("required", "any") else choice}
