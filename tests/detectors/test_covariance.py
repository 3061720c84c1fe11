"""Covariance estimators equal scikit-learn's, though they see sums and not rows."""

import numpy as np
import pytest
from sklearn.covariance import OAS, EmpiricalCovariance, LedoitWolf

from detectors.covariance import ESTIMATORS, marchenko_pastur_median, spiked
from detectors.moments import Moments

REFERENCES = {"ledoit_wolf": LedoitWolf, "oas": OAS, "empirical": EmpiricalCovariance}


def table(name):
    """Rows of one awkward kind."""
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(60, 5)) @ rng.normal(size=(5, 5)) + rng.normal(size=5)
    return {
        "tall": rows,
        "wide": rng.normal(size=(8, 30)) * np.arange(1, 31),
        "two rows": rows[:2],
        "one column": rows[:, :1],
        "constant column": np.hstack([rows, np.full((60, 1), 0.1)]),
        "all constant": np.full((10, 3), 0.1),
        "duplicated columns": np.hstack([rows, rows]),
        "unlike scales": rows * np.array([1e-4, 1, 1, 1, 1e4]),
        "heavy tails": rng.standard_t(2, size=(60, 5)),
        "offset": rows + 1e6,
    }[name]


TABLES = ["tall", "wide", "two rows", "one column", "constant column", "duplicated columns", "unlike scales", "heavy tails", "offset"]


@pytest.mark.parametrize("table_name", TABLES)
@pytest.mark.parametrize("name", REFERENCES)
def test_equals_scikit_learn(name, table_name):
    """Covariance and intensity equal those of scikit-learn to 1e-10 of the largest entry.

    With one column there is nothing to shrink, and any intensity gives the same covariance.
    """
    rows = table(table_name)
    covariance, intensity = ESTIMATORS[name](Moments.of(rows))
    reference = REFERENCES[name]().fit(rows)
    np.testing.assert_allclose(covariance, reference.covariance_, rtol=1e-10, atol=1e-10 * np.abs(reference.covariance_).max())
    if rows.shape[1] > 1:
        assert intensity == pytest.approx(getattr(reference, "shrinkage_", 0.0), rel=1e-9, abs=1e-10)


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("kind", ["digits", "images"])
def test_equals_scikit_learn_on_real_features(name, kind, digits, image_features):
    """The same on digits with pixels that never vary, and on 320 network features of 150 images."""
    rows = digits[:500] if kind == "digits" else image_features[:, :320]
    covariance, _ = ESTIMATORS[name](Moments.of(rows))
    expected = REFERENCES[name]().fit(rows).covariance_
    np.testing.assert_allclose(covariance, expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())


def test_the_worked_example(example):
    """The published formulas give these numbers on eight rows in the plane."""
    moments = Moments.of(example[0])
    covariance, intensity = ESTIMATORS["ledoit_wolf"](moments)
    np.testing.assert_allclose(covariance, [[8.042192991, 6.560894182], [6.560894182, 11.645307009]], rtol=0, atol=1e-9)
    np.testing.assert_allclose(moments.mean, [2.5, 3.25])
    assert intensity == pytest.approx(0.139554861382, abs=1e-12)
    assert ESTIMATORS["oas"](moments)[1] == pytest.approx(0.627706191158, abs=1e-12)


def oas_of_the_paper(rows):
    """Intensity by equation 23 of Chen et al. (2010) as it is printed, from products of matrices."""
    (n, d), covariance = rows.shape, np.cov(rows.T, bias=True)
    squares, trace = np.trace(covariance @ covariance), np.trace(covariance)
    return min(((1 - 2 / d) * squares + trace**2) / ((n + 1 - 2 / d) * (squares - trace**2 / d)), 1)


def test_oas_is_that_of_scikit_learn_and_not_that_of_the_paper(example):
    """In two columns the paper's terms of 2/d make 0.387 of 0.628; in 40 columns they are a matter of 0.2 %."""
    wide = np.random.default_rng(5).normal(size=(60, 40)) * np.linspace(1, 3, 40)
    for rows, of_the_paper, difference in ((example[0], 0.387446, 0.24), (wide, 0.705054, 0.001)):
        intensity = ESTIMATORS["oas"](Moments.of(rows))[1]
        assert intensity == pytest.approx(OAS().fit(rows).shrinkage_, rel=1e-12)
        assert oas_of_the_paper(rows) == pytest.approx(of_the_paper, abs=1e-6)
        assert intensity - oas_of_the_paper(rows) == pytest.approx(difference, rel=0.1)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_rows_without_variance(name):
    """Identical rows have covariance zero and a finite intensity, under every estimator."""
    covariance, intensity = ESTIMATORS[name](Moments.of(table("all constant")))
    assert not covariance.any()
    assert 0 <= intensity <= 1


