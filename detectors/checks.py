"""What every detector promises, as functions to call: one promise each, stated in its docstring.

A check takes the registered name of a detector, the detector with its parameters, and normal rows
(n, d) that it can learn, n >= 20 and d >= 3; it raises AssertionError where the promise is broken.
``CHECKS`` hold for every detector, ``ADDITIVE_CHECKS`` for those that learn from sums.

>>> from detectors import Gaussian
>>> rows = np.random.default_rng(0).normal(size=(40, 4))
>>> for check in CHECKS + ADDITIVE_CHECKS:
...     check("gaussian", Gaussian(), rows)
"""

# ruff: noqa: S101, ARG001  # a check is an assertion, and all checks take the same three arguments

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import clone

from detectors.additive import AdditiveDetector
from detectors.arrays import Rows, Scores
from detectors.base import Detector
from detectors.state import dumps, loads

Check = Callable[[str, Any, Rows], None]

ALONE = 1e-9  # relative: a row's score may depend on its batch by the order of summation only
SINGLE = 1e-5  # relative: either of them in single precision
MERGED = 1e-10  # relative: sums in another order


def check_scoring_changes_nothing(kind: str, detector: Detector[Any], rows: Rows) -> None:
    """The same rows get the same scores however often they are asked about, and the state stays bit for bit."""
    fitted = _fitted(detector, rows)
    before = _frozen(kind, fitted)
    np.testing.assert_array_equal(fitted.scores(rows[::2] + 1), fitted.scores(rows[::2] + 1))
    assert _frozen(kind, fitted) == before


def check_rows_are_scored_alone(kind: str, detector: Detector[Any], rows: Rows) -> None:
    """A row's score does not depend on the rows it comes with."""
    fitted = _fitted(detector, rows)
    one_by_one = np.concatenate([fitted.scores(row[None]) for row in _strange(rows)])
    np.testing.assert_allclose(fitted.scores(_strange(rows)), one_by_one, rtol=_rounding(detector, ALONE))


def check_order_of_rows_is_immaterial(kind: str, detector: Detector[Any], rows: Rows) -> None:
    """Rows in another order teach the same."""
    shuffled = np.random.default_rng(0).permutation(rows)
    _assert_same_scores(_fitted(detector, shuffled), _fitted(detector, rows), rows)


def check_input_stays_untouched(kind: str, detector: Detector[Any], rows: Rows) -> None:
    """Neither learning nor scoring writes into the caller's array, and writing into it later changes no model."""
    ours = rows.copy()
    fitted = _fitted(detector, ours)
    fitted.scores(ours)
    np.testing.assert_array_equal(ours, rows)
    before = _frozen(kind, fitted)
    ours[:] = 7.0
    assert _frozen(kind, fitted) == before


