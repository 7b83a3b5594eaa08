"""Exceptions in a log: all of where they came from, and none of what they were made with."""

from __future__ import annotations

import asyncio
import errno
import io
import logging
import sys

import pytest

from everstream.core.errors import EverstreamError
from everstream.gateway.quiet import QuietFormatter, quiet_exceptions, told_of

WORD = "".join(("a word ", "that was said"))  # in no line of source as it is looked for


def _fail(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as raised:
        return raised


def _chained() -> BaseException:
    try:
        try:
            raise KeyError(WORD)
        except KeyError as error:
            raise ExceptionGroup(WORD, [ValueError(WORD), _fail(TypeError(WORD))]) from error
    except ExceptionGroup as error:
        return error


def test_a_traceback_has_its_frames_and_classes_and_no_message() -> None:
    told = told_of(_chained())
    assert WORD not in told
    for part in ("KeyError", "ExceptionGroup", "  | ValueError", "  | TypeError", "in _chained", "Traceback (most"):
        assert part in told
    assert told.index("KeyError\nand then:") < told.index("ExceptionGroup")


@pytest.mark.parametrize(
    ("error", "last"),
    [
        (EverstreamError("store.unavailable", WORD), "everstream.core.errors.EverstreamError: store.unavailable"),
        (OSError(errno.ENOSPC, WORD, WORD), "OSError: No space left on device"),
        (OSError(WORD), "OSError"),
    ],
)
def test_what_a_failure_has_of_its_own_is_told(error: BaseException, last: str) -> None:
    assert told_of(_fail(error)).splitlines()[-1] == last


def test_a_chain_without_an_end_is_cut() -> None:
    one, two = ValueError(), ValueError()
    one.__context__, two.__context__ = two, one
    assert told_of(one).count("ValueError") < 20


@pytest.mark.parametrize("given", [True, 1, "tuple", "error"])
def test_however_a_line_is_given_its_exception_it_is_the_same(given: object) -> None:
    try:
        raise ValueError(WORD)
    except ValueError as error:
        info = {"tuple": sys.exc_info(), "error": error}.get(str(given), given)
        event = quiet_exceptions(None, "error", {"event": "x", "exc_info": info})
    assert event["exception"].endswith("\nValueError")
    assert WORD not in event["exception"]
    assert quiet_exceptions(None, "info", {"event": "x"}) == {"event": "x"}


async def test_what_nobody_waited_for_is_logged_without_what_it_held() -> None:
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    handler.setFormatter(QuietFormatter("%(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("asyncio")
    logger.addHandler(handler)
    try:
        future = asyncio.get_running_loop().create_future()
        future.set_exception(RuntimeError(WORD))
        del future
    finally:
        logger.removeHandler(handler)
    assert said.getvalue() == "ERROR asyncio: Future exception was never retrieved\nRuntimeError\n"
