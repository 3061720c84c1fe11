"""What Prometheus is told of outliers, of feedback, of webhooks and of shadows."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from service.names import VERDICTS

OUTCOMES = ("delivered", "failed", "given_up")  # of webhooks, as the store counts them
DIFFERENCES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


class OutlierFigures(Collector):
    """``counts`` are the store's, by detector: the same in every process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        by_pair = ("detector", "version", "shadow")
        self.counts: dict[str, dict[str, int]] = {}
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

    def forget_pairs(self, name: str) -> None:
        """Of a detector whose shadow is another one now, or none."""
        for metric in (self.shadowed, self.differences):
            metric.remove_by_labels({"detector": name})

    def collect(self) -> Iterator[CounterMetricFamily]:
        current = self.counts  # replaced whole, never changed
        for name, text, label, values in (
            ("farfield_feedback", "Rows marked by feedback.", "verdict", VERDICTS),
            ("farfield_webhooks", "Tries to deliver an outlier, by how they ended.", "outcome", OUTCOMES),
        ):
            family = CounterMetricFamily(name, text, labels=("detector", label))
            for detector, counts in current.items():
                for value in values:
                    family.add_metric((detector, value), counts.get(value, 0))
            yield family
