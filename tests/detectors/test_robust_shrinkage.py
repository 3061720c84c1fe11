"""Robust shrinkage against the numbers of the R code, its invariances, and rows that are hard for medians."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chi2, norm, spearmanr
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.metrics import roc_auc_score

from detectors import RobustShrinkage, medians
from detectors.medians import comedian, coordinate_median, l1_median, l1_medoid, sandwich_variance
from detectors.robust_shrinkage import CONSISTENCY

SHRUNK = dict(RobustShrinkage.PRESETS["l1_median_shrunk"])


@pytest.fixture(scope="module")
def waves():
    """40 rows of sines, the last four moved: the intensity is 1."""
    i, j = np.arange(1, 41)[:, None], np.arange(1, 5)
    rows = np.sin(1.7 * i * j) + 0.5 * np.cos(0.9 * i + j) + 0.3 * j
    rows[36:] += 6
    return rows


@pytest.fixture(scope="module")
def correlated():
    """500 quasi-random normal rows with correlation, the last 25 moved: the intensity is between 0 and 1."""
    z = norm.ppf(np.mod(np.arange(1, 501)[:, None] * np.sqrt([2.0, 3.0, 5.0]), 1))
    rows = z @ np.array([[1, 0, 0], [0.8, 0.6, 0], [0.5, 0.5, np.sqrt(0.5)]]).T * (1, 2, 4) + (1, 2, 3)
    rows[-25:] += 8
    return rows


def test_the_port_equals_the_r_code(waves):
    """Location, intensities, scatter and distances of the preset ``port`` are those that R prints, to 1e-12."""
    medoid = l1_medoid(waves)
    np.testing.assert_allclose(medoid, [-0.0694594718338797, 0.5377038556460950, 1.4525192534993332, 1.4843036372015297], rtol=1e-12)
    assert sandwich_variance(waves, medoid, city_block=True) == pytest.approx(0.0913068121951603, rel=1e-12)
    detector = RobustShrinkage.preset("port").fit(waves)
    state, scores = detector.state_, detector.scores(waves)
    np.testing.assert_allclose(state.norm.mean, [-0.020247597689347, 0.554463473819831, 1.420382928664819, 1.450468469717775], rtol=1e-12)
    assert state.location_intensity == pytest.approx(0.05344897246263198, rel=1e-12)
    special = comedian(waves - state.norm.mean)
    diagonal = [1.1241219328244112, 0.9414705019456537, 1.6821560151752779, 1.3218526414865419]
    np.testing.assert_allclose(2.198 * np.diag(special), diagonal, rtol=1e-12)
    assert special[0, 1] == pytest.approx(0.0889385903788158, rel=1e-12)
    assert state.scatter_intensity == 1
    np.testing.assert_allclose(np.linalg.inv(state.norm.whiten @ state.norm.whiten.T), 1.26740027285797 * np.eye(4), atol=1e-12)
    np.testing.assert_allclose(scores[:3], [4.09767071134111, 2.11115119256834, 2.39731947189683], rtol=1e-12)
    np.testing.assert_allclose(scores[36:], [113.548976170898, 121.153637913933, 124.737845927994, 111.359627542600], rtol=1e-12)
    assert detector.chi_square_degrees(state) == 3
    assert np.flatnonzero(scores > 9.34840360449614).tolist() == [36, 37, 38, 39]


def test_the_true_l1_median_on_waves(waves):
    """With the point of least distances instead of the medoid, and the exact factor, the reference's numbers to 1e-10."""
    detector = RobustShrinkage.preset("l1_median_shrunk").fit(waves)
    state = detector.state_
    np.testing.assert_allclose(state.norm.mean, [0.487436816925, 0.718122084721, 0.957108045880, 1.185416840965], atol=1e-10)
    assert state.location_intensity == pytest.approx(0.2508053159316726, rel=1e-10)
    np.testing.assert_allclose(detector.scores(waves)[:3], [2.544644162806, 2.355619559395, 4.424599550374], rtol=1e-10)


