"""A node's counters in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from everstream.runtime.counters import Counters
from everstream.runtime.node import Node

# name, help, field of Counters
COUNTERS = (
    ("everstream_connections", "WebSocket connections accepted.", "connections_total"),
    ("everstream_connections_turned_away", "Connections for which there was no room.", "connections_turned_away"),
    ("everstream_connections_refused", "Connections refused at hello: nobody was let in.", "connections_refused"),
    ("everstream_connections_expired", "Connections closed because their token expired.", "connections_expired"),
    ("everstream_connections_revoked", "Connections closed because their key was taken back.", "connections_revoked"),
    ("everstream_streams_started", "Generations started here.", "streams_started"),
    ("everstream_streams_adopted", "Generations taken over from another node.", "streams_adopted"),
    ("everstream_streams_handed_over", "Generations that this node gave to another on purpose.", "handed_over"),
    ("everstream_entries_committed", "Entries that the store acknowledged.", "entries_committed"),
    ("everstream_commits", "Commit calls that the store answered.", "commits"),
    ("everstream_commit_failures", "Commit calls that failed and were sent again.", "commit_failures"),
    ("everstream_gaps_repaired", "Times that the store had lost a suffix, which was sent again.", "gaps_repaired"),
    ("everstream_commits_fenced", "Commits refused because another node leads the stream.", "fenced"),
    ("everstream_commits_uncopied", "Streams' commits that no replica confirmed in time.", "uncopied"),
    ("everstream_entries_shown_early", "Entries that readers saw before the store had them.", "shown_early"),
    ("everstream_readers_rewound", "Readers told that entries they had seen are lost.", "readers_rewound"),
    ("everstream_snapshots", "Snapshots sent in place of entries.", "snapshots"),
    ("everstream_tools_run", "Tools that the server ran for a model.", "tools_run"),
    ("everstream_slow_readers", "Connections cut off because they took nothing for too long.", "slow_readers"),
)
ENDED = ("everstream_streams_ended", "Generations ended, by reason.")
TURNS = ("everstream_turns_ended", "Turns ended in the sessions that are led here, by reason.")
SEAMS = ("everstream_seams", "Answers carried on after a break, by continuation; none: only the end followed.")
GAUGES = (
    ("everstream_connections_open", "WebSocket connections open now."),
    ("everstream_generations_running", "Generations under way here."),
    ("everstream_streams_in_memory", "Streams held in memory."),
    ("everstream_sessions_led", "Sessions that are led here."),
)


class _NodeCollector(Collector):
    def __init__(self, node: Node) -> None:
        self._node = node

    def collect(self) -> Iterator[Metric]:
        counters: Counters = self._node.counters
        for name, text, field in COUNTERS:
            yield CounterMetricFamily(name, text, value=getattr(counters, field))
        ended = CounterMetricFamily(*ENDED, labels=["reason"])
        for reason, count in counters.streams_ended.items():
            ended.add_metric([reason], count)
        yield ended
        turns = CounterMetricFamily(*TURNS, labels=["reason"])
        for reason, count in counters.turns_ended.items():
            turns.add_metric([reason], count)
        yield turns
        seams = CounterMetricFamily(*SEAMS, labels=["continuation"])
        for how, count in counters.seams.items():
            seams.add_metric([how], count)
        yield seams
        values = (counters.connections, self._node.generating, len(self._node.hub), len(self._node.sessions))
        for (name, text), value in zip(GAUGES, values, strict=True):
            yield GaugeMetricFamily(name, text, value=value)


def exposition(node: Node) -> tuple[bytes, str]:
    """The text, and its content type."""
    registry = CollectorRegistry()
    registry.register(_NodeCollector(node))
    return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4
