"""What Prometheus is told of outliers, of feedback, of webhooks and of shadows."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.names import VERDICTS

BEFORE, AFTER = "version", "shadow"  # who alone called a row an outlier
BOTH, NEITHER = "both", "neither"
BUSY, FAILED = "busy", "failed"  # why a shadow did not score a row
OUTCOMES = ("delivered", "failed", "given_up")  # of webhooks, as the store counts them
DIFFERENCES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


class OutlierFigures(Collector):
    """Counts of this process, and of the store, which are the same in every process. What may be counted begins at 0.

    A counter that began with its first event would hide it: an increase is one between two scrapes.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        by_pair = ("detector", "version", "shadow")
        self._counts: dict[str, dict[str, int]] = {}
        self._waiting: dict[str, int] = {}
        self.dropped = Counter(
            "farfield_outliers_dropped", "Outliers that the feed lost, since too many waited.", ("detector",), registry=registry
        )
        self.last = Gauge("farfield_last_outlier_timestamp_seconds", "When an outlier was last scored.", ("detector",), registry=registry)
        self.shadowed = Counter(
            "farfield_shadow_rows", "Rows scored by a version and by its shadow, by who called them outliers.",
            (*by_pair, "outlier"), registry=registry,
        )  # fmt: skip
        self.differences = Histogram(
            "farfield_shadow_p_value_difference", "How far the p-values of a version and of its shadow are apart.",
            by_pair, buckets=DIFFERENCES, registry=registry,
        )  # fmt: skip
        self.unshadowed = Counter(
            "farfield_shadow_dropped_rows", "Rows drawn for a shadow that it did not score.", ("detector", "reason"), registry=registry
        )
        registry.register(self)

    def refresh(self, counts: dict[str, dict[str, int]], waiting: dict[str, int]) -> None:
        """What the store counts of each detector that has a version in memory; series of others go."""
        for name in counts:
            self.dropped.labels(name)
        for name in self._counts.keys() - counts.keys():
            for metric in (self.dropped, self.last, self.unshadowed):
                metric.remove_by_labels({"detector": name})
        self._counts, self._waiting = counts, waiting

    def declare_pair(self, name: str, version: int, shadow: int) -> None:
        """A version has this shadow from now on."""
        labels = (name, str(version), str(shadow))
        for who in (BOTH, NEITHER, BEFORE, AFTER):
            self.shadowed.labels(*labels, who)
        self.differences.labels(*labels)
        for reason in (BUSY, FAILED):
            self.unshadowed.labels(name, reason)

    def forget_pairs(self, name: str) -> None:
        """Of a detector whose shadow is another one now, or none."""
        for metric in (self.shadowed, self.differences):
            metric.remove_by_labels({"detector": name})

    def collect(self) -> Iterator[Metric]:
        counts, waiting = self._counts, self._waiting  # replaced whole, never changed
        for name, text, label, values in (
            ("farfield_feedback", "Rows marked by feedback.", "verdict", VERDICTS),
            ("farfield_webhooks", "Tries to deliver an outlier, by how they ended.", "outcome", OUTCOMES),
        ):
            family = CounterMetricFamily(name, text, labels=("detector", label))
            for detector, found in counts.items():
                for value in values:
                    family.add_metric((detector, value), found.get(value, 0))
            yield family
        queue = GaugeMetricFamily("farfield_webhooks_waiting", "Deliveries that are still to be done, at most.", labels=("detector",))
        for detector, deliveries in waiting.items():
            queue.add_metric((detector,), deliveries)
        yield queue