@pytest.mark.parametrize(
    ("parameters", "intensity", "scores", "flagged"),
    [
        (RobustShrinkage.PRESETS["port"], 0.04756012480623417, [0.130208066916135, 0.812468338274453, 34.388406170785785], 35),
        (SHRUNK, 0.0611831069865614, [0.25123929949188867, 0.6206735753717612, 32.396347713940884], 31),
        (SHRUNK | {"scaling": "adjusted"}, 0.04081049860708885, [0.5261710072649959, 0.49103009148415255, 41.39430907683504], 29),
        (
            SHRUNK | {"scaling": "adjusted", "intensity": "clipped"},
            0.016496904644238704,
            [0.6191369019203672, 0.5182503343559894, 48.285750045894524],
            29,
        ),
        ({}, 0.15325671000585445, [0.929981896265947, 1.080217990601794, 85.76998225480993], 42),
    ],
    ids=["port", "l1_median_shrunk", "adjusted", "adjusted and clipped", "default"],
)
def test_the_worked_example(parameters, intensity, scores, flagged, correlated):
    """Intensity, three distances and the number of rows beyond the chi-square cut, for five sets of parameters, to 1e-12."""
    detector = RobustShrinkage(**parameters).fit(correlated)
    assert detector.state_.scatter_intensity == pytest.approx(intensity, rel=1e-12)
    np.testing.assert_allclose(detector.scores(correlated)[[0, 1, 499]], scores, rtol=1e-12)
    assert (detector.scores(correlated) > chi2.ppf(0.975, detector.chi_square_degrees(detector.state_))).sum() == flagged


def test_degrees_of_the_chi_square():
    """Columns that vary count; one less with the R code's medoid, none left in one dimension; raw scores have none until calibrated."""
    rows = np.hstack([np.random.default_rng(0).normal(size=(60, 3)), np.ones((60, 1))])

    def degrees(width, **parameters):
        detector = RobustShrinkage(**parameters).fit(rows[:, -width:])
        return detector.chi_square_degrees(detector.state_)

    assert [degrees(4), degrees(3), degrees(1)] == [3, 2, None]
    assert [degrees(width, **RobustShrinkage.PRESETS["port"]) for width in (4, 3, 2)] == [2, 1, None]
    assert degrees(4, scaling="raw", reweight=False) is None
    assert degrees(4, scaling="raw", reweight=False, calibrate=True) == degrees(4, scaling="raw") == 3


@pytest.mark.parametrize("reweight", [True, False])
def test_calibrated_scores_have_the_median_of_chi_square(reweight, correlated):
    """With calibrate the scores are those without times the factor that puts their median at that of chi-square."""
    plain, calibrated = (
        RobustShrinkage(scaling="adjusted", reweight=reweight, calibrate=calibrate).fit(correlated).scores(correlated)
        for calibrate in (False, True)
    )
    np.testing.assert_allclose(calibrated, plain * chi2.ppf(0.5, 3) / np.median(plain), rtol=1e-12)


def test_without_an_intensity_the_scatter_is_the_comedian(correlated):
    """With the intensity "none" the distance is that of the unshrunk comedian, about the median, where it is positive definite."""
    plain = RobustShrinkage(**RobustShrinkage.PRESETS["median"] | {"intensity": "none"}).fit(correlated)
    centred = correlated - np.median(correlated, axis=0)
    scatter = comedian(centred)
    scatter[np.diag_indices(3)] *= CONSISTENCY
    expected = np.einsum("ij,jk,ik->i", centred, np.linalg.inv(scatter), centred)
    np.testing.assert_allclose(plain.scores(correlated), expected, rtol=1e-12)
    assert plain.state_.scatter_intensity == 0


def test_the_floor_is_a_share_of_the_mean_eigenvalue():
    """Of columns a thousandfold apart the port's floor leaves the small variance alone, another lifts it to a tenth of the mean."""
    rows = np.random.default_rng(0).normal(size=(300, 2)) * (1, 1e-3)
    port = RobustShrinkage(**RobustShrinkage.PRESETS["port"] | {"intensity": "none", "shrink_location": False})
    small, lifted = (port.set_params(floor=floor).fit(rows).state_.norm.whiten for floor in (port.floor, 0.1))
    variance = 2.198 * np.median(np.abs(rows[:, 1] - l1_medoid(rows)[1])) ** 2
    assert 1 / (small @ small.T)[1, 1] == pytest.approx(variance, rel=0.1)
    values = np.linalg.eigvalsh(np.linalg.inv(lifted @ lifted.T))
    assert values[0] == pytest.approx(0.1 * values.mean(), rel=1e-9)


