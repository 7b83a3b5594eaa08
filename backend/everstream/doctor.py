"""What a server needs, checked before it is missed.

Each check looks at one thing and says what it found and, if that is not good, what to do.  A *problem* keeps
`everstream serve` from working; a *warning* does not, but will be missed one day.  The checks are a table and do not
depend on each other: one that fails hides nothing from the others.  Only where the settings cannot be read, the checks
that need them are left out, because their answers would be about some other server.

The check of an embedded store starts it if it does not run, and stops it again if nobody else is attached: that it
starts is the one thing that cannot be told by looking.
"""

from __future__ import annotations

import asyncio
import errno
import inspect
import json
import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from everstream import __version__
from everstream.config import NAMES, ConfigError, Source, env_of, load
from everstream.display import mask_url
from everstream.gateway.json_tokens import fetched
from everstream.providers.discovery import USUAL, Discovery
from everstream.providers.endpoint import Endpoint
from everstream.providers.local_models import HOW, folder_of, has_engine, models_in
from everstream.providers.presets import endpoints_of
from everstream.settings import Settings
from everstream.store import embedded
from everstream.store.base import StoreUnavailable
from everstream.store.resp import ServerError, ask, parse_info, parse_url
from everstream.store.urls import store_of
from everstream.vouching import is_this_machine

if sys.platform != "win32":
    import resource

