"""Servers that ask who one is, and speak TLS only with those they know: Debian's redis-server, which can.

The user is the one that OPERATIONS.md tells people to make, read from there: it must be enough, and no more than that.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
import trustme
from tests.server import HOST
from tests.store.cluster import SERVICE, Member, eventually, free_ports
from tests.store.conftest import until
from tests.store.test_cluster import Author, seated
from tests.store.test_faults import refusal
from tests.store.test_keys import busy

from everstream.store.base import StoreUnavailable
from everstream.store.resp import ServerError

OPERATIONS = Path(__file__).parents[2] / "backend" / "OPERATIONS.md"
PASSWORD = "p@ss:w/rd"
QUOTED = "p%40ss%3Aw%2Frd"


def acl_line() -> str:
    found = re.search(r"^user everstream on .*$", OPERATIONS.read_text("utf-8"), re.MULTILINE)
    assert found is not None
    assert ">SECRET" in found[0]
    return found[0].replace("SECRET", PASSWORD)


class Certificates:
    """What a server and a client show each other."""

    def __init__(self, folder: Path) -> None:
        self.ca, self.certificate, self.key = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
        self.stranger = folder / "stranger.pem"
        authority = trustme.CA()
        issued = authority.issue_cert(HOST, "localhost")
        authority.cert_pem.write_to_path(self.ca)
        issued.cert_chain_pems[0].write_to_path(self.certificate)
        issued.private_key_pem.write_to_path(self.key)
        trustme.CA().cert_pem.write_to_path(self.stranger)

    @property
    def options(self) -> tuple[str, ...]:
        files = ("--tls-cert-file", str(self.certificate), "--tls-key-file", str(self.key))
        return (*files, "--tls-ca-cert-file", str(self.ca), "--tls-auth-clients", "yes", "--tls-replication", "yes")

    def query(self, **other: str) -> str:
        shown = {"ssl_ca_certs": self.ca, "ssl_certfile": self.certificate, "ssl_keyfile": self.key}
        return urlencode({name: str(value) for name, value in (shown | other).items() if value})


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


class Secured:
    """Servers that speak TLS on `tls_ports`, and plainly with the tests."""

    def __init__(self, folder: Path, certificates: Certificates) -> None:
        found = shutil.which("redis-server")
        if found is None:
            pytest.skip("no redis-server on the PATH")
        self._binary, self._folder, self._certificates = Path(found), folder, certificates
        self.members: list[Member] = []

    async def start(self, name: str, *options: str, config: str = "", mode: tuple[str, ...] = ()) -> tuple[Member, int]:
        """A server, and its port for TLS."""
        port, tls_port = free_ports(2)
        more = (*mode, *self._certificates.options, "--tls-port", str(tls_port), *options)
        member = Member(self._folder, name, HOST, port, *more, config=config, binary=self._binary)
        self.members.append(member)
        member.launch()
        await eventually(member.is_up, f"the start of {name}")
        return member, tls_port


@pytest.fixture
async def secured(tmp_path: Path, certificates: Certificates) -> AsyncIterator[Secured]:
    secured = Secured(tmp_path, certificates)
    yield secured
    for member in secured.members:
        member.end()


async def works(url: str) -> None:
    """Every verb, a push and a hint, for two nodes."""
    async with seated(url) as one, seated(url, "n_two") as two:
        await busy(one, two)
        await one.store.open_streams()
        await one.store.recall("note")
        assert await two.store.get_row("table", "kept") == b"v"
        assert await two.store.rows("table") == {"kept": b"v"}
        assert len(await two.store.ranked("user", None, 10)) == 1
        assert await two.store.ranked("user", (7, ""), 10) == []
        await one.store.release()
        author = await Author.of(one, 9)
        await two.store.follow(author.stream)
        await author.say("a")
        await until(lambda: any(push.stream == author.stream for push in two.pushes))
        await until(lambda: bool(two.messages))
        await two.store.unfollow(author.stream)
        await author.check()
    async with seated(url, "n_three", acks="replica", acks_ms=1) as three:
        author = await Author.of(three, 9)
        await author.say("a")


async def refused(member: Member) -> set[str]:
    """The commands that somebody might not give."""
    lines = (await member.say("INFO commandstats")).splitlines()
    return {line.split(":")[0].removeprefix("cmdstat_") for line in lines if ",rejected_calls=" in line} - {
        line.split(":")[0].removeprefix("cmdstat_") for line in lines if ",rejected_calls=0," in line
    }


async def test_a_server_with_tls_a_client_certificate_and_a_user_of_least_privilege(
    secured: Secured, certificates: Certificates
) -> None:
    member, port = await secured.start("server", config=acl_line() + "\n")
    await works(f"rediss://everstream:{QUOTED}@localhost:{port}/0?{certificates.query()}")
    await works(f"redis://everstream:{QUOTED}@{member.address}/3")
    # redis-py says its own name where it may, which this version of the server would not know.
    assert await refused(member) <= {"client"}


async def test_the_user_may_do_nothing_else(secured: Secured) -> None:
    member, _ = await secured.start("server", config=acl_line() + "\n")
    await member.ask(f"AUTH everstream {PASSWORD}", "EXISTS es:x")
    for command in ("GET other", "KEYS *", "FLUSHALL", "CONFIG GET *", "ACL LIST", "EVAL x 0", "SPUBLISH other x"):
        with pytest.raises(ServerError, match="NOPERM"):
            await member.ask(f"AUTH everstream {PASSWORD}", command)


async def test_a_user_who_may_too_little_is_told_so(secured: Secured) -> None:
    """At the start, not when the first answer is to be stored."""
    member, _ = await secured.start("server", config=acl_line() + "\n")
    url = f"redis://everstream:{QUOTED}@{member.address}/0"
    for right in ("-info", "-function|load"):
        await member.ask(f"ACL SETUSER everstream {right}")
        assert "OPERATIONS.md" in await refusal(url)
        await member.ask(f"ACL SETUSER everstream +{right[1:]}")
    await member.ask("ACL SETUSER everstream resetchannels")
    assert "NOPERM" in await refusal(url)


async def test_a_user_of_before_there_were_tables_serves_on_and_is_told_what_is_missing(secured: Secured) -> None:
    member, _ = await secured.start("server", config=acl_line() + "\n")
    await member.ask("ACL SETUSER everstream -hgetall")
    async with seated(f"redis://everstream:{QUOTED}@{member.address}/0") as seat:
        await seat.store.put_row("table", "row", b"v")
        assert await seat.store.get_row("table", "row") == b"v"
        with pytest.raises(StoreUnavailable, match="hgetall"):
            await seat.store.rows("table")


async def test_a_server_of_another_authority_is_not_believed(secured: Secured, certificates: Certificates) -> None:
    _, port = await secured.start("server")
    message = await refusal(
        f"rediss://localhost:{port}/0?{certificates.query(ssl_ca_certs=str(certificates.stranger))}"
    )
    assert "no answer" in message
    assert "certificate" in message.lower()


async def test_a_cluster_with_tls(secured: Secured, certificates: Certificates) -> None:
    clustered = ("--cluster-enabled", "yes", "--tls-cluster", "yes", "--cluster-port", str(free_ports(1)[0]))
    member, port = await secured.start("server", *clustered, "--cluster-announce-ip", HOST, config=acl_line() + "\n")
    await member.ask("CLUSTER ADDSLOTSRANGE 0 16383")

    async def in_order() -> bool:
        return "cluster_state:ok" in await member.say("CLUSTER INFO")

    await eventually(in_order, "the cluster's start")
    await works(f"rediss+cluster://everstream:{QUOTED}@localhost:{port}?{certificates.query()}")


async def test_sentinels_with_tls_and_a_password_of_their_own(secured: Secured, certificates: Certificates) -> None:
    _, port = await secured.start("server", config=acl_line() + "\n")
    config = f"sentinel monitor {SERVICE} {HOST} {port} 1\nuser watch on >seen +@all\n"
    _, sentinel_port = await secured.start("sentinel", config=config, mode=("--sentinel",))
    query = certificates.query(sentinel_username="watch", sentinel_password="seen")
    await works(f"rediss+sentinel://everstream:{QUOTED}@localhost:{sentinel_port}/{SERVICE}?{query}")
