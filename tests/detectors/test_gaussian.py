"""The Gaussian detector against scikit-learn, the worked example, and slow twins of the paper's recipe."""

import functools
import operator
import tracemalloc

import numpy as np
import pytest
from sklearn.covariance import OAS, EmpiricalCovariance, LedoitWolf
from sklearn.exceptions import NotFittedError

from detectors import Gaussian, loads
from detectors.state import dumps
from tests import naive

REFERENCES = {"ledoit_wolf": LedoitWolf, "oas": OAS, "empirical": EmpiricalCovariance}
LEVELS = (160, 160, 192)


def assert_equals_scikit_learn(train, test, covariance="ledoit_wolf"):
    expected = REFERENCES[covariance]().fit(train).mahalanobis(test)
    np.testing.assert_allclose(Gaussian(covariance=covariance).fit(train).scores(test), expected, rtol=1e-8)


@pytest.mark.parametrize("covariance", ["ledoit_wolf", "oas"])
def test_equals_scikit_learn_on_digits(covariance, digits):
    """Scores equal scikit-learn's squared Mahalanobis distance to 1e-8 on 64 real features, some constant."""
    assert (digits[:900].std(axis=0) == 0).any()
    assert_equals_scikit_learn(digits[:900], digits[900:], covariance)


def test_equals_scikit_learn_with_the_empirical_covariance(digits):
    """The same without shrinkage, on the pixels that vary."""
    varying = digits[:, digits[:900].std(axis=0) > 0.5]
    assert_equals_scikit_learn(varying[:900], varying[900:], "empirical")


@pytest.mark.parametrize("columns", [slice(160), slice(160, 320), slice(320), slice(320, 832)], ids=["160", "next 160", "320", "512"])
@pytest.mark.parametrize("covariance", ["ledoit_wolf", "oas"])
def test_equals_scikit_learn_on_network_features(columns, covariance, image_features):
    """The same on 160 to 512 features of a real network, with 100 rows: fewer than features."""
    assert_equals_scikit_learn(image_features[:100, columns], image_features[100:, columns], covariance)


def test_equals_scikit_learn_with_duplicated_columns(digits):
    """The same where each column stands twice, so that the empirical covariance is singular."""
    assert_equals_scikit_learn(np.hstack([digits[:500]] * 2), np.hstack([digits[500:]] * 2))


@pytest.mark.parametrize("rows", [3, 10])
def test_equals_scikit_learn_with_very_few_rows(rows, digits):
    """The same from a handful of rows."""
    assert_equals_scikit_learn(digits[:rows], digits[900:])


def test_two_rows_make_a_line_that_is_not_left_unnoticed(digits):
    """Ledoit and Wolf's intensity of two rows is zero: off their line a score is huge, where scikit-learn drops it."""
    pair, others = digits[:2], digits[900:]
    on_line = pair[0] + np.outer([-1, 0.5, 3], pair[1] - pair[0])
    expected = LedoitWolf().fit(pair).mahalanobis(on_line)
    np.testing.assert_allclose(Gaussian().fit(pair).scores(on_line), expected, rtol=1e-6, atol=1e-6)
    assert Gaussian().fit(pair).scores(others).min() > 1e6 > LedoitWolf().fit(pair).mahalanobis(others).max()


@pytest.mark.parametrize("normalize", [False, True])
def test_single_precision_is_as_exact_as_it_says(normalize, image_features):
    """With precision="float32" scores of real features err by less than 1e-5, from rows in float32 and in float64."""
    train, test = image_features[:100, :320].astype(np.float32), image_features[100:, :320].astype(np.float32)
    single, double = (Gaussian(precision=precision, normalize=normalize).fit(train) for precision in ("float32", "float64"))
    assert single.state_.levels[0].whiten.dtype == np.float32
    for rows in (test, test.astype(np.float64), test[:1]):
        np.testing.assert_allclose(single.scores(rows), double.scores(rows), rtol=1e-5)


