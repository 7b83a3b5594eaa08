"""Every setting of a server, in one table.

`Settings` is the table: a name (with its unit in it), a type, a range, a default and a description.  The flags of
`everstream serve`, the environment variables, the keys of `everstream.toml`, `everstream config` and the table in
the documents are all read from it, so a setting cannot exist in one of them and be missing in another.

A value comes from the first of these that has one:

    flag (--heartbeat-ms 5000)  >  environment (EVERSTREAM_HEARTBEAT_MS)  >  file (heartbeat_ms = 5000)  >  default

The file is `--config FILE`, else `EVERSTREAM_CONFIG`, else `everstream.toml` in the working directory if there is
one.  An empty environment variable counts as unset, because that is what a compose file passes on for a variable
that nobody gave.

Nothing is guessed and nothing is ignored: a name that is not in the table is an error that names the nearest one
that is, and a wrong value is one line that says what is wrong and where the value came from.  All problems are told
at once.  `Settings(...)` itself reads no environment and no file, so that a test or a program that embeds a server
gets exactly what it wrote; `load()` is what looks around.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

ENV_PREFIX: Final = "EVERSTREAM_"
CONFIG_ENV: Final = "EVERSTREAM_CONFIG"  # names the file, so it cannot be in it
CONFIG_NAME: Final = "everstream.toml"
MASK: Final = "********"

# The first of each pair must be less than the second, or the feature that they belong to cannot work.
ORDERED: Final = (("lease_renew_ms", "lease_ms"), ("uncommitted_bytes", "stream_bytes"))

# What to say about a wrong value where pydantic's own words are for programmers: by setting, or by kind of error.
WANTED: Final = {
    "store": "a URL such as embedded:// or redis://host:6379/0",
    "key_prefix": "1 to 32 letters, digits or _ . : -",
    "string_too_short": "not empty",
    "string_type": "text in quotes",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
}


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


Text = Annotated[str, Field(min_length=1)]
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
    insecure: bool = Field(default=False, description="Serve other machines although nobody has to say who they are.")
    allowed_origins: str = Field(
        default="", description="Other sites whose pages may connect, as https://host:port, with commas; * lets all."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least severe message that is logged."
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="How log lines are written: for people or for machines."
    )

    # connections
    heartbeat_ms: int = Field(
        default=15_000, ge=100, le=600_000, description="Silence after which the server sends a heartbeat."
    )
    hello_timeout_s: Wait = Field(default=10.0, description="How long a new connection may take to say hello.")
    frame_bytes: Size = Field(default=1_048_576, description="The largest frame taken from a client.")
    streams_per_connection: Count = Field(default=64, description="Streams that one connection may read at a time.")
    commands_in_flight: Count = Field(
        default=64, description="Commands of one connection that may wait for their answer."
    )
    write_high_water_bytes: Size = Field(
        default=262_144, description="Unsent bytes of one connection above which nothing more is written to it."
    )
    write_timeout_s: Wait = Field(default=10.0, description="How long a client may take nothing before it is dropped.")
    ping_interval_s: Wait = Field(default=20.0, description="How often a WebSocket is pinged.")
    ping_timeout_s: Wait = Field(default=20.0, description="How long the answer to a ping may take.")
    drain_s: Span = Field(default=10.0, description="How long a stopping server lets answers finish by themselves.")
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
    provider_max_connections: Count = Field(default=4_096, description="Connections to one provider at a time.")
    provider_max_retries: int = Field(
        default=2, ge=0, le=10, description="How often a request is tried again before its first token."
    )
    openai_api: Literal["chat", "responses"] = Field(
        default="chat", description="The OpenAI interface to speak: Chat Completions or Responses."
    )
    openai_base_url: Text | None = Field(
        default=None, description="Address of an OpenAI-compatible service; unset: OPENAI_BASE_URL."
    )
    openai_api_key: SecretStr | None = Field(default=None, description="Key for OpenAI; unset: OPENAI_API_KEY.")
    anthropic_base_url: Text | None = Field(
        default=None, description="Address of the Anthropic service; unset: ANTHROPIC_BASE_URL."
    )
    anthropic_api_key: SecretStr | None = Field(
        default=None, description="Key for Anthropic; unset: ANTHROPIC_API_KEY."
    )

    # streams and their store
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
    linger_s: Span = Field(default=60.0, description="How long an ended stream stays in the server's memory.")
    streams_in_memory: Count = Field(default=10_000, description="Streams that the server holds in memory at a time.")
    store_timeout_s: Wait = Field(default=1.0, description="How long a call to the store may take before another try.")
    lease_ms: int = Field(
        default=1_500, ge=100, le=60_000, description="Silence after which others adopt this server's streams."
    )
    lease_renew_ms: int = Field(
        default=500, ge=10, le=60_000, description="How often a server says that it is alive; less than lease_ms."
    )

    @field_validator("data_dir", "valkey_bin", mode="after")
    @classmethod
    def _made_absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @field_validator("openai_api_key", "anthropic_api_key", mode="after")
    @classmethod
    def _empty_is_unset(cls, value: SecretStr | None) -> SecretStr | None:
        return value if value and value.get_secret_value() else None

    @model_validator(mode="after")
    def _in_order(self) -> Settings:
        for less, more in ORDERED:
            if getattr(self, less) >= getattr(self, more):
                message = f"{less} = {getattr(self, less)} must be less than {more} = {getattr(self, more)}"
                raise PydanticCustomError("ordered", "{text}", {"text": message, "fields": (less, more)})
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


NAMES: Final = tuple(Settings.model_fields)


class Source(StrEnum):
    """Where a value can come from, the strongest first."""

    FLAG = "flag"
    ENV = "environment"
    FILE = "file"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where one value came from; `place` is the flag, the variable or the file."""

    source: Source
    place: str

    def __str__(self) -> str:
        return "default" if self.source is Source.DEFAULT else f"{self.source} {self.place}"


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings in force, and for each of them where it came from."""

    settings: Settings
    origins: Mapping[str, Origin]


class ConfigError(ValueError):
    """The settings cannot be used.  `problems` holds one line for each thing that is wrong."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class Row(NamedTuple):
    """A setting as documents and `--help` show it."""

    name: str
    flag: str
    env: str
    default: str
    description: str


