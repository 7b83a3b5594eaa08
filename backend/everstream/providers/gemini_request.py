"""The dialect of Gemini's generateContent: what is asked.

`generate_body` writes a request as that API's JSON (ai.google.dev/api/generate-content).  The API has turns of `user`
and `model`; results of tools belong to the user's, system messages stand apart, and turns in a row of one side are one.

Parameters that only the provider knows go in untouched, under their own names or in snake case: what the API has at
the top of its body goes there, everything else into `generationConfig`.  OpenAI's `response_format` and `n` are put in
Gemini's words, for many callers know no others.

How much a model thinks is told by a level from Gemini 3 on, and by a budget of tokens before.  Pro models think in any
case, so for them "not" means as little as they can.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Callable
from typing import Any

import msgspec

from everstream.core.events import ImagePart, Message, Request, TextPart
from everstream.providers.chat_request import chosen_function, function_of

# Any model takes this for a signature that is lost: ai.google.dev/gemini-api/docs/thought-signatures, "FAQs".
SIGNATURE_LOST = "skip_thought_signature_validator"

_NEWEST = (99, 0)  # what an alias such as gemini-flash-latest stands for
_BUDGET_TOKENS = {"minimal": 512, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576, "max": 24576}
_LEVELS = ("minimal", "low", "medium", "high", "xhigh")
_OFF = ("none", "off", "disabled")
_BUDGET_LEAST_PRO = 128

_TOP = frozenset(
    {
        "cachedContent",
        "contents",
        "labels",
        "model",
        "safetySettings",
        "serviceTier",
        "store",
        "systemInstruction",
        "toolConfig",
        "tools",
    }
)
_NOT_SENT = ("api", "background", "stream", "stream_options", "generation_config", "generationConfig", "n")
_GENERATION = re.compile(r"gemini-(\d{1,2})(?:\.(\d{1,2}))?(?![\d])")
_DATA_URL = re.compile(r"data:([\w.+/-]+);base64,(.*)", re.DOTALL)
_SNAKE = re.compile(r"_([a-z0-9])")

SignatureOf = Callable[[str], str | None]


def generation(model: str) -> tuple[int, int]:
    """A Gemini model's generation, (3, 5) for gemini-3.5-flash; (0, 0) for a name that is none of Gemini's."""
    found = _GENERATION.search(model)
    if found is not None:
        return int(found[1]), int(found[2] or 0)
    return _NEWEST if re.search(r"gemini-[\w-]*latest", model) else (0, 0)


def generate_body(request: Request, signature_of: SignatureOf) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The JSON body, and warnings about what could not be said in it.

    `signature_of` knows the signatures of earlier tool calls by their ids.
    """
    params = request.params
    warnings: list[str] = []
    turns = _Turns(request, signature_of)
    body: dict[str, Any] = {"contents": turns.contents}
    system = "\n\n".join(text for text in (params.system, *turns.system) if text)
    if system:
        body["systemInstruction"] = {"parts": [{"text": system}]}
    if params.tools:
        declared = [function_of(tool) for tool in params.tools]
        body["tools"] = [
            {
                "functionDeclarations": [
                    {"parametersJsonSchema" if key == "parameters" else key: value for key, value in function.items()}
                    for function in declared
                ]
            }
        ]
    if params.tool_choice is not None:
        body["toolConfig"] = {"functionCallingConfig": _calling(params.tool_choice)}
    said = {
        "maxOutputTokens": params.max_tokens,
        "temperature": params.temperature,
        "topP": params.top_p,
        "seed": params.seed,
    }
    config: dict[str, Any] = {key: value for key, value in said.items() if value is not None}
    if params.stop:
        config["stopSequences"] = [params.stop] if isinstance(params.stop, str) else params.stop
    if params.thinking is not None:
        told = _thinking(params.thinking, request.model_name, warnings)
        if told:
            config["thinkingConfig"] = told
    _add_extra(body, config, request.extra)
    if config:
        body["generationConfig"] = config
    return body, tuple(warnings)


