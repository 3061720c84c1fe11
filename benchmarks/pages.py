"""Pages of the documentation, into which benchmarks put their tables, and the figures of these."""

import statistics

import numpy as np


def written(page: str, mark: str, text: str) -> str:
    """``page`` with ``text`` in place of what stood between the two comments ``<!-- mark begins -->`` and ``<!-- mark ends -->``."""
    begin, end = (f"<!-- {mark} {word} -->" for word in ("begins", "ends"))
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page must hold the lines {begin} and {end}, in this order")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def median_and_spread(values: list[float]) -> tuple[float, float]:
    """The median, and half the range between quartiles in per cent of it."""
    median = statistics.median(values)
    half = np.subtract(*np.percentile(values, [75, 25])) / 2
    return median, float(100 * half / median) if median else 0.0


def spread(values, digits=2):
    """The median of some values and its spread, as in the tables.

    >>> spread([1.0, 2.0, 3.0])
    '2.00 ± 50 %'
    """
    median, half = median_and_spread(values)
    return f"{median:.{digits}f} ± {half:.0f} %"
