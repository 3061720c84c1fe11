"""What a fit keeps of the rows that it has read: sums, a sample, and rows held out. It adds up over chunks and machines. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detectors import REGISTRY, AdditiveDetector, AlphaTooSmall, rows_needed
from detectors.labels import checked
from detectors.rows import RowError
from detectors.state import arrays_of, rebuilt
from models import Extractor, Level
from service.engine import Fitted, Sampled, check_parameters, unfitted, updatable
from service.errors import InvalidInput
from service.features import Batch, Features, numeric_rows
from service.fitting.parted import Parted, refused
from service.fitting.sample import Sample
from service.golden import GOLDEN_INPUT_BYTES, GOLDEN_INPUTS, Golden, size
from service.judges import JUDGES, CrossJudge
from service.recipe import Recipe
from service.reserve import Reserve
from service.sketch import Sketch

Arrays = dict[str, NDArray[Any]]
HELD_ROWS = 10_000  # held out for calibration, at least; more of them would not make a p-value much better
HELD_PER_NEEDED = 4  # times the rows that alpha needs


@dataclass(frozen=True, slots=True)
class Plan:
    """How the rows of a fit too large for memory are shared out; plain values."""

    recipe: Recipe
    levels: tuple[Level, ...]
    share: float  # of the rows that are held out
    most_held: int
    most_sampled: int  # rows that types which do not add up are fitted on
    names: tuple[str, ...] | None
    max_pixels: int

    @classmethod
    def of(
        cls, recipe: Recipe, levels: tuple[Level, ...], rows: int | None, memory: int, names: tuple[str, ...] | None, max_pixels: int
    ) -> Plan:
        """A plan for ``rows`` rows, where they are known, that holds ``memory`` bytes of features at most."""
        if recipe.method == CrossJudge.METHOD:
            raise InvalidInput(
                "cross-conformal calibration needs all rows in the memory of one process: give it more, or hold rows out instead",
                "#/method",
            )
        width = sum(level.width for level in levels)
        wanted = max(HELD_ROWS, HELD_PER_NEEDED * rows_needed(recipe.alpha))
        room = max(1, memory // (8 * width))
        most_held = min(wanted, max(room // 2, HELD_PER_NEEDED * rows_needed(recipe.alpha)))
        share = recipe.calibrate if rows is None else min(recipe.calibrate, most_held / rows)
        return cls(recipe, levels, share, 2 * most_held, max(room // 3, 2), names, max_pixels)

    @property
    def additive(self) -> list[str]:
        """The types that learn sums."""
        return [kind for kind in self.recipe.types if issubclass(REGISTRY[kind], AdditiveDetector)]

    @property
    def sampled(self) -> list[str]:
        """The types that are fitted on a sample."""
        return [kind for kind in self.recipe.types if kind not in self.additive]

    def detector(self, kind: str) -> Any:
        """An unfitted detector of one of the types."""
        return unfitted(self.recipe, kind, self.levels)


@dataclass(slots=True)
class Gathering:
    """What is kept of the rows read so far. ``take`` and ``join`` change it.

    Every row goes by the hash of its key: those under the plan's share are held out, the others are learned, by sums where the
    type learns sums, else by a sample. So it is the same whatever the chunks are and whoever reads them, but for the rounding of sums.
    """

    plan: Plan
    sums: dict[str, Any] = field(default_factory=dict)  # statistics by type
    sample: Sample = field(default_factory=lambda: Sample(1))
    held: Sample = field(default_factory=lambda: Sample(1))
    inputs: dict[int, NDArray[Any] | bytes] = field(default_factory=dict)  # first raw inputs of the rows held out, by hash
    learned: int = 0
    first: Features | None = None  # (1, d)
    varied: bool = False  # whether a row differs from the first
    detectors: dict[str, Any] = field(default_factory=dict)  # those that learn sums, by type, from when they are first needed

    @classmethod
    def begun(cls, plan: Plan) -> Gathering:
        """Nothing yet. Raises InvalidInput for parameters that no detector can have."""
        for kind in plan.additive:
            check_parameters(plan.detector(kind))
        return cls(plan, sample=Sample(plan.most_sampled), held=Sample(plan.most_held))

    def summed(self, chunk: Parted) -> dict[str, Any]:
        """Sums over the learned rows of a chunk, by type; nothing is changed. Raises InvalidInput for rows that cannot be learned."""
        if not (chunk.learned and self.plan.additive):
            return {}
        found, rows, labels = {}, chunk.passing(), chunk.labels()
        for kind in self.plan.additive:
            with refused(chunk):
                found[kind] = self._additive(kind).sums(rows, labels if REGISTRY[kind].LABELLED else None, assume_finite=True)
        return found

    def take(self, chunk: Parted, sums: dict[str, Any]) -> None:
        """Take in the rows of a chunk, and its ``sums``. Raises InvalidInput for rows that cannot be learned."""
        if not len(chunk.features):
            return
        self.first = chunk.features[:1].copy() if self.first is None else self.first
        self.varied = self.varied or bool((chunk.features != self.first).any())
        if chunk.held.any():
            hashes = chunk.hashes[chunk.held]
            self.held.offer(hashes, {"rows": chunk.features[chunk.held], "digests": chunk.digests})
            self._keep_inputs(hashes, chunk.inputs)
        self.learned += chunk.learned
        for kind, more in sums.items():
            add(self.sums, kind, more)
        if self.plan.sampled and chunk.learned:
            labels = chunk.labels()
            beside = {} if labels is None else {"labels": checked(labels, chunk.learned, "a fit")}
            self.sample.offer(chunk.hashes[~chunk.held], {"rows": chunk.rows(), **beside})

    def join(self, other: Gathering) -> None:
        """Take in what ``other`` has."""
        for kind, sums in other.sums.items():
            add(self.sums, kind, sums)
        self.sample.join(other.sample)
        self.held.join(other.held)
        self.inputs = _smallest({**self.inputs, **other.inputs})
        self.learned += other.learned
        if self.first is None:
            self.first, self.varied = other.first, other.varied
        elif other.first is not None:
            self.varied = self.varied or other.varied or bool((other.first != self.first).any())

    def looks(self) -> dict[str, Callable[[Features], Any]]:
        """By type, what has to be summed over all learned rows in a second pass; empty where one suffices."""
        found = {kind: self.plan.detector(kind).second_look(sums) for kind, sums in self.sums.items()}
        return {kind: look for kind, look in found.items() if look}

    def arrays(self) -> Arrays:
        """All of it but the plan, as plain arrays."""
        arrays: Arrays = {"learned": np.array(self.learned), "varied": np.array(self.varied)}
        for name, sample in (("sample", self.sample), ("held", self.held)):
            arrays |= {f"{name}.{key}": value for key, value in sample.arrays().items()}
        arrays |= {f"inputs.{key}": _plain(value) for key, value in self.inputs.items()}
        arrays |= sums_arrays(self.sums)
        return arrays if self.first is None else arrays | {"first": self.first}

    @classmethod
    def restored(cls, plan: Plan, arrays: Arrays) -> Gathering:
        """What gave ``arrays``."""
        return cls(
            plan,
            sums_restored(plan, arrays),
            Sample.restored(below("sample", arrays)),
            Sample.restored(below("held", arrays)),
            _smallest(
                {
                    int(key): value.tobytes() if value.dtype == np.uint8 and value.ndim == 1 else value
                    for key, value in below("inputs", arrays).items()
                }
            ),
            int(arrays["learned"]),
            arrays.get("first"),
            bool(arrays["varied"]),
        )

    def fitted(self, second: dict[str, Any], extractor: Extractor | None) -> Fitted:
        """The detector, calibrated on the rows held out; ``second`` are the sums of the ``looks``. Raises InvalidInput as a fit does."""
        recipe, held, sample = self.plan.recipe, self.held.columns, self.sample.columns
        self._check()
        try:
            detectors = [
                self.plan.detector(kind).fit(sample["rows"], sample.get("labels") if REGISTRY[kind].LABELLED else None)
                if kind in self.plan.sampled
                else self._concluded(kind, second.get(kind))
                for kind in recipe.types
            ]
            judge = JUDGES[recipe.method].calibrated(detectors, held["rows"], recipe.trim)
            judge.judge(held["rows"][:1], recipe.alpha)
        except AlphaTooSmall as error:
            raise InvalidInput(f"{error}: give more rows, hold out a larger share, or accept a larger alpha", "#/alpha") from None
        except RowError as error:  # whose number is one among rows in the order of their hashes
            raise InvalidInput(f"the detector cannot be fitted: one of the rows {error.wrong}", "#/data") from None
        except ValueError as error:
            raise InvalidInput(f"the detector cannot be fitted: {error}", "#/data") from None
        golden = Golden.scored(judge, held["rows"], self._golden_inputs(), extractor)
        rate, untold = len(self.held) / self.held.offered, self.held.offered - len(self.held)
        reserve = Reserve(held["rows"], held["digests"], np.empty(0, np.uint64), rate, untold).bounded(recipe.seed)
        names = list(self.plan.names) if self.plan.names else None
        sampled = Sampled(len(self.sample), self.learned) if self.plan.sampled else None
        kept = reserve if updatable(judge) else None
        sketch = Sketch.of(held["rows"], recipe.seed)
        return Fitted(recipe, judge, self.plan.levels, extractor, golden, self.learned, names, reserve=kept, sampled=sampled, sketch=sketch)

    def _concluded(self, kind: str, second: Any) -> Any:
        return self._additive(kind).concluded(self.sums[kind], second)

    def _additive(self, kind: str) -> Any:
        """The detector of a type that learns sums, which knows how wide rows are."""
        if kind not in self.detectors:
            detector = self.plan.detector(kind)
            detector.n_features_in_ = sum(level.width for level in self.plan.levels)
            self.detectors[kind] = detector  # as a whole: threads may ask for it at the same time
        return self.detectors[kind]

    def _check(self) -> None:
        recipe, held = self.plan.recipe, len(self.held)
        if self.learned < 2:
            raise InvalidInput(f"{self.learned} of the rows are left to fit on; at least 2 are needed", "#/calibrate")
        if not self.varied:
            raise InvalidInput(f"all {self.learned + held} rows are the same: there is no variation to learn what is normal from", "#/data")
        if (needed := rows_needed(recipe.alpha)) > held:
            raise InvalidInput(
                f"alpha={recipe.alpha} needs at least {needed} calibration rows, and {held} of {self.learned + held} rows are held out: "
                "give more rows, hold out a larger share, or accept a larger alpha",
                "#/alpha",
            )

    def _keep_inputs(self, hashes: NDArray[np.uint64], inputs: Batch) -> None:
        found: dict[int, NDArray[Any] | bytes] = {}
        for place in np.argsort(hashes)[: 4 * GOLDEN_INPUTS]:
            if inputs.rows is not None:
                found[int(hashes[place])] = numeric_rows(inputs.rows[[place]])[0]  # never bytes, which images are
            elif inputs.images is not None and size(inputs.images[place]) <= GOLDEN_INPUT_BYTES:
                found[int(hashes[place])] = inputs.images[place]
        self.inputs = _smallest({**self.inputs, **found})

    def _golden_inputs(self) -> Batch:
        values = list(self.inputs.values())
        rows = [value for value in values if isinstance(value, np.ndarray) and value.dtype != np.uint8]
        return Batch(rows=np.stack(rows)) if rows else Batch(images=values or None)


def add(sums: dict[str, Any], kind: str, more: Any) -> None:
    """Add ``more`` to the statistics of one type."""
    sums[kind] = sums[kind] + more if kind in sums else more


def sums_arrays(sums: dict[str, Any], name: str = "sums") -> Arrays:
    """Statistics by type, as plain arrays."""
    return {f"{name}.{kind}.{key}": value for kind, one in sums.items() for key, value in arrays_of(one).items()}


def sums_restored(plan: Plan, arrays: Arrays, name: str = "sums") -> dict[str, Any]:
    """The statistics that gave ``arrays``."""
    parts = {kind: below(f"{name}.{kind}", arrays) for kind in plan.additive}
    return {kind: rebuilt(REGISTRY[kind].State, "statistics", part) for kind, part in parts.items() if part}


def below(name: str, arrays: Arrays) -> Arrays:
    """The arrays whose name begins with ``name`` and a dot, by the rest of it."""
    return {key.removeprefix(f"{name}."): value for key, value in arrays.items() if key.startswith(f"{name}.")}


def _smallest(inputs: dict[int, Any]) -> dict[int, Any]:
    """Those of the smallest hashes, in the order of these, in which a version keeps them."""
    return dict(sorted(inputs.items())[:GOLDEN_INPUTS])


def _plain(value: NDArray[Any] | bytes) -> NDArray[Any]:
    return np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value
