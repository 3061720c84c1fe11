"""Rows that cannot be learned or scored, and which of the caller's rows they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray


class RowError(ValueError):
    """What is ``wrong`` with one row, by its number among those that were given, from 0.

    >>> str(RowError(3, "is too long"))
    'row 3 is too long'
    """

    def __init__(self, row: int, wrong: str) -> None:
        super().__init__(row, wrong)
        self.row, self.wrong = row, wrong

    def __str__(self) -> str:
        return f"row {self.row} {self.wrong}"


@contextmanager
def counted_among(places: NDArray[Any]) -> Iterator[None]:
    """A context whose rows lie at ``places`` (n,) among others: a RowError leaves it with the number there."""
    try:
        yield
    except RowError as error:
        raise RowError(int(places[error.row]), error.wrong) from None