def test_single_precision_is_refused_where_it_would_err(digits):
    """Without shrinkage, pixels that hardly ever vary leave float32 no digits: fitting says so and names the way out."""
    with pytest.raises(ValueError, match="Use precision='float64'"):
        Gaussian(precision="float32", covariance="empirical").fit(np.hstack([digits, digits + 1e-7 * digits[::-1]]))


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8", "int8", ">f4"])
def test_rows_of_any_type_are_learned_and_scored_as_doubles(dtype, digits):
    """Whole numbers from 0 to 16 give the same scores in every type that holds them, fitted whole or in blocks."""
    rows, expected = digits.astype(dtype), Gaussian().fit(digits).scores(digits)
    np.testing.assert_allclose(Gaussian().fit(rows).scores(rows), expected, rtol=1e-12)
    np.testing.assert_allclose(Gaussian().partial_fit(rows).scores(rows), expected, rtol=1e-9)


def test_a_file_is_learned_in_blocks(tmp_path):
    """Rows in a memory-mapped file, as float32, are never all copied: no allocation while fitting is as large as they are."""
    rows = np.lib.format.open_memmap(tmp_path / "rows.npy", "w+", np.float32, (60_000, 40))
    rows[:] = np.random.default_rng(0).normal(size=rows.shape)
    tracemalloc.start()
    try:
        detector = Gaussian(normalize=True).fit(np.load(tmp_path / "rows.npy", mmap_mode="r"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < rows.nbytes  # float64 rows would be twice that
    np.testing.assert_allclose(detector.scores(rows[:50]), Gaussian(normalize=True).fit(rows.astype(float)).scores(rows[:50]), rtol=1e-9)


@pytest.mark.parametrize("parameters", [{}, {"levels": LEVELS}, {"levels": LEVELS, "normalize": True, "reduce": "pca"}])
def test_shares_of_levels_and_components_add_up(parameters, image_features):
    """Shares per feature, per level and per principal component each add up to the score; none of the latter two is negative."""
    train, test = image_features[:100, : sum(LEVELS)], image_features[100:, : sum(LEVELS)]
    detector = Gaussian(**parameters).fit(train)
    levels, components = detector.level_attributions(test), detector.component_attributions(test)
    assert levels.shape == (len(test), 3 if parameters else 1)
    assert (levels >= 0).all()
    assert (components >= 0).all()
    for shares in (levels, components, detector.attributions(test)):
        np.testing.assert_allclose(shares.sum(axis=1), detector.scores(test), rtol=1e-8)


def test_the_strange_level_ranks_first(image_features):
    """Where the features of one level are shuffled among its columns, that level has the largest share."""
    rows = image_features[:, : sum(LEVELS)]
    detector, bounds = Gaussian(levels=LEVELS).fit(rows[:100]), np.cumsum((0, *LEVELS))
    for level in range(3):
        planted = rows[100:].copy()
        planted[:, bounds[level] : bounds[level + 1]] = planted[:, bounds[level] : bounds[level + 1]][:, ::-1]
        assert (detector.level_attributions(planted).argmax(axis=1) == level).mean() > 0.9


@pytest.mark.parametrize(
    ("parameters", "degrees"),
    [({}, 20), ({"reduce": "pca", "kept_variance": 1e-9}, 1), ({"normalize": True}, None), ({"levels": (20,)}, None)],
)
def test_chi_square_degrees_are_those_of_the_directions(parameters, degrees, digits):
    """Only one level of plain rows has a chi-square law, with a degree per direction."""
    rows = digits[:, digits.std(axis=0) > 1][:, :20]
    detector = Gaussian(**parameters).fit(rows)
    assert detector.chi_square_degrees(detector.state_) == degrees


def test_the_short_way_to_score_refuses_what_the_long_way_does(digits):
    """A plain array in order skips scikit-learn's checks, with the same scores; one with NaN, of another width or empty does not."""
    detector = Gaussian().fit(digits)
    np.testing.assert_array_equal(detector.scores(np.asfortranarray(digits)), detector.scores(digits))
    huge = np.full((1, 64), 1e300)
    assert np.isfinite(detector.scores(np.concatenate([huge, huge * 1e8 / 2]))).all()  # the sum overflows, the values do not
    for bad, message in ((digits[:, 1:].copy(), "features"), (digits[:0], "0 sample"), (digits[0], "1D array")):
        with pytest.raises(ValueError, match=message):
            detector.scores(bad)
    for value in (np.nan, np.inf):
        bad = digits[:3].copy()
        bad[1, 5] = value
        with pytest.raises(ValueError, match="row 1, column 5"):
            detector.scores(bad)


def test_single_precision_rows_are_computed_in_double(image_features):
    """Features as the network gives them, in float32, score as their float64 copies do."""
    rows = image_features[:, :160].astype(np.float32)
    np.testing.assert_array_equal(Gaussian().fit(rows).scores(rows), Gaussian().fit(rows.astype(float)).scores(rows.astype(float)))


def test_the_worked_example(example):
    """Squared distances by Ledoit-Wolf on eight rows in the plane, and sums of distances over two levels."""
    rows, queries = example
    squared = [1.009994925, 0.857365475, 0.099868401, 20.941903432, 0.662182583]
    np.testing.assert_allclose(Gaussian().fit(rows).scores(queries), squared, atol=1e-9)
    sums = [1.903011547, 1.823966829, 0.495624923, 7.27031198, 1.532167227]
    both, query_both = np.hstack([rows, rows[:, :1]]), np.hstack([queries, queries[:, :1]])
    np.testing.assert_allclose(Gaussian(levels=(2, 1)).fit(both).scores(query_both), sums, atol=1e-8)


def test_one_level_named_is_the_distance_unsquared(example):
    """Naming one level over all features gives the root of the default score: the sum over one level."""
    rows, queries = example
    named, default = Gaussian(levels=(2,)).fit(rows), Gaussian().fit(rows)
    np.testing.assert_allclose(named.scores(queries) ** 2, default.scores(queries), rtol=1e-12)


def test_levels_are_summed_as_in_the_paper(image_features):
    """The sum over three levels of a real network equals the slow twin of the paper's recipe."""
    train, test = image_features[:100, : sum(LEVELS)], image_features[100:, : sum(LEVELS)]
    expected = naive.multi_level_distance(train, test, LEVELS)
    np.testing.assert_allclose(Gaussian(levels=LEVELS).fit(train).scores(test), expected, rtol=1e-8)


@pytest.mark.parametrize("kept_variance", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("reduce", ["pca", "npca"])
def test_reduction_equals_the_papers_recipe(reduce, kept_variance, digits):
    """PCA and negated PCA on two levels of digits equal the slow twin, at several shares of the variance."""
    train, test = digits[:600] + 1e-3 * np.random.default_rng(0).normal(size=(600, 64)), digits[600:700]
    detector = Gaussian(levels=(24, 40), reduce=reduce, kept_variance=kept_variance).fit(train)
    expected = naive.multi_level_distance(train, test, (24, 40), reduce=reduce, kept_variance=kept_variance)
    np.testing.assert_allclose(detector.scores(test), expected, rtol=1e-7)


@pytest.mark.parametrize(("reduce", "unseen"), [("pca", False), ("npca", True)])
def test_reduction_with_fewer_rows_than_features(reduce, unseen, image_features):
    """With 100 rows of 160 features PCA is the paper's; negated PCA keeps the unseen directions as well."""
    train, test = image_features[:100, :160], image_features[100:, :160]
    detector = Gaussian(levels=(160,), reduce=reduce, kept_variance=0.95).fit(train)
    expected = naive.multi_level_distance(train, test, (160,), reduce=reduce, kept_variance=0.95, unseen=unseen)
    np.testing.assert_allclose(detector.scores(test), expected, rtol=1e-7)


def test_reduction_keeps_at_least_one_component_and_at_most_all(digits):
    """The extremes of kept_variance keep one component or all of them, never none."""
    for kept, reduce, least, most in (
        (1e-12, "pca", 1, 1),
        (1e-12, "npca", 64, 64),
        (1 - 2**-53, "npca", 2, 8),
        (1 - 2**-53, "pca", 56, 64),
    ):
        state = Gaussian(reduce=reduce, kept_variance=kept).fit(digits).state_
        assert least <= state.levels[0].whiten.shape[1] <= most


@pytest.mark.parametrize("covariance", ["oas", "empirical"])
@pytest.mark.parametrize("reduce", ["pca", "npca"])
def test_reduction_from_sums_equals_reduction_from_rows(reduce, covariance, digits):
    """Where the sums suffice, learning in blocks gives the scores of one fit, projection included."""
    rows = digits[:, digits.std(axis=0) > 1][:, :20]
    parameters = {"reduce": reduce, "covariance": covariance, "kept_variance": 0.9}
    blocks = Gaussian(**parameters)
    for start in range(0, len(rows), 500):
        blocks.partial_fit(rows[start : start + 500])
    np.testing.assert_allclose(blocks.scores(rows[:50]), Gaussian(**parameters).fit(rows).scores(rows[:50]), rtol=1e-9)


def test_normalising_equals_normalising_by_hand(image_features):
    """normalize=True is the plain detector on rows of unit length, level by level."""
    train, test = image_features[:100, :320], image_features[100:, :320]
    halves = [[part / np.linalg.norm(part, axis=1, keepdims=True) for part in np.hsplit(rows, 2)] for rows in (train, test)]
    by_hand = Gaussian(levels=(160, 160)).fit(np.hstack(halves[0])).scores(np.hstack(halves[1]))
    np.testing.assert_allclose(Gaussian(levels=(160, 160), normalize=True).fit(train).scores(test), by_hand, rtol=1e-9)


@pytest.mark.parametrize("width", [64, 320])
def test_ten_shards_merge_in_any_order(width, digits, image_features):
    """Ten shards of real features merged in three random orders give the scores of one fit to 1e-10."""
    rows = digits[:1000] if width == 64 else image_features[:, :320]
    shards = np.array_split(rows, 10)
    expected = Gaussian().fit(rows).scores(rows)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(10)
        merged = Gaussian().partial_fit(shards[order[0]])
        for index in order[1:]:
            merged.merge(Gaussian().partial_fit(shards[index]))
        np.testing.assert_allclose(merged.scores(rows), expected, rtol=1e-10)


@pytest.mark.parametrize("size", [1, 7, 64, 999])
def test_blocks_of_any_size_equal_one_fit(size, digits):
    """Rows taken in blocks give the scores of one fit to 1e-10, single rows included."""
    rows = digits[:300]
    blocks = Gaussian()
    for start in range(0, len(rows), size):
        blocks.partial_fit(rows[start : start + size])
    np.testing.assert_allclose(blocks.scores(digits[300:400]), Gaussian().fit(rows).scores(digits[300:400]), rtol=1e-10)


def test_forgetting_gives_the_model_without_those_rows(digits):
    """Rows taken out one by one or at once leave the scores of a fit on the others."""
    expected = Gaussian().fit(digits[:250]).scores(digits[300:400])
    at_once, one_by_one = Gaussian().fit(digits[:300]).forget(digits[250:300]), Gaussian().fit(digits[:300])
    for row in digits[250:300]:
        one_by_one.forget(row[None])
    np.testing.assert_allclose(at_once.scores(digits[300:400]), expected, rtol=1e-9)
    np.testing.assert_allclose(one_by_one.scores(digits[300:400]), expected, rtol=1e-9)


@pytest.mark.parametrize("covariance", ["ledoit_wolf", "oas", "empirical", "spiked"])
@pytest.mark.parametrize("stages", [1, 2])
def test_a_far_row_is_forgotten_exactly_or_refused(covariance, stages):
    """A row v standard deviations away, alone or before another nearer one, leaves the others' scores to 1e-5, or ValueError and no change.

    How far it may lie is documented: a million standard deviations, with Ledoit–Wolf a thousand.
    """
    rng = np.random.default_rng(1)
    mix = np.linalg.cholesky(0.8 ** np.abs(np.subtract.outer(np.arange(5), np.arange(5))))
    rows, queries = (rng.normal(size=(n, 5)) @ mix.T + 3 for n in (500, 100))
    expected = Gaussian(covariance=covariance).fit(rows).scores(queries)
    refused = []
    for exponent in range(1, 16):
        far = 3 + 10.0**exponent * np.array([np.ones(5), 1e-4 * np.ones(5)])[:stages]
        detector = Gaussian(covariance=covariance).fit(np.vstack([rows, far]))
        before = detector.scores(queries)
        try:
            for row in far:
                detector.forget(row[None])
                before = detector.scores(queries)
        except ValueError as error:
            assert "since rows far away were taken out" in str(error)
            assert "fit again without those rows" in str(error)
            np.testing.assert_array_equal(detector.scores(queries), before)
            refused.append(exponent)
            continue
        np.testing.assert_allclose(detector.scores(queries), expected, rtol=1e-5)
    limit = 3 if covariance == "ledoit_wolf" else 6
    assert refused == list(range(limit + 1, 16))


def test_a_column_in_which_only_forgotten_rows_varied():
    """With shrinkage it has no variance of its own again; without, what rounding leaves of it is no variance to score by."""
    rows = np.random.default_rng(2).normal(size=(60, 4))
    rows[:50, 1] = 0.5
    for covariance in ("oas", "ledoit_wolf"):
        forgotten = Gaussian(covariance=covariance).fit(rows).forget(rows[50:])
        np.testing.assert_allclose(forgotten.scores(rows), Gaussian(covariance=covariance).fit(rows[:50]).scores(rows), rtol=1e-10)
    for parameters in ({"covariance": "empirical"}, {"covariance": "oas", "reduce": "npca"}):
        with pytest.raises(ValueError, match="1 of 4 columns, the first of them column 1, is lost to rounding"):
            Gaussian(**parameters).fit(rows).forget(rows[50:])


def test_an_updated_detector_has_no_old_threshold(digits):
    """After an update predict and decision_function refuse, where they would use a threshold over other rows."""
    detector = Gaussian().fit(digits[:300])
    assert set(detector.predict(digits[:300])) == {-1, 1}
    detector.partial_fit(digits[300:400])
    with pytest.raises(NotFittedError, match="no threshold"):
        detector.predict(digits[:10])
    assert np.isfinite(detector.scores(digits[:10])).all()


def test_contamination_is_the_share_called_outliers(digits):
    """predict calls the asked-for share of the training rows outliers."""
    for share in (0.01, 0.1, 0.5):
        predictions = Gaussian(contamination=share).fit(digits).predict(digits)
        assert (predictions == -1).mean() == pytest.approx(share, abs=1 / len(digits))


def test_a_state_without_statistics_scores_but_cannot_learn(digits):
    """The sums may be left out of what is stored; then scoring works and an update says what is missing."""
    detector = Gaussian().fit(digits)
    text, arrays = dumps("gaussian", detector)
    light = loads(text, {name: a for name, a in arrays.items() if not name.startswith("statistics")}, {"gaussian": Gaussian})
    np.testing.assert_array_equal(light.scores(digits), detector.scores(digits))
    with pytest.raises(ValueError, match="without its statistics"):
        light.partial_fit(digits)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"levels": (30, 30)}, r"levels=\[30, 30\] must be positive whole numbers that add up to 64"),
        ({"levels": (0, 64)}, "must be positive"),
        ({"levels": (1.5, 62.5)}, "whole numbers"),
        ({"levels": [[64]]}, "whole numbers"),
        ({"levels": []}, "add up to 64"),
        ({"levels": "64"}, "'levels' parameter"),
        ({"covariance": "full"}, "'covariance' parameter"),
        ({"reduce": "ica"}, "'reduce' parameter"),
        ({"normalize": "yes"}, "'normalize' parameter"),
        ({"precision": "float16"}, "'precision' parameter"),
        ({"kept_variance": 1.0}, "'kept_variance' parameter"),
        ({"kept_variance": 0.0}, "'kept_variance' parameter"),
        ({"rank_tolerance": 0.0}, "'rank_tolerance' parameter"),
        ({"contamination": 0.0}, "'contamination' parameter"),
        ({"contamination": 0.6}, "'contamination' parameter"),
    ],
)
@pytest.mark.parametrize("name", ["fit", "partial_fit"])
def test_bad_parameters_are_refused(name, parameters, message, digits):
    """Values outside the documented ranges raise ValueError that names the parameter, however learning starts."""
    with pytest.raises(ValueError, match=message):
        getattr(Gaussian(**parameters), name)(digits)