def _add_extra(body: dict[str, Any], config: dict[str, Any], extra: dict[str, Any]) -> None:
    for key in ("generation_config", "generationConfig"):
        if isinstance(extra.get(key), dict):
            config.update({_camel(name): value for name, value in extra[key].items()})
    if isinstance(extra.get("n"), int):
        config["candidateCount"] = extra["n"]
    for key, value in extra.items():
        name = _camel(key)
        if key in _NOT_SENT:
            continue
        if name == "responseFormat":
            config.update(_format(value))
        elif name == "tools" and isinstance(value, list):
            body["tools"] = [*body.get("tools", ()), *value]
        elif name in _TOP:
            body[name] = value
        else:
            config[name] = value


def _camel(name: str) -> str:
    return _SNAKE.sub(lambda found: found[1].upper(), name)


def _format(said: Any) -> dict[str, Any]:
    """OpenAI's `response_format` in Gemini's words; anything else is left as it is."""
    kind = said.get("type") if isinstance(said, dict) else None
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"responseMimeType": "application/json"}
    if kind == "json_schema":
        inner = said.get("json_schema")
        schema = inner.get("schema") if isinstance(inner, dict) else said.get("schema")
        return {"responseMimeType": "application/json", **({"responseJsonSchema": schema} if schema else {})}
    return {"responseFormat": said}


def _calling(choice: str | dict[str, Any]) -> dict[str, Any]:
    name = chosen_function(choice)
    if name is not None:
        return {"mode": "ANY", "allowedFunctionNames": [name]}
    if isinstance(choice, dict):
        return choice
    return {"mode": "ANY" if choice in ("required", "any") else choice.upper()}


# --------------------------------------------------------------------------- thinking


def level_of(thinking: bool | str, model: str) -> str | None:
    """How much a model from Gemini 3 on is to think; None: as it likes."""
    if thinking is True:
        return None
    if thinking is False or thinking in _OFF:
        return "low" if "-pro" in model else "minimal"
    return "xhigh" if thinking == "max" else thinking


def _thinking(thinking: bool | str | dict[str, Any], model: str, warnings: list[str]) -> dict[str, Any]:
    if isinstance(thinking, dict):
        return _thinking_as_told(thinking, model, warnings)
    made = generation(model)
    off = thinking is False or thinking in _OFF
    if (0, 0) < made < (2, 5):
        if not off:
            warnings.append(f"{model} does not think; thinking was left out")
        return {}
    if isinstance(thinking, str) and not off and thinking not in _BUDGET_TOKENS:
        warnings.append(f"thinking {thinking[:40]!r} is unknown; the model decides how much it thinks")
        thinking = True
    if made < (3, 0):
        if off:
            return {"thinkingBudget": _BUDGET_LEAST_PRO if "-pro" in model else 0}
        budget = -1 if thinking is True else _BUDGET_TOKENS[str(thinking)]
        return {"includeThoughts": True, "thinkingBudget": budget}
    level = level_of(thinking, model)
    return {**({} if off else {"includeThoughts": True}), **({} if level is None else {"thinkingLevel": level.upper()})}


def _thinking_as_told(told: dict[str, Any], model: str, warnings: list[str]) -> dict[str, Any]:
    """The other vendors' words for it (`type`, `budget_tokens`, `effort`) and Gemini's own, in either spelling."""
    rest = {_camel(key): value for key, value in told.items()}
    kind = rest.pop("type", None)
    effort = rest.pop("effort", None)
    if kind == "disabled" or effort in _OFF:
        return _thinking(False, model, warnings)
    budget = rest.pop("budgetTokens", None)
    if budget is not None:
        rest.setdefault("thinkingBudget", budget)
    level = rest.get("thinkingLevel")
    if isinstance(level, str):
        rest["thinkingLevel"] = level.upper()
    rest.setdefault("includeThoughts", True)
    if isinstance(effort, str) and "thinkingBudget" not in rest and "thinkingLevel" not in rest:
        rest = {**_thinking(effort, model, warnings), **rest}
    return rest


