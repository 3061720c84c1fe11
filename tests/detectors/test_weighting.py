"""The weighting detector against closed forms, refits by brute force, and its own local form."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from detectors import Weighting, weighting
from tests import naive

PLAIN = {"scale": "fixed", "scale_value": 1.0, "standardize": False}
LINE = np.array([[0.0], [1.0], [3.0], [3.5], [7.0]])
SQUARE = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [0.5, 0.5]])


@pytest.fixture(scope="module")
def clusters():
    """2400 rows of six clusters of unlike width in six dimensions, and 800 queries in, around and between them."""
    generator = np.random.default_rng(0)
    centres, widths = 4 * generator.normal(size=(6, 6)), (0.1, 0.3, 0.5, 1, 1, 2)
    rows = [centre + width * generator.normal(size=(400, 6)) for centre, width in zip(centres, widths, strict=True)]
    queries = [centre + 1.5 * width * generator.normal(size=(110, 6)) for centre, width in zip(centres, widths, strict=True)]
    return np.concatenate(rows), np.concatenate([*queries, 6 * generator.normal(size=(140, 6))])


def test_two_points_and_equidistant_points():
    """The weights of two points and of a triangle are those of the closed forms, and their sums the magnitudes."""
    for distance in (0.1, 1.0, 5.0):
        state = Weighting(**PLAIN).fit([[0.0], [distance]]).state_
        np.testing.assert_allclose(state.weights, 1 / (1 + np.exp(-distance)), rtol=1e-12)
        assert state.weights.sum() == pytest.approx(1 + np.tanh(distance / 2), rel=1e-12)
    state = Weighting(**PLAIN).fit([[0, 0], [1, 0], [0.5, np.sqrt(0.75)]]).state_
    np.testing.assert_allclose(state.weights, 0.576116884766, atol=1e-12)
    assert state.weights.sum() == pytest.approx(1.7283506542974876, rel=1e-12)
    simplex = Weighting(**PLAIN).fit(np.eye(7) * 2 / np.sqrt(2)).state_
    np.testing.assert_allclose(simplex.weights, 1 / (1 + 6 * np.exp(-2)), rtol=1e-12)


def test_points_on_a_line():
    """Weights, magnitude, unexplained shares and weights of five queries are those of the closed form."""
    detector = Weighting(**PLAIN).fit(LINE)
    gaps = np.tanh(np.array([np.inf, 1, 2, 0.5, 3.5, np.inf]) / 2)
    np.testing.assert_allclose(detector.state_.weights, (gaps[:-1] + gaps[1:]) / 2, rtol=1e-12)
    expected = [0.73105857863, 0.611855656608, 0.50325640918, 0.59314710045, 0.970687769249]
    np.testing.assert_allclose(detector.state_.weights, expected, atol=1e-11)
    assert detector.state_.weights.sum() == pytest.approx(3.4100055141167713, rel=1e-12)
    queries = np.array([[-2], [0.5], [2], [3.25], [10]])
    unexplained = [0.981684361111, 0.46211715726, 0.761594155956, 0.244918662404, 0.997521247823]
    weights = [0.880797077978, 0.244918662404, 0.46211715726, 0.124353001772, 0.952574126822]
    explained = [0.135335283237, 0.88681888397, 0.648054273664, 0.96954362914, 0.049787068368]
    np.testing.assert_allclose(detector.scores(queries), unexplained, atol=1e-11)
    np.testing.assert_allclose(Weighting(**PLAIN, measure="weight").fit(LINE).scores(queries), weights, atol=1e-11)
    np.testing.assert_allclose(1 - detector._exact(detector.state_, queries)[1], explained, atol=1e-11)


def test_a_square_and_its_centre():
    """The centre weighs almost nothing; queries have the shares and weights of the worked example."""
    detector, queries = Weighting(**PLAIN).fit(SQUARE), [[2, 2], [0.25, 0.5], [0.5, 0]]
    np.testing.assert_allclose(detector.state_.weights, [0.503703236232] * 4 + [0.006558817838], atol=1e-11)
    assert detector.state_.weights.sum() == pytest.approx(2.0213717627666012, rel=1e-12)
    np.testing.assert_allclose(1 / detector.state_.alone, [1.401760737294] * 4 + [1.966274395273], rtol=1e-11)
    np.testing.assert_allclose(detector.scores(queries), [0.939992522627, 0.31344102044, 0.417096974139], atol=1e-11)
    weights = Weighting(**PLAIN, measure="weight").fit(SQUARE).scores(queries)
    np.testing.assert_allclose(weights, [0.786510317453, 0.031500229321, 0.133435948066], atol=1e-11)


def test_one_point_explains_by_distance_alone():
    """One normal row at distance d leaves 1 - exp(-2 t d) unexplained."""
    scores = Weighting(**PLAIN).fit(np.zeros((2, 1))).scores([[0.5], [1.0], [4.0]])
    np.testing.assert_allclose(scores, -np.expm1([-1.0, -2.0, -8.0]), rtol=1e-12)


def test_leaving_a_point_out_needs_no_refit():
    """Each fitted point's share and weight are those of a query to a detector fitted on the others."""
    rows = np.random.default_rng(0).normal(size=(60, 3))
    state = Weighting(**PLAIN).fit(rows).state_
    for i in range(60):
        others = np.delete(rows, i, axis=0)
        share = Weighting(**PLAIN).fit(others).scores(rows[i : i + 1])[0]
        weight = Weighting(**PLAIN, measure="weight").fit(others).scores(rows[i : i + 1])[0]
        assert (state.alone[i], state.weights[i]) == (pytest.approx(share, abs=1e-12), pytest.approx(weight, abs=1e-12))


