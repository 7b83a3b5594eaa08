"""Exceptions as they stand in a log: where, and of what kind, but not what they say.

What an exception says was often put together from what it was given: a model's function that fails repeats the prompt,
a tool its arguments, an `authenticate` the token.  So a traceback in a log has its frames and its classes; of a failure
of the system and of one of ours also what belongs to it alone: the system's word for the error, or the code.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from structlog.typing import EventDict, WrappedLogger

from everstream.core.errors import EverstreamError

DEPTH_MAX = 8  # exceptions behind one another, or inside one another
GROUP_MAX = 8  # exceptions of one group


def told_of(error: BaseException) -> str:
    """A traceback of an exception and of those behind it, without a word that one of them was made with."""
    return "\n".join(_lines(error, DEPTH_MAX))


def _lines(error: BaseException, depth: int) -> Iterator[str]:
    behind = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if behind is not None and depth:
        yield from _lines(behind, depth - 1)
        yield "and then:"
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):"
        yield from "".join(traceback.format_tb(error.__traceback__)).splitlines()
    yield _kind(error)
    if isinstance(error, BaseExceptionGroup) and depth:
        for inner in error.exceptions[:GROUP_MAX]:
            yield from (f"  | {line}" for line in _lines(inner, depth - 1))


def _kind(error: BaseException) -> str:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(error, EverstreamError):
        return f"{name}: {error.code}"
    if isinstance(error, OSError) and isinstance(error.errno, int):
        return f"{name}: {os.strerror(error.errno)}"
    return name


def quiet_exceptions(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """For structlog: in place of `exc_info`, the exception as told here."""
    info = event.pop("exc_info", None)
    if isinstance(info, tuple):
        info = info[1]
    elif info and not isinstance(info, BaseException):
        info = sys.exception()
    if isinstance(info, BaseException):
        event["exception"] = told_of(info)
    return event


class QuietFormatter(logging.Formatter):
    """For what others log: uvicorn, asyncio, and packages of vendors."""

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_info and record.name == "asyncio":  # which goes on with tasks and futures, and what they hold
            record = logging.makeLogRecord(record.__dict__ | {"msg": record.getMessage().split("\n")[0], "args": None})
        if record.exc_text is not None:
            record = logging.makeLogRecord(record.__dict__ | {"exc_text": None})  # as another formatter has put it
        return super().format(record)

    def formatException(self, ei: Any) -> str:
        return told_of(ei[1]) if ei[1] is not None else ""