def test_illegal_parameters_in_a_state_are_refused(digits):
    """A stored state whose parameters are out of range is not loaded."""
    text, arrays = dumps("gaussian", Gaussian().fit(digits))
    with pytest.raises(ValueError, match="'covariance' parameter"):
        loads(text.replace("ledoit_wolf", "full"), arrays, {"gaussian": Gaussian})


@pytest.mark.parametrize("stage", ["fit", "score"])
def test_a_zero_row_cannot_be_normalised(stage, digits):
    """With normalize a row of zeros, in any level, raises ValueError that names the row."""
    rows = digits[:50, 2:6] + 1
    detector = Gaussian(normalize=True, levels=(2, 2)).fit(rows)
    bad = rows.copy()
    bad[13, 2:] = 0
    with pytest.raises(ValueError, match="row 13 has length zero"):
        detector.fit(bad) if stage == "fit" else detector.scores(bad)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.ones((1, 3)), "minimum of 2"),
        (np.full((4, 3), 1e80), "too large to learn"),
        (np.ones((0, 3)), "0 sample"),
        (np.ones((3, 0)), "0 feature"),
        (np.ones(3), "1D array"),
        (np.ones((2, 2, 2)), "dim 3"),
        ([["a", "b"], ["c", "d"]], "could not convert|Unable to convert"),
        (np.ones((3, 3)) + 1j, "Complex"),
    ],
)
def test_rows_that_cannot_be_learned_are_refused(rows, message):
    """Too few rows, other shapes, text, complex and too large numbers raise ValueError with a reason."""
    with pytest.raises(ValueError, match=message):
        Gaussian().fit(rows)


