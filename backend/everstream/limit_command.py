"""`everstream limit`: say what a user or a key may use (`runtime.quotas`), show it, take it back.

A limit counts for what is asked from then on, on every server within some seconds; what runs goes on.  What is not said
is as the settings say for users, and unlimited for keys.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from everstream.arguments import settings_of, settings_parser
from everstream.at_store import run_at_store
from everstream.config import ConfigError
from everstream.console import Exit, Parser
from everstream.gateway.keys import PROOF, id_of
from everstream.runtime.quotas import TABLE, Limits, limits_of
from everstream.store.base import Store

USAGE: Final = "{set, clear} (--user USER | --key ID) [LIMITS], or list [--json] [FLAGS]"
MOST: Final = 10**15
MODELS_MAX: Final = 256
NAMES: Final = Limits.__struct_fields__


def run(program: str, given: Sequence[str]) -> int:
    """Raises ConfigError for what is wrong with what was given, StoreUnavailable."""
    parser = _parser(program)
    arguments, rest = parser.parse_known_intermixed_args(list(given))
    settings = settings_of(arguments, rest).settings
    _check(arguments)

    async def act(store: Store) -> int:
        return await ACTIONS[arguments.action](store, program, arguments)

    return run_at_store(settings, "limits", act)


def _parser(program: str) -> Parser:
    parser = settings_parser(program, "Say what a user or a key may use.", USAGE)
    parser.add_argument("action", choices=tuple(ACTIONS), help="give limits, take them back, or show all")
    parser.add_argument("--user", default="", help="the user whose limits they are")
    parser.add_argument("--key", default="", metavar="ID", help="the key whose limits they are")
    parser.add_argument("--streams", type=_count, metavar="N", help="answers at a time")
    parser.add_argument("--starts-per-minute", type=_count, metavar="N", help="answers begun in a minute")
    parser.add_argument("--tokens-per-day", type=_count, metavar="N", help="tokens in a day, question and answer")
    parser.add_argument("--usd-per-day", type=_dollars, metavar="X", help="dollars in a day")
    parser.add_argument("--models", type=_models, metavar="A,B", help="which may be asked; * stands for any part")
    parser.add_argument("--json", action="store_true", help="write JSON")
    return parser


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(MOST))):
        raise argparse.ArgumentTypeError(f"{text[:32]!r} is no whole number from 0 to {MOST}")
    return int(text)


def _dollars(text: str) -> float:
    try:
        dollars = float(text)
    except ValueError:
        dollars = math.nan
    if not 0 <= dollars <= 1e9:
        raise argparse.ArgumentTypeError(f"{text[:32]!r} is no amount of dollars")
    return dollars


def _models(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names or len(names) > MODELS_MAX or not all("/" in name and name.isprintable() for name in names):
        raise argparse.ArgumentTypeError("models are provider/name with commas, as openai/*,anthropic/claude-*")
    return names


def _check(arguments: argparse.Namespace) -> None:
    given = [name for name in NAMES if getattr(arguments, name) is not None]
    wrong = []
    if arguments.action == "list":
        wrong += [f"list takes no --{name}" for name in ("user", "key") if getattr(arguments, name)]
    elif bool(arguments.user) == bool(arguments.key):
        wrong.append(f"{arguments.action} needs --user or --key")
    if arguments.key and id_of(arguments.key) is None:
        wrong.append(f"{arguments.key[:8]}… is no id of a key: everstream key list shows them")
    if arguments.action == "set" and not given:
        wrong.append(f"set needs a limit: {', '.join(map(_flag, NAMES))}")
    if arguments.action != "set":
        wrong += [f"{arguments.action} takes no {_flag(name)}" for name in given]
    if wrong:
        raise ConfigError(wrong)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


# --------------------------------------------------------------------------- what it does


def _account(arguments: argparse.Namespace) -> str:
    return f"user:{arguments.user}" if arguments.user else f"{PROOF}{id_of(arguments.key)}"


async def _set(store: Store, program: str, arguments: argparse.Namespace) -> int:
    account = _account(arguments)
    before = await store.get_row(TABLE, account)
    changed = {name: getattr(arguments, name) for name in NAMES if getattr(arguments, name) is not None}
    limits = msgspec.structs.replace(limits_of(before) if before else Limits(), **changed)
    await store.put_row(TABLE, account, msgspec.msgpack.encode(limits))
    _show({account: limits}, as_json=arguments.json)
    return Exit.DONE


async def _clear(store: Store, program: str, arguments: argparse.Namespace) -> int:
    account = _account(arguments)
    if not await store.drop_row(TABLE, account):
        print(f"{account} has no limits of its own", file=sys.stderr)
        return Exit.FAILED
    if arguments.json:
        print("{}")
    else:
        print(f"{account} has no limits of its own any more")
    return Exit.DONE


async def _list(store: Store, program: str, arguments: argparse.Namespace) -> int:
    rows = await store.rows(TABLE)
    _show({account: limits_of(packed) for account, packed in sorted(rows.items())}, as_json=arguments.json)
    return Exit.DONE


def _show(rows: dict[str, Limits], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({account: msgspec.to_builtins(limits) for account, limits in rows.items()}, indent=2))
    elif not rows:
        print("nobody has limits of his own: everstream limit set --user USER gives some")
    for account, limits in rows.items() if not as_json else ():
        said = {name: getattr(limits, name) for name in NAMES}
        print(f"{account}: {', '.join(_said(name, value) for name, value in said.items() if value is not None)}")


def _said(name: str, value: Any) -> str:
    shown = " ".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)
    return f"{name.replace('_', ' ')} {shown}"


Act = Callable[[Store, str, argparse.Namespace], Awaitable[int]]
ACTIONS: Final[dict[str, Act]] = {"set": _set, "list": _list, "clear": _clear}
