"""Every detector, under every set of parameters that it names, keeps every promise of the contract."""

import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from detectors import KNN, REGISTRY, AdditiveDetector, ClassGaussian, Gaussian, Signature, Weighting
from detectors.checks import (
    ADDITIVE_CHECKS,
    CHECKS,
    check_additive_attributions_add_up,
    check_blocks_equal_the_whole,
    check_farther_is_stranger,
    check_huge_rows_have_finite_scores,
    check_input_stays_untouched,
    check_merged_shards_equal_the_whole,
    check_normal_features_have_no_share,
    check_planted_column_ranks_first,
    check_rows_are_scored_alone,
    check_scoring_changes_nothing,
    check_what_is_not_finite_is_refused,
)

# Runs one of scikit-learn's checks, by name, in a process where SciPy has been told to dispatch.
ONE_CHECK = """
import sys
from sklearn.utils.estimator_checks import estimator_checks_generator
from detectors import REGISTRY
kind, name = sys.argv[1:]
chosen = [(e, check) for e, check in estimator_checks_generator(REGISTRY[kind]()) if check.func.__name__ == name]
assert chosen
for estimator, check in chosen:
    check(estimator)
"""


@parametrize_with_checks([detector() for detector in REGISTRY.values()])
def test_scikit_learn_accepts_the_detector(estimator, check):
    """All of scikit-learn's own checks pass, with no exception made.

    The one about other array libraries skips itself unless SciPy was imported with SCIPY_ARRAY_API
    set, which would change SciPy for all other tests: it gets a process of its own.
    """
    name = check.func.__name__
    if name != "check_array_api_input":
        check(estimator)
        return
    kind = next(kind for kind, cls in REGISTRY.items() if cls is type(estimator))
    command = [sys.executable, "-W", "error", "-c", ONE_CHECK, kind, name]
    done = subprocess.run(
        command,
        env=os.environ | {"SCIPY_ARRAY_API": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def normalises(detector):
    return getattr(detector, "normalize", False)


def bends(detector):
    return isinstance(detector, Weighting | Signature)


def looks_twice(detector):
    return getattr(detector, "reduce", None) is not None and detector.covariance == "ledoit_wolf"


def compares(detector):
    return getattr(detector, "relative", False)


def rounds(detector):
    return getattr(detector, "precision", None) == "float32"


# Promises that some parameters give up, and why. Each line has a test of what holds instead.
EXEMPTIONS = {
    # A direction does not change far out, nor does a share near 1; a straight ray is none to a signature; and where classes
    # do not differ, the distance to the nearest one grows no faster than the distance to all.
    check_farther_is_stranger: lambda detector: normalises(detector) or bends(detector) or compares(detector),
    # One huge value turns the whole row to its axis, and squeezes a stream that is scaled by its own range: all the rest is then strange.
    check_planted_column_ranks_first: lambda detector: normalises(detector) or getattr(detector, "scaling", None) == "stream",
    **dict.fromkeys(ADDITIVE_CHECKS, looks_twice),  # the intensity needs the rows again, once they are projected
    # A single row is of one class, which no relative score has; and of two rows the covariance is too close to singular for float32.
    check_blocks_equal_the_whole: lambda detector: looks_twice(detector) or compares(detector) or rounds(detector),
    check_merged_shards_equal_the_whole: lambda detector: looks_twice(detector) or compares(detector),
}

CASES = [
    pytest.param(kind, cls, variant, check, id=f"{kind}-{number}-{check.__name__.removeprefix('check_')}")
    for kind, cls in REGISTRY.items()
    for number, variant in enumerate(cls.VARIANTS)
    for check in CHECKS + (ADDITIVE_CHECKS if issubclass(cls, AdditiveDetector) else [])
    if not (check in EXEMPTIONS and EXEMPTIONS[check](cls(**variant)))
]


@pytest.fixture
def rows():
    """Forty correlated rows of four features, away from the origin."""
    rng = np.random.default_rng(5)
    return rng.normal(size=(40, 4)) @ rng.normal(size=(4, 4)) + np.array([3, -1, 10, 0])


@pytest.mark.parametrize(("kind", "cls", "variant", "check"), CASES)
def test_every_detector_keeps_every_promise(kind, cls, variant, check, rows):
    """Each check passes for each registered detector under each of its own parameter sets."""
    check(kind, cls(**variant), rows)


def test_variants_are_not_only_the_defaults():
    """A detector with parameters is checked under other values than their defaults too."""
    for cls in REGISTRY.values():
        assert len(cls.VARIANTS) > 1 or set(cls().get_params()) == {"contamination"}


@pytest.mark.parametrize("name", ["partial_fit", "merge", "forget"])
@pytest.mark.parametrize("reduce", ["pca", "npca"])
def test_an_update_that_would_not_be_exact_is_refused(name, reduce, rows):
    """Where the sums do not suffice, learning from sums raises a ValueError that says what to use."""
    detector = Gaussian(reduce=reduce, kept_variance=0.9)
    if name != "partial_fit":
        detector.fit(rows)
    argument = Gaussian(reduce=reduce, kept_variance=0.9).fit(rows) if name == "merge" else rows[:10]
    with pytest.raises(ValueError, match="use covariance='oas' or 'empirical'"):
        getattr(detector, name)(argument)


@pytest.mark.parametrize(
    "detector",
    [KNN(), Gaussian(normalize=True), ClassGaussian(normalize=True), ClassGaussian(normalize=True, covariance="spiked")],
    ids=["knn", "gaussian", "class_gaussian", "class_gaussian-spiked"],
)
def test_a_normalised_detector_blames_a_column_five_deviations_off(detector):
    """Of rows around two deviations from the origin in each of 32 columns, the one that is set five from its mean has the largest share.

    In nine of ten rows or more, whichever column it is: another may be strange by chance.
    """
    rng = np.random.default_rng(6)
    rows = rng.normal(size=(300, 4)) @ rng.normal(size=(4, 32)) + 0.5 * rng.normal(size=(300, 32))
    rows = rows / rows.std(axis=0) + 2 * rng.choice([-1, 1], 32)
    detector.fit(rows, np.arange(300) % 2)
    for column, mean in enumerate(rows.mean(axis=0)):
        for side in (-5, 5):
            planted = rows[:40].copy()
            planted[:, column] = mean + side
            assert (detector.attributions(planted).argmax(axis=1) == column).mean() >= 0.9, f"column {column}, {side} deviations"


def test_streams_scaled_each_by_itself_blame_a_point_five_deviations_off():
    """Of waves of any phase, the one point of twenty that is out of line has the largest share in nine of ten."""
    rng = np.random.default_rng(6)
    waves = np.sin(2 * np.pi * (np.linspace(0, 1, 20) + rng.uniform(0, 0.5, (200, 1)))) + 0.1 * rng.normal(size=(200, 20))
    detector, first = Signature(scaling="stream").fit(waves), []
    for point, deviation in enumerate(waves.std(axis=0)):
        for side in (-5, 5):
            planted = waves[:40].copy()
            planted[:, point] += side * deviation
            first.append(detector.attributions(planted).argmax(axis=1) == point)
    assert np.mean(first) > 0.9


def test_a_normalised_detector_sees_directions_alone(rows):
    """With normalize, a row and its multiples score the same, as long or short as float64 has them."""
    detector = Gaussian(normalize=True).fit(rows)
    lengths = np.array([1e-290, 1e-160, 1e-5, 1, 1e5, 1e160, 1e290])
    np.testing.assert_allclose(detector.scores(np.outer(lengths, rows[0])), detector.scores(rows[:1])[0], rtol=1e-9)


class Learning(Gaussian):
    """Learns from the rows that it scores."""

    def anomaly_scores(self, state, rows):
        self.state_ = self.conclude(state.statistics + self.statistics(rows))
        return super().anomaly_scores(state, rows)


class Ranking(Gaussian):
    """Scores a row by its rank in the batch."""

    def anomaly_scores(self, state, rows):
        return super().anomaly_scores(state, rows).argsort().argsort().astype(float)


class Writing(Gaussian):
    """Centres the caller's rows in place."""

    def learn(self, rows):
        rows -= rows.mean(axis=0)
        return super().learn(rows)


class Saturating(Gaussian):
    """Cuts its scores off."""

    def anomaly_scores(self, state, rows):
        return np.minimum(super().anomaly_scores(state, rows), 50.0)


class Overflowing(Gaussian):
    """Lets infinity out."""

    def _finite(self, score, rows):
        with np.errstate(over="ignore", invalid="ignore"):
            return score(self.state_, rows)


class Forgiving(Gaussian):
    """Takes NaN for zero."""

    def _validated(self, X, **options):
        return super()._validated(np.nan_to_num(X), **options)


class Misplacing(Gaussian):
    """Gives each feature the share of its neighbour."""

    def attribute(self, state, rows):
        return np.roll(super().attribute(state, rows), 1, axis=1)


class Inflating(Gaussian):
    """Gives shares twice as large as they are."""

    def attribute(self, state, rows):
        return 2 * super().attribute(state, rows)


class Absolute(Gaussian):
    """Says that its shares come of leaving one feature out, and gives those that add up."""

    ATTRIBUTION = "leave_one_out"

    def baseline(self, state, rows):
        return np.broadcast_to(state.levels[0].mean + 1, rows.shape)


class Replacing(Gaussian):
    """Learns the last block alone."""

    def partial_fit(self, X, y=None):
        return self.concluded(self.statistics(self._learnable(X, reset=True)))


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (Learning, check_scoring_changes_nothing),
        (Ranking, check_rows_are_scored_alone),
        (Writing, check_input_stays_untouched),
        (Saturating, check_farther_is_stranger),
        (Overflowing, check_huge_rows_have_finite_scores),
        (Forgiving, check_what_is_not_finite_is_refused),
        (Misplacing, check_planted_column_ranks_first),
        (Inflating, check_additive_attributions_add_up),
        (Absolute, check_normal_features_have_no_share),
        (Replacing, check_blocks_equal_the_whole),
    ],
)
def test_the_checks_catch_broken_detectors(broken, check, rows):
    """A detector that breaks a promise fails its check, so that a pass means something."""
    with pytest.raises(AssertionError):
        check("broken", broken(), rows)


def test_merge_check_catches_a_wrong_sum(rows, monkeypatch):
    """Moments that forget the shift between shards fail the merge check."""
    monkeypatch.setattr("detectors.moments.np.outer", lambda one, other: np.zeros((len(one), len(other))))
    with pytest.raises(AssertionError):
        check_merged_shards_equal_the_whole("gaussian", Gaussian(), rows)
