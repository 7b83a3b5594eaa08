"""The cage itself: what is cut hears nothing, either way, and nobody else notices."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.chaos.cage import Cage, caged, unavailable

HERE, THERE = "127.0.1.1", "127.0.1.2"
GROUP, NOBODYS_GROUP = 5101, 5102
ANSWER_S = 0.3

# Connects, says it, then echoes what it reads.
ECHO = (
    "import socket,sys; s=socket.create_connection((sys.argv[1],int(sys.argv[2])));\nwhile d:=s.recv(99): s.sendall(d)"
)

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable())


@pytest.fixture
def cage() -> Iterator[Cage]:
    outside = os.readlink("/proc/thread-self/ns/net")
    with caged() as cage:
        assert os.readlink("/proc/thread-self/ns/net") != outside
        yield cage
    assert os.readlink("/proc/thread-self/ns/net") == outside


@contextmanager
def echoing(group: int) -> Iterator[socket.socket]:
    """A connection that a process of this group has made to us at THERE, and on which it echoes."""
    with socket.create_server((THERE, 0)) as listener:
        command = [sys.executable, "-c", ECHO, THERE, str(listener.getsockname()[1])]
        process = subprocess.Popen(command, group=group)
        try:
            listener.settimeout(10)
            connection, _ = listener.accept()
            with connection:
                yield connection
        finally:
            process.kill()
            process.wait(10)


def answers(connection: socket.socket) -> bool:
    connection.sendall(b"x")
    connection.settimeout(ANSWER_S)
    try:
        return bool(connection.recv(99))
    except TimeoutError:
        return False


def test_a_group_that_is_cut_from_a_host_hears_nothing_until_it_is_healed(cage: Cage) -> None:
    cage.know([GROUP, NOBODYS_GROUP])
    with echoing(GROUP) as cut, echoing(NOBODYS_GROUP) as other:
        assert answers(cut)
        assert answers(other)
        cage.cut([GROUP], [THERE])
        assert not answers(cut)
        assert answers(other)
        cage.heal()
        cut.settimeout(10)
        assert cut.recv(1) == b"x"  # what was said meanwhile is sent again


def test_two_hosts_that_are_cut_cannot_connect(cage: Cage) -> None:
    with socket.create_server((THERE, 0)) as listener:
        address = listener.getsockname()
        cage.cut([HERE], [THERE])
        with pytest.raises(TimeoutError):
            socket.create_connection(address, timeout=ANSWER_S, source_address=(HERE, 0))
        socket.create_connection(address, timeout=10, source_address=("127.0.1.3", 0)).close()
