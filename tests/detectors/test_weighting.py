"""The weighting detector against closed forms, refits by brute force, and its own approximations."""

import tracemalloc

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr

from detectors import Weighting, boundary, metrics, sparse_precision
from detectors.rows import RowError
from tests import naive

PLAIN = {"scale": "fixed", "scale_value": 1.0, "standardize": False}
LINE = np.array([[0.0], [1.0], [3.0], [3.5], [7.0]])
SQUARE = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [0.5, 0.5]])


def residuals(detector, queries):
    """r = 1 - zᵀw, from the two quantities that are its parts."""
    found = boundary.parts(detector.state_, queries, "euclidean", 20, left_out=False)
    return found.weight * found.unexplained


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
    np.testing.assert_allclose(1 - residuals(detector, queries), explained, atol=1e-11)


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
    for query, share, weight, residual in zip(queries, shares, placed, residuals(detector, queries), strict=True):
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


@pytest.mark.parametrize(
    ("measure", "exact_rows"),
    [*((measure, rows) for measure in ("unexplained", "weight", "absolute_weight") for rows in (4000, 10)), ("cumulative", 4000)],
)
def test_fitted_and_repeated_rows(measure, exact_rows):
    """Rows that equal fitted ones score 0; repeated and nearly repeated rows are one point and break nothing."""
    rows = np.random.default_rng(4).normal(size=(50, 3))
    many = np.vstack([rows, rows, rows[:20] + 1e-14])
    detector = Weighting(measure=measure, exact_rows=exact_rows, standardize=False).fit(many)
    assert len(detector.state_.points) == 50
    assert detector.state_.jitter == 0
    assert (detector.scores(many) == 0).all()
    once = Weighting(measure=measure, exact_rows=exact_rows, standardize=False, scale="fixed", scale_value=detector.state_.t).fit(rows)
    np.testing.assert_allclose(detector.scores(rows + 0.5), once.scores(rows + 0.5), rtol=1e-6)


def test_near_a_fitted_row_the_weight_depends_on_the_direction():
    """Nearing a point of a line from one side or the other, w tends to limits whose mean is half its weight; at the point it is 0."""
    detector = Weighting(**PLAIN, measure="weight").fit(LINE)
    for row, weight in zip(LINE[1:-1], detector.state_.weights[1:-1], strict=True):
        left, right = detector.scores([row - 1e-5, row + 1e-5])
        assert abs(left - right) > 0.05
        assert (left + right) / 2 == pytest.approx(weight / 2, rel=1e-4)
        assert detector.scores([row])[0] == 0


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
            patch.setattr(boundary, "BLOCK_ROWS", 3)
            patch.setattr(boundary, "LOCAL_NUMBERS", 1)
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


@pytest.mark.parametrize("measure", ["unexplained", "weight", "absolute_weight"])
@pytest.mark.parametrize("parameters", [{}, {"exact_rows": 5}, {"metric": "cityblock"}])
def test_fitted_rows_are_judged_by_the_others(measure, parameters):
    """Each training score is that of a query to a detector fitted on the other rows; a row that is there twice scores 0."""
    rows = np.random.default_rng(9).normal(size=(40, 3))
    settings = {"measure": measure, "scale": "fixed", "scale_value": 1.3, "standardize": False, "neighbours": 8, **parameters}
    detector = Weighting(**settings).fit(rows)
    expected = [Weighting(**settings).fit(np.delete(rows, i, axis=0)).scores(rows[i : i + 1])[0] for i in range(40)]
    np.testing.assert_allclose(detector.training_scores(detector.state_, rows), expected, rtol=1e-7)
    np.testing.assert_allclose(detector.score_samples(rows), -np.array(expected), rtol=1e-7)
    twice = Weighting(**settings).fit(np.vstack([rows, rows[:7]]))
    left_out = twice.training_scores(twice.state_, rows)
    assert (left_out[:7] == 0).all()
    np.testing.assert_allclose(left_out[7:], detector.training_scores(detector.state_, rows)[7:], rtol=1e-7)


@pytest.mark.parametrize("parameters", [{}, {"exact_rows": 100}, {"exact_rows": 300, "approximation": "subset"}])
def test_predict_calls_the_same_share_of_fresh_and_of_fitted_rows_outliers(parameters):
    """A threshold on left-out scores flags a tenth of the rows that were fitted, and about as many of others like them."""
    rows, fresh = np.random.default_rng(10).normal(size=(2, 1500, 4))
    detector = Weighting(contamination=0.1, **parameters).fit(rows)
    assert (detector.predict(rows) == -1).mean() == pytest.approx(0.1, abs=0.005)
    assert (detector.predict(fresh) == -1).mean() == pytest.approx(0.1, abs=0.04)


