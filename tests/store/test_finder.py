"""Whose map of a cluster is believed, and who is asked when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import hiredis
import pytest
from tests.server import HOST, free_port

from everstream.store.address import Spot, address_of
from everstream.store.base import StoreUnavailable
from everstream.store.finder import ClusterFinder

SLOTS = (0, 5, 16_383)


class Node:
    """Says of itself, and of the cluster, what it is given."""

    def __init__(self) -> None:
        self.spot: Spot = (HOST, 0)
        self.table: list[tuple[int, int, bytes, int]] = []  # low, high, host, port
        self.state = b"ok"
        self.silent = False
        self.asked = 0

    def answer(self, command: list[bytes]) -> bytes:
        words = [word.upper() for word in command]
        if words == [b"CLUSTER", b"SLOTS"]:
            self.asked += 1
            rows = [
                b"*3\r\n:%d\r\n:%d\r\n*3\r\n$%d\r\n%b\r\n:%d\r\n$2\r\nid\r\n" % (low, high, len(host), host, port)
                for low, high, host, port in self.table
            ]
            return b"*%d\r\n%b" % (len(rows), b"".join(rows))
        if words == [b"CLUSTER", b"INFO"]:
            text = b"cluster_state:" + self.state
            return b"$%d\r\n%b\r\n" % (len(text), text)
        return b"%1\r\n$5\r\nproto\r\n:3\r\n" if words[0] == b"HELLO" else b"+OK\r\n"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        commands = hiredis.Reader()
        try:
            while data := await reader.read(65_536):
                commands.feed(data)
                while (command := commands.gets()) is not False:
                    if not self.silent:
                        writer.write(self.answer(command))
        except OSError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def cluster(count: int) -> AsyncIterator[tuple[ClusterFinder, list[Node]]]:
    nodes, servers = [Node() for _ in range(count)], []
    for node in nodes:
        server = await asyncio.start_server(node.serve, HOST, 0)
        node.spot = (HOST, server.sockets[0].getsockname()[1])
        servers.append(server)
    seeds = ",".join(f"{host}:{port}" for host, port in (node.spot for node in nodes))
    finder = ClusterFinder(address_of(f"redis+cluster://{seeds}"), SLOTS, 0.2)
    try:
        yield finder, nodes
    finally:
        await finder.close()
        for server in servers:
            server.close()
            await server.wait_closed()


def owning(*owners: tuple[int, int, Node]) -> list[tuple[int, int, bytes, int]]:
    return [(low, high, node.spot[0].encode(), node.spot[1]) for low, high, node in owners]


async def test_each_place_is_where_its_slot_is() -> None:
    async with cluster(2) as (finder, (a, b)):
        a.table = b.table = owning((0, 4, a), (5, 100, b), (101, 16_383, a))
        assert await finder.find("") == [a.spot, b.spot, a.spot]


async def test_a_node_that_is_cut_off_is_not_believed() -> None:
    async with cluster(3) as (finder, (old, new, other)):
        old.table, old.state = owning((0, 16_383, old)), b"fail"
        new.table = other.table = owning((0, 16_383, new))
        for _ in range(3):
            assert await finder.find(f"{new.spot[0]}:{new.spot[1]}") == [new.spot] * 3
        assert old.asked, "or it was not the doubt that spoke against it"


async def test_where_nobody_is_in_order_somebody_is_believed() -> None:
    """A part of the cluster is gone, and the rest says so: its streams can still be reached."""
    async with cluster(2) as (finder, (a, b)):
        a.table = b.table = owning((0, 16_383, a))
        a.state = b.state = b"fail"
        assert await finder.find("") == [a.spot] * 3


async def test_a_map_with_holes_is_not_taken() -> None:
    async with cluster(1) as (finder, (a,)):
        a.table = owning((0, 100, a))
        with pytest.raises(StoreUnavailable, match="some of its slots"):
            await finder.find("")


async def test_who_was_silent_is_asked_last_until_it_speaks() -> None:
    async with cluster(3) as (finder, nodes):
        for node in nodes:
            node.table = owning((0, 16_383, nodes[1]))
        nodes[0].silent = nodes[1].silent = True
        assert await finder.find("") == [nodes[1].spot] * 3
        asked = [node.asked for node in nodes]
        for _ in range(3):
            await finder.find("")
        assert [node.asked - before for node, before in zip(nodes, asked, strict=True)] == [0, 0, 3]


async def test_a_suspect_is_not_asked_while_others_answer() -> None:
    async with cluster(2) as (finder, (a, b)):
        a.table = b.table = owning((0, 16_383, a))
        for _ in range(4):
            await finder.find(f"{a.spot[0]}:{a.spot[1]}")
        assert (a.asked, b.asked) == (0, 4)


async def test_a_node_that_does_not_know_its_own_host_is_reached_as_it_was() -> None:
    async with cluster(1) as (finder, (a,)):
        a.table = [(0, 16_383, b"", a.spot[1])]
        assert await finder.find("") == [a.spot] * 3


async def test_nodes_that_joined_are_known_when_all_given_addresses_are_dead() -> None:
    async with cluster(2) as (finder, (a, b)):
        finder._known = [a.spot]
        finder._address = address_of(f"redis+cluster://{a.spot[0]}:{a.spot[1]}")
        a.table = owning((0, 5, a), (6, 16_383, b))
        await finder.find("")
        a.silent, b.table = True, owning((0, 16_383, b))
        assert await finder.find("") == [b.spot] * 3


async def test_nobody_there_is_said_so() -> None:
    finder = ClusterFinder(address_of(f"redis+cluster://{HOST}:{free_port()},{HOST}:{free_port()}"), SLOTS, 0.2)
    try:
        with pytest.raises(StoreUnavailable, match="is it running"):
            await finder.find("")
    finally:
        await finder.close()
