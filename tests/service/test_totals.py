"""Metrics of several processes become those of one service."""

from __future__ import annotations

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from service.metrics import Distribution, Metrics
from service.serving.totals import LEAST, OF_THE_STORE, SUMMED, Snapshot, Totals

V1 = {"detector": "pumps", "version": "1"}


class Process:
    """The metrics of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("farfield_requests", "Requests.", ["code"], registry=self.registry)
        self.rows = Counter("farfield_rows_scored", "Rows.", ["detector", "version"], registry=self.registry)
        self.seconds = Histogram("farfield_seconds", "Time.", buckets=(1, 2), registry=self.registry)
        self.scores = Distribution("farfield_score", "Scores.", ("detector", "version"))
        self.registry.register(self.scores)
        self.ready = Gauge("farfield_ready", "Ready.", registry=self.registry)
        self.depth = Gauge("farfield_queue_depth", "Waiting.", registry=self.registry)
        self.other = Gauge("farfield_other", "Largest.", registry=self.registry)

    def snapshot(self) -> Snapshot:
        return Snapshot.unpacked(Snapshot.of(self.registry.collect()).packed())


def value(totals: Totals, name: str, **labels: str) -> float | None:
    found = [
        sample.value for metric in totals.whole().metrics() for sample in metric.samples if (sample.name, sample.labels) == (name, labels)
    ]
    assert len(found) <= 1
    return found[0] if found else None


@pytest.fixture
def two() -> tuple[Totals, Process, Process]:
    return Totals(), Process(), Process()


def look(totals: Totals, *processes: Process) -> None:
    for number, process in enumerate(processes):
        totals.saw(number, process.snapshot())


def test_counters_and_histograms_add_up(two: tuple[Totals, Process, Process]) -> None:
    """By labels and by bucket; looking twice counts nothing twice."""
    totals, one, other = two
    one.requests.labels("200").inc(3)
    other.requests.labels("200").inc(4)
    other.requests.labels("503").inc()
    one.seconds.observe(0.5)
    other.seconds.observe(1.5)
    look(totals, one, other)
    look(totals, one, other)
    assert value(totals, "farfield_requests_total", code="200") == 7
    assert value(totals, "farfield_requests_total", code="503") == 1
    assert [value(totals, "farfield_seconds_bucket", le=le) for le in ("1.0", "2.0", "+Inf")] == [1, 2, 2]
    assert (value(totals, "farfield_seconds_sum"), value(totals, "farfield_seconds_count")) == (2.0, 2)


def test_gauges_are_summed_or_the_least_or_the_largest(two: tuple[Totals, Process, Process]) -> None:
    """As each has a meaning for the service."""
    totals, one, other = two
    for process, number in ((one, 1), (other, 0)):
        process.ready.set(number)
        process.depth.set(number + 5)
        process.other.set(number)
    look(totals, one, other)
    assert (value(totals, "farfield_ready"), value(totals, "farfield_queue_depth"), value(totals, "farfield_other")) == (0, 11, 1)


def test_what_a_process_counted_stays_when_it_has_ended(two: tuple[Totals, Process, Process]) -> None:
    """Its gauges go; the one that follows it counts from there."""
    totals, one, other = two
    for process in (one, other):
        process.requests.labels("200").inc(5)
        process.depth.set(1)
    look(totals, one, other)
    totals.ended(1)
    assert (value(totals, "farfield_requests_total", code="200"), value(totals, "farfield_queue_depth")) == (10, 1)
    next_one = Process()
    next_one.requests.labels("200").inc(2)
    totals.saw(2, next_one.snapshot())
    assert value(totals, "farfield_requests_total", code="200") == 12


def test_a_series_that_begins_anew_adds_to_what_it_was(two: tuple[Totals, Process, Process]) -> None:
    """A version unloaded by one process and loaded again; buckets of a histogram stay cumulative."""
    totals, one, other = two
    labels = ("pumps", "1")
    for process in (one, other):
        process.scores.declare(labels, np.array([1.0, 2.0]))
        process.scores.observe(labels, np.array([0.5, 1.5, 1.5, -9.0]))
    look(totals, one, other)
    one.scores.forget(labels)
    look(totals, one, other)
    assert value(totals, "farfield_score_count", **V1) == 8
    one.scores.declare(labels, np.array([1.0, 2.0]))
    one.scores.observe(labels, np.array([1.5]))
    look(totals, one, other)
    assert [value(totals, "farfield_score_bucket", le=le, **V1) for le in ("1.0", "2.0", "+Inf")] == [4, 9, 9]


def test_a_sum_may_fall(two: tuple[Totals, Process, Process]) -> None:
    """Scores may be negative; that is no new beginning."""
    totals, one, _ = two
    one.scores.declare(("pumps", "1"), np.array([1.0]))
    for scores in ([5.0], [-7.0]):
        one.scores.observe(("pumps", "1"), np.array(scores))
        look(totals, one)
    assert (value(totals, "farfield_score_sum", **V1), value(totals, "farfield_score_count", **V1)) == (-2.0, 2)


def test_series_of_a_version_go_with_the_last_process_that_has_it(two: tuple[Totals, Process, Process]) -> None:
    """And come back as those of a version that was never counted."""
    totals, one, other = two
    for process in (one, other):
        process.rows.labels(**V1).inc(5)
    look(totals, one, other)
    one.rows.remove("pumps", "1")
    look(totals, one, other)
    assert value(totals, "farfield_rows_scored_total", **V1) == 10
    other.rows.remove("pumps", "1")
    look(totals, one, other)
    assert value(totals, "farfield_rows_scored_total", **V1) is None
    one.rows.labels(**V1).inc()
    look(totals, one, other)
    assert value(totals, "farfield_rows_scored_total", **V1) == 1


def test_the_whole_reads_as_one_process() -> None:
    """The real metrics, through the pipe's form: the text is that of the process itself, but for the times of creation."""
    metrics, totals = Metrics(), Totals()
    metrics.request("/v1", 200, 0.1)
    totals.saw(0, Snapshot.unpacked(Snapshot.of(metrics.registry.collect()).packed()))

    whole = CollectorRegistry()
    whole.collect = totals.whole().metrics  # type: ignore[method-assign]

    def lines(registry: CollectorRegistry) -> list[str]:
        text = generate_latest(registry).decode()
        return [line for line in text.splitlines() if "_created" not in line and "farfield_process_" not in line]

    assert lines(whole) == lines(metrics.registry)


def test_names_in_the_rules_are_metrics() -> None:
    """A metric that was renamed does not lose its rule unseen."""
    assert {metric.name for metric in Metrics().registry.collect()} >= SUMMED | LEAST | OF_THE_STORE