def test_weights_of_all_points_by_conjugate_gradients(clusters):
    """Preconditioned conjugate gradients give the weights and scores that the factor gives, to the tolerance asked for."""
    rows, queries = clusters[0][::3], clusters[1]
    exact = Weighting(measure="weight").fit(rows)
    found = Weighting(measure="weight", exact_rows=10, approximation="global_weights", neighbours=30).fit(rows)
    np.testing.assert_allclose(found.state_.weights, exact.state_.weights, atol=1e-4 * np.abs(exact.state_.weights).max())
    assert spearmanr(found.scores(queries), exact.scores(queries))[0] > 0.99
    expected = exact.training_scores(exact.state_, rows)
    np.testing.assert_allclose(found.training_scores(found.state_, rows), expected, atol=1e-4 * np.abs(expected).max())
    cumulative = Weighting(measure="cumulative", exact_rows=10, approximation="global_weights").fit(rows).scores(queries)
    assert spearmanr(cumulative, Weighting(measure="cumulative").fit(rows).scores(queries))[0] > 0.99


def test_weights_that_cannot_be_had_are_refused(clusters, monkeypatch):
    """More points than all pairs can be taken of, and iterations that do not converge, raise a ValueError that says so."""
    detector = Weighting(exact_rows=10, approximation="global_weights", neighbours=1)
    monkeypatch.setattr(sparse_precision, "ITERATIONS", 1)
    with pytest.raises(ValueError, match="did not converge in 1 iterations"):
        detector.fit(clusters[0][::8])
    monkeypatch.setattr(sparse_precision, "LARGEST", 100)
    with pytest.raises(ValueError, match=r"weights of 300 points .* refused beyond 100 points"):
        detector.fit(clusters[0][::8])


def test_negative_weights_are_kept():
    """Where the exact weights are partly negative so are these: no iteration that keeps them positive stands behind them."""
    rows = np.random.default_rng(0).normal(size=(300, 3))
    parameters = {"scale": "fixed", "scale_value": 0.3, "standardize": False}
    expected = naive.weighting(rows, 0.3)[1]
    assert (expected < 0).mean() > 0.3
    np.testing.assert_allclose(Weighting(**parameters).fit(rows).state_.weights, expected, atol=1e-9)
    found = Weighting(**parameters, exact_rows=10, approximation="global_weights").fit(rows).state_.weights
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_subset_is_scored_as_if_it_were_all(clusters):
    """With a subset the scores are those of a detector fitted on it alone, and shares are never below those of all rows."""
    rows, queries = clusters[0][::4], clusters[1]
    detector = Weighting(exact_rows=200, approximation="subset", standardize=False, scale="fixed", scale_value=0.5).fit(rows)
    alone = Weighting(standardize=False, scale="fixed", scale_value=0.5).fit(detector.state_.points)
    np.testing.assert_allclose(detector.scores(queries), alone.scores(queries), rtol=1e-9)
    whole = Weighting(standardize=False, scale="fixed", scale_value=0.5).fit(rows)
    assert (detector.scores(queries) >= whole.scores(queries) - 1e-9).all()


def test_many_points_searched_in_cells(clusters):
    """Neighbours found in cells give the ranks that all neighbours give; fitted rows are still found."""
    rows, queries = np.random.default_rng(1).normal(size=(6000, 4)), clusters[1][:300, :4]
    exact = Weighting(exact_rows=10).fit(rows)
    found = Weighting(exact_rows=10, indexed_rows=1000).fit(rows)
    assert found.state_.cells is not None
    assert len(found.state_.cells.centres) > 16  # the number of cells that a search looks at
    assert spearmanr(found.scores(queries), exact.scores(queries))[0] > 0.99
    assert (found.scores(rows[:200]) == 0).all()
    single = Weighting(exact_rows=10, indexed_rows=1000, precision="float32").fit(rows)
    assert single.state_.points.dtype == np.float32
    assert spearmanr(single.scores(queries), exact.scores(queries))[0] > 0.99
    assert (single.scores(rows[:200]) == 0).all()


