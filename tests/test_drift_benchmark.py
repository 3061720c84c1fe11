"""The simulation of drift: streams as the library would see them, alarms counted at the marks, places for the tables."""

import numpy as np
from numpy.testing import assert_array_equal
from scipy.stats import chisquare

from benchmarks import drift


def test_streams_have_the_law_of_their_calibration_sets():
    """Bins drawn are, over streams, those of an urn: as likely as their gaps."""
    streams = drift.Streams(400, np.random.default_rng(0))
    first = streams.rows(1)[:, 0]
    seen = np.bincount(first, minlength=len(streams.gaps))
    expected = 400 * streams.gaps / streams.gaps.sum()
    wide = expected > 5
    assert chisquare(seen[wide], expected[wide] * seen[wide].sum() / expected[wide].sum()).pvalue > 1e-4


def test_alarms_only_grow_with_the_rows():
    """The highest until a mark is at most that until the next, and runs that share a computation do not share rows."""
    highest = drift._highest(12, [100, 1000], 0, online=True)
    assert (highest[:, 0] <= highest[:, 1]).all()
    assert len(np.unique(highest[:, 1])) == 12
    assert_array_equal(highest, drift._highest(12, [100, 1000], 0, online=True))


def test_a_change_is_told_and_its_delay_counted():
    """A mean that moves by a deviation is found within a few hundred rows by the martingale."""
    rng = np.random.default_rng(1)
    calibration, before = rng.normal(size=drift.CALIBRATION), rng.normal(size=500)
    alarm = drift.Ours(0.001).first_alarm(calibration, np.concatenate([before, rng.normal(1, 1, 1000)]), [0])
    assert 500 < alarm < 900


def test_every_table_has_its_place_on_the_page():
    """Once each."""
    page = drift.PAGE.read_text()
    for name in ("null", "delays"):
        assert page.count(f"benchmarks.drift: {name} begins") == page.count(f"benchmarks.drift: {name} ends") == 1