def test_a_query_is_scored_as_in_the_enlarged_set():
    """Share and weight of a query are those of the set with the query in it, and the magnitude grows by r^2 / s."""
    rows, queries = np.random.default_rng(1).normal(size=(2, 30, 3))
    t, (_, weights) = 1.7, naive.weighting(rows, 1.7)
    parameters = PLAIN | {"scale_value": t}
    detector = Weighting(**parameters).fit(rows)
    shares, placed = detector.scores(queries), Weighting(**parameters, measure="weight").fit(rows).scores(queries)
    _, residuals, _ = detector._exact(detector.state_, queries)
    for query, share, weight, residual in zip(queries, shares, placed, residuals, strict=True):
        assert (share, weight) == pytest.approx(naive.unexplained_and_weight(rows, query, t), rel=1e-10)
        grown = naive.weighting(np.vstack([rows, query]), t)[1].sum() - weights.sum()
        assert grown == pytest.approx(residual**2 / share, rel=1e-9)


def test_what_changes_nothing():
    """Moving and turning all rows, and shrinking the unit while t grows, leave the scores; t makes the magnitude grow."""
    rows, queries = np.random.default_rng(2).normal(size=(2, 40, 3))
    expected = Weighting(**PLAIN).fit(rows).scores(queries)
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    np.testing.assert_allclose(Weighting(**PLAIN).fit(rows @ turn + 5).scores(queries @ turn + 5), expected, rtol=1e-9)
    finer = Weighting(**PLAIN | {"scale_value": 0.01}).fit(100 * rows).scores(100 * queries)
    np.testing.assert_allclose(finer, expected, rtol=1e-9)
    magnitudes = [Weighting(**PLAIN | {"scale_value": t}).fit(rows).state_.weights.sum() for t in (0.01, 0.1, 1, 10, 100)]
    assert (np.diff(magnitudes) > 0).all()
    assert magnitudes[0] == pytest.approx(1, abs=0.1)
    assert magnitudes[-1] == pytest.approx(40, abs=0.1)


@pytest.mark.parametrize("measure", ["unexplained", "weight", "absolute_weight"])
@pytest.mark.parametrize("exact_rows", [4000, 10])
def test_fitted_and_repeated_rows(measure, exact_rows):
    """Rows that equal fitted ones score below 1e-9; repeated and nearly repeated rows are one point and break nothing."""
    rows = np.random.default_rng(4).normal(size=(50, 3))
    many = np.vstack([rows, rows, rows[:20] + 1e-14])
    detector = Weighting(measure=measure, exact_rows=exact_rows, standardize=False).fit(many)
    assert len(detector.state_.points) == 50
    assert detector.state_.jitter == 0
    assert (np.abs(detector.scores(many)) < 1e-9).all()
    once = Weighting(measure=measure, exact_rows=exact_rows, standardize=False, scale="fixed", scale_value=detector.state_.t).fit(rows)
    np.testing.assert_allclose(detector.scores(rows + 0.5), once.scores(rows + 0.5), rtol=1e-6)


def test_far_away_nothing_is_explained():
    """Far from all rows share, weight and the share of smaller weights are 1."""
    rows = np.random.default_rng(5).normal(size=(50, 3))
    for measure in ("unexplained", "weight", "absolute_weight", "cumulative"):
        for exact_rows in (4000,) if measure == "cumulative" else (4000, 10):
            scores = Weighting(measure=measure, exact_rows=exact_rows).fit(rows).scores(np.full((1, 3), 1e6))
            np.testing.assert_allclose(scores, 1, atol=2e-6)


