"""Every metric of the service, declared here once; other modules only tell what happened."""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Info, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from service import __version__
from service.distribution import Distribution
from service.drift.figures import DriftFigures
from service.engine import Fitted
from service.features import STAGES
from service.jobs.queue import SECONDS_BUCKETS as JOB_SECONDS_BUCKETS
from service.jobs.queue import Tallies
from service.manifest import Manifest
from service.outliers.figures import OutlierFigures
from service.verdicts import Verdicts

# Even steps, so that uniform p-values fill them evenly, and small ones, where alarms are decided.
P_VALUE_BUCKETS = (0.001, 0.005, 0.01, 0.05, *(round(0.1 * i, 1) for i in range(1, 11)))
SCORE_QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
SCORE_MULTIPLES = (1.25, 1.5, 2.0, 4.0, 10.0)  # of the largest calibration score
SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Told = Callable[[], int]  # asked at each scrape


class JobTallies(Collector):
    """The jobs of the whole store, as they were when it was last asked: the same in every process."""

    def __init__(self) -> None:
        self.tallies = Tallies({})

    def collect(self) -> Iterator[Metric]:
        states = GaugeMetricFamily("farfield_jobs", "Jobs that wait and run now, and that have ended so far.", labels=("state",))
        for state, count in self.tallies.states.items():
            states.add_metric((state,), count)
        yield states
        durations = HistogramMetricFamily("farfield_fit_duration_seconds", "Time of the last attempt of each fit that was done.")
        done = self.tallies.states.get("done", 0)
        within = zip(map(str, map(float, JOB_SECONDS_BUCKETS)), self.tallies.within, strict=True)
        durations.add_metric((), [*within, ("+Inf", done)], self.tallies.seconds)
        yield durations


@dataclass(slots=True)
class Tally:
    """What a version has scored since it was loaded."""

    requests: int = 0
    executions: int = 0  # batches: small requests that come together are one
    rows: int = 0
    last: float = 0.0  # when the last request was scored, in seconds since 1970
    seconds: dict[str, float] = field(default_factory=dict)  # by stage
    failures: int = 0
    failed_seconds: float = 0.0


