"""What every command says to whoever called it: its exit code, and one clear line where something is wrong.

It imports nothing that takes time, so that a mistyped command is told so at once.
"""

from __future__ import annotations

import argparse
import sys
from enum import IntEnum
from typing import NoReturn


class Exit(IntEnum):
    """What the process tells its parent."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    STORE = 3
    PORT = 4
    INTERRUPTED = 130


def complain(program: str, *lines: str) -> int:
    """Say it on standard error.  Returns the exit code of wrong usage."""
    for line in lines:
        print(f"{program}: {line}", file=sys.stderr)
    return Exit.USAGE


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line: with forty flags the usual usage text hides it."""

    def __init__(self, *, prog: str, usage: str, description: str, epilog: str | None = None) -> None:
        super().__init__(prog=prog, usage=f"{prog} {usage}", description=description, epilog=epilog, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise SystemExit(complain(self.prog, message, f"{self.prog} --help shows all"))
