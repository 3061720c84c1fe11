"""Odd data, every detector: a finite and sensible answer, or an error that names what is wrong; never NaN, never a warning.

Each detector of the registry goes through each ordeal under every set of parameters that it names, and through ordeals of any
number of rows and columns at any scale. ``REFUSALS`` says who may refuse what, the functions beside it which answers cannot be
had of whom, and why.
"""

import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from detectors import KNN, REGISTRY, RobustShrinkage, Signature, Weighting
from detectors.base import LARGEST_LEARNED, SMALLEST_LEARNED
from detectors.checks import attributes

WIDTH = 4  # columns: what the variants with levels and with channels can take
SHORTEST = 30  # characters of an error that names what is wrong

VARIANTS = [
    pytest.param(cls(**variant), id=f"{kind}-{number}") for kind, cls in REGISTRY.items() for number, variant in enumerate(cls.VARIANTS)
]
# Conjugate gradients stop at a residual of 1e-6, and the contract asks for more of what it calls variants.
VARIANTS.append(pytest.param(Weighting(exact_rows=8, approximation="global_weights", measure="weight"), id="weighting-global_weights"))
every_detector = pytest.mark.parametrize("detector", VARIANTS)
stable = settings(derandomize=True, max_examples=5)
seeds = st.integers(0, 2**32 - 1)


