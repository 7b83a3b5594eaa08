"""A real cluster, and a real group under Sentinels, of the packaged valkey-server: for tests that make them fail.

    Cluster      three primaries and as many replicas as asked for, over all slots; `kill`, `restart`, `stop_`, `cont`,
                 `move_slot` while it runs
    Sentinels    a primary, two replicas, and three Sentinels that watch them

Every server runs in the foreground as a child of the tests.  Each may have a host of its own (`hosts`), which it also
speaks from, so that packets between two of them can be told apart and dropped.  Servers hear each other within
`NODE_TIMEOUT_MS`, and a failover takes two to four times that.

https://valkey.io/topics/cluster-spec/  https://valkey.io/topics/sentinel/
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from redis.crc import key_slot
from tests.server import HOST, free_port

from everstream.core.lease import PARTITIONS
from everstream.store.folder import find_binary
from everstream.store.resp import Address, ServerError, ask

SLOTS = 16_384
PRIMARIES = 3
SENTINELS = 3
NODE_TIMEOUT_MS = 1_000
DOWN_AFTER_MS = 1_000
READY_S = 30.0
LOOK_S = 0.02
SERVICE = "streams"


async def eventually(condition: Callable[[], Awaitable[bool]], what: str, within_s: float = READY_S) -> None:
    """Wait until a question to a server, which may not be there yet, is answered with yes."""
    try:
        async with asyncio.timeout(within_s):
            while True:
                try:
                    if await condition():
                        return
                except (OSError, EOFError, ServerError, TimeoutError):
                    pass
                await asyncio.sleep(LOOK_S)  # pause: between two looks at a condition
    except TimeoutError:
        raise AssertionError(f"{what} took longer than {within_s} s") from None


def slot_of(partition: int, prefix: str = "es") -> int:
    return key_slot(f"{prefix}:{{p{partition}}}:".encode())


def free_ports(count: int) -> list[int]:
    """As many different ones."""
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(free_port())
    return list(ports)


class Member:
    """One process: a server of streams, or a Sentinel."""

    def __init__(
        self, folder: Path, name: str, host: str, port: int, *options: str, config: str = "", binary: Path | None = None
    ) -> None:
        self.name, self.host, self.port = name, host, port
        self.id = ""  # in a cluster
        self.folder = folder / name
        self.folder.mkdir(parents=True)
        (self.folder / "server.conf").write_text(config)
        self._command = [str(binary or find_binary(None)), "server.conf", *options]
        self._command += ["--port", str(self.port), "--bind", host, "--bind-source-addr", host, "--dir", "."]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def launch(self) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def send_signal(self, number: signal.Signals) -> None:
        if self._process is not None and self.running:
            self._process.send_signal(number)

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    async def ask(self, *commands: str) -> list[str]:
        return await ask(Address(host=self.host, port=self.port), *commands, timeout_s=2)

    async def say(self, command: str) -> str:
        (reply,) = await self.ask(command)
        return reply

    async def is_up(self) -> bool:
        assert self.running, (self.folder / "server.log").read_text()[-2000:]
        return await self.say("PING") == "PONG"

    async def role(self) -> dict[str, str]:
        text = await self.say("INFO replication")
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


class _Group:
    """What a cluster and a group under Sentinels have in common."""

    def __init__(self) -> None:
        self.servers: list[Member] = []
        self.others: list[Member] = []  # who keep no streams

    def kill(self, server: Member) -> None:
        """As a power cut does."""
        server.end()

    async def restart(self, server: Member) -> None:
        """A killed server comes back with what its append-only file holds."""
        server.launch()
        await eventually(server.is_up, f"the start of {server.name}")

    def stop_(self, server: Member) -> None:
        """Freeze it: it holds its connections and answers nothing."""
        server.send_signal(signal.SIGSTOP)

    def cont(self, server: Member) -> None:
        server.send_signal(signal.SIGCONT)

    def close(self) -> None:
        for member in (*self.servers, *self.others):
            member.end()

    async def _launch(self, members: Sequence[Member]) -> None:
        for member in members:
            member.launch()
        for member in members:
            await eventually(member.is_up, f"the start of {member.name}")


def _storing(*more: str) -> tuple[str, ...]:
    return ("--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--repl-diskless-sync-delay", "0", *more)


class Cluster(_Group):
    """`url` names all servers, as an operator would."""

    def __init__(
        self,
        folder: Path,
        *,
        replicas: int = 3,
        hosts: Sequence[str] = (),
        node_timeout_ms: int = NODE_TIMEOUT_MS,
        options: Sequence[str] = (),
    ) -> None:
        """`hosts`: an address of this machine for each server, the primaries first; else all have the same."""
        super().__init__()
        clustered = _storing("--cluster-enabled", "yes", "--cluster-node-timeout", str(node_timeout_ms))
        clustered += ("--cluster-replica-validity-factor", "0", "--cluster-allow-replica-migration", "no", *options)
        ports = free_ports(2 * (PRIMARIES + replicas))
        for i in range(PRIMARIES + replicas):
            host = hosts[i] if hosts else HOST
            bus = ("--cluster-port", str(ports.pop()), "--cluster-announce-ip", host)
            self.servers.append(Member(folder, f"server{i}", host, ports.pop(), *clustered, *bus))

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(server.address for server in self.servers)

    async def start(self) -> Cluster:
        await self._launch(self.servers)
        for server in self.servers:
            server.id = await server.say("CLUSTER MYID")
        first, *others = self.servers
        for i, server in enumerate(self.servers[:PRIMARIES]):
            low, high = SLOTS * i // PRIMARIES, SLOTS * (i + 1) // PRIMARIES - 1
            # Each an epoch of its own at once: two with the same would have to find out who gives way.
            await server.ask(f"CLUSTER SET-CONFIG-EPOCH {i + 1}", f"CLUSTER ADDSLOTSRANGE {low} {high}")
        for server in others:
            bus = server._command[server._command.index("--cluster-port") + 1]
            await first.ask(f"CLUSTER MEET {server.host} {server.port} {bus}")
        await eventually(self._all_know_all, "the servers' getting to know each other")
        for i, server in enumerate(self.servers[PRIMARIES:]):
            await server.ask(f"CLUSTER REPLICATE {self.servers[i % PRIMARIES].id}")
        await self.healthy()
        return self

    async def healthy(self) -> None:
        """Wait until all slots are served, everybody says so, and every replica follows its primary."""
        await eventually(self._is_healthy, "the cluster's recovery")

    async def _all_know_all(self) -> bool:
        known = [await server.say("CLUSTER NODES") for server in self.servers]
        return all(text.count(" connected") == len(self.servers) for text in known)

    async def _is_healthy(self) -> bool:
        for server in filter(lambda server: server.running, self.servers):
            if "cluster_state:ok" not in await server.say("CLUSTER INFO"):
                return False
            role = await server.role()
            if role["role"] == "slave" and role["master_link_status"] != "up":
                return False
        replicas = [s for s in await self._table() if "slave" in s[2]]
        return len(replicas) == len(self.servers) - PRIMARIES

    async def _table(self) -> list[list[str]]:
        """The rows of CLUSTER NODES, as a running server that is itself in order sees them."""
        for server in self.servers:
            if server.running:
                try:
                    return [line.split() for line in (await server.say("CLUSTER NODES")).splitlines()]
                except (OSError, TimeoutError):
                    continue
        raise OSError("no server runs")

    async def primary_of(self, partition: int) -> Member:
        """Raises OSError where nobody serves it just now."""
        slot = slot_of(partition)
        for row in await self._table():
            if "master" in row[2] and "fail" not in row[2]:
                for spread in row[8:]:
                    low, _, high = spread.partition("-")
                    if low.isdecimal() and int(low) <= slot <= int(high or low):
                        return self._named(row[0])
        raise OSError(f"nobody serves partition {partition}")

    async def replica_of(self, server: Member) -> Member:
        for row in await self._table():
            if "slave" in row[2] and row[3] == server.id:
                return self._named(row[0])
        raise OSError(f"{server.name} has no replica")

    def _named(self, id_: str) -> Member:
        return next(server for server in self.servers if server.id == id_)

    def partition_on(self, primaries: dict[int, Member], server: Member) -> int:
        """Some partition that lies there, by what `primaries` says."""
        return next(partition for partition, owner in primaries.items() if owner is server)

    async def primaries(self) -> dict[int, Member]:
        return {partition: await self.primary_of(partition) for partition in range(PARTITIONS)}

    async def failed_over(self, partition: int, old: Member) -> Member:
        """Wait until another primary serves the partition, and is believed to by all who run."""

        async def other() -> bool:
            return await self.primary_of(partition) is not old

        await eventually(other, f"the failover of {old.name}")
        return await self.primary_of(partition)

    async def move_slot(
        self, partition: int, to: Member, *, between: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        """Move a partition's slot with all its keys, a few at a time; `between` is awaited after each step."""
        slot, source = slot_of(partition), await self.primary_of(partition)

        async def step(server: Member, command: str) -> str:
            reply = await server.say(command)
            if between is not None:
                await between()
            return reply

        await step(to, f"CLUSTER SETSLOT {slot} IMPORTING {source.id}")
        await step(source, f"CLUSTER SETSLOT {slot} MIGRATING {to.id}")
        while int(await source.say(f"CLUSTER COUNTKEYSINSLOT {slot}")):
            keys = await self._keys_in(source, slot)
            for key in keys:
                await step(source, f"MIGRATE {to.host} {to.port} {key} 0 5000")
        for server in (to, source, *self.servers):
            if server.running and "role:master" in await server.say("INFO replication"):
                await server.ask(f"CLUSTER SETSLOT {slot} NODE {to.id}")

    async def _keys_in(self, server: Member, slot: int) -> list[str]:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        try:
            writer.write(b"CLUSTER GETKEYSINSLOT %d 10\r\n" % slot)
            count = int((await reader.readline())[1:])
            keys = []
            for _ in range(count):
                await reader.readline()
                keys.append((await reader.readline()).decode().strip())
            return keys
        finally:
            writer.close()
            await writer.wait_closed()


