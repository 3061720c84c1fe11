"""How versions of each method of calibration are fitted, stored and judge."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detectors import ParetoTail, outliers
from service import engine
from service.archive import pack, unpack
from service.errors import InvalidInput
from service.features import Batch
from service.judges import ClassJudge, CrossJudge, SplitJudge
from service.manifest import Manifest, Source
from service.recipe import Recipe

SOURCE = Source(name="made up", rows=600, sha256="0" * 64)
CLASSES = np.repeat(["bolts", "nuts"], 300)


def rows(count: int = 600, seed: int = 0) -> np.ndarray[Any, Any]:
    """Rows of two classes, the second of which lies elsewhere and spreads twice as far."""
    made = np.random.default_rng(seed).normal(size=(count, 4))
    made[count // 2 :] = 2 * made[count // 2 :] + 12
    return made


def fitted(**recipe: Any) -> engine.Fitted:
    labelled = recipe.get("type") == "class_gaussian"
    return engine.fit(Recipe(alpha=0.05, **recipe), Batch(rows=rows()), classes=CLASSES if labelled else None)


MAKERS = {
    "split": {},
    "trimmed": {"trim": 0.1},
    "classes": {"type": "class_gaussian", "method": "class-conditional"},
    "cross": {"method": "cross-conformal", "folds": 4},
    "combined": {"type": "gaussian+knn", "method": "combined", "parameters": {"knn": {"neighbours": 3}}},
    "cross of classes": {"type": "class_gaussian", "method": "cross-conformal"},
}


@pytest.mark.parametrize("recipe", MAKERS.values(), ids=MAKERS.keys())
def test_a_stored_version_judges_as_before(recipe: dict[str, Any]) -> None:
    """Scores, p-values, decisions and shares of a loaded version equal those of the fitted one bit for bit."""
    before = fitted(**recipe)
    manifest, blobs = pack(before, "pumps", SOURCE)
    after = unpack(Manifest.parse(manifest.canonical()), blobs.__getitem__)
    assert replace(after.recipe, parameters={}) == replace(before.recipe, parameters={})
    batch = Batch(rows=rows(200, seed=1) * 1.5)
    by = None if recipe.get("method") == "combined" else "feature"
    one, other = (engine.score(version, batch, attribute_by=by) for version in (before, after))
    for field in ("scores", "p_values", "is_outlier", "attributions"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
    if one.attributions is not None:
        np.testing.assert_allclose(one.attributions.sum(axis=1), one.scores)
    after.check("pumps", 1)


@pytest.mark.parametrize("recipe", MAKERS.values(), ids=MAKERS.keys())
def test_false_alarms_keep_to_alpha(recipe: dict[str, Any]) -> None:
    """Of fresh normal rows no more are outliers than alpha and the chance of a calibration of this size allow."""
    verdicts = engine.score(fitted(**recipe), Batch(rows=rows(4000, seed=2)), alpha=0.1)
    largest = 0.1 + 0.1 * (recipe.get("trim", 0) > 0) + 0.09  # three standard deviations of the rate given 120 calibration rows
    assert 0.02 < verdicts.is_outlier.mean() < largest


def test_every_class_keeps_its_own_rate() -> None:
    """One calibration for all lets the wide class raise most of the alarms; calibration by class does not."""
    fresh = Batch(rows=rows(4000, seed=3))
    plain = engine.score(fitted(type="class_gaussian"), fresh, alpha=0.1).is_outlier
    by_class = engine.score(fitted(type="class_gaussian", method="class-conditional"), fresh, alpha=0.1)
    assert plain[2000:].mean() > 5 * plain[:2000].mean()
    assert by_class.threshold is None
    assert by_class.nearest_class is not None
    assert (by_class.nearest_class == np.repeat(["bolts", "nuts"], 2000)).mean() > 0.99
    assert 0.02 < by_class.is_outlier[:2000].mean() < 0.22
    assert 0.02 < by_class.is_outlier[2000:].mean() < 0.22


def test_cross_conformal_calibration_wastes_no_row() -> None:
    """All rows are fitted on, all calibrate, and an alpha of 1 / (n + 1) can be reached."""
    cross = fitted(method="cross-conformal", folds=4)
    assert (cross.n_fit, cross.n_calibration, len(cross.judge.detectors)) == (600, 600, 4)
    verdicts = engine.score(cross, Batch(rows=np.full((1, 4), 1e6)), alpha=1 / 601)
    assert verdicts.p_values[0] == 1 / 601
    assert verdicts.is_outlier.all()
    assert verdicts.threshold is None


def test_a_combined_version_finds_what_any_of_its_detectors_finds() -> None:
    """A row between the two classes is normal to one Gaussian of both and far from all neighbours; a row far out is odd to both."""
    parameters = {"knn": {"normalize": False}}
    combined = fitted(type="gaussian+knn", method="combined", parameters=parameters)
    between = Batch(rows=np.full((1, 4), 6.0))
    assert engine.score(fitted(), between).p_values[0] > 0.3
    assert engine.score(combined, between).p_values[0] < 0.03
    assert engine.score(combined, Batch(rows=np.full((1, 4), 1e3))).p_values[0] == 1 / 121


def test_trimming_leaves_out_the_highest_scores() -> None:
    """With anomalies among the rows held out, trimming finds what they would hide."""
    data = rows()
    data[::20] += 60
    clean = Recipe(alpha=0.05, type="robust_shrinkage")
    hidden = engine.fit(clean, Batch(rows=data))
    trimmed = engine.fit(Recipe(alpha=0.05, type="robust_shrinkage", trim=0.05), Batch(rows=data))
    assert trimmed.n_calibration == 114
    np.testing.assert_array_equal(trimmed.judge.reference, hidden.judge.reference[:114])


def test_the_tail_goes_on_where_counting_ends() -> None:
    """Up to the largest calibration score p-values are as without it, and beyond it they fall with the score."""
    version = engine.fit(Recipe(alpha=0.01), Batch(rows=rows(2000)))
    assert isinstance(version.judge, SplitJudge)
    batch = Batch(rows=np.concatenate([rows(200, seed=4), 6 + np.outer(np.linspace(10, 60, 20), np.ones(4))]))
    counted = engine.score(version, batch, alpha=0.01)
    continued = engine.score(version, batch, alpha=0.0005, tail=True)
    np.testing.assert_array_equal(continued.p_values, ParetoTail.of(version.judge.calibration).p_values(counted.scores))
    assert (continued.p_values <= counted.p_values).all()
    assert continued.p_values[-1] < 0.0005 < counted.p_values[-1]
    with pytest.raises(InvalidInput, match="ask for the Pareto tail, which is a model"):
        engine.score(version, batch, alpha=0.0005)


@pytest.mark.parametrize(
    ("recipe", "options", "says"),
    [
        ({"trim": 0.1}, {"tail": True}, "those of this version were trimmed"),
        ({"method": "cross-conformal"}, {"tail": True}, "a Pareto tail continues a split-conformal calibration; this version's is cross"),
        ({}, {"tail": True}, "a Pareto tail needs at least 200 calibration rows, not 120"),
        ({}, {"alpha": 0.001}, "alpha=0.001 needs at least 999 calibration rows; there are 120"),
        ({"type": "class_gaussian", "method": "class-conditional"}, {"alpha": 0.01}, "calibration rows in class"),
        ({"type": "knn"}, {"attribute_by": "component"}, "no principal components"),
        ({"type": "weighting"}, {"attribute_by": "level"}, "do not add up"),
        ({"type": "gaussian+knn", "method": "combined"}, {"attribute_by": "feature"}, "ask one of its detectors"),
        ({"type": "gaussian+knn", "method": "combined"}, {"chi_square": True}, "no chi-square law"),
        ({"type": "knn"}, {"chi_square": True}, "no chi-square law"),
    ],
)
def test_what_a_version_cannot_do_is_said(recipe: dict[str, Any], options: dict[str, Any], says: str) -> None:
    """Each refusal names the reason."""
    with pytest.raises(InvalidInput, match=says):
        engine.score(fitted(**recipe), Batch(rows=rows(3)), **options)


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ({"method": "nope"}, "no calibration 'nope'"),
        ({"method": "combined"}, "is for several types"),
        ({"type": "gaussian+knn"}, "is for several types"),
        ({"type": "gaussian+nope", "method": "combined"}, "no detector type 'nope'"),
        ({"type": "gaussian+knn", "method": "combined", "parameters": {"covariance": "oas"}}, "stand under the name of each"),
        ({"method": "class-conditional"}, "needs a detector that tells the nearest class"),
        ({"method": "cross-conformal", "folds": 1}, "folds=1"),
        ({"trim": 0.6}, "trim=0.6"),
        ({"trim": 0.1, "method": "cross-conformal"}, "trim is for split-conformal calibration, not for cross-conformal"),
        ({"trim": 0.5, "calibrate": 0.05}, "needs at least 19 calibration rows; there are 15"),
    ],
)
def test_recipes_that_cannot_be_are_refused(recipe: dict[str, Any], says: str) -> None:
    """Each refusal names the parameter and what was expected."""
    with pytest.raises(InvalidInput, match=says):
        fitted(**recipe)


def test_classes_are_asked_for() -> None:
    """A type that learns classes says so when there are none."""
    with pytest.raises(InvalidInput, match="learns the classes"):
        engine.fit(Recipe(type="class_gaussian", alpha=0.05), Batch(rows=rows()))


def test_shares_of_levels_and_components_add_up() -> None:
    """They name what they are of, and their sums are the scores."""
    version = engine.fit(Recipe(alpha=0.05), Batch(rows=rows()), levels=(engine.Level("a", 1), engine.Level("b", 3)))
    for by, count, name in (("level", 2, "a"), ("component", 4, "component[0]"), ("feature", 4, "a[0]")):
        verdicts = engine.score(version, Batch(rows=rows(9, seed=5)), attribute_by=by)
        assert verdicts.attributions is not None
        assert verdicts.attributions.shape == (9, count)
        np.testing.assert_allclose(verdicts.attributions.sum(axis=1), verdicts.scores)
        assert version.part_name(0, by) == name


def test_the_chi_square_law_is_offered_beside() -> None:
    """P-values by the model stand beside the calibrated ones and decide nothing."""
    version = engine.fit(Recipe(alpha=0.05), Batch(rows=rows()))
    plain, both = (engine.score(version, Batch(rows=rows(50, seed=6)), chi_square=flag) for flag in (False, True))
    assert plain.chi_square_p_values is None
    assert both.chi_square_p_values is not None
    assert np.corrcoef(both.chi_square_p_values, both.p_values)[0, 1] > 0.9
    np.testing.assert_array_equal(both.is_outlier, outliers(plain.p_values, 0.05))


def test_methods_are_what_they_say() -> None:
    """The method of the recipe is that of the judge."""
    kinds = {"split": SplitJudge, "classes": ClassJudge, "cross": CrossJudge}
    assert {name: type(fitted(**MAKERS[name]).judge) for name in kinds} == kinds
