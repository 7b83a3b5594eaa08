"""How a seed's world behaves: loss rates, and how often each thing happens.

They are drawn anew for each seed, and some faults are absent from some seeds, so that the rare ones do not hide
behind the frequent ones.  Three seeds in ten are *storms*: one failover after another, to replicas that lag far.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(slots=True)
class Profile:
    """How this seed's world behaves."""

    storm: bool
    lost_request: float
    lost_reply: float
    late_request: float
    lost_push: float
    lost_hint: float
    doubled_push: float
    lost_frame: float
    frame_chars: int
    commit_entries: int
    linger_steps: int  # how long an ended stream stays in memory, and unfolded in the store
    cancel_again_steps: int
    delivery: str  # what readers are shown: what is stored, that but not for long, or all at once
    gateways: int  # nodes that lead nothing
    take_up: float  # how soon a provider carries an answer on

    @classmethod
    def drawn(cls, rnd: Random) -> Profile:
        def rate(*choices: float) -> float:
            return rnd.choice(choices)

        storm = rnd.random() < 0.3
        return cls(
            storm=storm,
            lost_request=rate(0, 0.1, 0.3),
            lost_reply=rate(0, 0.1, 0.3),
            late_request=rate(0, 0, 0.1),
            lost_push=rate(0, 0.2, 0.6),
            lost_hint=rate(0, 0.3, 1),
            doubled_push=rate(0, 0.2),
            lost_frame=rate(0, 0, 0.03),
            frame_chars=rnd.choice((6, 20, 1_000)),
            commit_entries=rnd.choice((1, 2, 3)) if storm else rnd.choice((3, 512)),
            linger_steps=rnd.choice((5, 20) if storm else (20, 80, 200)),
            cancel_again_steps=rnd.choice((40, 400)),
            delivery=rnd.choice(("committed", "committed", "committed", "available", "eager")),
            gateways=rnd.choice((0, 0, 1)),
            take_up=rate(0.4, 0.4, 0.05),
        )


NEEDS_THE_STORE = frozenset(
    (
        "a_commit_arrives",
        "a_stray_arrives",
        "a_reader_connects",
        "a_position_check",
        "replication",
        "a_keeper_looks",
        "a_keeper_adopts",
        "a_coup",
        "a_hand_over_goes_on",
        "a_transfer_arrives",
        "a_hint_arrives",
        "a_cancel",
        "a_fold",
    )
)


def weights(rnd: Random, *, storm: bool) -> dict[str, float]:
    """The actions of a `History`, by name, with their weights."""
    some = rnd.choice
    return {
        "a_token": 40,
        "a_commit_leaves": 14,
        "a_commit_arrives": 18,
        "a_reply_arrives": 16,
        "a_push_arrives": 16,
        "a_reader_reads": 34,
        "a_reader_connects": 16 if storm else 8,
        "a_socket_drops": some((0.5, 2, 5)),
        "a_position_check": some((0.5, 3)),
        "replication": some((0.5, 1, 2)) if storm else some((1, 4, 10)),
        "failover": some((0.6, 1.2, 3)) if storm else some((0, 0, 0.5, 1.5)),
        "a_node_dies": some((0, 0.4, 1)),
        "a_node_sleeps": some((0.5, 2, 4)) if storm else some((0, 0.5, 1.5)),
        "a_node_wakes": some((1.5, 4)),
        "a_node_starts": 1,
        "a_coup": some((0, 0.5, 1.5)) if storm else some((0, 0.3)),
        "a_hand_over": some((0, 1, 3)),
        "a_node_drains": some((0, 0.3, 0.8)),
        "a_hand_over_goes_on": 5,
        "a_transfer_arrives": 3,
        "a_hint_arrives": 3,
        "a_call_breaks": some((0, 1, 3)),
        "a_patience_ends": some((0.5, 2)),
        "a_store_outage": some((0, 0, 0.3, 1)),
        "a_keeper_looks": 8 if storm else 3,
        "a_keeper_adopts": 8 if storm else 3,
        "a_cancel": some((0, 0.3, 1)),
        "cancels_are_answered": 1,
        "a_stray_arrives": 1,
        "a_fold": 4 if storm else 0.7,
        "a_log_is_dropped": some((0.2, 1)),
    }