@pytest.mark.parametrize("name", ["ledoit_wolf", "oas"])
def test_shrinkage_makes_full_rank(name):
    """With fewer rows than columns the shrunk covariance is positive definite; the empirical one is not."""
    moments = Moments.of(table("wide"))
    assert np.linalg.eigvalsh(ESTIMATORS[name](moments)[0]).min() > 0
    assert np.linalg.matrix_rank(ESTIMATORS["empirical"](moments)[0]) == 7


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_estimate_turns_with_the_rows(name):
    """Rows turned by an orthogonal matrix have the covariance turned by it, and the same intensity."""
    rows = table("tall")
    turn = np.linalg.qr(np.random.default_rng(4).normal(size=(5, 5)))[0]
    before, after = (ESTIMATORS[name](Moments.of(x)) for x in (rows, rows @ turn))
    np.testing.assert_allclose(after[0], turn.T @ before[0] @ turn, atol=1e-10)
    assert after[1] == pytest.approx(before[1], rel=1e-10)


@pytest.mark.parametrize(("ratio", "median"), [(0.25, 0.9160), (0.5, 0.8305), (1.0, 0.6529), (1e-6, 1.0)])
def test_the_median_of_the_noise_law(ratio, median):
    """Medians of the Marchenko-Pastur law, as published to four digits and as its limit for many rows."""
    assert marchenko_pastur_median(ratio) == pytest.approx(median, abs=2e-4)


@pytest.mark.parametrize(("rows", "width"), [(2000, 500), (400, 800)])
def test_the_median_is_that_of_drawn_eigenvalues(rows, width):
    """White noise, with more rows than columns and with fewer, is found to have variance 1 and no strong direction."""
    noise = np.random.default_rng(1).normal(size=(rows, width))
    covariance, share = spiked(Moments.of(noise))
    assert np.trace(covariance) / width == pytest.approx(1, abs=0.02)
    assert share >= 1 - 1 / width


def test_a_spike_is_undone():
    """A diagonal scatter with one eigenvalue, as large as a spike of 4 shows, gets the value best under Stein's loss."""
    ratio, spike, width = 0.5, 4.0, 100
    observed = spike * (1 + ratio / (spike - 1))
    noise = marchenko_pastur_median(ratio)  # of the other eigenvalues, which makes the estimated noise variance 1
    scatter = 200 * np.diag(np.append(np.full(width - 1, noise), observed))
    covariance, share = spiked(Moments.of_scatter(200, np.zeros(width), scatter, np.diag(scatter)))
    cosine = (1 - ratio / (spike - 1) ** 2) / (1 + ratio / (spike - 1))
    np.testing.assert_allclose(np.diag(covariance), np.append(np.ones(width - 1), spike / (cosine + spike * (1 - cosine))), rtol=1e-9)
    assert share == pytest.approx(0.99)


def test_the_spiked_precision_is_nearer_to_the_truth():
    """On rows of the spiked model the inverse errs by less than a third of what that of the empirical covariance does."""
    truth = np.append([20.0, 8, 4], np.ones(97))
    errors = {name: [] for name in ("spiked", "empirical")}
    for seed in range(5):
        moments = Moments.of(np.random.default_rng(seed).normal(size=(200, 100)) * np.sqrt(truth))
        for name, list_ in errors.items():
            list_.append(np.linalg.norm(np.linalg.inv(ESTIMATORS[name](moments)[0]) - np.diag(1 / truth)))
    assert np.mean(errors["spiked"]) < np.mean(errors["empirical"]) / 3


def test_without_noise_there_is_nothing_to_shrink():
    """Where more than half of the directions never varied, the empirical covariance is returned."""
    moments = Moments.of(np.hstack([table("tall")] * 3))
    np.testing.assert_array_equal(spiked(moments)[0], ESTIMATORS["empirical"](moments)[0])
