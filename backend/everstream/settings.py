"""The table of settings: a name (with its unit in it), a type, a range, a default and a description for each.

`Settings(...)` itself reads no environment and no file, so that a test or a program that embeds a server gets exactly
what it wrote; `config.load()` is what looks around.
"""

from __future__ import annotations

import os
import sys
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from everstream.endpoint_settings import Carry, EndpointSettings, Text, endpoint_faults
from everstream.vouching import key_set_wanted, secret_wanted

ENV_PREFIX: Final = "EVERSTREAM_"

# The first of each pair must be less than the second, or the feature that they belong to cannot work.
ORDERED: Final = (("lease_renew_ms", "lease_ms"), ("uncommitted_bytes", "stream_bytes"))


def default_data_dir() -> Path:
    """Where the platform keeps a program's data: XDG on Linux, its own places on macOS and Windows."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        given = os.environ.get("XDG_DATA_HOME", "")
        base = Path(given) if given.startswith("/") else Path.home() / ".local" / "share"
    return base / "everstream"


Count = Annotated[int, Field(ge=1, le=1_000_000)]
Size = Annotated[int, Field(ge=1_024, le=1_073_741_824)]  # bytes
Wait = Annotated[float, Field(gt=0, le=3_600)]  # seconds that something may take: never none, never for ever
Span = Annotated[float, Field(ge=0, le=86_400)]  # seconds that something lasts; 0: not at all
Pause = Annotated[int, Field(ge=0, le=600_000)]  # milliseconds
Keep = Annotated[int, Field(ge=60, le=315_360_000)]  # seconds in the store, a minute to ten years


class Settings(BaseSettings):
    """The settings of one server.  Immutable.  Times are in the unit that ends the name, sizes in bytes."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        validate_default=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    # who may reach it, and where it keeps things
    host: Text = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes any free one.")
    store: str = Field(
        default="embedded://",
        pattern=r"^[a-z][a-z0-9+.-]*://",
        description="Where streams are kept: embedded:// runs a private store here, redis://host:6379/0 uses yours.",
    )
    data_dir: Path = Field(default_factory=default_data_dir, description="Directory of the embedded store's data.")
    valkey_bin: Path | None = Field(
        default=None, description="The valkey-server or redis-server that embedded:// runs; unset: the packaged one."
    )
    key_prefix: str = Field(
        default="es",
        pattern=r"^[A-Za-z0-9_.:-]{1,32}$",
        description="What every key in the store begins with, so that several installations can share one.",
    )
    auth: Literal["none", "keys", "jwt", "keys,jwt"] = Field(
        default="none",
        description="How clients prove who they are: not at all, by API keys, by JSON Web Tokens, or both.",
    )
    jwt_secret: SecretStr | None = Field(
        default=None, description="Secret that HS256 tokens are signed with: 32 bytes at least."
    )
    jwt_jwks_url: Text | None = Field(
        default=None, description="Where the public keys of RS256 and ES256 tokens are (a JSON Web Key Set)."
    )
    jwt_audience: Text | None = Field(default=None, description="The audience that a token must be meant for.")
    jwt_issuer: Text | None = Field(default=None, description="Who a token must come from.")
    jwt_leeway_s: Span = Field(default=10.0, description="How far the clocks of who signs tokens may be off.")
    jwt_user_claim: Text = Field(default="sub", description="The claim of a token that is its user's id.")
    jwt_name_claim: Text = Field(default="name", description="The claim of a token that is its user's name.")
    auth_recheck_s: Wait = Field(
        default=30.0, description="How often it is looked whether the keys of connected clients still hold."
    )
    insecure: bool = Field(default=False, description="Serve other machines although nobody has to say who they are.")
    workers: int = Field(default=1, ge=1, le=256, description="Server processes that share the port; each is a node.")
    lead: bool = Field(
        default=True, description="Run models here; without it this node only serves clients, and others run them."
    )
    allowed_origins: str = Field(
        default="", description="Other sites whose pages may connect, as https://host:port, with commas; * lets all."
    )
    allowed_hosts: str = Field(
        default="", description="Names by which it may be asked where nobody says who he is, with commas; * any."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least severe message that is logged."
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="How log lines are written: for people or for machines."
    )

    # over HTTP
    default_model: Text = Field(
        default="scripted/lorem", description="The model that is asked where a request over HTTP cannot name one."
    )
    on_disconnect: Literal["continue", "cancel"] = Field(
        default="continue", description="What becomes of an answer whose HTTP client goes, unless the client says."
    )

    # sessions
    session_messages: Count = Field(default=10_000, description="Messages that a session may have.")
    session_members: Count = Field(default=256, description="Members that a session may have.")
    session_turns: Count = Field(default=8, description="Turns of one session that may run at the same time.")
    session_queue: Count = Field(default=32, description="Turns of one session that may wait for another to end.")
    session_rest_s: Span = Field(default=60.0, description="Silence after which a server lets go of a session.")
    tool_rounds: Count = Field(default=16, description="Answers in one turn whose tools the server runs.")
    tool_timeout_s: Wait = Field(default=60.0, description="How long one of the server's tools may take.")
    context_tokens: int = Field(
        default=0,
        ge=0,
        le=100_000_000,
        description="Window of models whose own is not known; 0: nothing is left out.",
    )

    # what a user may use, beside limits of his own (docs/limits.md); 0: any amount
    user_streams: int = Field(default=0, ge=0, le=1_000_000, description="Answers of one user at a time; 0: any.")
    user_starts_per_minute: int = Field(
        default=0, ge=0, le=1_000_000, description="Answers that one user may begin in a minute; 0: any."
    )
    user_tokens_per_day: int = Field(
        default=0, ge=0, le=10**15, description="Tokens of one user in a day of UTC, asked and answered; 0: any."
    )
    user_usd_per_day: float = Field(
        default=0.0, ge=0.0, le=1e9, description="Dollars of one user in a day of UTC, where prices are known; 0: any."
    )
    user_connections: int = Field(
        default=0, ge=0, le=1_000_000, description="Connections of one user at a time, over all servers; 0: any number."
    )

    # connections
    heartbeat_ms: int = Field(
        default=15_000, ge=100, le=600_000, description="Silence after which the server sends a heartbeat."
    )
    connections: int = Field(
        default=0, ge=0, le=1_000_000, description="Connections that one process takes; 0: as its file limit allows."
    )
    connections_per_address: Count = Field(
        default=1_000, description="Connections that one process takes from one address that is not its own machine's."
    )
    trusted_proxies: str = Field(
        default="127.0.0.1,::1",
        description="Addresses and networks of proxies whose X-Forwarded-For and -Proto are believed, with commas.",
    )
    head_timeout_s: Wait = Field(
        default=10.0, description="How long the head of a request may take, from the connection on."
    )
    body_timeout_s: Wait = Field(default=30.0, description="How long the body of a request may take.")
    hello_timeout_s: Wait = Field(default=10.0, description="How long a new connection may take to say hello.")
    frame_bytes: Size = Field(default=1_048_576, description="The largest frame taken from a client.")
    streams_per_connection: Count = Field(default=64, description="Streams that one connection may read at a time.")
    sessions_per_connection: Count = Field(default=64, description="Sessions that one connection may have open.")
    commands_in_flight: Count = Field(
        default=64, description="Commands of one connection that may wait for their answer."
    )
    commands_per_s: Count = Field(
        default=50, description="Commands a second that a connection may send; ten seconds' worth of them at once."
    )
    write_high_water_bytes: Size = Field(
        default=262_144, description="Unsent bytes of one connection above which nothing more is written to it."
    )
    write_timeout_s: Wait = Field(default=10.0, description="How long a client may take nothing before it is dropped.")
    ping_interval_s: Wait = Field(default=20.0, description="How often a WebSocket is pinged.")
    ping_timeout_s: Wait = Field(default=20.0, description="How long the answer to a ping may take.")
    drain_ms: Pause = Field(
        default=10_000,
        description="How long a stopping server lets answers finish before it hands them over to another one.",
    )
    goaway_spread_ms: Pause = Field(
        default=5_000, description="The time over which a stopping server sends its clients elsewhere, a few at a time."
    )

    # providers
    provider_headers_timeout_s: Wait = Field(
        default=60.0, description="How long a provider may take to accept a request."
    )
    provider_idle_timeout_s: Wait = Field(
        default=60.0, description="How long a provider may be silent in the middle of an answer."
    )
    provider_connect_timeout_s: Wait = Field(
        default=10.0, description="How long the making of a connection to a provider may take."
    )
    provider_first_token_timeout_s: Wait = Field(
        default=300.0, description="How long an accepted request may go without a word of its answer."
    )
    provider_total_timeout_s: Wait = Field(
        default=3_600.0, description="How long an answer may take altogether, over all calls."
    )
    provider_max_connections: Count = Field(default=4_096, description="Connections to one provider at a time.")
    provider_max_retries: int = Field(
        default=2, ge=0, le=10, description="How often a request is tried again before its first token."
    )
    carry_on: bool = Field(
        default=True, description="Carry an answer on when its provider breaks off, fails or hangs in the middle of it."
    )
    carry_on_attempts: int = Field(
        default=3, ge=0, le=20, description="How often in a row, without a further token, an answer is carried on."
    )
    fallback_models: str = Field(
        default="",
        pattern=r"^(\s*[a-z0-9_-]+/[^\s,]+\s*(,|$))*$",
        description="Models that carry an answer on when its own cannot any more, as provider/name, with commas.",
    )
    openai_api: Literal["chat", "responses"] = Field(
        default="chat", description="The OpenAI interface to speak: Chat Completions or Responses."
    )
    openai_background: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Run OpenAI responses in the background, so that they survive this server exactly; 2 s slower to"
        " begin. auto: for models that think for minutes.",
    )
    openai_continuation: Carry = Field(
        default="auto", description="How a broken answer of the OpenAI service is carried on, at best."
    )
    openai_base_url: Text | None = Field(
        default=None, description="Address of an OpenAI-compatible service; unset: OPENAI_BASE_URL."
    )
    openai_api_key: SecretStr | None = Field(default=None, description="Key for OpenAI; unset: OPENAI_API_KEY.")
    anthropic_continuation: Carry = Field(
        default="auto", description="How a broken answer of the Anthropic service is carried on, at best."
    )
    anthropic_base_url: Text | None = Field(
        default=None, description="Address of the Anthropic service; unset: ANTHROPIC_BASE_URL."
    )
    anthropic_api_key: SecretStr | None = Field(
        default=None, description="Key for Anthropic; unset: ANTHROPIC_API_KEY."
    )

    gemini_continuation: Carry = Field(
        default="auto", description="How a broken answer of the Gemini service is carried on, at best."
    )
    gemini_background: Literal["auto", "on", "off"] = Field(
        default="auto", description="Run Gemini interactions in the background, so that they survive this server."
    )
    gemini_base_url: Text | None = Field(default=None, description="Address of the Gemini service; unset: Google's.")
    gemini_api_key: SecretStr | None = Field(
        default=None, description="Key for Gemini; unset: GEMINI_API_KEY or GOOGLE_API_KEY."
    )
    endpoints: dict[str, EndpointSettings] = Field(
        default_factory=dict,
        description="Further services, by name: a section [endpoints.NAME] each, or JSON.",
    )
    discover: bool = Field(
        default=True, description="Look for Ollama, LM Studio, vLLM and llama.cpp on their usual ports of this machine."
    )
    local_threads: int = Field(default=1, ge=1, le=256, description="Threads of the local model.")
    local_context_tokens: int = Field(
        default=4_096, ge=256, le=1_048_576, description="Tokens that the local model sees at a time, in each answer."
    )
    local_parallel: int = Field(default=4, ge=1, le=64, description="Answers that the local model works on at a time.")
    local_idle_s: Span = Field(
        default=600.0, description="How long the local model stays in memory without a question; 0: for ever."
    )
    huggingface_models: str = Field(
        default="", description="Hugging Face models to run here, as owner/name or a folder, with commas."
    )

    # streams and their store
    delivery: Literal["committed", "available", "eager"] = Field(
        default="committed",
        description="When readers see an entry: once it is stored; or also when the store is late; or at once.",
    )
    commit_patience_ms: Pause = Field(
        default=250, description="With delivery = available: how late the store may be before readers go on without it."
    )
    acks: Literal["primary", "replica"] = Field(
        default="primary",
        description="Who must have an entry before it counts as stored: the primary, or a replica too.",
    )
    acks_timeout_ms: int = Field(
        default=200,
        ge=1,
        le=60_000,
        description="With acks = replica: how long a replica may take before it is done without.",
    )
    uncommitted_bytes: Size = Field(
        default=262_144,
        description="Bytes of one stream that may wait for the store; above it the server stops reading the provider.",
    )
    stream_bytes: Size = Field(default=33_554_432, description="The largest stream; a longer answer is ended there.")
    stream_ttl_s: Keep = Field(default=604_800, description="How long the store keeps a stream after its last entry.")
    request_ttl_s: Keep = Field(default=86_400, description="How long a repeated request gets its first reply.")
    fold_after_s: int = Field(
        default=600, ge=0, le=315_360_000, description="Age at which an ended stream is folded into its summary."
    )
    session_ttl_s: Keep = Field(
        default=7_776_000, description="How long the store keeps a session after it was last used."
    )
    linger_s: Span = Field(default=60.0, description="How long an ended stream stays in the server's memory.")
    streams_in_memory: Count = Field(default=10_000, description="Streams that the server holds in memory at a time.")
    store_timeout_s: Wait = Field(default=1.0, description="How long a call to the store may take before another try.")
    lease_ms: int = Field(
        default=1_500, ge=100, le=60_000, description="Silence after which others adopt this server's streams."
    )
    lease_renew_ms: int = Field(
        default=500, ge=10, le=60_000, description="How often a server says that it is alive; less than lease_ms."
    )

    @field_validator("trusted_proxies", mode="after")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        for part in filter(None, (part.strip() for part in value.split(","))):
            try:
                ip_network(part)
            except ValueError as error:
                raise PydanticCustomError(
                    "network", "{part} is no address and no network", {"part": part[:64]}
                ) from error
        return value

    @field_validator("data_dir", "valkey_bin", mode="after")
    @classmethod
    def _made_absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @field_validator("openai_api_key", "anthropic_api_key", "gemini_api_key", "jwt_secret", mode="after")
    @classmethod
    def _empty_is_unset(cls, value: SecretStr | None) -> SecretStr | None:
        return value if value and value.get_secret_value() else None

    @field_validator("jwt_secret", "jwt_jwks_url", mode="after")
    @classmethod
    def _can_be_trusted(cls, value: SecretStr | str | None) -> SecretStr | str | None:
        wanted = None
        if value is not None:
            wanted = key_set_wanted(value) if isinstance(value, str) else secret_wanted(value.get_secret_value())
        if wanted is not None:
            raise PydanticCustomError("vouching", "{wanted}", {"wanted": wanted})
        return value

    @field_validator("endpoints", mode="after")
    @classmethod
    def _endpoints_can_be_meant(cls, value: dict[str, EndpointSettings]) -> dict[str, EndpointSettings]:
        faults = endpoint_faults(value)
        if faults:
            text = "; ".join(text for _, text in faults)
            raise PydanticCustomError("endpoints", "{text}", {"text": text, "faults": faults})
        return value

    @model_validator(mode="after")
    def _in_order(self) -> Settings:
        for less, more in ORDERED:
            if getattr(self, less) >= getattr(self, more):
                message = f"{less} = {getattr(self, less)} must be less than {more} = {getattr(self, more)}"
                raise PydanticCustomError("ordered", "{text}", {"text": message, "fields": (less, more)})
        return self

    @model_validator(mode="after")
    def _somebody_vouches(self) -> Settings:
        if "jwt" in self.auth and self.jwt_secret is None and self.jwt_jwks_url is None:
            message = f"auth = {self.auth!r} needs jwt_secret or jwt_jwks_url"
            fields = ("auth", "jwt_secret", "jwt_jwks_url")
            raise PydanticCustomError("ordered", "{text}", {"text": message, "fields": fields})
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what the caller wrote: `load` reads the other sources itself, to know where each value came from."""
        return (init_settings,)
