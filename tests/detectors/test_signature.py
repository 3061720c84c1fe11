"""The signature detector against the worked example of variance norms, a slow twin, and its invariances."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from detectors import Signature, signature
from detectors.paths import signatures, with_time
from tests import naive

POINTS = {"channels": 3, "depth": 1, "augmentations": ("basepoint",), "scaling": "none"}  # the features are the row itself


@pytest.fixture(scope="module")
def walks():
    """120 random walks of 12 points in the plane, point by point."""
    return np.random.default_rng(0).normal(size=(120, 12, 2)).cumsum(axis=1).reshape(120, 24)


def test_the_worked_example_of_the_variance_norm():
    """Distances to five points in a plane: 0 for one of them, in the span up to 1e-4 outside it, and above 1e12 off it."""
    corpus = np.array([[0, 0, 0], [2, 0, 0], [0, 1, 0], [2, 1, 0], [1, 3, 0]], float)
    queries = np.array([[1, 1, 0], [0, 0, 0], [5, 0, 0], [1, 1, 1e-4], [1, 1, 1]])
    detector = Signature(**POINTS).fit(corpus)
    scores = detector.scores(queries)
    np.testing.assert_allclose(scores[[0, 2, 3]], [1.1180339887, 3.3541019662, 1.1180339887], rtol=1e-9)
    np.testing.assert_allclose(scores[1], 0, atol=1e-11)
    assert 1e12 < scores[4] <= 2e12
    np.testing.assert_allclose(detector.leave_one_out_scores(), [0.9128709292] * 4 + [2.1408720964], rtol=1e-9)
    np.testing.assert_allclose(detector.state_.deviations * np.sqrt(5), [2.4494897428, 2], rtol=1e-9)


@pytest.fixture(scope="module")
def strokes():
    """Pen strokes, and what another implementation scores them; pen_strokes.md says whose they are and how it was made."""
    with np.load(Path(__file__).with_name("pen_strokes.npz"), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


@pytest.mark.parametrize("depth", range(1, 6))
@pytest.mark.parametrize(("number", "scaling"), [(0, "corpus"), (1, "stream")])
@pytest.mark.parametrize(("place", "count"), [(0, 80), (1, 30)])
def test_pen_strokes_score_as_by_another_implementation(place, count, number, scaling, depth, strokes):
    """By default to 1e-6, and off the span where that has no finite score, with more streams than features and with fewer."""
    corpus, queries = (strokes[name].reshape(len(strokes[name]), -1).astype(float) for name in ("corpus", "queries"))
    expected = strokes["scores"][place, number, depth - 1]
    detector = Signature(channels=2, depth=depth, augmentations=(), scaling=scaling).fit(corpus[:count])
    scores = detector.scores(queries)
    np.testing.assert_array_equal(detector.off_span(scores), np.isinf(expected))
    np.testing.assert_allclose(scores[np.isfinite(expected)], expected[np.isfinite(expected)], rtol=1e-6)


def test_a_larger_tolerance_cuts_directions_of_real_strokes(strokes):
    """At depth 5, 1e-6 leaves out a few directions that the default keeps, all 62 of them."""
    corpus = strokes["corpus"].reshape(80, -1)
    kept, fewer = (
        len(Signature(channels=2, depth=5, augmentations=(), **parameters).fit(corpus).state_.deviations)
        for parameters in ({}, {"rank_tolerance": 1e-6})
    )
    assert fewer < kept == 62


def test_rounding_to_single_precision_is_cut_by_a_larger_tolerance(walks):
    """A channel that follows from the others, in values once held in float32: 1e-6 leaves its rounding out, the default takes it in."""
    whole = np.insert(walks.reshape(120, 12, 2), 2, walks.reshape(120, 12, 2).sum(axis=2), axis=2).reshape(120, -1)
    rounded = whole.astype(np.float32).astype(float)
    exact, cut, uncut = (
        Signature(channels=3, depth=2, augmentations=(), rank_tolerance=tolerance).fit(rows[:80])
        for rows, tolerance in ((whole, 1e-12), (rounded, 1e-6), (rounded, 1e-12))
    )
    assert len(exact.state_.deviations) == len(cut.state_.deviations) < len(uncut.state_.deviations)
    np.testing.assert_allclose(cut.scores(rounded[80:]), exact.scores(whole[80:]), rtol=1e-4)


def test_rows_off_the_span_are_ordered_by_their_share_outside():
    """All rows off the span score above all on it, the more the larger a share of the difference lies outside."""
    corpus = np.random.default_rng(0).normal(size=(20, 3)) * [1, 1, 0]
    scores = Signature(**POINTS).fit(corpus).scores([[1e6, 1e6, 0], [5, 5, 0.1], [5, 5, 1], [5, 5, 100]])
    assert (np.diff(scores) > 0).all()
    assert scores[0] < 1e12 < scores[1]


def test_off_span_is_told_by_the_score():
    """Rows in a direction never shown are told, those on the span are not, however far."""
    corpus = np.random.default_rng(0).normal(size=(20, 3)) * [1, 1, 0]
    detector = Signature(**POINTS).fit(corpus)
    scores = detector.scores([[0, 0, 0], [1e9, 0, 0], [1e12, 0, 0], [1e16, 0, 0], [1e20, 1e20, 0], [0, 0, 0.1], [0, 0, 1e9]])
    assert (np.diff(scores[:5]) > 0).all()
    assert detector.off_span(scores).tolist() == [False] * 5 + [True] * 2


@pytest.mark.parametrize("neighbours", [1, 3])
def test_leave_one_out_scores_are_distances_to_others(neighbours, walks):
    """For each stream of the corpus, that to its k-th nearest other, in the norm of the whole corpus, in the order of the rows."""
    detector = Signature(channels=2, depth=2, scaling="none", neighbours=neighbours).fit(walks[:60])
    features = signatures(with_time(walks[:60].reshape(60, 12, 2)), 2)
    inverse = np.linalg.pinv(np.cov(features.T, bias=True), rcond=1e-12, hermitian=True)
    gaps = features[:, None] - features
    distances = np.sqrt(np.maximum(np.einsum("ijk,kl,ijl->ij", gaps, inverse, gaps), 0))
    np.testing.assert_allclose(detector.leave_one_out_scores(), np.sort(distances, axis=1)[:, neighbours], rtol=1e-6)
    assert (detector.scores(walks[:60]) == 0).all() == (neighbours == 1)


def test_leave_one_out_calibrates_approximately():
    """With many more streams than features about a twentieth of fresh ones lies beyond the 95 % quantile; with as few, most."""
    streams = np.random.default_rng(0).normal(size=(3000, 10, 2)).cumsum(axis=1).reshape(3000, 20)
    rates = []
    for count in (1000, 12):
        detector = Signature(channels=2, depth=2).fit(streams[:count])
        rates.append(np.mean(detector.scores(streams[1000:]) > np.quantile(detector.leave_one_out_scores(), 0.95)))
    assert 0.03 < rates[0] < 0.08
    assert rates[1] > 0.5


@pytest.mark.parametrize("neighbours", [1, 3])
def test_predict_judges_learned_and_fresh_rows_alike(neighbours, walks):
    """The share of contamination among learned rows, and about that among fresh ones, which plain scores of learned rows would not give."""
    streams = np.random.default_rng(1).normal(size=(1500, 10, 2)).cumsum(axis=1).reshape(1500, 20)
    detector = Signature(channels=2, depth=2, neighbours=neighbours).fit(streams[:500])
    assert np.mean(detector.predict(streams[:500]) == -1) == 0.1
    assert 0.07 < np.mean(detector.predict(streams[500:]) == -1) < 0.16
    np.testing.assert_allclose(-detector.score_samples(streams[:500]), detector.leave_one_out_scores(), rtol=1e-12)
    np.testing.assert_array_equal(-detector.score_samples(streams[500:]), detector.scores(streams[500:]))


@pytest.mark.parametrize("parameters", [{}, {"augmentations": ("time", "lead_lag"), "depth": 2}, {"scaling": "none"}], ids=str)
def test_a_planted_spike_ranks_first(parameters):
    """One point of one channel out of place has the largest share, in each place and channel."""
    rng = np.random.default_rng(0)
    t, phase = np.linspace(0, 1, 16), rng.uniform(0, 0.2, size=(301, 1))
    waves = np.stack([np.sin(2 * np.pi * (t + phase)), np.cos(2 * np.pi * (t + phase))], axis=2) + rng.normal(scale=0.02, size=(301, 16, 2))
    rows = waves.reshape(301, 32)
    detector = Signature(channels=2, **parameters).fit(rows[:300])
    planted = rows[300] + 3 * np.eye(32)
    shares = detector.attributions(planted)
    assert shares.argmax(axis=1).tolist() == list(range(32))
    assert (shares.max(axis=1) > detector.scores(planted) / 2).all()


@pytest.mark.parametrize("neighbours", [1, 3])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_equals_the_slow_twin(depth, neighbours, walks):
    """Scores of fresh streams equal those computed pair by pair from the pseudo-inverse, to 1e-6."""
    parameters = {"channels": 2, "depth": depth, "augmentations": ("time",), "scaling": "none"}
    detector = Signature(**parameters, neighbours=neighbours).fit(walks[:80])
    features = signatures(with_time(walks.reshape(120, 12, 2)), depth)
    expected = []
    for row in features[80:]:
        alone = [naive.conformance(features[:80], row)]
        if neighbours > 1:
            _, singular, right = np.linalg.svd(features[:80] - features[:80].mean(axis=0), full_matrices=False)
            whiten = (right[singular > 1e-6 * singular[0]] / singular[singular > 1e-6 * singular[0], None]).T * np.sqrt(80)
            alone = np.sort(np.linalg.norm((row - features[:80]) @ whiten, axis=1))
        expected.append(alone[neighbours - 1])
    np.testing.assert_allclose(detector.scores(walks[80:]), expected, rtol=1e-6)


def test_a_farther_path_in_the_span_may_be_the_nearest():
    """A pair is off the span by its own share outside: the nearest path may fail where a farther one passes."""
    corpus = np.array([[0, 0, 0], [100, 0, 0], [0, 100, 0], [100, 100, 0.0]])
    score = Signature(**POINTS).fit(corpus).scores([[0.001, 0, 0.01]])[0]
    assert score == pytest.approx(2, rel=1e-3)  # to the two corners at distance 100, not to the one at 0.01


@pytest.mark.parametrize("names", [(), ("basepoint",), ("invisibility",), ("lead_lag",), ("time",), ("time", "lead_lag")])
def test_padding_changes_no_score(names, walks):
    """Streams of unlike length, their last points repeated up to 12 or up to 20, score the same, whatever the augmentation."""
    streams = [walk[: 2 * length] for walk, length in zip(walks, np.random.default_rng(0).integers(5, 13, 120), strict=True)]
    short, long = (np.stack([np.concatenate([s, np.tile(s[-2:], length - len(s) // 2)]) for s in streams]) for length in (12, 20))
    for scaling in ("corpus", "stream", "none"):
        detector = Signature(channels=2, depth=2, augmentations=names, scaling=scaling)
        np.testing.assert_allclose(detector.fit(long[:80]).scores(long[80:]), detector.fit(short[:80]).scores(short[80:]), rtol=1e-8)


def test_a_clock_of_ones_own_may_be_padded(walks):
    """Time brought as a channel and repeated with the points gives the scores of the augmentation on streams without padding."""
    clock = np.broadcast_to(np.linspace(0, 1, 12)[:, None], (120, 12, 1))
    timed = np.concatenate([walks.reshape(120, 12, 2), clock], axis=2)
    padded = np.concatenate([timed, np.repeat(timed[:, -1:], 4, axis=1)], axis=1).reshape(120, -1)
    scores = Signature(channels=3, depth=2, augmentations=()).fit(padded[:80]).scores(padded[80:])
    np.testing.assert_allclose(scores, Signature(channels=2, depth=2).fit(walks[:80]).scores(walks[80:]), rtol=1e-8)


def test_the_size_of_the_corpus_has_no_unit(walks):
    """A corpus held twice leaves the scores of fresh streams as they were."""
    once, twice = Signature(channels=2).fit(walks[:60]), Signature(channels=2).fit(np.vstack([walks[:60], walks[:60]]))
    np.testing.assert_allclose(twice.scores(walks[60:]), once.scores(walks[60:]), rtol=1e-8)


@pytest.mark.parametrize(("scaling", "tolerance"), [("corpus", 1e-8), ("none", 1e-4)])
def test_units_of_channels_do_not_matter(scaling, tolerance, walks):
    """Each channel times a number plus another gives the same scores."""
    detector = Signature(channels=2, depth=2, scaling=scaling)
    moved = walks * np.tile([30.0, -0.5], 12) + np.tile([-7.0, 100.0], 12)
    np.testing.assert_allclose(detector.fit(moved[:80]).scores(moved[80:]), detector.fit(walks[:80]).scores(walks[80:]), rtol=tolerance)


def test_blocks_change_nothing(walks, monkeypatch):
    """Rows scored one by one inside equal rows scored at once."""
    detector = Signature(channels=2).fit(walks[:80])
    expected = detector.scores(walks[80:])
    monkeypatch.setattr(signature, "BLOCK_NUMBERS", 1)
    np.testing.assert_allclose(detector.scores(walks[80:]), expected, rtol=1e-9)


def test_order_is_seen_where_values_are_not():
    """Pulses that rise fast and fall slowly: the same values backwards score above nearly all fresh pulses."""
    start, fall = np.random.default_rng(0).uniform([0.1, 3], [0.4, 6], size=(300, 2)).T[..., None]
    after = np.maximum(np.linspace(0, 1, 30) - start, 0)
    pulses = np.minimum(20 * after, np.exp(-fall * after))
    detector = Signature().fit(pulses[:200])
    assert np.median(detector.scores(pulses[200:, ::-1])) > 10 * np.quantile(detector.scores(pulses[200:]), 0.95)


def test_a_channel_that_never_varies_counts_when_it_does(walks):
    """A constant channel adds nothing, until a stream varies in it, which puts that off the span."""
    constant = np.insert(walks.reshape(120, 12, 2), 2, 3.0, axis=2)
    detector = Signature(channels=3, depth=2, augmentations=(), scaling="none").fit(constant[:80].reshape(80, -1))
    expected = Signature(channels=2, depth=2, augmentations=(), scaling="none").fit(walks[:80]).scores(walks[80:])
    np.testing.assert_allclose(detector.scores(constant[80:].reshape(40, -1)), expected, rtol=1e-6)
    constant[80:, 5:, 2] += 1
    assert (detector.scores(constant[80:].reshape(40, -1)) > 1e12).all()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"channels": 5}, "rows of 24 numbers are no streams of channels=5"),
        ({"augmentations": ("time", "rotate")}, r"augmentations \['rotate'\] are unknown; there are \['basepoint', "),
        ({"channels": 12, "depth": 6, "augmentations": ()}, "depth=6 of 12 channels gives 3257436 features, over 20000: lower the depth"),
        ({"channels": 24, "depth": 12, "augmentations": ("lead_lag",)}, "streams of one point"),
        ({"augmentations": ("lead_lag",) * 40}, "name one twice"),
        ({"channels": 24, "augmentations": ()}, "streams of one point .* add the augmentation 'basepoint'"),
        ({"depth": 0}, "'depth' parameter"),
        ({"depth": 13}, "'depth' parameter"),
        ({"scaling": "row"}, "'scaling' parameter"),
        ({"rank_tolerance": 0.0}, "'rank_tolerance' parameter"),
    ],
)
def test_bad_parameters_are_refused(parameters, message, walks):
    """Streams that cannot be cut, unknown names and widths beyond reason raise ValueError that says what to do."""
    with pytest.raises(ValueError, match=message):
        Signature(**parameters).fit(walks)


def test_odd_streams_have_scores(walks):
    """Equal streams, two streams, whole numbers, half precision and offsets beyond them: as close to plain ones as their digits allow."""
    same = np.tile(walks[:1], (20, 1))
    scores = Signature(channels=2).fit(same).scores(walks[:3])
    assert scores[0] == 0
    assert (scores[1:] > 1e12).all()
    assert np.isfinite(Signature(channels=2).fit(walks[:2]).scores(walks)).all()
    assert Signature().fit(np.ones((5, 6))).scores([[1.0] * 6, [1.0] * 5 + [2.0]]).tolist() == [0, 2e12]
    whole = np.round(10 * walks)
    expected = Signature(channels=2).fit(whole[:80]).scores(whole[80:])
    for form in (whole.astype(np.int32), whole.astype(np.float16), whole + 1e12):
        np.testing.assert_allclose(Signature(channels=2).fit(form[:80]).scores(form[80:]), expected, rtol=1e-7)


def test_long_streams_and_deep_words_take_little_memory():
    """Of 10 000 points and width 2046: a few times what rows and signatures themselves take."""
    rows = np.random.default_rng(0).normal(size=(3, 10_000)).cumsum(axis=1)
    tracemalloc.start()
    assert np.isfinite(Signature(depth=10).fit(rows).scores(rows + 1)).all()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 12 * 2**20  # all words at all points of one stream would be 39 MiB


def test_signatures_out_of_range_are_refused(walks):
    """Where powers of the values leave float64, fitting raises ValueError that says what to do, and no warning."""
    with pytest.raises(ValueError, match="depth=6 of these values leave the range of float64: use scaling='corpus'"):
        Signature(channels=2, depth=6, scaling="none").fit(1e60 * walks)
    assert np.isfinite(Signature(channels=2, depth=6).fit(1e60 * walks).scores(1e60 * walks)).all()