def check_fitting_again_forgets(kind: str, detector: Detector[Any], rows: Rows) -> None:
    """A second fit leaves nothing of the first."""
    first = 3 * rows[: len(rows) // 2] + 1
    again = _fitted(detector, first).fit(rows, *_classes(detector, rows))
    assert _frozen(kind, again) == _frozen(kind, _fitted(detector, rows))


def check_state_round_trips(kind: str, detector: Detector[Any], rows: Rows) -> None:
    """A saved and loaded detector has the same state and the same scores, bit for bit."""
    fitted = _fitted(detector, rows)
    loaded = loads(*dumps(kind, fitted), {kind: type(detector)})
    assert _frozen(kind, loaded) == _frozen(kind, fitted)
    np.testing.assert_array_equal(loaded.scores(_strange(rows)), fitted.scores(_strange(rows)))


def check_unknown_state_is_refused(kind: str, detector: Detector[Any], rows: Rows) -> None:
    """Another format, an unknown type or parameter, a missing array and one too many raise ValueError."""
    text, arrays = dumps(kind, _fitted(detector, rows))
    registry = {kind: type(detector)}
    header = json.loads(text)
    parameters = header["parameters"] | {"no_such_parameter": 1}
    for wrong in ({"format": 999}, {"type": "no_such_type"}, {"parameters": parameters}):
        _assert_refused(loads, json.dumps(header | wrong), arrays, registry)
    for name in header:
        _assert_refused(loads, json.dumps({k: v for k, v in header.items() if k != name}), arrays, registry)
    for name in arrays:
        _assert_refused(loads, text, {k: v for k, v in arrays.items() if k != name}, registry, naming=name)
    _assert_refused(loads, text, arrays | {"no_such_array": np.zeros(1)}, registry, naming="no_such_array")


def check_odd_rows_survive(kind: str, detector: Detector[Any], rows: Rows) -> None:
    """A constant column, repeated rows, one row repeated and more columns than rows give finite scores."""
    constant = rows.copy()
    constant[:, 1] = 0.1
    for odd in (constant, np.tile(rows[:5], (4, 1)), np.tile(rows[:1], (20, 1)), rows[: rows.shape[1] - 1]):
        fitted = clone(detector).fit(odd, np.arange(len(odd)) % 2)
        assert np.isfinite(fitted.scores(np.concatenate([odd, _strange(rows)]))).all()


def check_what_is_not_finite_is_refused(kind: str, detector: Detector[Any], rows: Rows) -> None:
    """NaN and infinity raise ValueError, in learning and in scoring, and the message names row and column."""
    fitted = _fitted(detector, rows)
    for bad in (np.nan, np.inf, -np.inf):
        wrong = rows.copy()
        wrong[7, 2] = bad
        for form in (wrong, wrong.tolist()):
            _assert_refused(clone(detector).fit, form, *_classes(detector, rows), naming="row 7, column 2")
            _assert_refused(fitted.scores, form, naming="row 7, column 2")


def check_wrong_width_is_refused(kind: str, detector: Detector[Any], rows: Rows) -> None:
    """Rows with another number of features than those learned raise ValueError."""
    fitted = _fitted(detector, rows)
    _assert_refused(fitted.scores, rows[:, 1:], naming="features")
    _assert_refused(fitted.scores, np.hstack([rows, rows]), naming="features")


def check_huge_rows_have_finite_scores(kind: str, detector: Detector[Any], rows: Rows) -> None:
    """Scores and attributions are finite as far as float64 reaches."""
    fitted = _fitted(detector, rows)
    huge = 1e300 * np.sign(_strange(rows))
    assert np.isfinite(fitted.scores(huge)).all()
    if attributes(detector):
        assert np.isfinite(fitted.attributions(huge)).all()


def check_farther_is_stranger(kind: str, detector: Detector[Any], rows: Rows) -> None:
    """Along a ray away from the normal rows the score grows strictly."""
    fitted = _fitted(detector, rows)
    for direction in np.random.default_rng(0).normal(size=(5, rows.shape[1])):
        along = rows.mean(axis=0) + np.outer([3, 10, 30, 1e3, 1e6], direction * rows.std(axis=0))
        assert (np.diff(fitted.scores(along)) > 0).all()


def check_additive_attributions_add_up(kind: str, detector: Detector[Any], rows: Rows) -> None:
    """Attributions that are called additive have one share per feature and add up to the score."""
    fitted = _fitted(detector, rows)
    if attributes(detector) and detector.ATTRIBUTION == "additive":
        shares = fitted.attributions(_strange(rows))
        assert shares.shape == rows.shape
        gap = np.abs(shares.sum(axis=1) - fitted.scores(_strange(rows)))
        assert (gap <= _rounding(detector, ALONE) * np.abs(shares).sum(axis=1)).all()


def check_normal_features_have_no_share(kind: str, detector: Detector[Any], rows: Rows) -> None:
    """Attributions by leaving one out have one share per feature, which is zero where the feature has the value of its baseline."""
    fitted = _fitted(detector, rows)
    if attributes(detector) and detector.ATTRIBUTION == "leave_one_out":
        strange = _strange(rows)
        assert np.isfinite(fitted.attributions(strange)).all()
        assert fitted.attributions(strange).shape == rows.shape
        strange[:, 1] = fitted.baseline(fitted.state_, strange)[:, 1]
        unchanged = fitted.baseline(fitted.state_, strange)[:, 1] == strange[:, 1]
        np.testing.assert_allclose(fitted.attributions(strange)[unchanged, 1], 0, atol=ALONE * np.abs(fitted.scores(strange)).max())


def check_planted_column_ranks_first(kind: str, detector: Detector[Any], rows: Rows) -> None:
    """Where one feature of a normal row is made strange, none has a larger share of the score."""
    fitted = _fitted(detector, rows)
    if attributes(detector):
        for column in range(rows.shape[1]):
            planted = rows.copy()
            planted[:, column] += 1e3 * rows[:, column].std()
            assert (fitted.attributions(planted).argmax(axis=1) == column).all(), f"column {column}"


def check_merged_shards_equal_the_whole(kind: str, detector: AdditiveDetector[Any, Any], rows: Rows) -> None:
    """Shards merged in any order give the scores of one fit over all rows."""
    whole = _fitted(detector, rows)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(7)
        shards = [clone(detector).partial_fit(rows[i::7], *_classes(detector, rows[i::7])) for i in order]
        merged = shards[0]
        for shard in shards[1:]:
            merged.merge(shard)
        _assert_same_scores(merged, whole, rows)


def check_blocks_equal_the_whole(kind: str, detector: AdditiveDetector[Any, Any], rows: Rows) -> None:
    """Rows learned in blocks of any size, single rows too, give the scores of one fit."""
    whole = _fitted(detector, rows)
    for size in (1, 3, len(rows) - 1, len(rows)):
        blocks = clone(detector)
        for start in range(0, len(rows), size):
            block = rows[start : start + size]
            blocks.partial_fit(block, *_classes(detector, block))
        _assert_same_scores(blocks, whole, rows)


def check_forgetting_undoes_learning(kind: str, detector: AdditiveDetector[Any, Any], rows: Rows) -> None:
    """Rows taken out again leave the state of the others; all of them cannot be taken out."""
    kept = len(rows) // 2
    fitted = _fitted(detector, rows).forget(rows[kept:], *_classes(detector, rows[kept:]))
    _assert_same_scores(fitted, _fitted(detector, rows[:kept]), rows)
    _assert_refused(fitted.forget, rows[:kept], *_classes(detector, rows[:kept]))


def check_strangers_do_not_merge(kind: str, detector: AdditiveDetector[Any, Any], rows: Rows) -> None:
    """Detectors of other parameters or another width are refused by ``merge``; a loaded twin is not."""
    fitted = _fitted(detector, rows)
    other = _fitted(clone(detector).set_params(contamination=detector.contamination / 2), rows)
    _assert_refused(fitted.merge, other, naming="parameters")
    loaded = loads(*dumps(kind, _fitted(detector, rows)), {kind: type(detector)})
    _assert_same_scores(fitted.merge(loaded), _fitted(detector, np.concatenate([rows, rows])), rows)


CHECKS: list[Check] = [
    check_scoring_changes_nothing,
    check_rows_are_scored_alone,
    check_order_of_rows_is_immaterial,
    check_input_stays_untouched,
    check_fitting_again_forgets,
    check_state_round_trips,
    check_unknown_state_is_refused,
    check_odd_rows_survive,
    check_what_is_not_finite_is_refused,
    check_wrong_width_is_refused,
    check_huge_rows_have_finite_scores,
    check_farther_is_stranger,
    check_additive_attributions_add_up,
    check_normal_features_have_no_share,
    check_planted_column_ranks_first,
]

ADDITIVE_CHECKS: list[Check] = [
    check_merged_shards_equal_the_whole,
    check_blocks_equal_the_whole,
    check_forgetting_undoes_learning,
    check_strangers_do_not_merge,
]


def _strange(rows: Rows) -> Rows:
    """Rows unlike those learned: shifted, and spread over several scales."""
    return rows * np.geomspace(0.1, 100, len(rows))[:, None] + 0.5


def _frozen(kind: str, detector: Detector[Any]) -> tuple[str, dict[str, tuple[str, tuple[int, ...], bytes]]]:
    """All that is saved of a detector, in a form that ``==`` compares bit for bit."""
    text, arrays = dumps(kind, detector)
    return text, {name: (str(array.dtype), array.shape, array.tobytes()) for name, array in arrays.items()}


def _assert_same_scores(left: Detector[Any], right: Detector[Any], rows: Rows) -> None:
    expected: Scores = right.scores(_strange(rows))
    rounding = _rounding(left, MERGED)
    np.testing.assert_allclose(left.scores(_strange(rows)), expected, rtol=rounding, atol=rounding * np.median(np.abs(expected)))


def _assert_refused(call: Callable[..., object], *arguments: Any, naming: str = "") -> None:
    message = None
    try:
        call(*arguments)
    except ValueError as error:
        message = str(error)
    assert message is not None, "nothing was refused where a ValueError was promised"
    assert naming in message, f"the refusal does not name {naming!r}: {message}"


def attributes(detector: Detector[Any]) -> bool:
    """Whether it says what each feature adds to a score."""
    return type(detector).attribute is not Detector.attribute or type(detector).baseline is not Detector.baseline


def _classes(detector: Detector[Any], rows: Rows) -> tuple[Any, ...]:
    """What ``fit`` takes besides ``rows``: their classes, told from the rows themselves, where the detector is for labelled rows."""
    return (np.where(rows[:, 0] > rows[:, 1], "above", "below"),) if detector.LABELLED else ()


def _fitted(detector: Any, rows: Rows) -> Any:
    return clone(detector).fit(rows, *_classes(detector, rows))


def _rounding(detector: Detector[Any], tolerance: float) -> float:
    """``tolerance``, or what single precision has of it where the detector says that it computes in that."""
    return SINGLE if getattr(detector, "precision", None) == "float32" else tolerance
