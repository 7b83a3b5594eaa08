"""A node that has a parent: `python -m everstream.gateway.child LISTENER LIFELINE`, both numbers of inherited files.

Nobody types this.  `parent.py` starts it with a socket that is bound to the server's port and one end of a lifeline,
by which everything else comes.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Sequence

import uvloop

from everstream.gateway.lifeline import Lifeline
from everstream.gateway.server import run_node
from everstream.gateway.startup import configure_logs


def main(arguments: Sequence[str]) -> int:
    listener, tie = (socket.socket(fileno=int(number)) for number in arguments)
    for inherited in (listener, tie):
        inherited.set_inheritable(False)  # no process of ours shall keep the port, or the parent's ear
        inherited.setblocking(False)
    with listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(listener, tie))


async def _run(listener: socket.socket, tie: socket.socket) -> int:
    lifeline = await Lifeline.take(tie)
    try:
        settings = await lifeline.settings()
        configure_logs(settings)
        lifeline.listen()
        return await run_node(settings, listener, lifeline)
    except EOFError:  # there was never anybody to serve for
        return 0
    finally:
        await lifeline.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