def normal_rows(seed, n=30):
    """Correlated rows, away from the origin, in another order and place for each seed."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, WIDTH)) @ (np.eye(WIDTH) + 0.5 * rng.uniform(-1, 1, size=(WIDTH, WIDTH))) + rng.uniform(2, 9, WIDTH)


def replaced(rows, column, value):
    rows = rows.copy()
    rows[:, column] = value
    return rows


def with_outlier(rows):
    rows = rows.copy()
    rows[-1] += 1e9 * rows.std(axis=0)
    return rows


ORDEALS = {
    "offset": lambda rows: rows + 1e12,
    "negative_offset": lambda rows: rows - 1e12,
    "offset_of_one_column": lambda rows: rows + np.array([0, 1e12, 0, 0]),
    "constant_column": lambda rows: replaced(rows, 1, 0.1),
    "constant_huge_column": lambda rows: replaced(rows, 1, 1e60),
    "zero_column": lambda rows: replaced(rows, 0, 0.0),
    "constant_but_for_one": lambda rows: replaced(rows, 2, np.arange(len(rows)) == 5),
    "two_values": lambda rows: (rows > np.median(rows, axis=0)) + 1.0,
    "mostly_one_value": lambda rows: (rows > np.quantile(rows, 0.8, axis=0)) + 1.0,
    "duplicated_column": lambda rows: rows[:, [0, 1, 2, 0]],
    "nearly_duplicated_column": lambda rows: replaced(rows, 3, rows[:, 0] * (1 + 1e-15)),
    "rank_one": lambda rows: np.outer(rows[:, 0], [1, 2, -3, 0.5]),
    "tiny_noise_on_rank_one": lambda rows: np.outer(rows[:, 0], [1, 2, -3, 0.5]) + 1e-13 * rows,
    "two_rows": lambda rows: rows[:2],
    "two_equal_rows": lambda rows: rows[[0, 0]],
    "as_many_rows_as_columns": lambda rows: rows[:WIDTH],
    "fewer_rows_than_columns": lambda rows: rows[: WIDTH - 1],
    "all_rows_equal": lambda rows: np.tile(rows[:1], (20, 1)),
    "all_rows_equal_but_one": lambda rows: np.vstack([np.tile(rows[:1], (20, 1)), rows[1:2]]),
    "repeated_rows": lambda rows: np.tile(rows[:5], (6, 1)),
    "two_columns_1e-100": lambda rows: rows * [1, 1, 1e-100, 1e-100],
    "one_column_1e-160": lambda rows: rows * [1, 1e-160, 1, 1],
    "one_column_1e-300": lambda rows: rows * [1, 1, 1, 1e-300],
    "one_column_subnormal": lambda rows: rows * [1, 1, 1, 1e-320],
    "columns_apart_by_1e120": lambda rows: rows * [1e-60, 1, 1, 1e60],
    "one_outlier": with_outlier,
    "integers": lambda rows: np.rint(10 * rows).astype(int),
    "small_integers": lambda rows: np.rint(rows - rows.mean(axis=0)).astype(np.int8),
    "one_column": lambda rows: rows[:, :1],
}


def normalises(detector):
    return getattr(detector, "normalize", False)


def single(detector):
    return getattr(detector, "precision", None) == "float32"


def robust(detector):
    return isinstance(detector, RobustShrinkage)


def unscaled(detector):
    return isinstance(detector, Signature) and detector.scaling == "none"


# Who may refuse which ordeal, with what words. All others answer.
REFUSALS = {
    "one_column": [
        (lambda detector: getattr(detector, "levels", None), "levels=.* must be positive whole numbers that add up to 1"),
        (lambda detector: isinstance(detector, Signature), "streams of one point|no streams of channels=2"),
    ],
    "all_rows_equal_but_one": [(robust, "more than half of the values tie in every column")],
    "mostly_one_value": [(robust, "more than half of the values tie in every column")],
    "two_rows": [(single, "precision='float32' would put an error")],
    "small_integers": [(normalises, "has length zero and cannot be normalised")],
    "one_outlier": [(lambda detector: single(detector) and isinstance(detector, Weighting), "precision='float32' would err by")],
    "columns_apart_by_1e120": [(single, "precision='float32' cannot hold standard deviations from")],
}

ANY_REFUSAL = list(itertools.chain.from_iterable(REFUSALS.values()))


def far_out_is_unseen(detector, rows):
    """Where directions are left out on purpose, do not change far out, or two distances cancel, and where a straight ray is no odd stream.

    Where all rows are equal, no distance tells what is far: ``Weighting`` counts in ones and merges what is 1e-9 apart. Nor where no
    class varies, and single precision has no squares of what is below 1e-30.
    """
    tiny = single(detector) and np.abs(rows).max() < 1e-30
    if tiny or (isinstance(detector, Weighting) and not np.ptp(rows, axis=0).any()):
        return True
    compared = getattr(detector, "relative", False) or getattr(detector, "reduce", None) == "pca"
    return compared or normalises(detector) or isinstance(detector, Signature)


def classes(detector, rows):
    return (np.arange(len(rows)) % 2,) if detector.LABELLED else ()


def fitted(detector, rows):
    return clone(detector).fit(rows, *classes(detector, rows))


def far_row(rows):
    """A row a million spreads away from all."""
    rows = np.asarray(rows, float)
    sizes = np.maximum(rows.std(axis=0), np.abs(rows).max(axis=0))
    sizes[sizes == 0] = sizes.max() or 1
    return rows.mean(axis=0) + 1e6 * sizes * np.where(np.arange(rows.shape[1]) % 2, -1, 1)


@st.composite
def ordeals(draw, widths):
    """Rows of an ordeal, of 2 to 40 normal ones and of any of ``widths``, times a power of two between 1e-150 and 1e150; and that power.

    Columns beyond the four of an ordeal are normal ones.
    """
    n, width, seed = draw(st.integers(2, 40)), draw(widths), draw(seeds)
    rows = ORDEALS[draw(st.sampled_from(sorted(ORDEALS)))](normal_rows(seed, n))
    others = np.random.default_rng(seed).normal(size=(len(rows), max(width - rows.shape[1], 0)))
    return np.hstack([rows, others])[:, :width], 2.0 ** draw(st.integers(-498, 498))


def widths_of(detector):
    """Numbers of columns that it can take."""
    if getattr(detector, "levels", None) or getattr(detector, "channels", 1) > 1:
        return st.just(WIDTH)
    return st.integers(1, 9)


def answered(detector, rows, refusals):
    """The detector fitted to ``rows``, or None where it may refuse them and does so in words that it may use."""
    try:
        return fitted(detector, rows)
    except ValueError as error:
        if any(who(detector) and re.search(words, str(error)) for who, words in refusals) and len(str(error)) >= SHORTEST:
            return None
        raise


def assert_sensible(learned, rows):
    """Scores, attributions and decisions are finite, and a row far away scores above all that were learned."""
    queries = np.vstack([rows, far_row(rows)])
    scores = learned.scores(queries)
    assert np.isfinite(scores).all()
    assert not attributes(learned) or np.isfinite(learned.attributions(queries)).all()
    assert np.isfinite(learned.decision_function(queries)).all()
    assert far_out_is_unseen(learned, rows) or scores[-1] > scores[:-1].max()


@every_detector
def test_odd_rows_get_a_sensible_answer_or_a_clear_refusal(detector):
    """Each ordeal, in four columns."""
    for ordeal, odd in ORDEALS.items():
        rows = odd(normal_rows(0))
        if learned := answered(detector, rows, REFUSALS.get(ordeal, [])):
            assert_sensible(learned, rows)


@every_detector
@given(data=st.data())
@settings(stable, max_examples=30)
def test_odd_rows_of_any_shape_and_size_do_too(detector, data):
    """Any number of rows and columns at any scale: beyond 1e70 and below 1e-70 learning is refused, but scoring is not."""
    rows, scale = data.draw(ordeals(widths_of(detector)))
    largest = np.abs(rows * scale).max()
    if largest > LARGEST_LEARNED or 0 < largest < SMALLEST_LEARNED:
        with pytest.raises(ValueError, match=r"too (small|large) to learn"):
            fitted(detector, rows * scale)
        if learned := answered(detector, rows, ANY_REFUSAL):
            assert np.isfinite(learned.scores(rows * scale)).all()
    elif learned := answered(detector, rows * scale, ANY_REFUSAL):
        assert_sensible(learned, rows * scale)


def refused(detector, rows, words):
    try:
        fitted(detector, rows)
    except ValueError as error:
        return re.search(words, str(error)) is not None
    return False


@pytest.mark.parametrize("ordeal", REFUSALS)
def test_refusals_happen(ordeal):
    """Each line of the table of refusals is needed: some detector refuses some rows with these words."""
    for who, words in REFUSALS[ordeal]:
        detector = next(case.values[0] for case in VARIANTS if who(case.values[0]))
        assert any(refused(detector, ORDEALS[ordeal](normal_rows(seed)), words) for seed in range(30))


@every_detector
@given(seed=seeds, exponent=st.integers(-225, 225))
@stable
def test_the_unit_does_not_matter(detector, seed, exponent):
    """Rows times 2^k, learned and scored, have the same scores but for the order of summation; plain distances are 2^k times as long."""
    rows, factor = normal_rows(seed), 2.0 ** (exponent // 3 if single(detector) else exponent)
    queries = np.vstack([rows, 3 * rows, far_row(rows)])
    scores, scaled = fitted(detector, rows).scores(queries), fitted(detector, rows * factor).scores(queries * factor)
    if unscaled(detector):  # levels of a signature grow with different powers, and so does the cut of its rank
        assert np.isfinite(scaled).all()
        return
    expected = scores * factor if isinstance(detector, KNN) and not detector.normalize else scores
    np.testing.assert_allclose(scaled, expected, rtol=1e-10, atol=1e-10 * np.median(np.abs(expected)))


@every_detector
@pytest.mark.parametrize(("size", "words"), [(1e-150, "too small to learn"), (1e150, "too large to learn")])
def test_sizes_beyond_what_squares_can_hold_are_refused(detector, size, words):
    """Where fourth powers would leave the range of float64 learning says so; scoring does not mind."""
    with pytest.raises(ValueError, match=words):
        fitted(detector, normal_rows(0) * size)
    assert np.isfinite(fitted(detector, normal_rows(0)).scores(normal_rows(0) * size)).all()


@every_detector
@given(seed=seeds)
@stable
def test_an_offset_costs_the_digits_that_it_takes(detector, seed):
    """With 1e12 added to each value, exactly, scores change by what a shift by the spacing of numbers there, 1.2e-4, could do.

    Rows have standard deviations near 1, so that a shift by the spacing in each of the four columns is within a thousandth of
    one (of the distances, where a score is the difference of two). Directions and raw signatures take the offset for signal.
    """
    rows = np.rint(normal_rows(seed) * 1024) / 1024
    queries = rows * 2
    near, far = fitted(detector, rows), fitted(detector, rows + 1e12)
    scores = far.scores(queries + 1e12)
    assert np.isfinite(scores).all()
    if not (normalises(detector) or unscaled(detector)):
        terms = fitted(clone(detector).set_params(relative=False), rows) if hasattr(detector, "relative") else near
        np.testing.assert_allclose(scores, near.scores(queries), rtol=1e-3, atol=1e-3 * np.median(np.abs(terms.scores(queries))))


def one_step_is_unseen(detector):
    """Where the direction is left out on purpose, where two distances see it and cancel, and where it is a stream's ordinary step."""
    return getattr(detector, "reduce", None) == "pca" or getattr(detector, "relative", False) or isinstance(detector, Signature)


