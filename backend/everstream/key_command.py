"""`everstream key`: make, list and revoke the keys that clients show (`gateway.keys`).

A key works from the moment that it is printed: no server has to be told.  Of a revoked one all living servers are told,
so that they close what is open by it; one that the word does not reach looks for itself, every `auth_recheck_s`.

The key goes to standard output alone, once; what is said of it goes to standard error, so that `$(...)` takes the key.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

from everstream.arguments import settings_of, settings_parser
from everstream.at_store import run_at_store
from everstream.config import ConfigError
from everstream.console import Exit, Parser, complain
from everstream.core.errors import EverstreamError
from everstream.gateway.keys import PROOF, KeyInfo, Keys, TooManyKeys, id_of
from everstream.runtime.revoking import tell_revoked
from everstream.settings import Settings
from everstream.store.base import Store

DAY_S: Final = 86_400
DAYS_MAX: Final = 3_650  # a table lasts ten years from the last time that it was written to
USAGE: Final = "{create --user USER [--name NAME] [--days N], list, revoke ID…} [--json] [FLAGS]"


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for, besides settings."""

    program: str
    user: str = ""
    name: str = ""
    days: float | None = None
    ids: list[str] = field(default_factory=list)
    as_json: bool = False


def run(program: str, given: Sequence[str]) -> int:
    """Raises ConfigError for what is wrong with what was given, StoreUnavailable."""
    parser = _parser(program)
    arguments, rest = parser.parse_known_intermixed_args(list(given))
    settings = settings_of(arguments, rest).settings
    act, takes = ACTIONS[arguments.action]
    wish = Wish(program, arguments.user, arguments.name, arguments.days, arguments.ids, arguments.json)
    _check(wish, arguments.action, takes)
    return run_at_store(settings, "keys", lambda store: act(store, settings, wish))


def _parser(program: str) -> Parser:
    parser = settings_parser(program, "Make, list and revoke the API keys that clients show.", USAGE)
    parser.add_argument("action", choices=tuple(ACTIONS), help="make a key, show all, or take some back")
    parser.add_argument("ids", nargs="*", metavar="ID", help="which keys (revoke)")
    parser.add_argument("--user", default="", help="whose key it is: what streams belong to (create)")
    parser.add_argument("--name", default="", help="what the user is shown as; without it the user (create)")
    parser.add_argument("--days", type=_days, metavar="N", help="how long it holds; without it until revoked (create)")
    parser.add_argument("--json", action="store_true", help="write JSON")
    return parser


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = math.nan
    if not 0 < days <= DAYS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of days: more than 0, and {DAYS_MAX} at most")
    return days


def _check(wish: Wish, action: str, takes: Sequence[str]) -> None:
    said = {"--user": wish.user, "--name": wish.name, "--days": wish.days, "ID": wish.ids}
    wrong = [f"{action} takes no {what}" for what, value in said.items() if value and what not in takes]
    wrong += [f"{action} needs {what}" for what in takes[:1] if not said[what]]
    # Only the beginning is shown: it may be a secret that was cut short.
    wrong += [f"{text[:8]}… is no id of a key: everstream key list shows them" for text in wish.ids if not id_of(text)]
    if wrong:
        raise ConfigError(wrong)


# --------------------------------------------------------------------------- what it does


async def _create(store: Store, settings: Settings, wish: Wish) -> int:
    expires_at = None if wish.days is None else round(time.time() + wish.days * DAY_S)
    try:
        id, key = await Keys(store).create(wish.user, wish.name, expires_at)
    except (ValueError, TooManyKeys) as error:
        return complain(wish.program, str(error))
    user = wish.user
    if wish.as_json:
        told = {"id": id, "key": key, "user": user, "name": wish.name or user, "expires_at": expires_at}
        print(json.dumps(told, indent=2))
    else:
        print(key)
    until = "until it is revoked" if expires_at is None else f"until {_day(expires_at)}"
    print(
        f"This is the key of {user}, which holds {until}.  Keep it now: it is not shown again.\n"
        f"everstream key revoke {id} takes it back.",
        file=sys.stderr,
    )
    if "keys" not in settings.auth:
        print("Servers ask for keys when they are told to: EVERSTREAM_AUTH=keys.", file=sys.stderr)
    return Exit.DONE


async def _list(store: Store, settings: Settings, wish: Wish) -> int:
    keys, now = await Keys(store).list(), time.time()
    if wish.as_json:
        print(json.dumps([asdict(info) | {"expired": info.expired(now)} for info in keys], indent=2))
    elif keys:
        print(_as_table(keys, now))
    else:
        print("there are no keys: everstream key create --user USER makes one")
    return Exit.DONE


async def _revoke(store: Store, settings: Settings, wish: Wish) -> int:
    keys, done = Keys(store), []
    for id in dict.fromkeys(id for text in wish.ids if (id := id_of(text))):
        found = await keys.revoke(id)
        # Also where there is none: the row may have gone the last time, and the word not.
        told, servers = await _told(store, id)
        done.append({"id": id, "revoked": found, "servers": servers, "told": told})
        if not wish.as_json:
            print(_revoked(id, found, told, servers, settings), file=sys.stdout if found else sys.stderr, flush=True)
    if wish.as_json:
        print(json.dumps(done, indent=2))
    return Exit.DONE if all(row["revoked"] for row in done) else Exit.FAILED


async def _told(store: Store, id: str) -> tuple[int, int | None]:
    """How many servers were told, and how many there are, if that is known."""
    try:
        return await tell_revoked(store, PROOF + id)
    except EverstreamError:
        return 0, None


# --------------------------------------------------------------------------- words


def _revoked(id: str, found: bool, told: int, servers: int | None, settings: Settings) -> str:
    first = f"{id} is revoked" if found else f"there is no key {id}"
    if servers is None or told < servers:
        of = "" if servers is None else f" of {servers}"
        return f"{first}; {told}{of} servers told, the others look for themselves every {settings.auth_recheck_s:g} s"
    return f"{first}; {told} {'server' if told == 1 else 'servers'} told"


def _as_table(keys: Sequence[KeyInfo], now: float) -> str:
    lines = [("ID", "MADE", "EXPIRES", "USER", "NAME")]
    for info in keys:
        expires = "never" if info.expires_at is None else _day(info.expires_at)
        expires = "expired" if info.expired(now) else expires
        lines.append((info.id, _day(info.created_at), expires, info.user, info.name))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at))


Act = Callable[[Store, Settings, Wish], Awaitable[int]]

# What does it, and what it takes: the first is needed.
ACTIONS: Final[dict[str, tuple[Act, tuple[str, ...]]]] = {
    "create": (_create, ("--user", "--name", "--days")),
    "list": (_list, ()),
    "revoke": (_revoke, ("ID",)),
}
