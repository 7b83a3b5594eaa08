"""`everstream key`: make, list and revoke the keys that clients show (`gateway.keys`).

The command is one more that shares the store: beside a running server it attaches to the embedded one as a further
server would, and where none runs it starts it for the moment that it needs it.  It takes no lease, so nothing is ever
given to it.  A key works from the moment that it is printed: no server has to be told.  Of a revoked one all living
servers are told, so that they close what is open by it; one that the word does not reach looks for itself, every
`auth_recheck_s`.

The key goes to standard output alone, once; what is said of it goes to standard error, so that `$(...)` takes the key.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final

from everstream.arguments import log_to_stderr, settings_of, settings_parser
from everstream.config import ConfigError
from everstream.console import Exit, Parser, complain
from everstream.core.errors import EverstreamError
from everstream.gateway.keys import PROOF, KeyInfo, Keys, TooManyKeys, id_of
from everstream.runtime.revoking import tell_revoked
from everstream.settings import Settings
from everstream.store.base import Store
from everstream.store.urls import store_of

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
    if settings.store.startswith("memory:"):
        raise ConfigError(["memory:// is gone with its process, and so would be its keys: name another store"])
    log_to_stderr()
    try:
        return asyncio.run(_apart(settings, wish, act))
    except asyncio.CancelledError:
        return Exit.INTERRUPTED


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


# --------------------------------------------------------------------------- the store


async def _apart(settings: Settings, wish: Wish, act: Act) -> int:
    """Do it, and let go of the store also when told to stop: whoever starts an embedded one has to end it."""
    task = asyncio.current_task()
    assert task is not None
    with contextlib.suppress(NotImplementedError):  # where there is no such signal, there is no embedded store
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with _opened(settings) as store:
        return await act(store, settings, wish)


@contextlib.asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Store]:
    store = store_of(settings)
    await store.open(f"k_{secrets.token_hex(8)}", lambda push: None, lambda message: None)
    try:
        yield store
    finally:
        await store.close()


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