@every_detector
@pytest.mark.parametrize("column", ["copy", "constant", "zero", "next to constant"])
@given(seed=seeds)
@stable
def test_breaking_what_always_held_is_seen(detector, column, seed):
    """A column that always was the copy of another, or one value, or that but for 1e-160, scores higher three standard deviations off."""
    rows = normal_rows(seed)
    step = 3 * rows[:, 2].std() * np.eye(WIDTH)[3]
    rows[:, 3] = {"copy": rows[:, 2], "constant": 0.1, "zero": 0.0, "next to constant": 1e-160 * rows[:, 3]}[column]
    learned, kept = fitted(detector, rows), np.median(rows, axis=0)
    kept_score, broken_score = learned.scores(np.vstack([kept, kept + step]))
    assert np.isfinite(kept_score)
    assert one_step_is_unseen(detector) or broken_score > kept_score


@every_detector
def test_form_and_type_of_the_rows_do_not_matter(detector, tmp_path):
    """Small numbers of any type, in any order in memory, writable or not, in a file or not, score as the plain float64 array does."""
    rows = np.rint(normal_rows(0) * 4)
    plain = fitted(detector, rows)
    expected = plain.scores(rows + 1)
    spread = np.zeros((2 * len(rows), 2 * WIDTH))
    spread[::2, ::2] = rows
    frozen = rows.copy()
    frozen.flags.writeable = False
    rows.tofile(tmp_path / "rows")
    mapped = np.memmap(tmp_path / "rows", dtype=np.float64, mode="r", shape=rows.shape)
    types = [rows.astype(kind) for kind in ("float16", "float32", "int8", "int64", "uint16", ">f8", "longdouble", object)]
    for form in [*types, np.asfortranarray(rows), spread[::2, ::2], np.flip(np.flip(rows).copy()), frozen, mapped, rows.tolist()]:
        learned = fitted(detector, form)
        rounding = 1e-5 if single(detector) else 1e-9
        np.testing.assert_allclose(learned.scores(rows + 1), expected, rtol=rounding, atol=rounding)
        np.testing.assert_allclose(plain.scores(form), plain.scores(rows), rtol=rounding, atol=rounding)


