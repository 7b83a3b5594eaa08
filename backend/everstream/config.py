"""Every setting of a server, in one table.

`settings.Settings` is the table: a name (with its unit in it), a type, a range, a default and a description.  The flags
of `everstream serve`, the environment variables, the keys of `everstream.toml`, `everstream config` and the table in
the documents are all read from it, so a setting cannot exist in one of them and be missing in another.

A value comes from the first of these that has one:

    flag (--heartbeat-ms 5000)  >  environment (EVERSTREAM_HEARTBEAT_MS)  >  file (heartbeat_ms = 5000)  >  default

The file is `--config FILE`, else `EVERSTREAM_CONFIG`, else `everstream.toml` in the working directory if there is
one.  An empty environment variable counts as unset, because that is what a compose file passes on for a variable
that nobody gave.

`endpoints` is the one setting with sections: `[endpoints.NAME]` in the file, `EVERSTREAM_ENDPOINTS__NAME__KEY` in the
environment, and JSON for all of them in `EVERSTREAM_ENDPOINTS` or behind the flag.  Each key of a section has a source
of its own, so that a file may hold an address and the environment its key.

Nothing is guessed and nothing is ignored: a name that is not in the table is an error that names the nearest one
that is, and a wrong value is one line that says what is wrong and where the value came from.  All problems are told
at once.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, NamedTuple

from pydantic import SecretStr, ValidationError
from pydantic_settings import TomlConfigSettingsSource

from everstream.display import MASK, STRUCTURED, mask_url, masked_section, toml
from everstream.endpoint_settings import PRESET_NAMES, EndpointSettings
from everstream.settings import ENV_PREFIX, Settings

CONFIG_ENV: Final = "EVERSTREAM_CONFIG"  # names the file, so it cannot be in it
CLIENTS_ENV: Final = ("EVERSTREAM_TOKEN",)  # of programs that talk to a server, and none of its settings
CONFIG_NAME: Final = "everstream.toml"

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
    "base_url": "an address such as https://host/v1",
    "model_type": "a section of keys and values",
    "dict_type": "a section of keys and values",
    "tuple_type": "a list of texts",
}

SECTIONS: Final = "endpoints"  # the setting whose values are sections
SECTION_KEYS: Final = tuple(EndpointSettings.model_fields)
# Keys of a section that hold more than one value, and are JSON in a variable; those of plain texts may have commas.
_LISTS: Final = frozenset({"models", "leave_out"})
_MAY_HOLD_KEYS: Final = frozenset({"api_key"}) | STRUCTURED


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
    origins: Mapping[str, Origin]  # by the setting, and by `endpoints.NAME.KEY` for what stands in sections


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
        default = {"data_dir": "~/.local/share/everstream", SECTIONS: "none"}.get(name) or _shown(field.default)
        yield Row(name, flag_of(name), env_of(name), default, field.description or "")


def load(flags: Mapping[str, str | bool] | None = None, config_file: Path | None = None) -> Loaded:
    """Gather the settings from flags, environment and file.

    `flags` maps names of the table to what was written behind the flag; `config_file` is the value of `--config`.
    Raises ConfigError with every problem found.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    origins = {name: Origin(Source.DEFAULT, "") for name in NAMES}
    sections: dict[str, Any] = {}
    for found, places in (_from_file(config_file, problems), _from_env(problems), _from_flags(flags or {}, problems)):
        values |= {name: value for name, value in found.items() if name != SECTIONS}
        origins |= places
        _merge(sections, found.get(SECTIONS, {}))
    if sections:
        values[SECTIONS] = sections
    try:
        settings = Settings(**values)
    except ValidationError as error:
        problems.extend(_explained(error, values, origins))
    if problems:
        raise ConfigError(problems)
    return Loaded(settings, origins)


