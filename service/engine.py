"""Fit and score, pure: data in, values out. Knows detectors and extractors; knows no web and no store."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from detectors import REGISTRY, AdditiveDetector, AlphaTooSmall, Detector, outliers
from detectors.rows import counted_among
from models import Extractor, Level
from models.preprocessing import DEFAULT_MAX_PIXELS
from service.errors import InvalidInput
from service.features import Batch, Features, Progress, Timed, extract
from service.golden import Golden
from service.judges import JUDGES, CombinedJudge, CrossJudge, Held, Judge
from service.recipe import Recipe, check, parameters_of, split
from service.reserve import Reserve
from service.sketch import Sketch
from service.verdicts import Verdicts, largest

MOST_LEFT_OUT = 50_000  # scores with a feature left out, in one request


@dataclass(frozen=True, slots=True)
class Sampled:
    """A detector was fitted on ``rows`` of ``of`` rows, drawn at random."""

    rows: int
    of: int

    @property
    def rank_error(self) -> float:
        """How far the rank of any quantile of one feature is off by at most, as a share, with a probability of 95 %.

        The bound of Dvoretzky, Kiefer and Wolfowitz with Massart's constant: sqrt(ln(2 / 0.05) / 2 n) for a sample of n rows.
        """
        return 0.0 if self.rows == self.of else sqrt(log(2 / 0.05) / (2 * self.rows))


@dataclass(frozen=True, slots=True)
class Fitted:
    """A detector with everything that scoring needs."""

    recipe: Recipe
    judge: Judge
    levels: tuple[Level, ...]
    extractor: Extractor | None
    golden: Golden
    n_fit: int
    feature_names: list[str] | None = None
    reserve: Reserve | None = None  # what an update calibrates by; scoring does without
    sampled: Sampled | None = None  # where not all rows could be held at once
    sketch: Sketch | None = None  # of the calibration rows, to tell drift by; versions of earlier releases have none

    @property
    def width(self) -> int:
        return sum(level.width for level in self.levels)

    @property
    def detector(self) -> Detector[Any]:
        """The detector; the first one where there is one per fold."""
        return self.judge.detectors[0]

    @property
    def chi_square_degrees(self) -> int | None:
        """Of the law of normal scores under the model of a single detector, if it has one."""
        return self.detector.chi_square_degrees(self.detector.state_) if len(self.judge.detectors) == 1 else None

    @property
    def attributes(self) -> bool:
        """Whether it can say what each feature adds to a score."""
        return self.judge.METHOD != CombinedJudge.METHOD

    @property
    def n_calibration(self) -> int:
        return len(self.judge.reference)

    def check(self, name: str, number: int) -> None:
        """Score the golden rows again. Raises VersionRefused, of that name and number, where they come out differently."""
        self.golden.check(self.judge, self.extractor, name, number)

    def part_name(self, index: int, by: str) -> str:
        """Name of what a share belongs to: a feature, a level or a principal component."""
        if by == "feature":
            return self.feature_name(index)
        return self.levels[index].name if by == "level" else f"component[{index}]"

    def feature_name(self, column: int) -> str:
        """Name of a column of the features: the data's own, or that of its level with the index in it."""
        if self.feature_names:
            return self.feature_names[column]
        for level in self.levels:
            if column < level.width:
                return f"{level.name}[{column}]"
            column -= level.width
        raise IndexError(column)

    def largest_shares(self, shares: NDArray[np.float64], count: int, by: str = "feature") -> list[list[dict[str, Any]]]:
        """The ``count`` largest of absolute ``shares`` (n, d) in each score, with the names of what they belong to, largest first."""
        order = largest(shares, count)
        values = np.take_along_axis(shares, order, axis=1).tolist()
        return [
            [{by: self.part_name(part, by), "share": share} for part, share in zip(*row, strict=True)]
            for row in zip(order.tolist(), values, strict=True)
        ]

    def check_cost_of_shares(self, rows: int) -> None:
        """Refuse shares of so many rows, each score of which has to be computed again without each feature."""
        scores = rows * self.width * len(self.judge.detectors)
        if self.detector.ATTRIBUTION == "leave_one_out" and scores > MOST_LEFT_OUT:
            most = MOST_LEFT_OUT // (self.width * len(self.judge.detectors))
            raise InvalidInput(
                f"shares of {rows} rows take {scores} scores with a feature left out: ask for {most} rows at a time", "#/attribute"
            )

    def shares(self, features: Features, by: str) -> NDArray[np.float64]:
        """Share of each feature, level or principal component in the score of each row.

        Raises ValueError or NotImplementedError where the detector gives none.
        """
        if by != "level":
            return self.judge.attributions(features, by)
        if self.detector.ATTRIBUTION != "additive":
            raise ValueError("shares of levels are sums of shares of features, which do not add up for this detector")
        ends = np.cumsum([level.width for level in self.levels])[:-1]
        return np.stack([part.sum(axis=1) for part in np.split(self.judge.attributions(features), ends, axis=1)], axis=1)