def test_the_parts_of_the_worked_example(correlated):
    """Medians, sandwich, comedian, location intensities and the number of kept rows of the same rows."""
    np.testing.assert_allclose(correlated.sum(axis=0), [702.2545849409989, 1206.5742992426588, 1702.6339416426356], rtol=1e-12)
    middle = coordinate_median(correlated)
    np.testing.assert_allclose(middle, [1.0664210003098, 2.254244636442009, 2.641066310357843], rtol=1e-12)
    np.testing.assert_allclose(l1_medoid(correlated), [1.022063728617413, 2.119537170358481, 2.643008822706187], rtol=1e-12)
    point = l1_median(correlated)
    np.testing.assert_allclose(point, [1.117429857459, 2.152209748727, 3.069517859476], atol=1e-10)
    assert np.linalg.norm(correlated - point, axis=1).sum() == pytest.approx(2201.4558894055767, rel=1e-12)
    assert sandwich_variance(correlated, point) == pytest.approx(0.08889078176, rel=1e-9)
    expected = [0.5123761333966, 0.724132777850523, 0.759467620744313, 2.369412984933213, 2.50021382716557, 8.06302287644673]
    np.testing.assert_allclose(comedian(correlated - middle)[np.triu_indices(3)], expected, rtol=1e-10)
    assert RobustShrinkage.preset("port").fit(correlated).state_.location_intensity == pytest.approx(0.01635171997973626, rel=1e-10)
    assert RobustShrinkage(**SHRUNK).fit(correlated).state_.location_intensity == pytest.approx(0.0465976496377204, rel=1e-10)
    assert RobustShrinkage().fit(correlated).state_.kept == 449


@pytest.mark.parametrize("level", [0, 0.15, 5])
def test_the_shrunk_median_on_correlated_rows(level, correlated):
    """The coordinate median goes toward equal columns by pi/2 of the normal variances over n and the squared gap, at most all the way."""
    rows = correlated / (1, 2, 4) + (0, level, 2 * level)
    median, n = np.median(rows, axis=0), len(rows)
    variances = 2.198109338317732 * np.square(np.median(np.abs(rows - median), axis=0))
    target = median.mean()
    expected = np.clip(np.pi / 2 * variances.sum() / n / np.square(median - target).sum(), 0, 1)
    state = RobustShrinkage.preset("median_shrunk").fit(rows).state_
    assert 0 < expected < 1
    assert state.location_intensity == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(state.norm.mean, expected * target + (1 - expected) * median, rtol=1e-12)
    np.testing.assert_allclose(RobustShrinkage.preset("median").fit(rows).state_.norm.mean, median, rtol=1e-12)


def test_the_intensity_is_that_of_ledoit_and_wolf():
    """Where the comedian is put in place of the covariance and the mean of the median, nothing but Ledoit-Wolf is left."""
    rows = np.random.default_rng(0).normal(size=(200, 6)) @ np.diag([1, 2, 3, 1, 2, 3])
    centred = rows - rows.mean(axis=0)
    phi = RobustShrinkage(intensity="fourth_moment")._phi(centred, centred.T @ centred / 200, np.random.default_rng(0))
    scatter = centred.T @ centred / 200
    gap = np.square(scatter - np.trace(scatter) / 6 * np.eye(6)).sum()
    assert phi / 200 / gap == pytest.approx(ledoit_wolf_shrinkage(rows), rel=1e-10)


def test_threads_change_nothing(monkeypatch):
    """One thread and four give the same state bit for bit."""
    monkeypatch.setattr(medians, "BLOCK_NUMBERS", 3000)
    rows = np.random.default_rng(0).normal(size=(501, 12))
    states = [RobustShrinkage(threads=threads).fit(rows).state_ for threads in (1, 4)]
    np.testing.assert_array_equal(states[0].norm.whiten, states[1].norm.whiten)


@pytest.mark.parametrize(("n", "width"), [(30, 50), (50, 200)])
@pytest.mark.parametrize("preset", ["default", "port", "l1_median"])
def test_fewer_rows_than_columns(preset, n, width):
    """The scatter is positive definite, and three planted rows of thirty or fifty rank on top."""
    rows = np.random.default_rng(n).normal(size=(n, width))
    rows[:3] += 5
    detector = RobustShrinkage.preset(preset).fit(rows)
    values = np.linalg.eigvalsh(detector.state_.norm.whiten @ detector.state_.norm.whiten.T)
    assert detector.state_.norm.rank == width
    assert values[0] > 0 and values[-1] < np.inf
    assert set(np.argsort(detector.scores(rows))[-3:]) == {0, 1, 2}


