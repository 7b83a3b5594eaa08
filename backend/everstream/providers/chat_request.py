"""The dialect of OpenAI's chat completions: what is asked.

`chat_body` writes a request as that API's JSON.  Towards OpenAI itself the body uses what is only known there
(`max_completion_tokens`, no obfuscation padding); towards every other server only what all of them understand.
Parameters that only a provider knows (`request.extra`) go in untouched and win over what was made here.
"""

from __future__ import annotations

from typing import Any

from everstream.core.events import ImagePart, Message, Request, Tool

_WITHOUT_THINKING = ("gpt-3", "gpt-4", "chatgpt", "gpt-audio", "gpt-realtime")
_MINIMAL_AT_LEAST = ("gpt-5", "gpt-5-mini", "gpt-5-nano")  # and their dated names: they cannot do without

EFFORT_DEFAULT = "medium"


def chat_body(request: Request, *, official: bool) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The JSON body, and warnings about what could not be said in it.

    `official` is true towards OpenAI's own address.
    """
    params = request.params
    warnings: list[str] = []
    messages = [_message(message) for message in request.messages]
    if params.system:
        messages.insert(0, {"role": "system", "content": params.system})
    stream_options: dict[str, Any] = {"include_usage": True}
    if official:
        stream_options["include_obfuscation"] = False  # padding in every chunk, on unless told otherwise
    body: dict[str, Any] = {"model": request.model_name, "messages": messages}
    if params.max_tokens is not None:
        body["max_completion_tokens" if official else "max_tokens"] = params.max_tokens
    for key in ("temperature", "top_p", "stop", "seed"):
        value = getattr(params, key)
        if value is not None:
            body[key] = value
    if params.tools:
        body["tools"] = [{"type": "function", "function": function_of(tool)} for tool in params.tools]
    if params.tool_choice is not None:
        body["tool_choice"] = _tool_choice(params.tool_choice)
    if params.thinking is not None:
        _think(body, request, official, warnings)
    body.update(request.extra)
    body["stream"] = True
    asked = request.extra.get("stream_options")
    body["stream_options"] = {**stream_options, **asked} if isinstance(asked, dict) else stream_options
    return body, tuple(warnings)


def image_url(part: ImagePart) -> str:
    """The address of an image; for inline data a `data:` URL."""
    if part.url is not None:
        return part.url
    return f"data:{part.media_type or 'image/png'};base64,{part.data or ''}"


def function_of(tool: Tool) -> dict[str, Any]:
    """A tool's name, description and schema; a tool without parameters takes an empty object."""
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = tool.parameters or {"type": "object", "properties": {}}
    return function


def chosen_function(choice: str | dict[str, Any]) -> str | None:
    """The name of the function a `tool_choice` insists on, in whatever dialect it was written; None: no such."""
    if isinstance(choice, str):
        return None if choice in ("auto", "none", "required", "any") else choice
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else choice.get("name")
    return name if isinstance(name, str) and choice.get("type") in ("function", "tool", None) else None


def thinks_always(model: str) -> bool:
    """Whether the model belongs to OpenAI's families that know `reasoning_effort`."""
    return not model.startswith(_WITHOUT_THINKING)


def effort_of(thinking: bool | str | dict[str, Any], model: str, *, official: bool) -> str | None:
    """`reasoning_effort` for what was asked; None: leave it out."""
    if isinstance(thinking, dict):
        effort = thinking.get("effort")
        return effort if isinstance(effort, str) else None
    if isinstance(thinking, str):
        return thinking
    if thinking:
        return EFFORT_DEFAULT
    if not official:
        return "none"
    if not thinks_always(model):
        return None
    if model[:1] == "o":
        return "low"
    family = model.split("-20")[0]
    return "minimal" if family in _MINIMAL_AT_LEAST else "none"


def _think(body: dict[str, Any], request: Request, official: bool, warnings: list[str]) -> None:
    thinking = request.params.thinking
    assert thinking is not None
    if isinstance(thinking, dict) and not official:
        # Two customs: OpenRouter's `reasoning`, and `thinking` with a type (DeepSeek, Z.ai, Moonshot).
        body["thinking" if "type" in thinking else "reasoning"] = thinking
        return
    effort = effort_of(thinking, request.model_name, official=official)
    if effort is not None:
        body["reasoning_effort"] = effort
    elif isinstance(thinking, dict):
        warnings.append("thinking: only its effort is known to this API; it was left out")


def _message(message: Message) -> dict[str, Any]:
    content: Any = message.content
    if not isinstance(content, str):
        content = [
            {"type": "image_url", "image_url": {"url": image_url(part)}}
            if isinstance(part, ImagePart)
            else {"type": "text", "text": part.text}
            for part in content
        ]
    if message.role == "tool":
        return {"role": "tool", "tool_call_id": message.call_id or "", "content": content}
    told: dict[str, Any] = {"role": message.role, "content": content}
    if message.tool_calls:
        told["content"] = content or None
        told["tool_calls"] = [
            {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return told


def _tool_choice(choice: str | dict[str, Any]) -> str | dict[str, Any]:
    name = chosen_function(choice)
    if name is not None:
        return {"type": "function", "function": {"name": name}}
    if choice == "any":
        return "required"
    return choice
