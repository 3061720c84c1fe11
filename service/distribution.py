"""Histograms for Prometheus that are filled a batch at a time, with edges of their own for each label."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

MOST_UNCOUNTED = 1000  # values that wait to be counted
LARGEST_SUMMED = 1e100  # a value beyond it counts as this in the sum, which has to stay finite

Values = NDArray[np.float64] | list[float]


class Buckets:
    """One histogram. What is put in waits to be counted, for counting takes as long for a thousand values as for one."""

    def __init__(self, edges: NDArray[np.float64]) -> None:
        self._edges = edges
        self._counts = np.zeros(len(edges) + 1, dtype=np.int64)
        self._sum = 0.0
        self._waiting: list[Values] = []
        self._values = 0  # that wait

    def put(self, values: Values) -> None:
        self._waiting.append(values)
        self._values += len(values)
        if self._values >= MOST_UNCOUNTED:
            self._count()

    def cumulated(self) -> tuple[list[tuple[str, int]], float]:
        """Values up to each edge, and the sum of all."""
        self._count()
        bounds = [*(repr(float(edge)) for edge in self._edges), "+Inf"]
        return list(zip(bounds, np.cumsum(self._counts).tolist(), strict=True)), self._sum

    def _count(self) -> None:
        if self._waiting:
            values = np.concatenate(self._waiting)
            self._counts += np.bincount(np.searchsorted(self._edges, values), minlength=len(self._counts))
            self._sum += float(np.minimum(values, LARGEST_SUMMED).sum())
            self._waiting, self._values = [], 0


class Distribution(Collector):
    """Histograms by labels, each with buckets of its own, filled a batch at a time.

    The client library's histogram takes one value at a time, and has the same buckets for all
    labels; scores come in batches, and their unit differs from version to version.
    """

    def __init__(self, name: str, help_text: str, labels: tuple[str, ...], edges: Sequence[float] = ()) -> None:
        """Labels that were not declared have buckets with ``edges``, or where there are none do not count."""
        self._name, self._help, self._labels, self._edges = name, help_text, labels, edges
        self._histograms: dict[tuple[str, ...], Buckets] = {}
        self._lock = threading.Lock()

    def declare(self, labels: tuple[str, ...], edges: NDArray[np.float64]) -> None:
        with self._lock:
            self._histograms[labels] = Buckets(edges)

    def observe(self, labels: tuple[str, ...], values: Values) -> None:
        """``values`` (n,) are kept until they are counted, and must not change."""
        with self._lock:
            if self._edges and labels not in self._histograms:
                self._histograms[labels] = Buckets(np.array(self._edges))
            if labels in self._histograms:  # else unloaded this instant
                self._histograms[labels].put(values)

    def forget(self, labels: tuple[str, ...]) -> None:
        with self._lock:
            self._histograms.pop(labels, None)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._help, labels=self._labels)
        with self._lock:
            for labels, buckets in self._histograms.items():
                family.add_metric(labels, *buckets.cumulated())
        yield family