@pytest.mark.parametrize(("n", "width"), [(50, 200), (100, 300)])
def test_the_port_is_of_no_use_with_fewer_rows_than_columns(n, width):
    """Wider rows get areas near a half by "port", whose intensity stays low; by every other preset both are near 1."""
    rng = np.random.default_rng(n)
    areas = {name: [] for name in RobustShrinkage.PRESETS}
    for _ in range(3):
        rows, normal, wider = rng.normal(size=(n, width)), rng.normal(size=(100, width)), 1.3 * rng.normal(size=(100, width))
        for name, found in areas.items():
            detector = RobustShrinkage.preset(name).fit(rows)
            assert detector.state_.scatter_intensity < 0.3 if name == "port" else detector.state_.scatter_intensity > 0.9
            found.append(roc_auc_score(np.arange(200) >= 100, detector.scores(np.vstack([normal, wider]))))
    assert 0.35 < np.mean(areas.pop("port")) < 0.65
    assert min(np.mean(found) for found in areas.values()) > 0.98


@pytest.mark.parametrize("value", [1e11, 1e15, 1e30])
def test_one_far_value_leaves_the_intensity_and_the_ranking(value):
    """However far out one value of one column lies, the intensity is that of the same row at 1e3, and so is the ranking of new rows."""
    rng = np.random.default_rng(0)
    mix = np.linalg.cholesky(0.8 ** np.abs(np.subtract.outer(np.arange(8), np.arange(8))))
    rows, queries = (rng.normal(size=(300, 8)) @ mix.T for _ in range(2))
    rows[7, 2] = 1e3
    near = RobustShrinkage().fit(rows)
    rows[7, 2] = value
    far = RobustShrinkage().fit(rows)
    assert far.state_.scatter_intensity == pytest.approx(near.state_.scatter_intensity, rel=1e-3)
    assert spearmanr(far.scores(queries), near.scores(queries)).statistic > 0.999


@given(
    arrays(float, st.tuples(st.integers(2, 12), st.integers(1, 8)), elements=st.floats(-5, 5, width=16)),
    st.sampled_from(["special", "raw"]),
)
def test_the_scatter_is_always_positive_definite(rows, scaling):
    """Before reweighting no eigenvalue of the scatter is below a thousandth of their mean, for rows of any shape."""
    rows = rows + np.random.default_rng(0).normal(size=rows.shape) * 1e-3
    scatter, _ = RobustShrinkage(scaling=scaling)._scatter(rows, np.median(rows, axis=0))
    values = np.linalg.eigvalsh(scatter)
    assert values[0] >= 0.999e-3 * values.mean() > 0


def test_units_of_columns_do_not_matter(correlated):
    """With standardize the scores do not depend on the columns' units; without, they do."""
    scaled = correlated * [1e-3, 1, 1e5] + [5, 0, -1e3]
    np.testing.assert_allclose(
        RobustShrinkage().fit(scaled).scores(scaled), RobustShrinkage().fit(correlated).scores(correlated), rtol=1e-8
    )
    plain = RobustShrinkage.preset("l1_median")
    assert not np.allclose(plain.fit(scaled).scores(scaled), plain.fit(correlated).scores(correlated), rtol=0.1)


@pytest.mark.parametrize(
    ("drawn", "correlation", "factor"), [(400, 0.0, 0.3), (400, 0.5, 0.8), (400, 0.95, 1.1), (100, 0.0, 0.4), (25, 0.0, 0.5)]
)
def test_the_error_of_a_comedian_of_drawn_rows_is_as_stated(drawn, correlation, factor):
    """Over seeds, entries on a few of 20 000 normal rows differ from the exact ones by the documented standard error."""
    rows = np.random.default_rng(0).normal(size=(20_000, 4)) @ np.linalg.cholesky((1 - correlation) * np.eye(4) + correlation).T
    exact, detector, diagonal = comedian(rows), RobustShrinkage(comedian_rows=drawn), np.eye(4, dtype=bool)
    exact[diagonal] *= CONSISTENCY
    gaps = [detector._scaled(comedian(np.random.default_rng(seed).choice(rows, drawn, replace=False))) - exact for seed in range(200)]
    error = np.sqrt(np.square(gaps).mean(axis=0) * drawn)
    assert error[~diagonal].mean() == pytest.approx(factor, rel=0.15)
    assert error[diagonal].mean() == pytest.approx(2.33, rel=0.15)


