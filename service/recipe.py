"""Recipes: what to fit, as plain data, and whether it can be. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors import REGISTRY, rows_needed
from service.errors import InvalidInput
from service.judges import JUDGES, CombinedJudge, CrossJudge, Held, SplitJudge
from service.names import Method

MOST_FOLDS = 20


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to fit, as plain data."""

    type: str = "gaussian"  # or several, joined by +
    parameters: dict[str, Any] = field(default_factory=dict)
    sum_levels: bool = False  # one model per level of the extractor, for detectors with a parameter `levels`
    calibrate: float = 0.2  # share of the rows held out
    alpha: float = 0.01
    seed: int = 0
    method: Method = "split-conformal"  # of calibration
    folds: int = 5  # of "cross-conformal", which holds no rows out
    trim: float = 0.0  # share of the highest calibration scores left out, for rows of which some may be anomalies

    @property
    def types(self) -> list[str]:
        return self.type.split("+")


def method_for(type_: str) -> Method:
    """The method of calibration where none is asked for."""
    return "combined" if "+" in type_ else "split-conformal"


def check(recipe: Recipe, *, labelled: bool) -> None:
    """Raises InvalidInput for types and parameters that are not there, and for classes that are missing or that nobody asks for."""
    for kind in recipe.types:
        if kind not in REGISTRY:
            raise InvalidInput(f"there is no detector type {kind!r}; there are {', '.join(sorted(REGISTRY))}", "#/type")
        if REGISTRY[kind].LABELLED and not labelled:
            raise InvalidInput(f"detector type {kind!r} learns the classes of the normal rows: name them with classes", "#/classes")
        parameters_of(recipe, kind)
    if labelled and not any(REGISTRY[kind].LABELLED for kind in recipe.types):
        raise InvalidInput(f"detector type {recipe.type!r} learns no classes: leave them away", "#/classes")
    if len(set(recipe.types)) < len(recipe.types):
        raise InvalidInput(f"type {recipe.type!r} names one type twice", "#/type")
    if recipe.method not in JUDGES:
        raise InvalidInput(f"there is no calibration {recipe.method!r}; there are {sorted(JUDGES)}", "#/method")
    if (len(recipe.types) > 1) != (recipe.method == CombinedJudge.METHOD):
        raise InvalidInput(f"{CombinedJudge.METHOD} calibration is for several types, joined by +, and they for it alone", "#/method")
    for name, inside, needed in (
        ("calibrate", 0 < recipe.calibrate < 1, "lie between 0 and 1"),
        ("alpha", 0 < recipe.alpha < 1, "lie between 0 and 1"),
        ("seed", recipe.seed >= 0, "be a whole number of at least 0"),
        ("trim", 0 <= recipe.trim <= 0.5, "lie between 0 and 0.5"),
        ("folds", 2 <= recipe.folds <= MOST_FOLDS, f"lie between 2 and {MOST_FOLDS}: each is a detector to fit and to keep"),
    ):
        if not inside:
            raise InvalidInput(f"{name}={getattr(recipe, name)} must {needed}", f"#/{name}")
    if recipe.trim and recipe.method != SplitJudge.METHOD:
        raise InvalidInput(f"trim is for {SplitJudge.METHOD} calibration, not for {recipe.method}", "#/trim")


def parameters_of(recipe: Recipe, kind: str) -> dict[str, Any]:
    """Those of one of the recipe's types, all of them known to it."""
    parameters = dict(recipe.parameters)
    if len(recipe.types) > 1:
        if unknown := sorted(set(parameters) - set(recipe.types)):
            raise InvalidInput(f"parameters of several types stand under the name of each, which {unknown[0]!r} is not", "#/parameters")
        parameters = dict(parameters.get(kind, {}))
    known = sorted(REGISTRY[kind]().get_params(deep=False))
    if unknown := sorted(set(parameters) - set(known)):
        raise InvalidInput(
            f"detector type {kind!r} has no parameter {unknown[0]!r}; it has {', '.join(known)}", f"#/parameters/{unknown[0]}"
        )
    if recipe.sum_levels and "levels" not in known:
        raise InvalidInput(f"detector type {kind!r} knows no levels to sum over", "#/sum_levels")
    return parameters


def split(rows: int, recipe: Recipe, hashes: NDArray[np.uint64] | None = None) -> Held:
    """Indices of the rows to fit on and of those held out for calibration, drawn by the recipe's seed.

    With ``hashes`` (n,) of the rows' keys, which depend on the seed, those of the smallest are held out, in whatever order the
    rows come. Of "cross-conformal" calibration every row is in both. Raises InvalidInput if so few are held out that no p-value could
    reach alpha.
    """
    order = np.random.default_rng(recipe.seed).permutation(rows) if hashes is None else np.argsort(hashes, kind="stable")
    if recipe.method == CrossJudge.METHOD:
        return np.sort(order), np.sort(order)
    held_out = round(rows * recipe.calibrate)
    if (needed := rows_needed(recipe.alpha)) > held_out:
        raise InvalidInput(
            f"alpha={recipe.alpha} needs at least {needed} calibration rows, and {held_out} of {rows} rows are held out: "
            f"give more rows, hold out a larger share{f', or accept an alpha of at least {1 / (held_out + 1):.3g}' if held_out else ''}",
            "#/alpha",
        )
    if rows - held_out < 2:
        raise InvalidInput(f"{rows - held_out} of {rows} rows are left to fit on; at least 2 are needed", "#/calibrate")
    return np.sort(order[held_out:]), np.sort(order[:held_out])
