"""What a service of the OpenAI dialect says of the models that it has.

The dialect's own list tells names and an owner.  Many tell more, each under names of its own, and some list what does
not chat (embeddings, speech, pictures).  `listed_models` keeps what chats, and of the rest what is said in so many
words: what nobody says is unknown, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

LISTED_MAX = 500

# Names of models that answer no chat, where the list does not say so itself.
_OTHER_KINDS = re.compile(
    r"embed|whisper|tts|transcri|moderation|rerank|dall-e|imagen?-|-ocr|ocr-|flux|stable-diffusion|voxtral|orpheus"
    r"|prompt-guard|llama-guard|safeguard|video|realtime|-audio|speech",
    re.IGNORECASE,
)
_OTHER_TYPES = re.compile(r"embed|image|audio|video|rerank|moderation|transcri|speech|tts", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Listed:
    """A model of a list; None where nothing is said.  `owner` is "" then."""

    id: str
    owner: str = ""
    thinking: bool | None = None
    tools: bool | None = None
    images: bool | None = None
    window: int | None = None


def listed_models(content: bytes) -> list[Listed]:
    """The models of a list, at most `LISTED_MAX`.  Raises msgspec.DecodeError where it is no JSON."""
    told = msgspec.json.decode(content)
    rows = told.get("data") if isinstance(told, dict) else told  # Together's is a bare array
    found = [_listed(row) for row in rows if _chats(row)] if isinstance(rows, list) else []
    return found[:LISTED_MAX]


def _chats(row: Any) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not row["id"]:
        return False
    can = _map(row.get("capabilities"))
    for said in (can.get("completion_chat"), can.get("chat_completion"), row.get("supports_chat")):
        if isinstance(said, bool):
            return said
    makes = _map(row.get("architecture")).get("output_modalities")
    if isinstance(makes, list):
        return "text" in makes
    kind = row.get("type")
    if isinstance(kind, str):
        return _OTHER_TYPES.search(kind) is None
    return _OTHER_KINDS.search(row["id"]) is None


def _listed(row: Mapping[str, Any]) -> Listed:
    can = _map(row.get("capabilities"))  # Mistral
    takes = _map(row.get("architecture")).get("input_modalities")  # OpenRouter, Hugging Face
    knows = row.get("supported_parameters")  # OpenRouter
    return Listed(
        row["id"],
        row["owned_by"] if isinstance(row.get("owned_by"), str) else "",
        _said(can.get("reasoning"), _among("reasoning", knows)),
        _said(can.get("function_calling"), row.get("supports_tools"), _among("tools", knows)),
        _said(can.get("vision"), row.get("supports_image_input"), _among("image", takes)),
        _window(row),
    )


def _window(row: Mapping[str, Any]) -> int | None:
    """The tokens that a model sees at a time, as its server runs it where that is told.

    What a model was trained for, as llama.cpp's `n_ctx_train`, is not what its server lets it see.
    """
    told = (
        row.get("max_model_len"),  # vLLM, SGLang
        _map(row.get("meta")).get("n_ctx"),  # llama.cpp: of one place
        row.get("context_length"),  # OpenRouter, Together, Fireworks, Moonshot
        row.get("context_window"),  # Groq
        row.get("max_context_length"),  # Mistral
    )
    return next((tokens for tokens in told if type(tokens) is int and tokens > 0), None)


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _among(word: str, words: Any) -> bool | None:
    return word in words if isinstance(words, list) else None


def _said(*values: Any) -> bool | None:
    return next((value for value in values if isinstance(value, bool)), None)
