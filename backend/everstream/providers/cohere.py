"""Cohere's models, by version 2 of its chat API.

It is asked without a package (`http_direct`); `cohere_body` writes what is asked, `cohere_api` reads the answers.
The API is close to OpenAI's chat completions, from which messages and tools are taken; what it calls otherwise:

    top_p  p      stop  stop_sequences      tool_choice  AUTO (by leaving it out), REQUIRED, NONE
    thinking  {"type": "enabled" or "disabled", "token_budget": tokens}

A function cannot be chosen by name, so where one is, it is the only one that is offered.
"""

from __future__ import annotations

from typing import Any

from everstream.core.events import ImagePart, Message, Request
from everstream.providers.base import ModelInfo, Progress
from everstream.providers.carry_ladder import Rung
from everstream.providers.carry_policy import Dialect, Policy
from everstream.providers.chat_request import chosen_function, function_of, image_url
from everstream.providers.cohere_api import CohereFold
from everstream.providers.http_direct import DirectProvider
from everstream.providers.http_provider import Asking

BASE_URL = "https://api.cohere.com"
MODELS = (
    "command-a-reasoning-08-2025",
    "command-a-03-2025",
    "command-a-vision-07-2025",
    "command-r7b-12-2024",
    "command-r-plus-08-2024",
    "command-r-08-2024",
)

_BUDGETS = {"minimal": 512, "low": 1024, "medium": 4096, "high": 16384, "xhigh": 24576, "max": 31999}  # tokens
_OFF = ("none", "off", "disabled")
_NOT_SENT = ("api", "background", "stream_options")


class CohereProvider(DirectProvider):
    """A provider (see `base.Provider`).  Its arguments are those of `HttpProvider`."""

    name = "cohere"
    api = "cohere"
    address = BASE_URL
    why_not = "set COHERE_API_KEY"

    async def models(self) -> list[ModelInfo]:
        """The models worth offering.  Others may be asked for by name all the same."""
        endpoint, why_not = self._endpoint, self._endpoint.hindrance
        return [
            ModelInfo(
                f"{self.name}/{model}",
                why_not is None,
                self._expected(model),
                why_not,
                thinking="reasoning" in model if endpoint.thinking is None else endpoint.thinking,
                tools="vision" not in model if endpoint.tools is None else endpoint.tools,
                images="vision" in model if endpoint.images is None else endpoint.images,
            )
            for model in endpoint.models or MODELS
        ]

    def _dialect(self, request: Request) -> Dialect:
        return "cohere"

    def _ask(self, request: Request) -> Asking:
        body = cohere_body(request)
        return Asking(lambda: self._open("/v2/chat", body), CohereFold(self.name, self._endpoint.untaken(body)))

    def _ask_begun(self, way: Rung, request: Request, policy: Policy, progress: Progress) -> Asking:
        return self._ask(request)


def cohere_body(request: Request) -> dict[str, Any]:
    """The JSON body.  docs.cohere.com, API reference, "Chat with Streaming"."""
    params = request.params
    messages = [_message(message) for message in request.messages]
    if params.system:
        messages.insert(0, {"role": "system", "content": params.system})
    body: dict[str, Any] = {"model": request.model_name, "messages": messages}
    for ours, theirs in (
        ("max_tokens", "max_tokens"),
        ("temperature", "temperature"),
        ("top_p", "p"),
        ("seed", "seed"),
    ):
        value = getattr(params, ours)
        if value is not None:
            body[theirs] = value
    if params.stop:
        body["stop_sequences"] = [params.stop] if isinstance(params.stop, str) else params.stop
    if params.tools:
        _offer(body, request)
    if params.thinking is not None:
        body["thinking"] = _thinking(params.thinking)
    body.update((key, value) for key, value in request.extra.items() if key not in _NOT_SENT)
    body["stream"] = True
    return body


def _offer(body: dict[str, Any], request: Request) -> None:
    tools, choice = request.params.tools or [], request.params.tool_choice
    name = None if choice is None else chosen_function(choice)
    body["tools"] = [
        {"type": "function", "function": function_of(tool)} for tool in tools if name is None or tool.name == name
    ]
    if name is not None or choice in ("required", "any"):
        body["tool_choice"] = "REQUIRED"
    elif choice == "none":
        body["tool_choice"] = "NONE"


def _thinking(thinking: bool | str | dict[str, Any]) -> dict[str, Any]:
    if isinstance(thinking, dict):
        effort = thinking.get("effort")
        if not isinstance(effort, str):
            return thinking
        thinking = effort
    if thinking is False or thinking in _OFF:
        return {"type": "disabled"}
    budget = _BUDGETS.get(thinking) if isinstance(thinking, str) else None
    return {"type": "enabled", **({} if budget is None else {"token_budget": budget})}


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
    told: dict[str, Any] = {"role": message.role}
    if content or not message.tool_calls:
        told["content"] = content
    if message.tool_calls:
        told["tool_calls"] = [
            {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return told
