"""The metrics of several processes as those of one service.

What a process has counted is a snapshot of its registry. Counters and histograms are added up; what a process counted that
has ended stays counted, and so does what was counted in a series that has begun anew, so that a sum never falls. Series of a
version go when no process has it in memory. Of gauges the largest is shown, or what ``SUMMED`` and ``LEAST`` say.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client.core import Metric

SUMMED = {
    "farfield_queue_depth",
    "farfield_queue_limit",
    "farfield_process_resident_memory_bytes",
    "farfield_process_virtual_memory_bytes",
    "farfield_process_open_fds",
}
LEAST = {"farfield_ready", "farfield_process_max_fds", "farfield_process_start_time_seconds"}
OF_THE_STORE = {"farfield_fit_duration_seconds", "farfield_feedback", "farfield_webhooks"}  # the same in every process

Series = tuple[str, frozenset[tuple[str, str]]]  # name of the metric, labels without that of buckets
Points = dict[tuple[str, str], float]  # of a series, by name of the sample and bound of the bucket
Rule = Callable[[float, float], float]


@dataclass(slots=True)
class Snapshot:
    """Metrics as they were at one time, in the order in which they were collected."""

    about: dict[str, tuple[str, str]] = field(default_factory=dict)  # type and help of each metric
    series: dict[Series, Points] = field(default_factory=dict)

    @classmethod
    def of(cls, metrics: Iterable[Metric]) -> Snapshot:
        """Without the times at which counters were created, which mean nothing in a sum."""
        taken = cls()
        for metric in metrics:
            taken.about[metric.name] = (metric.type, metric.documentation)
            for sample in metric.samples:
                if not sample.name.endswith("_created"):
                    labels = dict(sample.labels)
                    bound = labels.pop("le", "")
                    taken.series.setdefault((metric.name, frozenset(labels.items())), {})[sample.name, bound] = sample.value
        return taken

    @classmethod
    def unpacked(cls, data: bytes) -> Snapshot:
        about, series = json.loads(data)
        return cls(
            {name: tuple(known) for name, known in about.items()},
            {
                (name, frozenset((key, value) for key, value in labels)): {(sample, bound): value for sample, bound, value in points}
                for name, labels, points in series
            },
        )

    def packed(self) -> bytes:
        series = [
            [name, sorted(labels), [[*point, value] for point, value in points.items()]] for (name, labels), points in self.series.items()
        ]
        return json.dumps([self.about, series]).encode()

    def metrics(self) -> Iterator[Metric]:
        found = {name: Metric(name, text, kind) for name, (kind, text) in self.about.items()}
        for (name, labels), points in self.series.items():
            for (sample, bound), value in points.items():
                found[name].add_sample(sample, dict(labels) | ({"le": bound} if bound else {}), value)
        yield from found.values()

    def counts(self, series: Series) -> bool:
        """Whether it is what a process has counted, which adds up and never falls."""
        return self.about[series[0]][0] in {"counter", "histogram"} and series[0] not in OF_THE_STORE

    def rule(self, series: Series) -> Rule:
        """How the values of two processes become one."""
        if self.counts(series) or series[0] in SUMMED:
            return operator.add
        return min if series[0] in LEAST else max


class Totals:
    """What all processes have counted, by their last snapshots. Not safe to call from several threads at once."""

    def __init__(self) -> None:
        self._last: dict[int, Snapshot] = {}  # by process
        self._gone: dict[Series, Points] = {}  # counted in series that have ended or begun anew

    def saw(self, process: int, now: Snapshot) -> None:
        before = self._last.get(process, Snapshot())
        for series, points in before.series.items():
            if before.counts(series) and _began_anew(points, now.series.get(series, {})):
                _merge(self._gone, series, points, operator.add)
        self._last[process] = now

    def ended(self, process: int) -> None:
        self.saw(process, Snapshot())
        del self._last[process]

    def whole(self) -> Snapshot:
        """All together."""
        whole = Snapshot()
        for snapshot in self._last.values():
            whole.about |= snapshot.about
            for series, points in snapshot.series.items():
                _merge(whole.series, series, points, snapshot.rule(series))
        for series in [series for series in self._gone if series not in whole.series]:
            if "version" in dict(series[1]):
                del self._gone[series]
        for series, points in self._gone.items():
            if series[0] in whole.about:
                _merge(whole.series, series, points, operator.add)
        return whole


def _merge(merged: dict[Series, Points], series: Series, points: Points, rule: Rule) -> None:
    known = merged.setdefault(series, {})
    for point, value in points.items():
        known[point] = rule(known[point], value) if point in known else value


def _began_anew(before: Points, now: Points) -> bool:
    """Whether a count is smaller than it was. Sums may fall: scores may be negative."""
    return any(now.get(point, 0.0) < value for point, value in before.items() if not point[0].endswith("_sum"))
