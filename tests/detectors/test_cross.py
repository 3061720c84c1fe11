"""Cross-conformal calibration: the formula, its promise, and that it survives being stored as arrays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors import KNN, REGISTRY, AlphaTooSmall, Calibration, ClassGaussian, CrossConformal, Gaussian, dumps, loads

RNG = np.random.default_rng(0)
ROWS, NEW = RNG.normal(size=(43, 3)), RNG.normal(0, 2, size=(20, 3))


def test_p_values_count_the_rows_of_every_fold():
    """Row by row and fold by fold: the rows of a fold that are at least as strange to the detector that has not seen them."""
    cross = CrossConformal.fit(Gaussian(), ROWS, folds=4, seed=3)
    members = np.random.default_rng(3).permutation(43) % 4
    for row, score, p_value in zip(NEW, *cross.score(NEW), strict=True):
        counted, scores = 0, []
        for fold in range(4):
            detector = Gaussian().fit(ROWS[members != fold])
            own = detector.scores(row[None])[0]
            counted += sum(detector.scores(ROWS[members == fold]) >= own)
            scores.append(own)
        assert p_value == (1 + counted) / 44
        assert score == pytest.approx(np.mean(scores))


def test_every_row_is_held_out_once():
    """Folds are as equal as can be, and hold all rows together; each leaves its rows to the other detectors."""
    cross = CrossConformal.fit(KNN(), ROWS, folds=5)
    assert sorted(len(calibration.scores) for calibration in cross.calibrations) == [8, 8, 9, 9, 9]
    assert cross.rows == 43
    assert sorted(len(detector.state_.points) for detector in cross.detectors) == [34, 34, 34, 35, 35]


def test_the_seed_decides_the_folds():
    """The same seed gives the same p-values, another one others; and the given detector stays unfitted."""
    detector = KNN()
    first, again, other = (CrossConformal.fit(detector, ROWS, seed=seed).score(NEW)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert not hasattr(detector, "state_")


def test_labelled_rows_are_divided_with_their_classes():
    """A detector for classes learns each fold's rows with the classes of these."""
    labels = np.where(ROWS[:, 0] > 0, "a", "b")
    rows = ROWS + 50 * (labels == "a")[:, None]
    _, p_values = CrossConformal.fit(ClassGaussian(), rows, labels).score(np.array([[0.0, 0, 0], [50, 50, 50], [25, 25, 25]]))
    assert p_values[2] == 1 / 44
    assert (p_values[:2] > 0.2).all()


@given(st.integers(2, 12), st.lists(st.integers(1, 9), min_size=12, max_size=12), st.floats(0.001, 0.999), st.data())
def test_the_bound_is_that_of_twice_the_mean(folds, sizes, alpha, data):
    """Where the p-value is at most alpha, twice the weighted mean of the folds' own p-values is at most the bound."""
    sizes = np.array(sizes[:folds])
    above = np.array([data.draw(st.integers(0, int(size))) for size in sizes])
    cross = CrossConformal((Gaussian(),) * folds, tuple(Calibration.of(np.zeros(size)) for size in sizes))
    p_value, mean = (1 + above.sum()) / (1 + sizes.sum()), (1 + above).sum() / (1 + sizes).sum()
    assert min(2 * mean, 1) <= cross.rate_bound(p_value) + 1e-12  # the mean of (1 + above) / (1 + sizes), weighted by 1 + sizes
    assert cross.rate_bound(alpha) >= alpha


def test_the_rate_of_false_alarms_keeps_below_alpha_on_normal_rows():
    """60 rows of 10 features, of which a split would leave 30 to fit on: no more than alpha, and far from none, over 300 draws."""
    rng = np.random.default_rng(1)
    alarms = np.array(
        [(CrossConformal.fit(Gaussian(), rows[:60]).score(rows[60:])[1] <= 0.1).mean() for rows in rng.normal(size=(300, 160, 10))]
    )
    error = alarms.std() / np.sqrt(300)
    assert 0.06 < alarms.mean() < 0.1 + 4 * error


@pytest.mark.parametrize("kind", ["gaussian", "weighting", "knn"])
def test_it_survives_as_json_and_arrays(kind):
    """Each fold's detector by ``dumps`` and each fold's scores as they are: the twin judges alike, bit for bit."""
    cross = CrossConformal.fit(REGISTRY[kind](), ROWS)
    stored = [
        (*dumps(kind, detector), calibration.scores) for detector, calibration in zip(cross.detectors, cross.calibrations, strict=True)
    ]
    twin = CrossConformal(
        tuple(loads(text, arrays, REGISTRY) for text, arrays, _ in stored), tuple(Calibration.of(scores) for *_, scores in stored)
    )
    for left, right in zip(twin.score(NEW), cross.score(NEW), strict=True):
        np.testing.assert_array_equal(left, right)


def test_huge_scores_stay_finite():
    """The mean of scores near the largest float64 is one of them."""
    scores, p_values = CrossConformal.fit(Gaussian(), ROWS).score(np.full((1, 3), 1e300))
    assert np.isfinite(scores).all()
    assert p_values == 1 / 44


@pytest.mark.parametrize(("rows", "folds"), [(43, 1), (43, 44), (2, 2)])
def test_folds_that_cannot_be_are_refused(rows, folds):
    """One fold, more than rows, and two rows of which each fit would get one raise ValueError."""
    with pytest.raises(ValueError, match=f"folds={folds} must be .* which are {rows}"):
        CrossConformal.fit(Gaussian(), ROWS[:rows], folds=folds)


def test_all_rows_count_for_the_smallest_alpha():
    """An alpha of 1 / 44 is allowed by 43 rows, though each fold has ten; a smaller one is refused."""
    cross = CrossConformal.fit(Gaussian(), ROWS, folds=4)
    cross.check_alpha(1 / 44)
    with pytest.raises(AlphaTooSmall, match=r"alpha=0\.01 needs at least 99 calibration rows; there are 43, which allow 0.0228 and more"):
        cross.check_alpha(0.01)