def flag_of(name: str) -> str:
    """`heartbeat_ms` -> `--heartbeat-ms`."""
    return "--" + name.replace("_", "-")


def env_of(name: str) -> str:
    """`heartbeat_ms` -> `EVERSTREAM_HEARTBEAT_MS`."""
    return ENV_PREFIX + name.upper()


def describe() -> Iterator[Row]:
    """Every setting in the order of the table.  The default of `data_dir` is shown as a Linux user finds it."""
    for name, field in Settings.model_fields.items():
        default = "~/.local/share/everstream" if name == "data_dir" else _shown(field.default)
        yield Row(name, flag_of(name), env_of(name), default, field.description or "")


def load(flags: Mapping[str, str | bool] | None = None, config_file: Path | None = None) -> Loaded:
    """Gather the settings from flags, environment and file.

    `flags` maps names of the table to what was written behind the flag; `config_file` is the value of `--config`.
    Raises ConfigError with every problem found.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    origins = {name: Origin(Source.DEFAULT, "") for name in NAMES}
    for found, places in (_from_file(config_file, problems), _from_env(problems), _from_flags(flags or {}, problems)):
        values |= found
        origins |= places
    try:
        settings = Settings(**values)
    except ValidationError as error:
        problems.extend(_explained(error, values, origins))
    if problems:
        raise ConfigError(problems)
    return Loaded(settings, origins)


def effective(loaded: Loaded) -> dict[str, str | int | float | bool | None]:
    """The values in force, as plain data that may be shown: secrets, and the password of a store's URL, are masked."""
    shown: dict[str, str | int | float | bool | None] = {}
    for name in NAMES:
        value = getattr(loaded.settings, name)
        if isinstance(value, SecretStr):
            value = MASK
        elif isinstance(value, Path):
            value = str(value)
        shown[name] = mask_url(value) if name == "store" else value
    return shown


