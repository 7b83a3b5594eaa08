"""The flags of the commands that take settings: made from the table in `config`, which also judges them.

They are handed on as they were written: the table judges flags, environment and file alike, in the same words.  A
command's own flags are added to the parser by the command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import structlog

from everstream.config import (
    CONFIG_ENV,
    CONFIG_NAME,
    NAMES,
    ConfigError,
    Loaded,
    Source,
    describe,
    flag_of,
    load,
    unknown,
)
from everstream.console import Parser
from everstream.settings import Settings

KEYS_EPILOG: Final = "Keys are better given in the environment or the file: anybody on the machine can see flags."


def settings_parser(program: str, description: str, usage: str = "[FLAGS]") -> Parser:
    parser = Parser(prog=program, usage=usage, description=description, epilog=KEYS_EPILOG)
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"settings file ({CONFIG_ENV}, or {CONFIG_NAME} if there is one)"
    )
    for row in describe():
        text = f"{row.description} ({row.default})".replace("%", "%%")
        if Settings.model_fields[row.name].annotation is bool:
            switch = argparse.BooleanOptionalAction
            parser.add_argument(row.flag, dest=row.name, action=switch, default=argparse.SUPPRESS, help=text)
        else:
            unit = row.name.rpartition("_")[2].upper()
            metavar = unit if unit in ("MS", "S", "BYTES") else "VALUE"
            parser.add_argument(row.flag, dest=row.name, metavar=metavar, default=argparse.SUPPRESS, help=text)
    return parser


def settings_of(arguments: argparse.Namespace, rest: Sequence[str], written: Settings | None = None) -> Loaded:
    """The settings, with the flags that were given.  Raises ConfigError.

    `written` are those of a program, which looks at no environment and no file: then only flags change them.
    """
    loaded = load(flags_of(arguments, rest), arguments.config)
    if written is None:
        return loaded
    flags = {name for name, origin in loaded.origins.items() if origin.source is Source.FLAG}
    values = {name: getattr(loaded.settings if name in flags else written, name) for name in type(written).model_fields}
    return Loaded(type(written)(**values), loaded.origins)


def flags_of(arguments: argparse.Namespace, rest: Sequence[str]) -> dict[str, str | bool]:
    if rest:
        known = ["--help", "--config", "--json", *map(flag_of, NAMES)]
        strange = [word.partition("=")[0] for word in rest if word.startswith("-")]
        problems = [unknown("flag", word, known) for word in strange] or [f"unexpected argument: {' '.join(rest)}"]
        raise ConfigError(problems)
    return {name: value for name, value in vars(arguments).items() if name in NAMES}


def log_to_stderr() -> None:
    """Standard output is for the answer, which may be read by a program."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