def effective(loaded: Loaded) -> dict[str, Any]:
    """The values in force, as plain data that may be shown: what is secret, or may be, is masked."""
    shown: dict[str, Any] = {}
    for name in NAMES:
        value = getattr(loaded.settings, name)
        if name == SECTIONS:
            value = {key: masked_section(section.model_dump(exclude_none=True)) for key, section in value.items()}
        elif isinstance(value, SecretStr):
            value = MASK
        elif isinstance(value, Path):
            value = str(value)
        elif isinstance(value, str) and (name == "store" or name.endswith("_url")):
            value = mask_url(value)
        shown[name] = value
    return shown


def as_toml(loaded: Loaded) -> Iterator[str]:
    """The lines of a settings file with the values in force, masked as `effective` has them, and where each is from."""
    values = effective(loaded)
    sections = values.pop(SECTIONS)
    for name, value in values.items():
        yield _toml_line(name, value, loaded.origins[name])
    if not sections:
        yield f"# {SECTIONS} is unset"
    for name, section in sections.items():
        yield ""
        yield f"[{SECTIONS}.{name}]"
        for key, value in section.items():
            yield _toml_line(key, value, _origin(loaded.origins, name, key))


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
    return values, _places(values, Origin(Source.FILE, str(path)))


def _from_env(problems: list[str]) -> Found:
    known = {env_of(name): name for name in NAMES}
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for variable in sorted(name for name in os.environ if name.upper().startswith(ENV_PREFIX)):
        text, upper = os.environ[variable], variable.upper()
        found: dict[str, Any]
        name = known.get(upper)
        if upper.startswith(env_of(SECTIONS) + "__"):
            found = {SECTIONS: _section_variable(variable, text, problems)} if text else {}
        elif name == SECTIONS:
            found = {name: _sections_in(text, Origin(Source.ENV, variable), problems)} if text else {}
        elif name is None:
            if upper not in (CONFIG_ENV, *CLIENTS_ENV):
                problems.append(unknown("environment variable", variable, (*known, CONFIG_ENV)))
            continue
        else:
            found = {name: text} if text else {}
        origins |= _places(found, Origin(Source.ENV, upper))
        _merge(values.setdefault(SECTIONS, {}), found.pop(SECTIONS, {}))
        values |= found
    return values, origins


def _from_flags(flags: Mapping[str, str | bool], problems: list[str]) -> Found:
    known = [flag_of(name) for name in NAMES]
    problems.extend(unknown("flag", flag_of(name), known) for name in flags if name not in NAMES)
    values: dict[str, Any] = {name: value for name, value in flags.items() if name in NAMES}
    if SECTIONS in values:
        values[SECTIONS] = _sections_in(str(values[SECTIONS]), Origin(Source.FLAG, flag_of(SECTIONS)), problems)
    origins: dict[str, Origin] = {}
    for name, value in values.items():
        origins |= _places({name: value}, Origin(Source.FLAG, flag_of(name)))
    return values, origins


# --------------------------------------------------------------------------- sections


def _sections_in(text: str, origin: Origin, problems: list[str]) -> Any:
    """The sections that a JSON text holds.  The text is never shown: it may hold keys."""
    try:
        return json.loads(text)
    except ValueError as error:
        wanted = 'JSON such as {"NAME": {"base_url": "https://host/v1"}}'
        problems.append(f"{SECTIONS} ({origin}): should be {wanted}: {error}")
        return {}


def _section_variable(variable: str, text: str, problems: list[str]) -> dict[str, Any]:
    """What `EVERSTREAM_ENDPOINTS__NAME__KEY` says; without a key it is the section as JSON."""
    name, _, key = variable[len(env_of(SECTIONS) + "__") :].lower().partition("__")
    value: Any = text
    if not key or key in STRUCTURED or (key in _LISTS and text.lstrip().startswith("[")):
        try:
            value = json.loads(text)
        except ValueError as error:
            problems.append(
                f"{SECTIONS}.{name}{'.' * bool(key)}{key} (environment {variable}): should be JSON: {error}"
            )
            return {}
    elif key in _LISTS:
        value = [word.strip() for word in text.split(",") if word.strip()]
    section: Any = {key: value} if key else value
    return {name: section}


