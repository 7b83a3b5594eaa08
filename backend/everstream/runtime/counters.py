"""What a node counts, as plain numbers: cheap to raise on the hot path, read by whoever exports them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    streams_started: int = 0
    streams_ended: Counter[str] = field(default_factory=Counter)  # by reason
    streams_adopted: int = 0
    entries_committed: int = 0
    commits: int = 0
    commit_failures: int = 0
    gaps_repaired: int = 0
    fenced: int = 0
    handed_over: int = 0
    seams: Counter[str] = field(default_factory=Counter)  # written here, by continuation
    turns_ended: Counter[str] = field(default_factory=Counter)  # in sessions led here, by reason
    tools_run: int = 0
    shown_early: int = 0  # entries that readers saw before the store had them
    uncopied: int = 0  # commits that no replica confirmed in time
    readers_rewound: int = 0  # readers told that entries they had seen are lost
    snapshots: int = 0
    slow_readers: int = 0
    connections: int = 0  # open now
    connections_total: int = 0
    connections_refused: int = 0  # nobody was let in
    connections_turned_away: int = 0  # there was no room for one more
    connections_expired: int = 0  # their token ran out
    connections_revoked: int = 0  # their key was taken back
