"""A sample of rows, chosen by the hashes of their keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from detectors.labels import decoded, encoded

Arrays = dict[str, NDArray[Any]]
HIGHEST = np.iinfo(np.uint64).max


class Stated(Protocol):
    """What is known of a sample when it has been learned."""

    @property
    def rows(self) -> int: ...
    @property
    def of(self) -> int: ...
    @property
    def rank_error(self) -> float: ...


def told(sample: Stated | None) -> str | None:
    """The error of a sample as a sentence; None where all rows were learned."""
    if sample is None or sample.rows == sample.of:
        return None
    error = f"the rank of any quantile of a feature is off by at most {sample.rank_error:.2%}, with a probability of 95 %"
    return f"a sample of {sample.rows} of {sample.of} rows: {error}"


@dataclass(slots=True)
class Sample:
    """The rows with the ``most`` smallest hashes of all that were offered: the same ones in whatever chunks, on whatever machines.

    Since hashes are random and have nothing to do with the rows, it is a simple random sample without replacement. Memory:
    twice ``most`` rows, and three times while it is put in order.

    >>> sample = Sample(most=2)
    >>> sample.offer(np.array([7, 5, 9], np.uint64), {"rows": np.array([[0.7], [0.5], [0.9]])})
    >>> sample.columns["rows"]
    array([[0.5],
           [0.7]])
    """

    most: int  # at least 1
    offered: int = 0
    _blocks: list[Arrays] = field(default_factory=list)
    _held: int = 0
    _limit: int = HIGHEST  # hashes above it are not among the smallest
    _ordered: bool = True  # there is one block at most, in order

    def __len__(self) -> int:
        return len(self._whole().get("hashes", ()))

    def offer(self, hashes: NDArray[np.uint64], columns: Arrays) -> None:
        """Offer rows by the hashes (n,) of their keys; each of ``columns`` has n entries: the rows, their classes and the like."""
        self.offered += len(hashes)
        self._keep({"hashes": hashes, **columns})

    def join(self, other: Sample) -> None:
        """Offer what ``other`` was offered."""
        self.offered += other.offered
        self._keep(other._whole())

    @property
    def columns(self) -> Arrays:
        """What was kept, in the order of the hashes."""
        return {name: column for name, column in self._whole().items() if name != "hashes"}

    def arrays(self) -> Arrays:
        """All of it, as plain arrays of numbers."""
        arrays: Arrays = {"counts": np.array([self.most, self.offered])}
        for name, column in self._whole().items():
            if column.dtype.kind == "U":
                arrays[f"text.{name}"], _ = encoded(column)
            else:
                arrays[f"plain.{name}"] = column
        return arrays

    @classmethod
    def restored(cls, arrays: Arrays) -> Sample:
        """The sample that gave ``arrays``."""
        most, offered = (int(count) for count in arrays["counts"])
        sample = cls(most, offered)
        named = ((key.partition("."), column) for key, column in arrays.items() if key != "counts")
        sample._keep({name: decoded(column, 1) if kind == "text" else column for (kind, _, name), column in named})
        return sample

    def _keep(self, block: Arrays) -> None:
        if not len(block.get("hashes", ())):
            return
        inside = block["hashes"] <= self._limit
        if not inside.any():
            return
        chosen = slice(None) if inside.all() else inside
        self._blocks.append({name: np.array(column[chosen]) for name, column in block.items()})  # no view, which would keep all of it
        self._held += int(inside.sum())
        self._ordered = False
        if self._held > 2 * self.most:
            self._whole()

    def _whole(self) -> Arrays:
        """All that is kept, in order, after letting go of all but the smallest hashes."""
        if not self._ordered:
            hashes = np.concatenate([block["hashes"] for block in self._blocks])
            chosen = np.argsort(hashes, kind="stable")[: self.most]  # stable: of equal hashes the first offered stays
            self._blocks = [{name: np.concatenate([block[name] for block in self._blocks])[chosen] for name in self._blocks[0]}]
            self._held, self._ordered = len(chosen), True
            if self._held == self.most:
                self._limit = int(hashes[chosen[-1]])
        return self._blocks[0] if self._blocks else {}
