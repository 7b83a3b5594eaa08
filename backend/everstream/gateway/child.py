"""A node that has a parent: `python -m everstream.gateway.child LISTENER LIFELINE [MODULE:APP]`.

Nobody types this.  `parent.py` starts it with the numbers of two inherited files: a socket that is bound to the port of
the server, and one end of a lifeline, by which the settings and everything else come.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Sequence

import uvloop

from everstream.gateway.application import App
from everstream.gateway.lifeline import Lifeline
from everstream.gateway.named import app_named
from everstream.gateway.server import run_node
from everstream.gateway.startup import configure_logs


def main(arguments: Sequence[str]) -> int:
    listener, tie = (socket.socket(fileno=int(number)) for number in arguments[:2])
    app = app_named(arguments[2]) if len(arguments) > 2 else None
    for inherited in (listener, tie):
        inherited.set_inheritable(False)  # no process of ours shall keep the port, or the parent's ear
        inherited.setblocking(False)
    with listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(listener, tie, app))


async def _run(listener: socket.socket, tie: socket.socket, app: App | None) -> int:
    lifeline = await Lifeline.take(tie)
    try:
        settings = await lifeline.settings()
        configure_logs(settings)
        lifeline.listen()
        return await run_node(settings, listener, lifeline, app)
    except EOFError:  # there was never anybody to serve for
        return 0
    finally:
        await lifeline.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
