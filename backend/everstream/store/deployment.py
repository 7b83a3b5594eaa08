"""Which server holds what: a single one, the primary of a group under Sentinels, or the primaries of a cluster.

A *place* is what always lies together: a partition, or the leases.  A deployment knows the server of each place and
asks it.

                    look (every second, and at once when something failed)
    Sentinels, or  ------------------------------------------------------->  place -> Server
    any node of the cluster                                                      |
                          MOVED, READONLY, CLUSTERDOWN, no answer                |
                   <-------------------------------------------------------------+

Whoever is not in the map any more is hung up on, so that nobody goes on talking to a primary that was deposed.  A call
that a server refused because it does not hold the place was not carried out, and is made again where it points.  Of
any other failure the outcome is unknown: the caller hears of it, and decides.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import hiredis
import structlog
from redis.crc import key_slot
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from everstream.core.lease import PARTITIONS
from everstream.store.address import Address, Kind, Spot
from everstream.store.base import StoreUnavailable
from everstream.store.finder import ClusterFinder, Finder, SentinelFinder
from everstream.store.line import packed
from everstream.store.server import FAILURES, Server

logger = structlog.get_logger(__name__)

LOOK_EVERY_S = 1.0
LOOK_AGAIN_S = 0.1
REDIRECTS_MAX = 4
TRY_AGAIN_S = 0.05  # keys of a slot that is being moved are in two places
STOP_S = 0.2
LEASES = PARTITIONS  # the place after those of the partitions

_ASKING = packed(b"ASKING")


class Deployment:
    """`tags` are the keys, or what of them is hashed, of the partitions and of the leases."""

    def __init__(
        self,
        address: Address,
        tags: Sequence[bytes],
        *,
        timeout_s: float,
        acks_ms: int,
        on_looked: Callable[[bool], None],
    ) -> None:
        """`on_looked` is called whenever the map was made anew, with whether it changed."""
        self.address = address
        self.spread = address.kind is Kind.CLUSTER  # its places lie apart
        self._timeout_s, self._acks_ms = timeout_s, acks_ms
        self._on_looked = on_looked
        self._places = len(tags)
        self._finder: Finder | None = None
        if address.kind is Kind.SENTINEL:
            self._finder = SentinelFinder(address, self._places, timeout_s)
        elif self.spread:
            self._finder = ClusterFinder(address, [key_slot(tag) for tag in tags], timeout_s)
        self._servers: dict[Spot, Server] = {}
        self._owners: list[Server] = []
        self._wanted = asyncio.Event()
        self._suspect = ""
        self._lost = False
        self._changed = False
        self._looking: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------ the map

    async def open(self) -> None:
        """Find the servers.  Raises StoreUnavailable."""
        if self._finder is None:
            self._install([self.address.spots[0] if self.address.spots else ("", 0)] * self._places)
            return
        self._install(await self._finder.find(""))
        self._changed = False
        self._looking = asyncio.create_task(self._look(), name="store map")

    async def close(self) -> None:
        if self._looking is not None:
            # A cancellation while redis-py connects is lost in its time-out, so one may not be enough.
            while not self._looking.done():
                self._looking.cancel()
                await asyncio.wait({self._looking}, timeout=STOP_S)
            self._looking = None
        for server in self._servers.values():
            await server.close()
        if self._finder is not None:
            await self._finder.close()

    async def check(self, name: str) -> None:
        """Raise StoreUnavailable unless the primaries can be used.  Of several, some may be away just now.

        `name` is the store's address, without its secrets.
        """
        failures = []
        servers = list(self.servers)
        for server in servers:
            try:
                await server.check(clustered=self.spread)
                await server.load()
            except AuthenticationError as error:
                raise StoreUnavailable("the store refused the user name or password in its address") from error
            except NoPermissionError as error:
                raise StoreUnavailable(
                    f"the store's user may not do what it must: {str(error)[:200]} (OPERATIONS.md says what it needs)"
                ) from error
            except ResponseError as error:
                raise StoreUnavailable(
                    f"the store answered: {str(error)[:200]} (Redis 7.0 or Valkey 7.2 is the oldest that works)"
                ) from error
            except FAILURES as error:
                failures.append(error)
                logger.warning("a server of the store does not answer", server=server.name)
        if len(failures) == len(servers):
            kind = type(failures[0]).__name__
            raise StoreUnavailable(f"no answer from the store at {name} ({kind}): is it running?") from failures[0]

    @property
    def servers(self) -> Iterable[Server]:
        """The primaries."""
        return dict.fromkeys(self._owners)

    def server(self, place: int) -> Server:
        return self._owners[place]

    def failed(self, server: Server) -> None:
        """It did not answer, or is not what the map says: look again."""
        self._suspect = server.name
        self._wanted.set()

    def _at(self, spot: Spot) -> Server:
        server = self._servers.get(spot)
        if server is None:
            host, port = spot
            options = {name: value for name, value in self.address.options.items() if name[:9] != "sentinel_"}
            if host:
                options |= {"host": host, "port": port}
            server = self._servers[spot] = Server(f"{host}:{port}", options, self._timeout_s, self._acks_ms)
        return server

    def _install(self, spots: Sequence[Spot]) -> list[Server]:
        """Take the map over; those who are in it no more are returned, to be closed."""
        owners = [self._at(spot) for spot in spots]
        self._changed = self._changed or owners != self._owners
        self._owners = owners
        known = set(spots)
        gone = [spot for spot in self._servers if spot not in known]
        return [self._servers.pop(spot) for spot in gone]

    async def _look(self) -> None:
        """Keep the map true for as long as the store is open."""
        assert self._finder is not None
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), LOOK_EVERY_S)
            self._wanted.clear()
            try:
                gone = self._install(await self._finder.find(self._suspect))
                changed, self._changed, self._suspect, self._lost = self._changed, False, "", False
                if changed:
                    logger.info("the store's map changed", primaries=[server.name for server in self.servers])
                self._on_looked(changed)
                for server in gone:
                    await server.close()
            except StoreUnavailable as error:
                self._wanted.set()
                if not self._lost:
                    self._lost = True
                    logger.warning("the store's primaries are not known", error=error.message)
            except Exception:
                logger.exception("looking for the store's primaries failed")
            await asyncio.sleep(LOOK_AGAIN_S)

    def _moved(self, place: int, server: Server, text: str) -> None:
        """`MOVED 1234 host:port`: believe it now, and look."""
        if self.spread:
            self._owners[place], self._changed = self._at(_spot(text, server)), True
        self.failed(server)

    # ------------------------------------------------------------------ calls

    async def ask(self, place: int, *arguments: bytes) -> Any:
        """A command on keys of one place, and its reply.  Raises StoreUnavailable."""
        for _ in range(REDIRECTS_MAX):
            server = self._owners[place]
            try:
                return await server.client.execute_command(*arguments)
            except ResponseError as error:
                # redis-py takes the first word off where it has a class for it.
                text = f"{error.status_code} {error}" if error.status_code else str(error)
            except FAILURES as error:
                self.failed(server)
                raise StoreUnavailable() from error
            if text.startswith("ASK ") and self.spread:
                return await self._ask_there(self._at(_spot(text, server)), arguments)
            await self._refused(place, server, text)
        raise StoreUnavailable("the store is moving what this stream lies in")

    async def _ask_there(self, server: Server, arguments: Sequence[bytes]) -> Any:
        """The slot is being moved: this key is there already."""
        pipeline = server.client.pipeline(transaction=False)
        try:
            pipeline.execute_command("ASKING")
            pipeline.execute_command(*arguments)
            return (await pipeline.execute())[1]
        except FAILURES as error:
            raise StoreUnavailable("the store is moving what this stream lies in") from error

    async def write(self, place: int, command: bytes, *, acks: bool = True) -> tuple[Any, bool]:
        """The reply to a packed command on the line of the place's server, and whether a replica has it, if one is to.

        Without `acks` no replica is waited for.

        Raises StoreUnavailable.
        """
        for _ in range(REDIRECTS_MAX):
            server = self._owners[place]
            try:
                line = server.line
                if line is None or line.lost is not None:
                    line = await server.open_line()
                if server.copies is None or not acks:
                    reply, copied = await line.call(command), True
                else:
                    reply, copied = await server.copies.call(line, command)
                if isinstance(reply, hiredis.ReplyError) and str(reply).startswith("ASK ") and self.spread:
                    line = await self._at(_spot(str(reply), server)).open_line()
                    (_, reply), copied = await line.call(_ASKING + command, 2), False
            except FAILURES as error:
                self.failed(server)
                raise StoreUnavailable() from error
            if not isinstance(reply, hiredis.ReplyError):
                return reply, copied
            await self._refused(place, server, str(reply))
        raise StoreUnavailable("the store is moving what these streams lie in")

    def tell(self, place: int, commands: Sequence[bytes]) -> None:
        """Send packed commands whose outcome does not matter, behind what was written before."""
        line = self._owners[place].line
        if commands and line is not None and line.lost is None:
            line.call(b"".join(commands), len(commands)).add_done_callback(_seen)

    async def write_each(self, commands: Sequence[tuple[int, bytes]]) -> list[Any]:
        """One packed command a place, with one write a server; for those that only read.  Raises StoreUnavailable."""
        shares: dict[Server, list[tuple[int, bytes]]] = {}
        for place, command in commands:
            shares.setdefault(self._owners[place], []).append((place, command))
        replies: dict[int, Any] = {}
        for server, share in shares.items():
            try:
                line = await server.open_line()
                found = await line.call(b"".join([command for _, command in share]), len(share))
            except FAILURES as error:
                self.failed(server)
                raise StoreUnavailable() from error
            replies |= zip([place for place, _ in share], found if len(share) > 1 else [found], strict=True)
        for place, command in commands:
            if isinstance(replies[place], hiredis.ReplyError):
                replies[place], _ = await self.write(place, command)
        return [replies[place] for place, _ in commands]

    async def _refused(self, place: int, server: Server, text: str) -> None:
        """Do about an error what can be done, and return where the call may be made again; else raise."""
        if text.startswith("MOVED ") and self.spread:
            self._moved(place, server, text)
            return
        if text.startswith("TRYAGAIN"):
            await asyncio.sleep(TRY_AGAIN_S)
            return
        if "Function not found" in text:
            try:
                await server.load()
            except FAILURES as error:
                raise StoreUnavailable() from error
            return
        self.failed(server)
        if text.startswith("READONLY"):
            await server.hang_up()
        raise StoreUnavailable(f"the store answered: {text[:200]}")


def _seen(reply: asyncio.Future[Any]) -> None:
    if not reply.cancelled():
        reply.exception()


def _spot(text: str, server: Server) -> Spot:
    """Of `MOVED 1234 host:port`; without a host it is that of the server that said so."""
    host, _, port = text.split(" ")[2].rpartition(":")
    return (host or server.name.rpartition(":")[0], int(port))
