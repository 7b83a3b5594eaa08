"""A section `[endpoints.NAME]` of the settings: a service that speaks a known language: address and oddities."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_core import PydanticCustomError

# Services whose address and customs are known (`providers/presets.py` has the rest of their rows).
PRESET_NAMES: Final = (
    "openai", "anthropic", "gemini", "mistral", "deepseek", "groq", "openrouter", "together", "xai", "fireworks",
    "cerebras", "perplexity", "moonshot", "alibaba", "zai", "cohere", "azure", "hf", "ollama", "lmstudio", "vllm",
    "llamacpp", "sglang",
)  # fmt: skip
TAKEN_NAMES: Final = ("app", "huggingface", "local", "scripted")  # models that no service makes
ENDPOINT_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")

Text = Annotated[str, Field(min_length=1)]
Carry = Literal["auto", "prefill", "prefill_echo", "prompted", "restart", "none"]  # auto: as the table of policies says


class EndpointSettings(BaseModel):
    """A section `[endpoints.NAME]`: a service whose models are `NAME/model`.

    Where NAME or `preset` is one of the presets, what is left out here is as it says.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    preset: Text | None = None
    base_url: Annotated[str, Field(pattern=r"^https?://[^\s/]+")] | None = Field(default=None, repr=False)
    api: (
        Literal["chat", "responses", "completions", "messages", "gemini", "interactions", "ollama", "cohere"] | None
    ) = None
    api_key: SecretStr | None = None
    key_env: Text | None = None  # the variable that holds the key
    key_header: Text | None = None  # the header that carries the key, where that is not `Authorization: Bearer`
    models: tuple[str, ...] | None = None  # offered; without it the service is asked
    continuation: Carry | None = None
    headers: dict[str, str] | None = Field(default=None, repr=False)  # which may hold keys, as the next two may
    query: dict[str, str] | None = Field(default=None, repr=False)
    body: dict[str, Any] | None = Field(default=None, repr=False)  # added to every request's body
    leave_out: tuple[str, ...] | None = None  # keys that are never sent
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    priced_as: Text | None = None  # its name in the public price list
    context_tokens: Annotated[int, Field(ge=1, le=100_000_000)] | None = None  # that its models see at a time
    thinking: bool | None = None
    tools: bool | None = None
    images: bool | None = None

    @field_validator("preset", mode="after")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and value not in PRESET_NAMES:
            raise PydanticCustomError("preset", "one of {known}", {"known": ", ".join(PRESET_NAMES)})
        return value

    @field_validator("api_key", mode="after")
    @classmethod
    def _empty_is_unset(cls, value: SecretStr | None) -> SecretStr | None:
        return value if value and value.get_secret_value() else None


def endpoint_faults(endpoints: Mapping[str, EndpointSettings]) -> list[tuple[str, str]]:
    """What is wrong with sections `[endpoints.NAME]` beside their values: the name, and a line."""
    faults = []
    for name, section in endpoints.items():
        if ENDPOINT_NAME.fullmatch(name) is None:
            faults.append(
                (name, f"[endpoints.{name[:64]}]: a name is 1 to 32 of a-z, 0-9, _ and -, the first no - or _")
            )
        elif name in TAKEN_NAMES:
            faults.append((name, f"[endpoints.{name}]: this name has a meaning of its own, choose another"))
        elif section.preset is None and name not in PRESET_NAMES and section.base_url is None:
            faults.append((name, f"[endpoints.{name}] needs base_url, or a preset: {name} is none"))
    return faults
