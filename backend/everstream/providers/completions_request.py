"""A conversation as one text, for models and servers that only write on: what is asked of them.

A prompt is what was said, and nothing is added to a single message: whoever asks a base model writes the beginning
himself.  Instructions stand before it, with a blank line between.  Only where several took turns does each turn say
whose it is, and the text ends where the next one has to speak.

An assistant's turn at the end is one that is not finished.  Its text is the end of the prompt, so an answer that broke
off is carried on by the same request with what was said of it at the end.
"""

from __future__ import annotations

from typing import Any

from everstream.core.events import ImagePart, Message, Request

_SPEAKERS = {"user": "User", "assistant": "Assistant", "tool": "Tool"}


def plain_body(request: Request) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The body for `/completions`, and warnings about what could not be said in it.

    platform.openai.com, API reference, "Completions (legacy)".  `max_tokens` means 16 there where it is left out.
    """
    params = request.params
    prompt, warnings = prompt_of(request, system=params.system)
    body: dict[str, Any] = {"model": request.model_name, "prompt": prompt}
    for key in ("max_tokens", "temperature", "top_p", "stop", "seed"):
        value = getattr(params, key)
        if value is not None:
            body[key] = value
    if params.tools:
        warnings += ("tools are unknown to this API and were left out",)
    if params.thinking:
        warnings += ("thinking is unknown to this API and was left out",)
    body.update((key, value) for key, value in request.extra.items() if key not in ("api", "background", "prompt"))
    body["stream"] = True
    options = request.extra.get("stream_options")
    body["stream_options"] = {"include_usage": True, **(options if isinstance(options, dict) else {})}
    return body, warnings


def prompt_of(request: Request, *, system: str | None = None) -> tuple[str, tuple[str, ...]]:
    """The prompt, and warnings.  `prompt` among the request's own parameters is taken as it is."""
    turns = [message for message in request.messages if message.role != "system"]
    unfinished = ""
    if turns and turns[-1].role == "assistant":
        unfinished = _text(turns.pop())
    given = request.extra.get("prompt")
    if isinstance(given, str):
        return given + unfinished, ()
    said = [_text(message) for message in request.messages if message.role == "system"]
    parts = [text for text in (system, *said) if text]
    if len(turns) == 1:
        prompt = "\n\n".join((*parts, _text(turns[0]))) + unfinished
    else:
        parts += [f"{_SPEAKERS[message.role]}: {_text(message)}" for message in turns]
        prompt = "\n\n".join((*parts, "Assistant:")) + (f" {unfinished}" if unfinished else "")
    images = any(
        isinstance(part, ImagePart) for turn in turns if not isinstance(turn.content, str) for part in turn.content
    )
    return prompt, ("images are unknown to this API and were left out",) if images else ()


def _text(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    return "".join(part.text for part in message.content if not isinstance(part, ImagePart))