def test_scoring_before_learning_is_refused():
    """All that needs a state says so."""
    for call in (Gaussian().scores, Gaussian().attributions, Gaussian().forget, Gaussian().merge, Gaussian().predict):
        with pytest.raises(NotFittedError):
            call(np.ones((2, 3)))


def test_a_merge_of_other_widths_is_refused(digits):
    """Shards of another number of features, or of another type of detector, raise ValueError."""
    with pytest.raises(ValueError, match="cannot merge 10 features into 20"):
        Gaussian().fit(digits[:, :20]).merge(Gaussian().fit(digits[:, :10]))


@pytest.mark.parametrize("levels", [(24, 40), [24, 40], np.array([24, 40])])
def test_levels_may_be_any_sequence(levels, digits):
    """Tuple, list and array mean the same, in scores, in the stored text, and to a merge."""
    detector, other = Gaussian(levels=levels).fit(digits[:300]), Gaussian(levels=(24, 40)).fit(digits[300:600])
    assert dumps("gaussian", detector)[0] == dumps("gaussian", other)[0]
    np.testing.assert_allclose(detector.merge(other).scores(digits), Gaussian(levels=[24, 40]).fit(digits[:600]).scores(digits), rtol=1e-9)


def test_rows_that_were_never_learned_cannot_be_forgotten(digits):
    """Taking out rows of larger variance than there is to take raises ValueError instead of leaving nonsense."""
    detector = Gaussian().fit(digits[:100])
    with pytest.raises(ValueError, match="not among those summed"):
        detector.forget(100 * digits[100:150])