def test_a_matrix_of_distances_or_similarities_is_taken_as_it_is():
    """Distances that were computed before give the scores that the rows themselves give; so do similarities."""
    rows, queries = np.random.default_rng(2).normal(size=(2, 30, 3))
    rows[5] = rows[3]
    plain = Weighting(**PLAIN | {"scale_value": 0.8}).fit(rows)
    given = Weighting(**PLAIN | {"scale_value": 0.8, "metric": "precomputed"}).fit(cdist(rows, rows))
    alike = Weighting(metric="similarity").fit(np.exp(-0.8 * cdist(rows, rows)))
    for asked in (queries, rows):
        expected = plain.scores(asked)
        np.testing.assert_allclose(given.scores(cdist(asked, rows)), expected, atol=1e-7)
        np.testing.assert_allclose(alike.scores(np.exp(-0.8 * cdist(asked, rows))), expected, atol=1e-7)
    expected = plain.training_scores(plain.state_, rows)
    np.testing.assert_allclose(given.training_scores(given.state_, cdist(rows, rows)), expected, atol=1e-9)
    assert given.__sklearn_tags__().input_tags.pairwise
    assert not plain.__sklearn_tags__().input_tags.pairwise
    with pytest.raises(ValueError, match="no features"):
        given.attributions(cdist(rows, rows))


@pytest.mark.parametrize("metric", ["cityblock", "chebyshev", "canberra", "braycurtis"])
def test_another_metric_is_that_of_its_distances(metric):
    """A named metric gives the scores of its distances given as a matrix."""
    rows, queries = np.abs(np.random.default_rng(3).normal(size=(2, 40, 2))) + 1
    parameters = {"standardize": False, "measure": "weight"}
    named = Weighting(metric=metric, **parameters).fit(rows).scores(queries)
    given = Weighting(metric="precomputed", **parameters).fit(cdist(rows, rows, metric)).scores(cdist(queries, rows, metric))
    np.testing.assert_allclose(named, given, rtol=1e-9)


@pytest.mark.parametrize("metric", [*metrics.DEFINED, *metrics.NEEDS])
def test_every_metric_has_finite_scores_or_refuses(metric):
    """With warnings as errors: rows of any sign, of positive values, and these standardised, are scored or refused by a ValueError."""
    rows, queries = np.random.default_rng(0).normal(size=(2, 60, 4))
    for learned, asked in ((rows, queries), (np.exp(rows), np.exp(queries))):
        for standardize in (True, False):
            detector = Weighting(metric=metric, standardize=standardize)
            if metric == "jensenshannon" and (standardize or learned is rows):
                with pytest.raises(RowError, match="jensenshannon"):
                    detector.fit(learned)
                continue
            scores = detector.fit(learned).scores(np.vstack([asked, learned[:5]]))
            assert ((scores >= 0) & (scores <= 1)).all()
            assert scores[-5:].max() < 1e-6 < np.median(scores[:-5])
            assert np.isfinite(detector.attributions(asked)).all()


@pytest.mark.parametrize(
    ("metric", "bad", "needs"),
    [
        ("braycurtis", [-1.0, -2, -3], "no other row's negative"),
        ("correlation", [0.7, 0.7, 0.7], "not all equal"),
        ("cosine", [0.0, 0, 0], "not all 0"),
        ("jensenshannon", [0.0, 0, 0], "at least 0"),
        ("jensenshannon", [-0.1, 1.1, 0.5], "at least 0"),
    ],
)
def test_a_row_without_a_distance_is_refused(metric, bad, needs):
    """Learned or scored, it is named by its number, beyond the first block too, with what the metric needs and what to do."""
    rows = np.exp(np.random.default_rng(1).normal(size=(1500, 3)))
    rows[[5, 1299]] = 1, 2, 3
    detector, spoilt = Weighting(metric=metric, standardize=False), rows.copy()
    spoilt[1234] = bad
    message = rf"row 1234 has no distance by metric='{metric}', which needs .*{needs}.*: leave the row out, .* standardize=False"
    with pytest.raises(RowError, match=message.replace("1234", "34")):
        detector.fit(spoilt[1200:1300])
    with pytest.raises(RowError, match=message):
        detector.fit(rows[:20]).scores(spoilt)


