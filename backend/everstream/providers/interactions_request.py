"""The dialect of Gemini's Interactions API: what is asked (ai.google.dev/api/interactions-api).

A conversation is a list of steps: what the user put in, what the model put out, function calls and their results.  The
same body is for models and for agents; the latter (Deep Research) work alone for minutes, by no parameters of ours.
"""

from __future__ import annotations

from typing import Any

from everstream.core.events import ImagePart, Message, Request, TextPart
from everstream.providers.chat_request import chosen_function, function_of
from everstream.providers.gemini_request import image_of, level_of, object_of, parts_of

_CONFIG = ("thinking_level", "thinking_summaries", "speech_config", "transcription_config", "video_config")


def interaction_body(request: Request, *, agent: bool) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The JSON body, and warnings about what could not be said in it.  `agent`: the model is one that works alone."""
    params = request.params
    warnings: list[str] = []
    names: dict[str, str] = {}
    steps = [step for message in request.messages if message.role != "system" for step in _steps(message, names)]
    system = [
        part.text
        for message in request.messages
        if message.role == "system"
        for part in parts_of(message)
        if isinstance(part, TextPart)
    ]
    body: dict[str, Any] = {"agent" if agent else "model": request.model_name, "input": steps}
    told = "\n\n".join(text for text in (params.system, *system) if text)
    if told:
        body["system_instruction"] = told
    if params.tools:
        body["tools"] = [{"type": "function", **function_of(tool)} for tool in params.tools]
    said = {
        "max_output_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "seed": params.seed,
        "stop_sequences": [params.stop] if isinstance(params.stop, str) else params.stop,
    }
    config: dict[str, Any] = {key: value for key, value in said.items() if value is not None}
    if params.tool_choice is not None:
        config["tool_choice"] = _choice(params.tool_choice)
    config.update(_thinking(request))
    extra = {key: value for key, value in request.extra.items() if key not in ("api", "stream", "stream_options")}
    config.update({key: extra.pop(key) for key in _CONFIG if key in extra})
    given = extra.pop("generation_config", None)
    config.update(given if isinstance(given, dict) else {})
    if agent and config:
        warnings.append(f"{', '.join(sorted(config))}: an agent takes none of it; it was left out")
    elif config:
        body["generation_config"] = config
    body.update(extra)
    body["stream"] = True
    return body, tuple(warnings)


def _steps(message: Message, names: dict[str, str]) -> list[dict[str, Any]]:
    content = [
        _image(part) if isinstance(part, ImagePart) else {"type": "text", "text": part.text}
        for part in parts_of(message)
    ]
    if message.role == "tool":
        call_id = message.call_id or ""
        result: Any = message.content if isinstance(message.content, str) else content
        named = {"name": names[call_id]} if call_id in names else {}
        failed = {"is_error": True} if message.is_error else {}
        return [{"type": "function_result", "call_id": call_id, **named, "result": result, **failed}]
    if message.role == "user":
        return [{"type": "user_input", "content": content}] if content else []
    steps: list[dict[str, Any]] = [{"type": "model_output", "content": content}] if content else []
    for call in message.tool_calls or ():
        names[call.call_id] = call.name
        arguments = object_of(call.arguments, "arguments")
        steps.append({"type": "function_call", "id": call.call_id, "name": call.name, "arguments": arguments})
    return steps


def _image(part: ImagePart) -> dict[str, Any]:
    kind, data, url = image_of(part)
    named = {"mime_type": kind} if kind else {}
    return {"type": "image", **named, **({"data": data} if url is None else {"uri": url})}


def _choice(choice: str | dict[str, Any]) -> Any:
    name = chosen_function(choice)
    if name is not None:
        return {"allowed_tools": {"mode": "any", "tools": [name]}}
    return "any" if choice == "required" else choice


def _thinking(request: Request) -> dict[str, Any]:
    thinking = request.params.thinking
    if thinking is None:
        return {}
    if isinstance(thinking, dict):
        level = thinking.get("effort", thinking.get("thinking_level", thinking.get("level")))
        if thinking.get("type") == "disabled":
            level = "none"
        thinking = level if isinstance(level, str) else True
    level = level_of(thinking, request.model_name)
    off = thinking is False or thinking in ("none", "off", "disabled")
    return {"thinking_summaries": "none" if off else "auto", **({"thinking_level": level} if level else {})}
