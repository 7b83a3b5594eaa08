"""The dialect of Ollama's own API: what is asked.

`chat_body` writes a request for `/api/chat`, `generate_body` for `/api/generate` (docs.ollama.com, API).  How a model
is to be sampled stands in `options` there; parameters that only Ollama knows (`request.extra`) go in untouched, those
that are options among the options.  `response_format`, as others call it, becomes `format`.

Images are sent as they are, in base64: the server fetches none, so one that is only an address is left out, with a
warning.  A tool's result is told by the tool's name, which is looked up in the call that it answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import msgspec

from everstream.core.events import ImagePart, Message, Params, Request
from everstream.providers.chat_request import chosen_function, function_of
from everstream.providers.completions_request import prompt_of

_OPTIONS = frozenset(  # docs.ollama.com, "Modelfile": parameters, and the runner's
    {
        "min_p",
        "mirostat",
        "mirostat_eta",
        "mirostat_tau",
        "num_batch",
        "num_ctx",
        "num_gpu",
        "num_keep",
        "num_predict",
        "num_thread",
        "frequency_penalty",
        "presence_penalty",
        "repeat_last_n",
        "repeat_penalty",
        "tfs_z",
        "top_k",
        "typical_p",
    }
)
_OURS = frozenset({"api", "background", "options", "prompt", "response_format", "stream_options"})
_EFFORTS = {"minimal": "low", "xhigh": "high", "max": "high"}  # the nearest that Ollama knows
_OFF = ("none", "off", "disabled")
_DATA_URL = re.compile(r"data:[\w.+/-]+;base64,(.*)", re.DOTALL)


def chat_body(request: Request) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The JSON body for `/api/chat`, and warnings about what could not be said in it."""
    params = request.params
    warnings: list[str] = []
    messages = _messages(request.messages, warnings)
    if params.system:
        messages.insert(0, {"role": "system", "content": params.system})
    body: dict[str, Any] = {"model": request.model_name, "messages": messages}
    if params.tools and params.tool_choice != "none":
        body["tools"] = [{"type": "function", "function": function_of(tool)} for tool in params.tools]
        if params.tool_choice not in (None, "auto"):
            name = chosen_function(params.tool_choice)
            warnings.append(f"tool_choice is unknown to Ollama: the model may not call {name or 'a tool'}")
    _finish(body, request)
    return body, tuple(warnings)


def generate_body(request: Request) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The JSON body for `/api/generate`.  With `raw` among the parameters, the prompt is all that the model sees."""
    params = request.params
    raw = bool(request.extra.get("raw"))
    prompt, _ = prompt_of(request, system=params.system if raw else None)
    body: dict[str, Any] = {"model": request.model_name, "prompt": prompt}
    if params.system and not raw:
        body["system"] = params.system
    warnings: list[str] = []
    images = [image for message in request.messages for image in _images(message, warnings)]
    if images:
        body["images"] = images
    if params.tools:
        warnings.append("tools are unknown to /api/generate and were left out")
    _finish(body, request)
    return body, tuple(warnings)


def _finish(body: dict[str, Any], request: Request) -> None:
    options = _options(request.params)
    for key, value in request.extra.items():
        if key in _OPTIONS:
            options[key] = value
        elif key not in _OURS:
            body[key] = value
    asked = request.extra.get("options")
    if isinstance(asked, dict):
        options.update(asked)
    if options:
        body["options"] = options
    thinking = request.params.thinking
    if thinking is not None:
        body.setdefault("think", _think(thinking))
    wanted = _format(request.extra.get("response_format"))
    if wanted is not None:
        body.setdefault("format", wanted)
    body["stream"] = True


def _options(params: Params) -> dict[str, Any]:
    stop = [params.stop] if isinstance(params.stop, str) else params.stop
    said = {
        "num_predict": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "seed": params.seed,
        "stop": stop,
    }
    return {key: value for key, value in said.items() if value is not None}


def _think(thinking: bool | str | dict[str, Any]) -> bool | str:
    if isinstance(thinking, dict):
        thinking = thinking.get("effort") or thinking.get("type") not in _OFF
    if isinstance(thinking, str):
        return False if thinking in _OFF else _EFFORTS.get(thinking, thinking)
    return bool(thinking)


def _format(wanted: Any) -> Any:
    """`format` for what others call `response_format`: "json", or a schema; None: any text."""
    if not isinstance(wanted, dict) or wanted.get("type") in (None, "text"):
        return None
    told = wanted.get("json_schema")
    schema = told.get("schema") if isinstance(told, dict) else wanted.get("schema")
    return schema if isinstance(schema, dict) else "json"


def _messages(messages: Iterable[Message], warnings: list[str]) -> list[dict[str, Any]]:
    names: dict[str, str] = {}  # of the tools called, by the calls' ids
    told: list[dict[str, Any]] = []
    for message in messages:
        content = message.content
        if not isinstance(content, str):
            content = "".join(part.text for part in content if not isinstance(part, ImagePart))
        turn: dict[str, Any] = {"role": message.role, "content": content}
        images = _images(message, warnings)
        if images:
            turn["images"] = images
        if message.tool_calls:
            names.update((call.call_id, call.name) for call in message.tool_calls)
            turn["tool_calls"] = [
                {"id": call.call_id, "function": {"name": call.name, "arguments": _object(call.arguments)}}
                for call in message.tool_calls
            ]
        if message.role == "tool":
            turn["tool_call_id"] = message.call_id or ""
            if message.call_id in names:
                turn["tool_name"] = names[message.call_id]
        told.append(turn)
    return told


def _images(message: Message, warnings: list[str]) -> list[str]:
    if isinstance(message.content, str):
        return []
    found: list[str] = []
    for part in message.content:
        if isinstance(part, ImagePart):
            inline = _DATA_URL.fullmatch(part.url) if part.url is not None else None
            data = inline[1] if inline is not None else part.data
            if data:
                found.append(data)
            else:
                warnings.append("Ollama fetches no images: one that is only an address was left out")
    return found


def _object(arguments: str) -> dict[str, Any]:
    """Arguments as the object this API wants; a text that is no object is handed over under one key, not lost."""
    try:
        given = msgspec.json.decode(arguments or "{}")
    except msgspec.DecodeError:
        given = None
    return given if isinstance(given, dict) else {"arguments": arguments}