@pytest.mark.parametrize("preset", ["default", "port", "median"])
def test_shares_of_principal_components(preset, correlated):
    """They are never negative and add up to the score; of a row along the last component that one has nearly all."""
    constant = np.hstack([correlated, np.ones((500, 1))])
    for rows in (correlated, constant, correlated * [1e-60, 1, 1e60]):
        detector = RobustShrinkage.preset(preset).fit(rows)
        shares = detector.component_attributions(rows)
        assert (shares >= 0).all()
        np.testing.assert_allclose(shares.sum(axis=1), detector.scores(rows), rtol=1e-6)
    norm = RobustShrinkage.preset(preset).fit(correlated).state_.norm
    variances, directions = np.linalg.eigh(np.linalg.inv(norm.whiten @ norm.whiten.T))
    planted = norm.mean + 7 * np.sqrt(variances[0]) * directions[:, :1].T
    np.testing.assert_allclose(RobustShrinkage.preset(preset).fit(correlated).component_attributions(planted), [[0, 0, 49]], atol=1e-9)


def test_drawn_rows_depend_on_the_seed_alone(correlated):
    """The same seed gives the same state; fewer drawn rows come near the exact scores; more rows than there are change nothing."""
    exact, one, same, other = (
        RobustShrinkage(comedian_rows=rows, random_state=seed).fit(correlated).scores(correlated)
        for rows, seed in ((None, 0), (250, 1), (250, 1), (250, 2))
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    np.testing.assert_allclose(one, exact, rtol=0.2, atol=0.5)
    np.testing.assert_array_equal(RobustShrinkage(comedian_rows=500).fit(correlated).scores(correlated), exact)


def test_constant_and_half_tied_columns(correlated):
    """A constant column changes no score until it varies; one tied in most rows takes its standard deviation; a far row stays far."""
    constant = np.hstack([correlated, np.full((500, 1), 7.0)])
    detector = RobustShrinkage().fit(constant)
    np.testing.assert_allclose(detector.scores(constant), RobustShrinkage().fit(correlated).scores(correlated), rtol=1e-8)
    assert detector.scores(constant[:1] + np.eye(4)[3])[0] > detector.scores(constant).max()
    tied = np.hstack([correlated, (np.arange(500) % 5 == 0)[:, None] * 1e4])
    for preset in RobustShrinkage.PRESETS:
        scores = RobustShrinkage.preset(preset).fit(tied).scores(tied)
        assert np.isfinite(scores).all()
    scores = RobustShrinkage().fit(tied).scores(tied)
    assert scores[475:].min() > np.median(scores[:475])


def test_rows_that_are_mostly_one_row_are_refused():
    """Where most values tie in every column the comedian is zero, and the error names a detector that can do it."""
    rows = np.zeros((50, 3))
    rows[:20] = np.random.default_rng(0).normal(size=(20, 3))
    with pytest.raises(ValueError, match=r"more than half of the values tie in every column.*use gaussian"):
        RobustShrinkage().fit(rows)


@pytest.mark.parametrize("preset", RobustShrinkage.PRESETS)
def test_hard_rows_give_finite_scores_of_full_rank(preset):
    """Two rows, as many as columns, collinear and repeated ones, far offsets and extreme units; whatever the type of number."""
    rows = np.random.default_rng(0).normal(size=(200, 6))
    far = rows.copy()
    far[0] = 1e9
    hard = [rows[:2], rows[:6], rows[:, :1] * np.arange(1, 7), np.tile(rows[:7], (10, 1)), rows + 1e12, rows * np.geomspace(1e-60, 1e60, 6)]
    for these in [*hard, rows * 1e-60, rows * 1e60, rows[:, :1], far, rows.astype(np.float16), (10 * rows).astype(int)]:
        detector = RobustShrinkage.preset(preset).fit(these)
        scores = detector.scores(these)
        assert np.isfinite(scores).all()
        assert detector.state_.norm.rank == these.shape[1]
        assert these is not far or scores.argmax() == 0
    np.testing.assert_allclose(detector.scores(these), RobustShrinkage.preset(preset).fit(these.astype(float)).scores(these))


def test_a_reweighting_that_would_lose_rank_is_not_taken():
    """Where the rows kept are too few for a positive definite scatter the first distance stays."""
    rows = np.random.default_rng(0).normal(size=(2, 6))
    state, first = (RobustShrinkage(reweight=reweight).fit(rows).state_ for reweight in (True, False))
    assert state.kept == 2
    np.testing.assert_array_equal(state.norm.whiten, first.norm.whiten)


def test_equal_rows_are_scored():
    """Where no column varies, a row that leaves the one row ever seen scores high."""
    detector = RobustShrinkage().fit(np.full((20, 3), 0.1))
    assert detector.scores([[0.1, 0.1, 0.1], [0.1, 0.1, 0.2]]) == pytest.approx([0, 1e8])