def mask_url(url: str) -> str:
    """The same URL, well formed or not, without the password that it may carry before the host or in its query."""
    masked = re.sub(r"(?s)^((?:.*?://)?[^:@]*):.*@", rf"\1:{MASK}@", url)
    return re.sub(r"([?&]password=)[^&]*", rf"\1{MASK}", masked)


def unknown(kind: str, given: str, known: Iterable[str]) -> str:
    """One line about a name that nobody knows: `kind` is what it should have been, `known` the names that exist."""
    close = difflib.get_close_matches(given, list(known), n=1, cutoff=0.6)
    return f"there is no {kind} {given}" + (f"; did you mean {close[0]}?" if close else "")


# --------------------------------------------------------------------------- the three sources

Found = tuple[dict[str, Any], dict[str, Origin]]


def _from_file(config_file: Path | None, problems: list[str]) -> Found:
    named = config_file or (Path(os.environ[CONFIG_ENV]) if os.environ.get(CONFIG_ENV) else None)
    path = (named or Path(CONFIG_NAME)).expanduser()
    if named is None and not path.exists():
        return {}, {}
    try:
        # The source skips what is no file in silence; a file that somebody named must be there.
        with path.open("rb"):
            content = TomlConfigSettingsSource(Settings, path).toml_data
    except OSError as error:
        problems.append(f"the settings file {path} cannot be read: {error.strerror}")
        return {}, {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"the settings file {path} is not TOML: {error}")
        return {}, {}
    problems.extend(unknown("setting", key, NAMES) + f" (file {path})" for key in content if key not in NAMES)
    values = {key: value for key, value in content.items() if key in NAMES}
    return values, {key: Origin(Source.FILE, str(path)) for key in values}


def _from_env(problems: list[str]) -> Found:
    known = {env_of(name) for name in NAMES} | {CONFIG_ENV}
    ours = sorted(variable for variable in os.environ if variable.upper().startswith(ENV_PREFIX))
    problems.extend(unknown("environment variable", name, known) for name in ours if name.upper() not in known)
    values = EnvSettingsSource(Settings)()
    return values, {name: Origin(Source.ENV, env_of(name)) for name in values}


def _from_flags(flags: Mapping[str, str | bool], problems: list[str]) -> Found:
    known = [flag_of(name) for name in NAMES]
    problems.extend(unknown("flag", flag_of(name), known) for name in flags if name not in NAMES)
    values = {name: value for name, value in flags.items() if name in NAMES}
    return values, {name: Origin(Source.FLAG, flag_of(name)) for name in values}


def _explained(error: ValidationError, values: Mapping[str, Any], origins: Mapping[str, Origin]) -> Iterator[str]:
    for detail in error.errors(include_url=False):
        if not detail["loc"]:
            fields = detail.get("ctx", {}).get("fields", ())
            yield f"{detail['msg']} ({', '.join(f'{name}: {origins[name]}' for name in fields)})"
            continue
        name = str(detail["loc"][0])
        wanted = WANTED.get(name) or WANTED.get(detail["type"]) or detail["msg"].removeprefix("Input should be ")
        yield f"{name} = {_offending(name, values)} ({origins[name]}): should be {wanted}"


def _offending(name: str, values: Mapping[str, Any]) -> str:
    value = values.get(name)
    if "SecretStr" in str(Settings.model_fields[name].annotation):
        return MASK
    return repr(mask_url(value)) if isinstance(value, str) else repr(value)


def _shown(value: object) -> str:
    return "unset" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
