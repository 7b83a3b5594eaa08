"""How many may come in, and whom a request is counted for."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstream.gateway import gate
from everstream.gateway.gate import FULL, TOO_MANY, Gate, room_for

ADDRESSES = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "127.0.0.1", "::1", ""]


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from(ADDRESSES)), max_size=60), st.integers(1, 8), st.integers(1, 4)
)
def test_never_more_are_in_than_may_be_and_nobody_is_turned_away_without_reason(
    steps: list[tuple[bool, str]], most: int, of_address: int
) -> None:
    tested, inside = Gate(most, of_address), Counter[str]()
    for comes, address in steps:
        if not comes:
            if inside[address]:
                tested.leave(address)
                inside[address] -= 1
            continue
        counted = address not in ("127.0.0.1", "::1", "")
        expected = FULL if inside.total() == most else TOO_MANY if counted and inside[address] == of_address else None
        assert tested.enter(address) is expected
        inside[address] += expected is None


@pytest.mark.parametrize(
    ("peer", "said", "address"),
    [
        ("192.0.2.7", [], "192.0.2.7"),
        ("192.0.2.7", [b"198.51.100.1"], "192.0.2.7"),  # a stranger may say what he likes
        ("10.0.0.1", [b"198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", [b"198.51.100.9, 198.51.100.1"], "198.51.100.1"),  # only what our proxy has added counts
        ("10.0.0.1", [b"198.51.100.1, 10.3.2.1"], "198.51.100.1"),
        ("10.0.0.1", [b"198.51.100.9", b"198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", [b"198.51.100.1:4711"], "198.51.100.1"),
        ("10.0.0.1", [b"[2001:db8::5]:4711"], "2001:db8::5"),
        ("10.0.0.1", [b"2001:db8::5"], "2001:db8::5"),
        ("10.0.0.1", [b"unknown"], "10.0.0.1"),
        ("10.0.0.1", [b"198.51.100.1, _hidden"], "10.0.0.1"),
        ("10.0.0.1", [b"\xff" * 9000], "10.0.0.1"),
        ("10.0.0.1", [b","], "10.0.0.1"),
        ("fd00::1", [b"198.51.100.1"], "198.51.100.1"),
        ("", [b"198.51.100.1"], ""),
    ],
)
def test_a_request_is_counted_for_whom_a_trusted_proxy_names(peer: str, said: list[bytes], address: str) -> None:
    headers = [(b"host", b"here"), *((b"x-forwarded-for", value) for value in said)]
    assert Gate(9, 9, "10.0.0.0/8, fd00::/8").address_of(peer, headers) == address


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        Gate(1, 1, "127.0.0.1,nonsense")


def test_room_is_left_for_what_else_a_process_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {gate.resource.RLIMIT_NOFILE: (1024, 4096)}
    monkeypatch.setattr(gate.resource, "getrlimit", limits.__getitem__)
    assert (room_for(0), room_for(10), room_for(5000)) == (768, 10, 768)
    limits[gate.resource.RLIMIT_NOFILE] = (gate.resource.RLIM_INFINITY, gate.resource.RLIM_INFINITY)
    assert (room_for(0), room_for(5000)) == (1_000_000, 5000)
    limits[gate.resource.RLIMIT_NOFILE] = (100, 100)
    assert room_for(0) == 64