def fit(
    recipe: Recipe,
    batch: Batch,
    extractor: Extractor | None = None,
    *,
    features: Features | None = None,
    levels: tuple[Level, ...] | None = None,
    feature_names: list[str] | None = None,
    classes: NDArray[Any] | None = None,
    hashes: NDArray[np.uint64] | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    progress: Progress = lambda phase, done, total: None,
) -> Fitted:
    """Fit a detector on one part of ``batch``, all of it normal, and calibrate it on the rest.

    ``features`` are those that the extractor has made of the batch, where it has. ``levels`` says how the columns divide
    where ``batch`` is what an extractor gave before; ``classes`` (n,) are those of the rows, for types that learn them; by
    ``hashes`` (n,) of the rows' keys, where they are given, rows are held out, see ``split``. Raises InvalidInput for data
    that cannot be fitted, and for too few rows to ever raise an alarm at ``recipe.alpha``.
    """
    check(recipe, labelled=classes is not None)
    kept, held_out = split(len(batch), recipe, hashes)
    if features is None:
        features = extract(extractor, batch, max_pixels=max_pixels, progress=progress)
    levels = extractor.levels if extractor else levels or (Level("features", features.shape[1]),)
    if (features == features[0]).all():
        raise InvalidInput(f"all {len(features)} rows are the same: there is no variation to learn what is normal from", "#/data")
    progress("fit", 0, 1)
    try:
        judge = _judge(recipe, [unfitted(recipe, kind, levels) for kind in recipe.types], features, classes, (kept, held_out))
    except AlphaTooSmall as error:
        raise InvalidInput(f"{error}: give more rows, hold out a larger share, or accept a larger alpha", "#/alpha") from None
    except ValueError as error:
        raise InvalidInput(f"the detector cannot be fitted: {error}", "#/data") from None
    golden = Golden.of(judge, batch, features, held_out, extractor)
    progress("fit", 1, 1)
    reserve = Reserve.of(batch.take(held_out), features[held_out], recipe.seed) if updatable(judge) else None
    sketch = Sketch.of(features[held_out], recipe.seed)
    return Fitted(recipe, judge, levels, extractor, golden, len(kept), feature_names, reserve=reserve, sketch=sketch)


def updatable(judge: Judge) -> bool:
    """Whether rows can be added to what ``judge`` has learned, and taken out again: each of its detectors learns sums, of the same rows."""
    return judge.METHOD != CrossJudge.METHOD and all(isinstance(detector, AdditiveDetector) for detector in judge.detectors)


