"""Every setting of a server, in one table.

`settings.Settings` is the table: a name (with its unit in it), a type, a range, a default and a description.  The flags
of `everstream serve`, the environment variables, the keys of `everstream.toml`, `everstream config` and the table in
the documents are all read from it, so a setting cannot exist in one of them and be missing in another.

A value comes from the first of these that has one:

    flag (--heartbeat-ms 5000)  >  environment (EVERSTREAM_HEARTBEAT_MS)  >  file (heartbeat_ms = 5000)  >  default

The file is `--config FILE`, else `EVERSTREAM_CONFIG`, else `everstream.toml` in the working directory if there is
one.  An empty environment variable counts as unset, because that is what a compose file passes on for a variable
that nobody gave.

Nothing is guessed and nothing is ignored: a name that is not in the table is an error that names the nearest one
that is, and a wrong value is one line that says what is wrong and where the value came from.  All problems are told
at once.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import SecretStr, ValidationError
from pydantic_settings import EnvSettingsSource, TomlConfigSettingsSource

from everstream.settings import ENV_PREFIX, Settings

CONFIG_ENV: Final = "EVERSTREAM_CONFIG"  # names the file, so it cannot be in it
CONFIG_NAME: Final = "everstream.toml"
MASK: Final = "********"

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
    return re.sub(r"([?&](?:sentinel_)?password=)[^&]*", rf"\1{MASK}", masked)


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