class Metrics:
    """The metrics of one process. Labels are bounded: names and numbers of what is loaded, routes, stages, codes."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.shown: Collector = registry  # what a scrape is answered; where several processes serve, the metrics of all
        by_version = ("detector", "version")
        requests = Counter("farfield_requests", "Requests by route and status code.", ("route", "code"), registry=registry)
        self._durations = Distribution(
            "farfield_request_duration_seconds", "Time from the first byte read to the last written.", ("route",), SECONDS_BUCKETS
        )
        self._stages = Distribution("farfield_stage_duration_seconds", "Time spent in each stage of scoring a request.", ("stage",))
        for stage in STAGES:
            self._stages.declare((stage,), np.array(SECONDS_BUCKETS))
        self._rows = Counter("farfield_rows_scored", "Rows scored.", by_version, registry=registry)
        self._outliers = Counter("farfield_outliers", "Rows called outliers.", by_version, registry=registry)
        self._scores = Distribution("farfield_score", "Scores, higher = more anomalous; buckets by the calibration scores.", by_version)
        self._p_values = Distribution("farfield_p_value", "P-values; uniform while inputs are normal.", by_version)
        self._calibration = Gauge("farfield_calibration_rows", "Held-out rows behind the p-values.", by_version, registry=registry)
        self._created = Gauge("farfield_version_created_timestamp_seconds", "When the version was fitted.", by_version, registry=registry)
        self._providers = Gauge(
            "farfield_extractor_info", "Execution provider of a loaded version's extractor; always 1.",
            (*by_version, "provider"), registry=registry,
        )  # fmt: skip
        self._fallbacks = Counter("farfield_device_fallbacks", "Extractors on the CPU though CUDA was asked for.", registry=registry)
        self._aliases = Gauge(
            "farfield_alias_info", "Version that an alias points at; always 1.", ("detector", "alias", "version"), registry=registry
        )
        self._refusals = Counter(
            "farfield_version_refusals", "Stored versions refused as damaged or different.", by_version, registry=registry
        )
        self._store_errors = Counter("farfield_store_errors", "Calls that the store did not answer.", registry=registry)
        self._waiting = Gauge("farfield_queue_depth", "Requests waiting for a thread.", registry=registry)
        self._queue = Gauge("farfield_queue_limit", "Requests that may wait for a thread.", registry=registry)
        self._ready = Gauge("farfield_ready", "1 while readyz answers 200.", registry=registry)
        self._versions = Gauge(
            "farfield_versions", "Versions in memory, and those refused since they are damaged.", ("state",), registry=registry
        )
        self._loaded_bytes = Gauge("farfield_loaded_bytes", "Bytes of the versions in memory, as they are stored.", registry=registry)
        self._loaded_limit = Gauge("farfield_loaded_bytes_limit", "Bytes that the versions in memory may have.", registry=registry)
        # The series of these labels never go, and looking one up takes longer than adding to it.
        self._requests_of: Callable[..., Any] = cache(requests.labels)
        self._jobs = JobTallies()
        self.drift = DriftFigures(lambda labels: labels in self._counters)
        self.feed = OutlierFigures(registry)
        registry.register(self.drift)
        registry.register(self._jobs)
        registry.register(self._durations)
        registry.register(self._stages)
        registry.register(self._scores)
        registry.register(self._p_values)
        ProcessCollector(namespace="farfield", registry=registry)
        build = Info("farfield_build", "Version of farfield and of Python.", registry=registry)
        build.info({"version": __version__, "python": platform.python_version()})
        self._shown_aliases: dict[str, dict[str, int]] = {}
        self._tallies: dict[tuple[str, int], Tally] = {}
        self._counters: dict[tuple[str, str], tuple[Counter, Counter]] = {}  # of rows and of outliers, of what is loaded
        self._lock = threading.Lock()

    def watch(self, queue: int, ready: Callable[[], bool], loaded: Told, refused: Told, size: Told, limit: int) -> None:
        """What is asked for at each scrape, how many requests may wait, and how many bytes may be in memory."""
        self._queue.set(queue)
        self._ready.set_function(ready)
        self._versions.labels("loaded").set_function(loaded)
        self._versions.labels("refused").set_function(refused)
        self._loaded_bytes.set_function(size)
        self._loaded_limit.set(limit)

    def request(self, route: str, code: int, seconds: float) -> None:
        self._requests_of(route, code).inc()
        self._durations.observe((route,), [seconds])

    def scored(self, name: str, number: int, verdicts: Verdicts, requests: Sequence[dict[str, float]]) -> None:
        """A batch was scored, for as many requests as there are times of their stages."""
        labels = (name, str(number))
        counters = self._counters.get(labels)
        if counters is None:
            return  # unloaded since the request began: its series are gone and stay gone
        rows, outliers = counters
        rows.inc(len(verdicts.scores))
        outliers.inc(int(np.count_nonzero(verdicts.is_outlier)))
        self._scores.observe(labels, verdicts.scores)
        self._p_values.observe(labels, verdicts.p_values)
        with self._lock:
            tally = self._tallies.get((name, number), Tally())  # of nobody, if unloaded this instant
            tally.requests += len(requests)
            tally.executions += 1
            tally.rows += len(verdicts.scores)
            tally.last = time.time()
            for stage in STAGES:
                tally.seconds[stage] = sum([seconds.get(stage, 0.0) for seconds in requests], tally.seconds.get(stage, 0.0))

    def failed(self, name: str, number: int, seconds: float) -> None:
        """A request that reached a loaded version and was refused by it after ``seconds``."""
        with self._lock:
            if tally := self._tallies.get((name, number)):
                tally.failures += 1
                tally.failed_seconds += seconds

    def tally(self, name: str, number: int) -> Tally:
        with self._lock:
            return deepcopy(self._tallies.get((name, number), Tally()))

    def stages(self, requests: Sequence[dict[str, float]]) -> None:
        """How long each stage of each request took."""
        for stage in STAGES:
            self._stages.observe((stage,), [seconds[stage] for seconds in requests if stage in seconds])

    def version_loaded(self, name: str, number: int, manifest: Manifest, fitted: Fitted) -> None:
        labels = (name, str(number))
        with self._lock:
            self._tallies[name, number] = Tally()
        self._counters[labels] = (self._rows.labels(*labels), self._outliers.labels(*labels))
        self._scores.declare(labels, score_edges(fitted.judge.reference))
        self._p_values.declare(labels, np.array(P_VALUE_BUCKETS))
        self._calibration.labels(*labels).set(manifest.calibration.n)
        self._created.labels(*labels).set(datetime.fromisoformat(manifest.created).timestamp())
        if fitted.extractor:
            self._providers.labels(*labels, fitted.extractor.provider).set(1)
            self._fallbacks.inc(int(fitted.extractor.fell_back))

    def version_unloaded(self, name: str, number: int) -> None:
        labels = (name, str(number))
        self._counters.pop(labels, None)
        for metric in (self._rows, self._outliers, self._calibration, self._created):
            metric.remove(*labels)
        self._providers.remove_by_labels({"detector": name, "version": str(number)})
        self._scores.forget(labels)
        self._p_values.forget(labels)
        with self._lock:
            self._tallies.pop((name, number), None)

    def version_refused(self, name: str, number: int) -> None:
        self._refusals.labels(name, str(number)).inc()

    def set_aliases(self, name: str, aliases: dict[str, int]) -> None:
        with self._lock:
            before = self._shown_aliases.get(name, {})
            for alias, number in before.items():
                if aliases.get(alias) != number:
                    self._aliases.remove(name, alias, str(number))
            for alias, number in aliases.items():
                self._aliases.labels(name, alias, str(number)).set(1)
            if aliases:
                self._shown_aliases[name] = aliases
            else:
                self._shown_aliases.pop(name, None)  # names that are asked for but do not exist leave nothing behind

    def store_error(self) -> None:
        self._store_errors.inc()

    def set_jobs(self, tallies: Tallies) -> None:
        self._jobs.tallies = tallies

    def waiting(self, requests: int) -> None:
        self._waiting.set(requests)


def score_edges(calibration: NDArray[np.float64]) -> NDArray[np.float64]:
    """Upper bounds of score buckets: quantiles of the calibration scores, and multiples of the largest beyond them."""
    quantiles = np.quantile(calibration, SCORE_QUANTILES)
    beyond = quantiles[-1] + abs(quantiles[-1]) * (np.array(SCORE_MULTIPLES) - 1)
    return np.unique(np.concatenate([quantiles, beyond]))