@pytest.mark.parametrize("metric", metrics.DIRECTIONS)
@pytest.mark.parametrize("size", [1e-250, 1e250])
def test_the_length_of_a_row_is_not_seen_by_metrics_of_directions(metric, size):
    """Rows whose squares float64 cannot hold score as the same rows of plain length do."""
    rows, queries = np.exp(np.random.default_rng(3).normal(size=(2, 30, 5)))
    detector = Weighting(metric=metric, standardize=False).fit(rows)
    np.testing.assert_allclose(detector.scores(size * queries), detector.scores(queries), rtol=1e-6, atol=1e-9)


def test_a_row_too_large_for_its_metric_is_refused():
    """Values that leave the range of float64 when standardised have no finite sums; a plain length is only infinitely long."""
    rows = 1e-20 * np.random.default_rng(2).normal(size=(20, 3))
    with pytest.raises(RowError, match="row 1 has no distance by metric='canberra', which needs values whose sums float64 can hold"):
        Weighting(metric="canberra").fit(rows).scores([rows[0], [1e300, 1, 1]])
    assert Weighting(metric="cityblock").fit(rows).scores([[1e300, 1, 1]]) == 1


def test_the_memory_of_a_fit_is_as_stated():
    """A fit of m rows holds two and a half matrices of m by m at the most, and its state one."""
    rows = np.random.default_rng(0).normal(size=(2500, 4))
    tracemalloc.start()
    try:
        state = Weighting().fit(rows).state_
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    matrix = state.factor.nbytes
    assert matrix == 8 * 2500**2
    assert held < 1.1 * matrix
    assert 1.5 * matrix < peak < 2.5 * matrix


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((3, 2)), "of n rows and n columns"),
        ([[0, 1], [2, 0]], "not symmetric"),
        ([[0, -1], [-1, 0]], "cannot be negative"),
        ([[1, 1], [1, 1]], "diagonal"),
        # In the complete bipartite graph of 3 and 2 nodes steps are no metric of negative type.
        ([[0, 2, 2, 1, 1], [2, 0, 2, 1, 1], [2, 2, 0, 1, 1], [1, 1, 1, 0, 2], [1, 1, 1, 2, 0]], "not positive definite"),
    ],
)
def test_a_matrix_that_is_none_of_distances_is_refused(matrix, message):
    """Each way to be wrong has a sentence of its own."""
    with pytest.raises(ValueError, match=message):
        Weighting(metric="precomputed", scale="fixed", scale_value=0.1).fit(matrix)


def test_a_matrix_that_is_none_of_similarities_is_refused():
    """Similarities outside 0 to 1 are refused, in the fit and in scoring."""
    with pytest.raises(ValueError, match="between 0 and 1"):
        Weighting(metric="similarity").fit([[1, 2], [2, 1]])
    detector = Weighting(metric="similarity").fit([[1, 0.5], [0.5, 1]])
    with pytest.raises(ValueError, match="between 0 and 1"):
        detector.scores([[1.5, 0.5]])


@pytest.mark.parametrize("parameters", [{}, {"exact_rows": 100}])
def test_float32_where_it_holds(clusters, parameters):
    """Points and factor in float32 halve the state; shares keep four digits, and fitted rows still score 0."""
    rows, queries = clusters[0][::4], clusters[1]
    double = Weighting(**parameters).fit(rows)
    single = Weighting(precision="float32", **parameters).fit(rows)
    assert single.state_.points.nbytes * 2 == double.state_.points.nbytes
    assert single.state_.factor.nbytes * 2 == double.state_.factor.nbytes
    np.testing.assert_allclose(single.scores(queries), double.scores(queries), rtol=1e-3)
    assert (single.scores(rows) == 0).all()


def test_float32_is_refused_where_it_fails():
    """Rows so close together that rounding moves them, or so alike that the factor loses its digits, need float64."""
    rows = np.random.default_rng(4).normal(size=(200, 2))
    far = np.vstack([rows, [[1e9, 1e9]]]) + 1e9
    for bad in ({"standardize": False}, {"standardize": False, "exact_rows": 10}):
        with pytest.raises(ValueError, match="Use precision='float64'"):
            Weighting(precision="float32", **bad).fit(far)
    with pytest.raises(ValueError, match="Use precision='float64'"):
        Weighting(precision="float32", **PLAIN | {"scale_value": 1e-6}).fit(rows)