def test_one_outlier_leaves_the_ranking_of_robust_shrinkage():
    """With one row 1e9 standard deviations away among those learned, the others rank as they do without it; the plain Gaussian's do not."""
    rows = np.random.default_rng(0).normal(size=(300, WIDTH)) @ np.triu(np.ones((WIDTH, WIDTH)))
    spoilt = np.vstack([rows, rows.mean(axis=0) + 1e9 * rows.std(axis=0)])

    def agreement(detector):
        without, with_it = fitted(detector, rows).scores(rows), fitted(detector, spoilt).scores(rows)
        return spearmanr(without, with_it).statistic

    assert agreement(RobustShrinkage()) > 0.999
    assert agreement(REGISTRY["gaussian"]()) < 0.9


def test_one_huge_stream_squeezes_the_others_unless_each_is_scaled_by_itself():
    """Quick waves rank above slow ones; with one wave 1e13 times as large learned they do so only where streams are scaled one by one."""
    rng, time = np.random.default_rng(0), np.linspace(0, 1, 20)

    def waves(frequency):
        return np.sin(2 * np.pi * (frequency * time + rng.uniform(0, 0.1, (100, 1)))) + 0.1 * rng.normal(size=(100, 20))

    rows, queries = waves(1), np.vstack([waves(1), waves(1.15)])
    spoilt = np.vstack([rows, 1e13 * rows[:1]])

    def area(scaling, learned):
        return roc_auc_score(np.arange(200) >= 100, Signature(scaling=scaling).fit(learned).scores(queries))

    assert min(area(scaling, rows) for scaling in ("corpus", "none", "stream")) > 0.99
    assert area("stream", spoilt) > 0.99
    assert max(area(scaling, spoilt) for scaling in ("corpus", "none")) < 0.7


@every_detector
def test_threads_do_not_matter(detector):
    """One thread of linear algebra and two give the same scores but for rounding."""
    rows = normal_rows(0, n=200)
    scores = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            scores.append(fitted(detector, rows).scores(2 * rows))
    rounding = 1e-5 if single(detector) else 1e-9
    np.testing.assert_allclose(scores[1], scores[0], rtol=rounding, atol=rounding * np.median(np.abs(scores[0])))


@every_detector
def test_every_random_choice_has_its_seed_among_the_parameters(detector, monkeypatch):
    """Generators are seeded by ``random_state``, which is stored with the parameters, or always by 0; the global one is left alone."""
    seeds, original = [], np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed=None: seeds.append(seed) or original(seed))
    detector = clone(detector)
    if "random_state" in detector.parameters():
        detector.set_params(random_state=987)
    before = np.random.get_state()
    rows = np.sin(np.arange(160.0).reshape(40, WIDTH) ** 2)
    learned = fitted(detector, rows)
    learned.scores(rows)
    if attributes(learned):
        learned.attributions(rows)
    for one, other in zip(before, np.random.get_state(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert set(seeds) <= {0, detector.parameters().get("random_state", 0)}
