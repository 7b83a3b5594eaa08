"""What every process of `everstream serve` does before there is a node: the port, the logs, and who is told.

Several nodes share a port.  On Linux each listens on a socket of its own (SO_REUSEPORT), and the kernel deals the
connections out by a hash of their addresses: 200 connections to four nodes came as 54, 47, 40 and 59.  One shared queue
(the same socket in every process) gave 8, 51, 53 and 88, because whichever process wakes first takes all it can; but
elsewhere it is the only thing that shares at all, so there it is what is used.  `bind` takes the port for itself
alone before others of the same server may join, so that a second server is still refused.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from typing import Final

import structlog
from structlog.typing import EventDict, Processor

from everstream.gateway.quiet import QuietFormatter, quiet_exceptions
from everstream.settings import Settings

EXIT_FAILED: Final = 1
EXIT_STORE: Final = 3
EXIT_PORT: Final = 4
NOTIFY_ENV: Final = "NOTIFY_SOCKET"
# What moves a terminal's cursor, ends a line, or shows text in another order than it is in.
_CONTROLS: Final = {
    code: f"\\u{code:04x}"
    for span in ((0, 32), (127, 160), (0x2028, 0x202F), (0x2066, 0x206A))
    for code in range(*span)
}


def bind(settings: Settings) -> socket.socket | None:
    """The server's port, bound but not listening; None, and a line on standard error, where it cannot be had."""
    host, port = settings.host, settings.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.setblocking(False)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        why = "another program listens there" if taken else error.strerror or str(error)
        print(f"everstream: cannot listen on {host}:{port}: {why}", file=sys.stderr)
        return None
    return listener


def sibling_of(listener: socket.socket) -> socket.socket:
    """Another socket on the same port, for one node of several.  Raises OSError."""
    if sys.platform != "linux":
        return listener.dup()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sibling = socket.socket(listener.family, listener.type, listener.proto)
    try:
        sibling.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sibling.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sibling.bind(listener.getsockname())
        sibling.setblocking(False)
    except OSError:
        sibling.close()
        raise
    return sibling


def announce(listener: socket.socket, nodes: int = 1) -> None:
    """Say on standard output, and to systemd, that clients can come."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    how_many = f"{nodes} nodes; " if nodes > 1 else ""
    where = f"http://{shown}:{port}/  ({how_many}WebSocket: ws://{shown}:{port}/ws; Ctrl-C stops)"
    print(f"Everstream is ready: {where}", flush=True)
    tell_systemd("READY=1")


def tell_systemd(state: str) -> None:
    """The datagram of sd_notify(3), where a service manager waits for one; a manager that is gone is no trouble."""
    address = os.environ.get(NOTIFY_ENV, "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
        try:
            notifier.connect("\0" + address[1:] if address.startswith("@") else address)
            notifier.send(state.encode())
        except OSError as error:
            print(f"everstream: the service manager was not told {state}: {error.strerror}", file=sys.stderr)


def escaped(logger: object, method: str, event: EventDict) -> EventDict:
    """A line's texts without control characters: what a client sent begins no line of its own.

    A traceback keeps its lines, each with a space in front.
    """
    for name, value in event.items():
        if isinstance(value, str):
            lines = value.splitlines() if name in ("exception", "traceback") else [value]
            event[name] = "\n ".join(line.translate(_CONTROLS) for line in lines)
    return event


def configure_logs(settings: Settings) -> None:
    """One line an event, to standard error; of exceptions where they came from, but not what they say (`quiet`)."""
    level = getattr(logging, settings.log_level.upper())
    others = logging.StreamHandler(sys.stderr)
    others.setFormatter(QuietFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[others])
    # JSON escapes by itself.
    renderers: list[Processor] = (
        [structlog.processors.JSONRenderer()]
        if settings.log_format == "json"
        else [escaped, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            quiet_exceptions,
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