def test_values_lost_to_underflow_are_refused(digits):
    """Values so small that their fourth powers vanish raise ValueError instead of scoring 0."""
    with pytest.raises(ValueError, match="too small to learn"):
        Gaussian().fit(digits * 1e-200)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("reduce", ["pca", "npca"])
def test_a_second_look_in_blocks_equals_the_fit(reduce, normalize, digits):
    """Ledoit-Wolf after a reduction, from sums over blocks and a second look at them, scores as the fit of all rows does."""
    rows = digits + 1
    parameters = {"reduce": reduce, "normalize": normalize, "kept_variance": 0.9, "levels": (24, 40)}
    detector, blocks = Gaussian(**parameters), np.array_split(rows, 5)
    statistics = functools.reduce(operator.add, map(detector.sums, blocks))
    look = detector.second_look(statistics)
    second = functools.reduce(operator.add, map(look, blocks))
    found = detector.concluded(statistics, second).scores(rows[:50])
    np.testing.assert_allclose(found, Gaussian(**parameters).fit(rows).scores(rows[:50]), rtol=1e-8)


def test_no_second_look_is_taken_where_one_suffices(digits):
    """Only Ledoit-Wolf after a reduction reads the rows twice."""
    for parameters in ({}, {"reduce": "pca", "covariance": "oas"}, {"covariance": "spiked"}):
        detector = Gaussian(**parameters)
        assert detector.second_look(detector.sums(digits)) is None