def test_the_cumulative_form_is_the_share_of_smaller_weights():
    """A query's score is the share of fitted weights below its own, as the authors compare classes."""
    rows, queries = np.random.default_rng(6).normal(size=(2, 80, 2))
    weights = Weighting(measure="weight").fit(rows)
    expected = (weights.scores(queries)[:, None] > weights.state_.weights).mean(axis=1)
    np.testing.assert_allclose(Weighting(measure="cumulative").fit(rows).scores(queries), expected, atol=1e-9)
    with pytest.raises(ValueError, match="'cumulative' needs the weights of all 80 points: raise exact_rows"):
        Weighting(measure="cumulative", exact_rows=79).fit(rows)


def test_the_local_form_ranks_as_the_exact_one(clusters):
    """With 20 neighbours the rank correlation with the exact score is above 0.99, and shares never fall below the exact ones."""
    rows, queries = clusters
    exact = Weighting().fit(rows).scores(queries)
    few, many = (Weighting(exact_rows=100, neighbours=k).fit(rows).scores(queries) for k in (5, 20))
    assert spearmanr(few, exact)[0] > 0.98
    assert spearmanr(many, exact)[0] > 0.99
    assert (many >= exact - 1e-5).all()
    assert (few >= many - 1e-5).all()  # more neighbours explain more


def test_the_local_form_in_one_dimension_is_exact():
    """Between its two neighbours on a line nothing else matters; with one neighbour the share is a function of the distance."""
    for k, query, expected in ((2, 2.0, 0.761594155956), (1, 2.2, 0.79810348)):
        score = Weighting(**PLAIN, exact_rows=1, neighbours=k).fit(LINE).scores([[query]])[0]
        assert score == pytest.approx(expected, abs=3e-6)


def test_blocks_change_nothing(clusters, monkeypatch):
    """Rows scored one by one inside equal rows scored at once, in both forms."""
    rows, queries = clusters[0][::10], clusters[1][::10]
    for exact_rows in (4000, 10):
        detector = Weighting(exact_rows=exact_rows).fit(rows)
        expected = detector.scores(queries)
        with monkeypatch.context() as patch:
            patch.setattr(weighting, "BLOCK_ROWS", 3)
            patch.setattr(weighting, "LOCAL_NUMBERS", 1)
            np.testing.assert_allclose(detector.scores(queries), expected, rtol=1e-9)


def test_rules_of_scale():
    """t is the value over the median distance, the value itself, or that of the authors' grid nearest to a magnitude."""
    rows = np.random.default_rng(0).standard_normal((200, 4))
    distances = [np.linalg.norm(a - b) for i, a in enumerate(rows) for b in rows[:i]]
    assert Weighting(scale="median", standardize=False).fit(rows).state_.t == pytest.approx(3 / np.median(distances), rel=1e-12)
    assert Weighting(**PLAIN | {"scale_value": 0.7}).fit(rows).state_.t == 0.7
    state = Weighting(scale="magnitude", scale_value=100, standardize=False).fit(rows).state_
    assert state.t == 2.831034482758621
    assert state.weights.sum() == pytest.approx(101.41579210739368, rel=1e-10)


def test_the_units_of_columns_do_not_matter_when_standardised():
    """Each column times a number plus another gives the same scores; a constant column gives none."""
    rows, queries = np.random.default_rng(7).normal(size=(2, 60, 3))
    expected = Weighting().fit(rows).scores(queries)
    np.testing.assert_allclose(Weighting().fit(rows * [1e-3, 1, 1e6] + 9).scores(queries * [1e-3, 1, 1e6] + 9), expected, rtol=1e-7)
    constant, asked = (np.insert(table, 1, 5.0, axis=1) for table in (rows, queries))
    np.testing.assert_allclose(Weighting().fit(constant).scores(asked), expected, rtol=1e-12)


def test_jitter_only_where_it_is_needed():
    """Rows far closer than 1 / t are factored with the smallest of the diagonals tried, which the state tells; others with none."""
    rows = np.random.default_rng(8).normal(size=(300, 2))
    assert Weighting().fit(rows).state_.jitter == 0
    state = Weighting(**PLAIN | {"scale_value": 1e-14}).fit(rows).state_
    assert 0 < state.jitter <= 1e-10
    assert np.isfinite(state.weights).all()


@pytest.mark.parametrize(
    "parameters", [{"measure": "size"}, {"scale": "mean"}, {"scale_value": 0.0}, {"exact_rows": 20_001}, {"neighbours": 0}]
)
def test_bad_parameters_are_refused(parameters):
    """Values outside the documented ranges raise ValueError that names the parameter."""
    with pytest.raises(ValueError, match=f"'{next(iter(parameters))}' parameter"):
        Weighting(**parameters).fit(SQUARE)