def _merge(into: dict[str, Any], sections: Any) -> None:
    """A later source's keys over an earlier one's, section by section; what is no section is judged later."""
    if not isinstance(sections, dict):
        into[""] = sections
        return
    for name, section in sections.items():
        before = into.get(name)
        into[name] = {**before, **section} if isinstance(before, dict) and isinstance(section, dict) else section


def _places(found: Mapping[str, Any], origin: Origin) -> dict[str, Origin]:
    places = dict.fromkeys(found, origin)
    sections = found.get(SECTIONS)
    for name, section in sections.items() if isinstance(sections, dict) else ():
        places[f"{SECTIONS}.{name}"] = origin
        places |= {f"{SECTIONS}.{name}.{key}": origin for key in (section if isinstance(section, dict) else ())}
    return places


def _origin(origins: Mapping[str, Origin], name: str, key: str = "") -> Origin:
    """Where a key of a section came from, or the section, or whatever there is."""
    places = (f"{SECTIONS}.{name}.{key}", f"{SECTIONS}.{name}")
    return next((origins[place] for place in places if place in origins), origins[SECTIONS])


def _toml_line(name: str, value: Any, origin: Origin) -> str:
    if value is None:
        return f"# {name} is unset"
    return f"{f'{name} = {toml(value)}':<44}  # {origin}"


# --------------------------------------------------------------------------- what is wrong


def _explained(error: ValidationError, values: Mapping[str, Any], origins: Mapping[str, Origin]) -> Iterator[str]:
    for detail in error.errors(include_url=False):
        if not detail["loc"]:
            fields = detail.get("ctx", {}).get("fields", ())
            yield f"{detail['msg']} ({', '.join(f'{name}: {origins[name]}' for name in fields)})"
            continue
        name = str(detail["loc"][0])
        if name == SECTIONS:
            yield from _explained_section(detail, values[SECTIONS], origins)
            continue
        wanted = WANTED.get(name) or WANTED.get(detail["type"]) or detail["msg"].removeprefix("Input should be ")
        yield f"{name} = {_offending(name, values)} ({origins[name]}): should be {wanted}"


def _explained_section(detail: Any, sections: Any, origins: Mapping[str, Origin]) -> Iterator[str]:
    name, key = (*map(str, detail["loc"][1:3]), "", "")[:2]
    if detail["type"] == SECTIONS:
        for fault, text in detail["ctx"]["faults"]:
            yield f"{text} ({_origin(origins, fault)})"
        return
    if name in ("", "[key]"):
        yield f"{SECTIONS} ({origins[SECTIONS]}): should be sections [{SECTIONS}.NAME] of keys and values"
        return
    origin = _origin(origins, name, key)
    if detail["type"] == "extra_forbidden":
        yield f"[{SECTIONS}.{name}]: {unknown('key', key, SECTION_KEYS)} ({origin})"
        return
    section = sections[name]
    value = section.get(key) if isinstance(section, dict) else section
    shown = MASK if not key or key in _MAY_HOLD_KEYS else repr(mask_url(value) if isinstance(value, str) else value)
    place = ".".join(map(str, detail["loc"]))
    wanted = WANTED.get(key) or WANTED.get(detail["type"]) or detail["msg"].removeprefix("Input should be ")
    if detail["type"] == "preset":
        yield f"{place} = {shown} ({origin}): {unknown('preset', str(value), PRESET_NAMES)}"
    else:
        yield f"{place} = {shown} ({origin}): should be {wanted}"


def _offending(name: str, values: Mapping[str, Any]) -> str:
    value = values.get(name)
    if "SecretStr" in str(Settings.model_fields[name].annotation):
        return MASK
    return repr(mask_url(value)) if isinstance(value, str) else repr(value)


def _shown(value: object) -> str:
    return "unset" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
