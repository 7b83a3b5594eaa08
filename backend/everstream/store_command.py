"""`everstream store`: look at the embedded store of a data directory, or stop what was left running."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

from everstream.arguments import log_to_stderr, settings_of, settings_parser
from everstream.console import Exit
from everstream.store import embedded
from everstream.store.embedded import Status


def run(program: str, given: Sequence[str]) -> int:
    parser = settings_parser(program, "Look after the embedded store of the data directory.", "{status,stop} [FLAGS]")
    parser.add_argument("action", choices=("status", "stop"), help="show what runs, or stop what was left running")
    parser.add_argument("--json", action="store_true", help="write JSON (status)")
    arguments, rest = parser.parse_known_args(given)
    data_dir = settings_of(arguments, rest).settings.data_dir
    log_to_stderr()
    if arguments.action == "stop":
        stopped = asyncio.run(embedded.stop(data_dir))
        print(f"the store in {data_dir} is stopped" if stopped else f"no store runs in {data_dir}")
        return Exit.DONE
    status = asyncio.run(embedded.status(data_dir))
    print(json.dumps(_status_fields(status), indent=2) if arguments.json else _status_text(status, data_dir))
    return Exit.DONE if status.server else Exit.STORE


def _status_fields(status: Status) -> dict[str, str | int | bool | None]:
    server = status.server
    return {
        "running": server is not None,
        "in_use": status.in_use,
        "pid": server.pid if server else None,
        "version": f"{server.kind} {server.version}" if server else None,
        "uptime_s": server.uptime_s if server else None,
        "data_bytes": status.data_bytes,
        "socket": str(status.socket_path),
        "log": str(status.log_path),
    }


def _status_text(status: Status, data_dir: Path) -> str:
    server = status.server
    if server is None:
        return f"no store runs in {data_dir} ({status.data_bytes} bytes of data)"
    use = "in use" if status.in_use else "in use by nobody: everstream store stop ends it"
    return (
        f"{server.kind} {server.version} runs in {data_dir}: process {server.pid}, up {server.uptime_s} s, {use}\n"
        f"  data    {status.data_bytes} bytes\n  socket  {status.socket_path}\n  log     {status.log_path}"
    )