# --------------------------------------------------------------------------- turns


class _Turns:
    """The conversation as `contents`, and what stands apart from it."""

    def __init__(self, request: Request, signature_of: SignatureOf) -> None:
        self.contents: list[dict[str, Any]] = []
        self.system: list[str] = []
        self._signature_of = signature_of
        self._with_ids = generation(request.model_name) >= (3, 0)
        self._names: dict[str, str] = {}  # of the calls so far, by id
        for message in request.messages:
            if message.role == "system":
                self.system.append("".join(part.text for part in parts_of(message) if isinstance(part, TextPart)))
            elif message.role == "tool":
                self._add("user", self._result(message))
            elif message.role == "assistant":
                self._add("model", [*_blocks(message), *self._calls(message)])
            else:
                self._add("user", _blocks(message))

    def _add(self, role: str, parts: list[dict[str, Any]]) -> None:
        if not parts:
            return
        if self.contents and self.contents[-1]["role"] == role:
            self.contents[-1]["parts"].extend(parts)
        else:
            self.contents.append({"role": role, "parts": parts})

    def _calls(self, message: Message) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []
        for call in message.tool_calls or ():
            self._names[call.call_id] = call.name
            told: dict[str, Any] = {"name": call.name, "args": object_of(call.arguments, "arguments")}
            if self._with_ids and call.call_id:
                told["id"] = call.call_id
            part: dict[str, Any] = {"functionCall": told}
            signature = self._signature_of(call.call_id)
            if signature is None and self._with_ids and not calls:
                signature = SIGNATURE_LOST  # the first call of a turn has to have one
            if signature is not None:
                part["thoughtSignature"] = signature
            calls.append(part)
        return calls

    def _result(self, message: Message) -> list[dict[str, Any]]:
        parts = parts_of(message)
        text = "".join(part.text for part in parts if isinstance(part, TextPart))
        call_id = message.call_id or ""
        response = object_of(text, "error" if message.is_error else "result")
        if message.is_error and "error" not in response:
            response = {"error": response}  # by that key the API knows that a function has failed
        told: dict[str, Any] = {"name": self._names.get(call_id, call_id), "response": response}
        if self._with_ids and call_id:
            told["id"] = call_id
        images = [_image(part) for part in parts if isinstance(part, ImagePart)]
        return [{"functionResponse": told}, *images]


def parts_of(message: Message) -> list[TextPart | ImagePart]:
    """A message's content as parts; an empty text is none."""
    if isinstance(message.content, str):
        return [TextPart(message.content)] if message.content else []
    return [part for part in message.content if isinstance(part, ImagePart) or part.text]


def object_of(text: str, name: str) -> dict[str, Any]:
    """JSON text as the object this API wants; what is none goes under a key of that name."""
    try:
        given = msgspec.json.decode(text or "{}")
    except msgspec.DecodeError:
        given = text
    return given if isinstance(given, dict) else {name: given}


def image_of(part: ImagePart) -> tuple[str | None, str | None, str | None]:
    """An image's media type, its base64 data and its address: one of the last two is set."""
    if part.url is None:
        return part.media_type or "image/png", part.data or "", None
    inline = _DATA_URL.fullmatch(part.url)
    if inline is not None:
        return inline[1], inline[2], None
    guessed = mimetypes.guess_type(part.url.partition("?")[0])[0]
    return part.media_type or guessed, None, part.url


def _blocks(message: Message) -> list[dict[str, Any]]:
    return [_image(part) if isinstance(part, ImagePart) else {"text": part.text} for part in parts_of(message)]


def _image(part: ImagePart) -> dict[str, Any]:
    kind, data, url = image_of(part)
    if url is None:
        return {"inlineData": {"mimeType": kind, "data": data}}
    return {"fileData": {**({"mimeType": kind} if kind else {}), "fileUri": url}}
