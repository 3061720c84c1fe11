"""A sample by hashes: the same rows however they come, each as likely as any other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine import Sampled
from service.fitting.sample import Sample
from service.sources import hashed

KEYS = np.arange(300)
HASHES = hashed(KEYS, 5)
COLUMNS = {"rows": KEYS[:, None] + [0.25, 0.5], "labels": np.array([f"class {key % 7}" for key in KEYS])}


def offered(order: np.ndarray, chunks: int, most: int) -> Sample:
    sample = Sample(most)
    for part in np.array_split(order, chunks):
        sample.offer(HASHES[part], {name: column[part] for name, column in COLUMNS.items()})
    return sample


@given(st.permutations(range(len(KEYS))), st.integers(1, 40), st.integers(1, 350), st.integers(0, 300), st.booleans())
def test_chunks_orders_and_joins_do_not_matter(order: list[int], chunks: int, most: int, cut: int, restored: bool) -> None:
    """The rows with the smallest hashes, in the order of those, however offered, joined, stored and restored on the way."""
    places = np.array(order)
    one, two = offered(places[:cut], chunks, most), offered(places[cut:], 1, most)
    if restored:
        one, two = Sample.restored(one.arrays()), Sample.restored(two.arrays())
    one.join(two)
    chosen = np.argsort(HASHES)[:most]
    assert (one.offered, len(one)) == (len(KEYS), len(chosen))
    for name, column in COLUMNS.items():
        np.testing.assert_array_equal(one.columns[name], column[chosen])


def test_every_row_is_as_likely_as_any_other() -> None:
    """Over seeds, single rows and pairs of rows are chosen as by a simple random sample; chi-square at 1 in 10 000."""
    rows, most, seeds = 12, 4, 3000
    chosen = np.zeros((seeds, rows))
    for seed in range(seeds):
        sample = Sample(most)
        sample.offer(hashed(np.arange(rows), seed), {"rows": np.arange(rows)})
        chosen[seed, sample.columns["rows"]] = 1
    together = (chosen.T @ chosen)[np.triu_indices(rows, 1)]
    for counts, bound in ((chosen.sum(axis=0), 37.4), (together, 114.0)):  # 11 and 65 degrees of freedom
        assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < bound


def test_the_rank_error_that_is_stated_holds() -> None:
    """In 19 of 20 samples, or more, no quantile of the sample is off by more than is stated."""
    values = np.random.default_rng(0).standard_normal(4000)
    order, off = np.sort(values), []
    for seed in range(300):
        sample = Sample(200)
        sample.offer(hashed(np.arange(len(values)), seed), {"rows": values})
        ranks = np.searchsorted(order, np.sort(sample.columns["rows"]), side="right") / len(values)
        steps = np.arange(len(sample) + 1) / len(sample)
        off.append(max(np.abs(ranks - steps[1:]).max(), np.abs(ranks - steps[:-1]).max()))
    assert np.mean(np.array(off) > Sampled(200, 4000).rank_error) < 0.05
    assert np.mean(np.array(off) > Sampled(800, 4000).rank_error) > 0.2  # it would be missed if too little were stated
    assert Sampled(200, 200).rank_error == 0


def test_an_empty_sample_comes_back() -> None:
    """It has no columns, and takes some later."""
    empty = Sample.restored(Sample(3).arrays())
    assert (len(empty), empty.offered, empty.most, empty.columns) == (0, 0, 3, {})
    empty.offer(HASHES[:2], {"rows": KEYS[:2]})
    assert len(empty) == 2


@pytest.mark.parametrize("most", [1, 50])
def test_what_a_sample_holds_is_bounded(most: int) -> None:
    """Never more than twice as many rows as it is to keep, and one chunk; nor does it keep what it was offered alive."""
    sample = Sample(most)
    for start in range(0, 200_000, 1000):
        block = np.arange(start, start + 1000)
        sample.offer(hashed(block, 0), {"rows": block})
        held = [column for one in sample._blocks for column in one.values()]
        assert sum(map(len, held)) <= 2 * (2 * most + 1000)
        assert all(column.base is None for column in held)