def _judge(recipe: Recipe, detectors: list[Detector[Any]], features: Features, classes: NDArray[Any] | None, held: Held) -> Judge:
    kept, held_out = held
    judge: Judge
    if recipe.method == CrossJudge.METHOD:
        judge = CrossJudge.fitted(detectors[0], features, classes, recipe.folds, recipe.seed)
    else:
        for detector in detectors:
            with counted_among(kept):
                detector.fit(features[kept], classes[kept] if detector.LABELLED and classes is not None else None)
        with counted_among(held_out):
            judge = JUDGES[recipe.method].calibrated(detectors, features[held_out], recipe.trim)
    judge.judge(features[held_out[:1]], recipe.alpha)  # raises AlphaTooSmall
    return judge


def score(
    fitted: Fitted,
    batch: Batch,
    *,
    alpha: float | None = None,
    fdr: bool = False,
    tail: bool = False,
    attribute_by: str | None = None,
    chi_square: bool = False,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> Verdicts:
    """Score, p-value and decision of each row of ``batch``; ``tail`` continues the p-values by a Pareto model.

    ``attribute_by`` "feature", "level" or "component" gives shares in the scores, ``chi_square`` the p-values by the detector's
    own model. Raises InvalidInput, naming the place.
    """
    if len(batch) == 0:
        raise InvalidInput("the batch is empty: give at least one row", "#/rows" if batch.images is None else "#/images")
    alpha = fitted.recipe.alpha if alpha is None else alpha
    seconds: dict[str, float] = {}
    if fitted.extractor is None and batch.rows is not None and batch.rows.ndim == 2:
        _check_width(batch.rows, fitted)  # before anything as large is copied
    with Timed(seconds, "extract"):
        features = extract(fitted.extractor, batch, max_pixels=max_pixels, seconds=seconds)
    _check_width(features, fitted)
    with Timed(seconds, "score"):
        try:
            found = fitted.judge.judge(features, alpha, tail=tail)
        except AlphaTooSmall as error:
            more = "" if tail else ", or ask for the Pareto tail, which is a model"
            raise InvalidInput(f"{error}: accept such an alpha, fit on more rows{more}", "#/alpha") from None
        except ValueError as error:
            raise InvalidInput(str(error), "#/tail" if tail else "#/rows") from None
        off_span = fitted.judge.off_span(found.scores)
        decisions = outliers(found.p_values, alpha, fdr=fdr)
        try:
            if attribute_by:
                fitted.check_cost_of_shares(len(features))
            shares = fitted.shares(features, attribute_by) if attribute_by else None
        except (ValueError, NotImplementedError) as error:
            raise InvalidInput(str(error), "#/attribute_by") from None
        by_model = chi_square_p_values(fitted, found.scores) if chi_square else None
    return Verdicts(
        found.scores, found.p_values, decisions, off_span, alpha, found.threshold, shares, by_model, found.nearest_class, features, seconds
    )


def chi_square_p_values(fitted: Fitted, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """P-values by the chi-square law that the scores would have if the detector's model were true. They are not calibrated."""
    degrees = fitted.chi_square_degrees
    if degrees is None:
        raise InvalidInput(f"scores of this {fitted.recipe.type} version follow no chi-square law under its own model", "#/chi_square")
    return np.asarray(chi2.sf(scores, degrees))


def _check_width(rows: NDArray[Any], fitted: Fitted) -> None:
    if rows.shape[1] != fitted.width:
        raise InvalidInput(f"rows have {rows.shape[1]} features; this detector takes {fitted.width}", "#/rows/0")


def unfitted(recipe: Recipe, kind: str, levels: tuple[Level, ...]) -> Detector[Any]:
    """A detector of one of the recipe's types, with its parameters."""
    summed = {"levels": [level.width for level in levels]} if recipe.sum_levels else {}
    return REGISTRY[kind](**parameters_of(recipe, kind), **summed)


def check_parameters(detector: Detector[Any]) -> None:
    """Raises InvalidInput for parameters that the detector refuses at its fit."""
    try:
        detector._validate_params()  # noqa: SLF001  # the name is scikit-learn's
    except ValueError as error:
        raise InvalidInput(f"the detector cannot be fitted: {error}", "#/parameters") from None
