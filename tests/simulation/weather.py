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
    doubled_push: float
    lost_frame: float
    frame_chars: int
    commit_entries: int
    linger_steps: int  # how long an ended stream stays in memory, and unfolded in the store
    cancel_again_steps: int

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
            doubled_push=rate(0, 0.2),
            lost_frame=rate(0, 0, 0.03),
            frame_chars=rnd.choice((6, 20, 1_000)),
            commit_entries=rnd.choice((1, 2, 3)) if storm else rnd.choice((3, 512)),
            linger_steps=rnd.choice((5, 20) if storm else (20, 80, 200)),
            cancel_again_steps=rnd.choice((40, 400)),
        )


def weights(rnd: Random, *, storm: bool) -> dict[str, float]:
    """The actions of a `History`, by name, with their weights."""
    some = rnd.choice
    return {
        "a_token": 24,
        "a_commit_leaves": 10,
        "a_commit_arrives": 14,
        "a_reply_arrives": 12,
        "a_push_arrives": 14,
        "a_reader_reads": 30,
        "a_reader_connects": 16 if storm else 8,
        "a_socket_drops": some((0.5, 2, 5)),
        "a_position_check": some((0.5, 3)),
        "replication": some((0.5, 1, 2)) if storm else some((1, 4, 10)),
        "failover": some((0.6, 1.2, 3)) if storm else some((0, 0, 0.5, 1.5)),
        "a_node_dies": some((0, 0.4, 1)),
        "a_node_sleeps": some((0.5, 2, 4)) if storm else some((0, 0.5, 1.5)),
        "a_node_wakes": some((1.5, 4)),
        "a_node_starts": 1,
        "a_drain": some((0, 0.5, 1.5)) if storm else some((0, 0.3)),
        "a_keeper_looks": 8 if storm else 3,
        "a_keeper_adopts": 8 if storm else 3,
        "a_cancel": some((0, 0.3, 1)),
        "cancels_are_answered": 1,
        "a_stray_arrives": 1,
        "a_fold": 4 if storm else 0.7,
        "a_log_is_dropped": some((0.2, 1)),
    }