@pytest.mark.parametrize("parameters", [{}, {"exact_rows": 5}, {"exact_rows": 5, "indexed_rows": 6}])
@pytest.mark.parametrize(
    "rows",
    [
        np.random.default_rng(0).normal(size=(12, 10_000)),
        np.array([[0.0, 1.0], [2.0, 3.0]]),
        np.ones((30, 3)),
        np.random.default_rng(1).normal(size=(30, 1)) @ np.ones((1, 4)),
        np.vstack([np.random.default_rng(2).normal(size=(40, 3)), np.full((1, 3), 1e9)]),
        np.random.default_rng(3).normal(size=(40, 3)) + 1e12,
        np.random.default_rng(4).normal(size=(40, 3)).astype(np.float16),
        np.random.default_rng(5).integers(0, 3, size=(60, 2)),
    ],
    ids=["wide", "two", "equal", "rank one", "far row", "offset", "float16", "integers"],
)
def test_hard_rows_have_sensible_scores(rows, parameters):
    """Shares lie in (0, 1], fitted rows have next to none, and a strange row is stranger than what is left of any fitted one."""
    detector = Weighting(**parameters).fit(rows)
    shares = detector.scores(np.asarray(rows, float))
    assert ((shares >= 0) & (shares < 1e-6)).all()
    strange = detector.scores(rows[:1].astype(float) + 1e13)
    assert strange == pytest.approx(1, abs=1e-4)
    left_out = detector.training_scores(detector.state_, np.asarray(rows, float))
    assert ((left_out >= 0) & (left_out <= 1 + 1e-5)).all()


def test_one_far_row_does_not_hide_the_others():
    """With one row a billion standard deviations out, t is set by the others and a stranger among these is still seen."""
    rows = np.vstack([np.random.default_rng(6).normal(size=(200, 2)), [[1e9, 1e9]]])
    near, strange = Weighting().fit(rows).scores([[0.1, 0.1], [8.0, -8.0]])
    assert strange > 0.9
    assert near < 0.5


def test_the_planted_column_ranks_first():
    """Of a normal row with one strange feature that feature has the largest share, and the others next to none."""
    rows = np.random.default_rng(7).normal(size=(400, 5))
    asked = np.random.default_rng(8).normal(size=(20, 5)) * 0.3
    for column in range(5):
        planted = asked.copy()
        planted[:, column] += 8
        for parameters in ({}, {"exact_rows": 100}, {"measure": "weight"}, {"metric": "cityblock"}):
            detector = Weighting(**parameters).fit(rows)
            assert (detector.attributions(planted).argmax(axis=1) == column).all()


def test_what_does_not_scale_says_so():
    """Other metrics and a target magnitude need all similarities: beyond ``exact_rows`` they are refused, and too many weights too."""
    rows = np.random.default_rng(9).normal(size=(60, 2))
    for parameters in ({"metric": "cityblock"}, {"scale": "magnitude"}):
        with pytest.raises(ValueError, match="raise exact_rows"):
            Weighting(exact_rows=50, **parameters).fit(rows)


@pytest.mark.parametrize(
    "parameters",
    [{"measure": "size"}, {"scale": "mean"}, {"scale_value": 0.0}, {"exact_rows": 20_001}, {"neighbours": 0}, {"metric": "steps"}],
)
def test_bad_parameters_are_refused(parameters):
    """Values outside the documented ranges raise ValueError that names the parameter."""
    with pytest.raises(ValueError, match=f"'{next(iter(parameters))}' parameter"):
        Weighting(**parameters).fit(SQUARE)


@pytest.mark.parametrize("approximation", ["local", "global_weights"])
def test_an_approximation_tells_how_alike_it_ranks(approximation):
    """Spearman's rank correlation with exact scores, of a fifth of the points after the others were learned; exact forms have none."""
    rows = np.random.default_rng(0).normal(size=(600, 3))
    detector = Weighting(exact_rows=100, approximation=approximation, measure="weight").fit(rows)
    points = detector.state_.points
    drawn = points[np.random.default_rng(0).choice(len(points), len(points), replace=False)]
    found = []
    for exact_rows in (100, 600):
        form = Weighting(exact_rows=exact_rows, approximation=approximation, measure="weight", standardize=False)
        found.append(form.fit(drawn[120:]).scores(drawn[:120]))
    expected = spearmanr(*found).statistic
    assert 0.5 < expected < 1
    assert detector.facts(detector.state_)["rank_correlation"] == pytest.approx(expected, abs=1e-6)
    exact = Weighting(exact_rows=600).fit(rows)
    assert "rank_correlation" not in exact.facts(exact.state_)