OLDEST_PYTHON: Final = (3, 11)
LEAST_FREE_BYTES: Final = 67_108_864
GOOD_FREE_BYTES: Final = 1_073_741_824
GOOD_OPEN_FILES: Final = 4_096  # one for each connection, one for each call to a provider
STORE_WAIT_S: Final = 5.0
KEYS_WAIT_S: Final = 5.0
GIB: Final = 1_073_741_824


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.  `advice` says what to do, where something is to be done."""

    check: str
    verdict: Verdict
    found: str
    advice: str = ""


Check = Callable[[Settings], Finding | Awaitable[Finding]]


def exposure(settings: Settings) -> str | None:
    """Why this server would be open to people who have not proved who they are; None where it is not."""
    if is_this_machine(settings.host) or settings.auth != "none":
        return None
    return f"other machines can reach {settings.host}, and nobody has to prove who they are"


def no_sharing(settings: Settings) -> str | None:
    """Why this server cannot be several processes; None where it can, or is to be one."""
    if settings.workers == 1:
        return None
    if sys.platform == "win32":
        return "several processes cannot share a port on this platform: leave workers at 1"
    if settings.store.startswith("memory:"):
        return "the memory of one process is no store for several: use embedded:// with workers"
    return None


async def examine(flags: Mapping[str, str | bool] | None = None, config_file: Path | None = None) -> list[Finding]:
    """Run every check.  Never raises for what it finds."""
    findings = [check_python(), check_open_files()]
    try:
        loaded = load(flags, config_file)
    except ConfigError as error:
        advice = "Mend these; store, port and the like are not checked before that."
        return [*findings, Finding("settings", Verdict.PROBLEM, "; ".join(error.problems), advice)]
    given = sum(loaded.origins[name].source is not Source.DEFAULT for name in NAMES)
    findings.append(Finding("settings", Verdict.OK, f"{len(NAMES)} settings, {given} given, the rest default"))
    for check in CHECKS:
        finding = check(loaded.settings)
        findings.append(await finding if inspect.isawaitable(finding) else finding)
    return findings


def healthy(findings: Sequence[Finding]) -> bool:
    """Whether a server would work: warnings do not count."""
    return all(finding.verdict is not Verdict.PROBLEM for finding in findings)


def as_text(findings: Sequence[Finding]) -> str:
    """For a terminal: a line for each finding, what to do under it, and a sum."""
    lines = [f"everstream {__version__} on {platform.system()} {platform.release()} {platform.machine()}", ""]
    for finding in findings:
        first, *more = finding.found.splitlines() or [""]
        lines.append(f"  {finding.verdict:<8} {finding.check:<12} {first}")
        lines += [f"{'':<24}{line}" for line in more]
        if finding.advice:
            lines.append(f"{'':<24}-> {finding.advice}")
    counts = [sum(finding.verdict is verdict for finding in findings) for verdict in (Verdict.PROBLEM, Verdict.WARNING)]
    if not any(counts):
        summary = "Everything that a server needs is there."
    elif not counts[0]:
        summary = f"A server works here. Warnings: {counts[1]}; the arrows say what to do."
    else:
        summary = f"A server would not work. Problems: {counts[0]}, warnings: {counts[1]}; the arrows say what to do."
    return "\n".join([*lines, "", summary])


def as_json(findings: Sequence[Finding]) -> str:
    return json.dumps(
        {"version": __version__, "ok": healthy(findings), "findings": [asdict(finding) for finding in findings]},
        indent=2,
        ensure_ascii=False,
    )


# --------------------------------------------------------------------------- the checks


def check_python() -> Finding:
    found = platform.python_version()
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Finding("python", Verdict.PROBLEM, found, "Use Python 3.11 or newer.")
    return Finding("python", Verdict.OK, found)


def check_open_files() -> Finding:
    if sys.platform == "win32":
        return Finding("open files", Verdict.OK, "no limit on this platform")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft in (resource.RLIM_INFINITY, -1) or soft >= GOOD_OPEN_FILES:
        return Finding("open files", Verdict.OK, f"{soft} at the same time")
    top = 65_536 if hard in (resource.RLIM_INFINITY, -1) else min(hard, 65_536)
    advice = f"Every connection needs one: run `ulimit -n {top}` first, or set LimitNOFILE={top} in the unit."
    return Finding("open files", Verdict.WARNING, f"only {soft} at the same time", advice)


def check_host(settings: Settings) -> Finding:
    danger = exposure(settings)
    if is_this_machine(settings.host):
        return Finding("host", Verdict.OK, f"{settings.host}: this machine only")
    if danger is None:
        return Finding("host", Verdict.OK, f"{settings.host}: other machines too, and they have to prove who they are")
    if settings.insecure:
        return Finding("host", Verdict.WARNING, danger, "Make sure that whatever stands before it lets in your people.")
    advice = f"Use 127.0.0.1, set {env_of('auth')}=keys or jwt, or {env_of('insecure')}=true if it is meant."
    return Finding("host", Verdict.PROBLEM, danger, advice)


async def check_auth(settings: Settings) -> Finding:
    """By what clients prove who they are, and whether the keys that vouch for it can be had."""
    ways = ["API keys"] if "keys" in settings.auth else []
    if "jwt" in settings.auth and settings.jwt_secret is not None:
        ways.append("tokens signed with jwt_secret")
    if "jwt" not in settings.auth or settings.jwt_jwks_url is None:
        return Finding("auth", Verdict.OK, " and ".join(ways) or "nobody has to prove who they are")
    shown = mask_url(settings.jwt_jwks_url)
    try:
        async with asyncio.timeout(KEYS_WAIT_S):
            keys = await asyncio.to_thread(fetched, settings.jwt_jwks_url, KEYS_WAIT_S)
        reason = "none of its keys can be used"
    except Exception as error:  # whatever a foreign server's answer makes of it
        keys, reason = {}, str(error) or f"no answer within {KEYS_WAIT_S:.0f} s"
    ways.append(f"tokens signed with one of {len(keys)} keys at {shown}" if keys else f"{shown}: {reason}")
    if keys:
        return Finding("auth", Verdict.OK, " and ".join(ways))
    advice = (
        f"No token that a published key signed is accepted before that is mended: correct {env_of('jwt_jwks_url')}."
    )
    return Finding("auth", Verdict.WARNING, "; ".join(ways), advice)


def check_port(settings: Settings) -> Finding:
    if settings.port == 0:
        return Finding("port", Verdict.OK, "any free one")
    place = f"{settings.host}:{settings.port}"
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            settings.host.strip("[]"), settings.port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)  # two may bind where neither listens
    except socket.gaierror as error:
        return Finding("port", Verdict.PROBLEM, f"{settings.host} is no address ({error.strerror})", "Correct host.")
    except OSError as error:
        advice = {
            errno.EADDRINUSE: "Another server listens there: stop it, or choose another port with --port.",
            errno.EACCES: "Ports below 1024 need a right that this user has not: choose one above.",
            errno.EADDRNOTAVAIL: "This machine has no such address: correct host.",
        }.get(error.errno or 0, "Choose another host or port.")
        return Finding("port", Verdict.PROBLEM, f"{place} cannot be used: {error.strerror}", advice)
    return Finding("port", Verdict.OK, f"{place} is free")


def check_data_dir(settings: Settings) -> Finding:
    if not settings.store.startswith("embedded:"):
        return Finding("data dir", Verdict.OK, "not needed: the store is elsewhere")
    place = settings.data_dir
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            free_bytes = shutil.disk_usage(place).free
    except OSError as error:
        advice = f"Give {_user()} the right to write there, or set data_dir to another directory."
        return Finding("data dir", Verdict.PROBLEM, f"{settings.data_dir}: {error.strerror}", advice)
    found = f"{settings.data_dir}: {free_bytes / GIB:.1f} GiB free"
    if free_bytes < LEAST_FREE_BYTES:
        return Finding("data dir", Verdict.PROBLEM, found, "Make room, or set data_dir to a disk with room.")
    if free_bytes < GOOD_FREE_BYTES:
        return Finding("data dir", Verdict.WARNING, found, "Make room: a full disk stops every stream.")
    return Finding("data dir", Verdict.OK, found)


async def check_store(settings: Settings) -> Finding:
    if settings.store.startswith("embedded:"):
        return await _check_embedded(settings)
    if settings.store.startswith("memory:"):
        advice = "Use it to try things out; embedded:// keeps streams at no more trouble."
        return Finding("store", Verdict.WARNING, "memory: every stream is gone with the server", advice)
    shown = mask_url(settings.store)
    if "+" in settings.store.partition("://")[0]:
        return await _check_several(settings, shown)
    try:
        (text,) = await ask(parse_url(settings.store), "INFO", timeout_s=STORE_WAIT_S)
    except ValueError:
        advice = "Use embedded://, redis://host:port/db, unix:///path, redis+cluster:// or redis+sentinel://."
        return Finding("store", Verdict.PROBLEM, f"{shown} is no store that can be used", advice)
    except ServerError as error:
        advice = "Check user and password in the URL: redis://user:password@host:port/db."
        return Finding("store", Verdict.PROBLEM, f"{shown} refuses: {error}", advice)
    except (OSError, EOFError) as error:
        advice = "Start it, correct the URL, or use embedded:// to have one started here."
        reason = str(error) or f"no answer within {STORE_WAIT_S:.0f} s"
        return Finding("store", Verdict.PROBLEM, f"{shown} does not answer: {reason}", advice)
    return _judge_server(shown, parse_info(text))


async def _check_several(settings: Settings, shown: str) -> Finding:
    """Open it as a server would: a cluster and a group under Sentinels have no single server to be asked."""
    try:
        store = store_of(settings)
        await store.open("n_doctor", lambda push: None, lambda message: None)
        await store.close()
    except StoreUnavailable as error:
        return Finding("store", Verdict.PROBLEM, error.message, "Mend that; OPERATIONS.md says how stores are set up.")
    return Finding("store", Verdict.OK, f"{shown} can be used")


async def _check_embedded(settings: Settings) -> Finding:
    try:
        before = await embedded.status(settings.data_dir)
        if before.server is not None:
            server = f"{before.server.kind} {before.server.version}"
            return Finding("store", Verdict.OK, f"embedded, {server} runs as process {before.server.pid}")
        share = await embedded.attach(settings.data_dir, settings.valkey_bin)
        try:
            after = await embedded.status(settings.data_dir)
        finally:
            await share.detach()
    except StoreUnavailable as error:
        return Finding("store", Verdict.PROBLEM, error.message, "Mend that, or set store to the URL of a Redis server.")
    server = f"{after.server.kind} {after.server.version}" if after.server else "the store"
    return Finding("store", Verdict.OK, f"embedded, {server} starts and stops")


def _judge_server(shown: str, info: Mapping[str, str]) -> Finding:
    kind = "valkey" if "valkey_version" in info else "redis"
    version = info.get(f"{kind}_version", "0")
    found = f"{shown}: {kind} {version}"
    if not embedded.Server(0, kind, version, 0).new_enough:
        return Finding("store", Verdict.PROBLEM, found, "Upgrade it: Redis 7.0 or Valkey 7.2 is the oldest that works.")
    faults = []
    if info.get("role") == "slave":
        return Finding("store", Verdict.PROBLEM, f"{found}, a read-only replica", "Name the primary in the URL.")
    if info.get("maxmemory_policy", "noeviction") != "noeviction" and info.get("maxmemory", "0") != "0":
        faults.append("It drops data when memory is short: set its maxmemory-policy to noeviction.")
    if info.get("aof_enabled") == "0":
        faults.append("Its restart loses what was not saved: set its appendonly to yes.")
    return Finding("store", Verdict.WARNING if faults else Verdict.OK, found, " ".join(faults))


def check_nodes(settings: Settings) -> Finding:
    hindrance = no_sharing(settings)
    many = f"{settings.workers} nodes" if settings.workers > 1 else "one node"
    if hindrance is not None:
        return Finding("nodes", Verdict.PROBLEM, many, hindrance[0].upper() + hindrance[1:] + ".")
    if not settings.lead and settings.store.startswith(("memory:", "embedded:")):
        found = f"{many} that run no models, on a store that only this machine reaches"
        advice = f"Nobody would answer: set {env_of('lead')}=true, or use the store that the nodes which lead use."
        return Finding("nodes", Verdict.WARNING, found, advice)
    cores = os.cpu_count() or 1
    if settings.workers > cores:
        advice = f"More nodes than cores only take turns: {cores} are enough here."
        return Finding("nodes", Verdict.WARNING, f"{many} on {cores} cores", advice)
    return Finding("nodes", Verdict.OK, many if settings.lead else f"{many}; models run on others")


async def check_providers(settings: Settings) -> Finding:
    """Which services can be asked, which servers of this machine were found, and what the others want."""
    endpoints = endpoints_of(settings, os.environ, {})
    usable = {name: endpoint for name, endpoint in endpoints.items() if endpoint.offered and not endpoint.hindrance}
    looked_for = Discovery(USUAL if settings.discover else (), left_alone=usable, own_port=settings.port)
    found = await looked_for.found()
    lines = [", ".join([_usable(endpoint) for endpoint in usable.values()] or ["none has a key"])]
    here = [f"{place.name} ({place.base_url})" for place in USUAL if place.name in found]
    files = models_in(folder_of(settings.data_dir)) if has_engine() else ()
    here += [f"local/{name}" for name in files]
    nothing = "no server of models found" if settings.discover else "servers of models are not looked for"
    lines.append(f"on this machine: {', '.join(here) or nothing}")
    waiting = [] if files else [f"local: {HOW}"]
    waiting += [
        f"{name}: {told.hindrance}" for name, told in endpoints.items() if name not in usable and told.hindrance
    ]
    lines += [f"not usable: {'; '.join(waiting[at : at + 3])}" for at in range(0, len(waiting), 3)]
    if usable or here:
        return Finding("providers", Verdict.OK, "\n".join(lines))
    advice = (
        "Set the variable of a service, start a server of models here, or install a local one; scripted ones answer."
    )
    return Finding("providers", Verdict.WARNING, "\n".join(lines), advice)


def _usable(endpoint: Endpoint) -> str:
    if endpoint.api_key is None:
        return f"{endpoint.name} ({mask_url(endpoint.base_url)}, no key)"
    return f"{endpoint.name} (key from {endpoint.key_from})"


def _user() -> str:
    return f"user {os.geteuid()}" if hasattr(os, "geteuid") else "this user"


CHECKS: Final[tuple[Check, ...]] = (
    check_host,
    check_auth,
    check_port,
    check_data_dir,
    check_store,
    check_nodes,
    check_providers,
)
