"""Detectors whose state follows from sums over rows: they learn in blocks, on many machines, and can unlearn."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from detectors.arrays import Rows, Scores
from detectors.base import Detector, StateT
from detectors.moments import BLOCK_ROWS

StatisticsT = TypeVar("StatisticsT", bound="Statistics")


class Statistics(Protocol):
    """Sums over rows: ``+`` joins two disjoint sets of rows, ``-`` takes a subset out again, ``*`` lets all of them count less."""

    def __add__(self, other: Self) -> Self: ...

    def __sub__(self, other: Self) -> Self: ...

    def __mul__(self, weight: float) -> Self: ...


class AdditiveDetector(Detector[StateT], Generic[StateT, StatisticsT]):
    """Base of detectors whose state follows from sums over rows. Subclasses write ``statistics`` and ``conclude``, not ``learn``.

    The state carries the sums as ``state_.statistics``. A fit too large for memory is ``sums`` of each block of rows, in any
    order and on any machine, joined by ``+``, and ``concluded`` of the whole.
    """

    @abstractmethod
    def statistics(self, rows: Rows) -> StatisticsT:
        """Sums over ``rows`` (n, d)."""

    @abstractmethod
    def conclude(self, statistics: StatisticsT, second: StatisticsT | None = None) -> StateT:
        """State of the rows that were summed, with the sums of the ``second_look`` where one was needed and taken.

        Raises ValueError for parameters under which the sums do not suffice.
        """

    def second_look(self, statistics: StatisticsT) -> Callable[[Rows], StatisticsT] | None:
        """What has to be summed over all rows again, now that their ``statistics`` are known; None where nothing has."""
        return None

    def learn(self, rows: Rows, **labels: Any) -> StateT:
        statistics = self.statistics(rows, **labels)
        look = self.second_look(statistics)
        return self.conclude(statistics, look(rows) if look else None)

    def training_scores(self, state: StateT, rows: Rows) -> Scores:
        """Plain scores, some thousand rows at a time, so that rows in a file are never all copied into memory."""
        blocks = (rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS))
        return np.concatenate([self.anomaly_scores(state, block) for block in blocks])

    def sums(self, X: ArrayLike, y: Any = None, *, assume_finite: bool = False) -> StatisticsT:
        """Sums over rows ``X`` (n, d), with their classes ``y`` as in ``fit``. The state stays as it is; the first rows set the width.

        ``assume_finite`` spares a look at rows that are known to hold no NaN and no infinity.
        """
        first = not hasattr(self, "n_features_in_")
        if first:
            self._validate_params()
        rows = self._learnable(X, reset=first, assume_finite=assume_finite)
        return self.statistics(rows, **self._labels(y, len(rows)))

    def concluded(self, statistics: StatisticsT, second: StatisticsT | None = None) -> Self:
        """Take on the state of all rows whose sums these are; the threshold of ``predict`` is then not known."""
        self.state_ = self.conclude(statistics, second)
        if hasattr(self, "offset_"):
            del self.offset_  # it was a quantile over rows that are no longer all the rows
        return self

    def partial_fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Add rows ``X`` (n, d), with their classes ``y`` as in ``fit``, to those learned so far; one row is enough."""
        sums = self.sums(X, y)
        return self.concluded(self.learned() + sums if hasattr(self, "state_") else sums)

    def forget(self, X: ArrayLike, y: Any = None) -> Self:
        """Take rows ``X`` (n, d), learned before with classes ``y``, out again; ValueError where rounding leaves too little."""
        self._require_state()
        rows = self._validated(X, reset=False)
        return self.concluded(self.learned() - self.statistics(rows, **self._labels(y, len(rows))))

    def merge(self, other: Self) -> Self:
        """Add the rows that ``other``, of the same parameters and width, has learned."""
        self._require_state()
        other._require_state()
        if type(other) is not type(self) or other.parameters() != self.parameters():
            raise ValueError("only detectors of the same type and parameters can be merged")
        if other.n_features_in_ != self.n_features_in_:
            raise ValueError(f"cannot merge {other.n_features_in_} features into {self.n_features_in_}")
        return self.concluded(self.learned() + other.learned())

    def decay(self, weight: float) -> Self:
        """Let every row learned so far count ``weight``, in (0, 1], of what it did; rows learned from now on count one.

        Alone that changes nothing but what is learned next: the mean of rows of equal weight is their mean. ``forget`` is refused then.
        """
        self._require_state()
        if not 0 < weight <= 1:
            raise ValueError(f"weight must lie above 0 and be at most 1, not {weight}")
        return self.concluded(self.learned() * weight)

    def learned(self) -> StatisticsT:
        """Sums over all rows learned. Raises ValueError for a state that was loaded without them."""
        statistics: StatisticsT | None = self.state_.statistics  # type: ignore[attr-defined]
        if statistics is None:
            raise ValueError("this state was loaded for scoring, without its statistics: load it whole to update it")
        return statistics