class Sentinels(_Group):
    """`url` names the three Sentinels and the group."""

    def __init__(
        self, folder: Path, *, replicas: int = 2, hosts: Sequence[str] = (), options: Sequence[str] = ()
    ) -> None:
        """`hosts`: an address of this machine for each server, the primary first, then for each Sentinel."""
        super().__init__()
        places = iter(hosts) if hosts else iter([HOST] * (1 + replicas + SENTINELS))
        ports = free_ports(1 + replicas + SENTINELS)
        for i in range(1 + replicas):
            host = next(places)
            announced = ("--replica-announce-ip", host)
            self.servers.append(Member(folder, f"server{i}", host, ports.pop(), *_storing(*announced, *options)))
        first, *others = self.servers
        for server in others:
            server._command += ["--replicaof", f"{first.host} {first.port}"]
        config = (
            f"sentinel monitor {SERVICE} {first.host} {first.port} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {SERVICE} 3000\n"
        )
        for i in range(SENTINELS):
            host = next(places)
            mode = "--sentinel"
            self.others.append(Member(folder, f"sentinel{i}", host, ports.pop(), mode, config=config))

    @property
    def url(self) -> str:
        return "redis+sentinel://" + ",".join(one.address for one in self.others) + f"/{SERVICE}"

    async def start(self) -> Sentinels:
        await self._launch(self.servers)
        # A Sentinel asks a primary for its replicas when it first sees it, and then every ten seconds.
        await eventually(self._is_replicating, "the replicas' first copy")
        await self._launch(self.others)
        await self.healthy()
        return self

    async def healthy(self) -> None:
        """Wait until every replica follows the primary, and every Sentinel knows all of it."""
        await eventually(self._is_healthy, "the group's recovery")

    async def _is_healthy(self) -> bool:
        primary = await self.primary_of()
        if not await self._is_replicating():
            return False
        for one in self.others:
            if one.running:
                text = await one.say("INFO sentinel")
                known = f"address={primary.address},slaves={len(self.servers) - 1},sentinels={len(self.others)}"
                if f"status=ok,{known}" not in text:
                    return False
        return True

    async def _is_replicating(self) -> bool:
        """One primary, and a sound replica for each other server that runs."""
        roles = [await server.role() for server in self.servers if server.running]
        links = [role["master_link_status"] for role in roles if role["role"] == "slave"]
        return links.count("up") == len(roles) - 1

    async def primary_of(self, partition: int = 0) -> Member:
        """The primary that most Sentinels name."""
        named = []
        for one in self.others:
            try:
                text = await one.say("INFO sentinel")
            except (OSError, TimeoutError):
                continue
            named += [server for server in self.servers if f"address={server.address}," in text]
        if not named:
            raise OSError("no Sentinel names a primary")
        return max(named, key=named.count)

    async def replica_of(self, server: Member) -> Member:
        for other in self.servers:
            if other is not server and other.running and (await other.role())["role"] == "slave":
                return other
        raise OSError(f"{server.name} has no replica")

    async def failed_over(self, partition: int, old: Member) -> Member:
        """Wait until the Sentinels name another primary, and it is one."""

        async def other() -> bool:
            new = await self.primary_of()
            return new is not old and (await new.role())["role"] == "master"

        await eventually(other, f"the failover of {old.name}")
        return await self.primary_of()
