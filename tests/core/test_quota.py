"""What is used never exceeds what may be, whoever asks in whatever order; and what is given back is there again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from everstream.core.quota import Account, Claim, Spent

DAY_MS = 86_400_000
NOON_MS = 20_000 * DAY_MS + DAY_MS // 2
TTL_MS = 60_000


def place(most: int = 2) -> Claim:
    return Claim("places", 1, 1, most, 0)


def tokens(amount: int, most: int = 100, least: int = 1) -> Claim:
    return Claim("tokens", amount, least, most, DAY_MS)


def test_so_many_at_a_time_and_the_next_when_one_has_settled() -> None:
    account = Account()
    assert account.claim("a", [place()], NOON_MS, TTL_MS) == [1]
    assert account.claim("b", [place()], NOON_MS, TTL_MS) == [1]
    assert account.claim("c", [place()], NOON_MS, TTL_MS) == Spent("places", 0)
    assert account.claim("a", [place()], NOON_MS, TTL_MS) == [1]  # the same one again
    assert account.settle("a", {})
    assert account.claim("c", [place()], NOON_MS, TTL_MS) == [1]
    assert not account.settle("a", {})


def test_the_last_of_a_span_is_granted_in_part_and_the_rest_given_back() -> None:
    account = Account()
    assert account.claim("a", [tokens(70)], NOON_MS, TTL_MS) == [70]
    assert account.claim("b", [tokens(70)], NOON_MS, TTL_MS) == [30]
    assert account.claim("c", [tokens(70)], NOON_MS, TTL_MS) == Spent("tokens", DAY_MS // 2)
    account.settle("a", {"tokens": 10})
    account.settle("b", {})  # nobody said how much: all of it
    assert account.used["tokens"][1] == 40
    assert account.claim("c", [tokens(70, least=61)], NOON_MS, TTL_MS) == Spent("tokens", DAY_MS // 2)
    assert account.claim("c", [tokens(70)], NOON_MS, TTL_MS) == [60]


def test_a_new_span_begins_with_nothing_used_and_is_not_charged_for_the_last_one() -> None:
    account = Account()
    assert account.claim("a", [tokens(100)], NOON_MS, DAY_MS) == [100]
    tomorrow = NOON_MS + DAY_MS // 2
    assert account.claim("b", [tokens(100)], tomorrow - 1, DAY_MS) == Spent("tokens", 1)
    assert account.claim("b", [tokens(80)], tomorrow, DAY_MS) == [80]
    account.settle("a", {"tokens": 5})
    assert account.used["tokens"] == (tomorrow, 80)


def test_where_one_of_several_is_spent_none_is_taken() -> None:
    account = Account()
    account.claim("a", [place(1)], NOON_MS, TTL_MS)
    assert account.claim("b", [tokens(5), place(1)], NOON_MS, TTL_MS) == Spent("places", 0)
    assert account.used == {}


def test_who_only_asks_holds_nothing() -> None:
    account = Account()
    assert account.claim("", [tokens(100), place()], NOON_MS, TTL_MS) == [100, 1]
    assert (account.used, account.holders) == ({}, {})


def test_a_holder_that_never_settles_is_forgotten_and_what_it_used_is_not() -> None:
    account = Account()
    account.claim("a", [place(1), tokens(60)], NOON_MS, TTL_MS)
    assert account.claim("b", [place(1)], NOON_MS + TTL_MS - 1, TTL_MS) == Spent("places", 0)
    assert account.claim("b", [place(1), tokens(60)], NOON_MS + TTL_MS, TTL_MS) == [1, 40]
    assert not account.settle("a", {"tokens": 1})


def test_a_holder_that_claims_again_is_kept_for_longer_and_never_for_less() -> None:
    account = Account()
    account.claim("a", [place(1), tokens(60)], NOON_MS, TTL_MS)
    assert account.claim("a", [place(1), tokens(10)], NOON_MS + TTL_MS - 1, TTL_MS) == [1, 60]
    assert account.claim("a", [place(1)], NOON_MS + TTL_MS, 1) == [1, 60]
    assert account.claim("b", [place(1)], NOON_MS + 2 * TTL_MS - 2, TTL_MS) == Spent("places", 0)
    assert account.claim("b", [place(1)], NOON_MS + 2 * TTL_MS - 1, TTL_MS) == [1]
    assert account.used["tokens"][1] == 60, "it was claimed once"


def test_more_than_was_claimed_may_have_been_used_and_is_counted() -> None:
    account = Account()
    account.claim("a", [tokens(10)], NOON_MS, TTL_MS)
    account.settle("a", {"tokens": 130})
    assert account.claim("b", [tokens(1, least=0)], NOON_MS, TTL_MS) == [0]
    assert account.claim("b", [tokens(1)], NOON_MS, TTL_MS) == [0]  # it holds what it was granted


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["claim", "settle"]), st.sampled_from("abcdef"), st.integers(0, 60), st.integers(0, 40_000)
    ),
    max_size=60,
)


@given(STEPS, st.integers(1, 4), st.integers(1, 150))
def test_holders_together_never_hold_more_than_there_is(
    steps: list[tuple[str, str, int, int]], places: int, most: int
) -> None:
    account, now = Account(), NOON_MS
    for what, holder, amount, pause_ms in steps:
        now += pause_ms
        if what == "settle":
            grants = account.holders.get(holder, (0, []))[1]
            granted = {name: given for name, _, given in grants}  # nobody uses more than that
            account.settle(holder, {"tokens": min(amount, granted.get("tokens", 0))})
        else:
            said = account.claim(holder, [place(places), tokens(amount, most, least=0)], now, TTL_MS)
            assert isinstance(said, Spent) or 0 <= said[1] <= amount or holder in account.holders
        assert sum(until > now for until, _ in account.holders.values()) <= places or what == "settle"
        assert account.used.get("tokens", (0, 0))[1] <= most
