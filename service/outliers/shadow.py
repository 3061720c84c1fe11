"""Shadows: rows that the version of one alias has scored are scored again by that of another, beside the path of requests, and compared.

Key, in the slot of its detector:

    farfield:{NAME}:shadow   the setting, as JSON

Requests only draw rows and put them on a heap in memory. Where more rows wait than are allowed, new ones are dropped and counted.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import orjson
from numpy.typing import NDArray

from service import errors
from service.connection import Connection, reached
from service.engine import Fitted
from service.features import Batch, Features, extract
from service.outliers.figures import AFTER, BEFORE, BOTH, BUSY, FAILED, NEITHER, OutlierFigures
from service.outliers.sightings import Asked
from service.verdicts import Verdicts
from service.versions import Loaded, Versions

log = logging.getLogger(__name__)

MOST_ROWS = 4096  # that wait to be scored, over all detectors
MOST_BYTES = 64 * 2**20  # of their features and images


@dataclass(frozen=True, slots=True)
class Setting:
    """Of the rows that ``alias`` scores, the share that ``shadow`` scores too."""

    alias: str
    shadow: str
    share: float


@dataclass(slots=True)
class Compared:
    """What this process has found of a pair of versions."""

    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys((BOTH, NEITHER, BEFORE, AFTER), 0))
    difference: float = 0.0  # sum of the absolute differences of p-values


@dataclass(frozen=True, slots=True)
class Pair:
    """A version in memory, and its shadow."""

    version: Loaded
    shadow: Loaded
    setting: Setting
    compared: Compared = field(default_factory=Compared)

    def same(self, other: Pair | None) -> bool:
        return other is not None and (self.version.number, self.shadow.number) == (other.version.number, other.shadow.number)


@dataclass(frozen=True, slots=True)
class Drawn:
    """Rows that wait. Their ``inputs`` are there where the shadow needs other features than the version had."""

    pair: Pair
    p_values: NDArray[np.float64]
    features: Features
    inputs: Batch | None

    @property
    def size(self) -> int:
        """Bytes."""
        images = self.inputs.images if self.inputs and self.inputs.images is not None else ()
        rows = self.inputs.rows.nbytes if self.inputs and self.inputs.rows is not None else 0
        return self.features.nbytes + rows + sum(len(image) if isinstance(image, bytes) else image.nbytes for image in images)


class Shadows:
    """The shadows of all detectors, as a process has them in memory."""

    def __init__(self, connection: Connection, versions: Versions, figures: OutlierFigures, *, seed: int = 0) -> None:
        self._connection, self._versions, self._figures = connection, versions, figures
        self._draw = np.random.default_rng(seed)
        self._pairs: dict[str, Pair] = {}
        self._waiting: deque[Drawn] = deque()
        self._rows = self._bytes = 0  # of what waits
        self._lock = threading.Lock()  # guards the heap and the draw

    # On the path of requests

    def observe(self, loaded: Loaded, verdicts: Verdicts, asked: Asked | None) -> None:
        """Rows were scored. Takes nothing where the version has no shadow, and microseconds where it has."""
        pair = self._pairs.get(loaded.name)
        if pair is None or pair.version.number != loaded.number:
            return
        with self._lock:
            chosen = np.flatnonzero(self._draw.random(len(verdicts.scores)) < pair.setting.share)
            if not len(chosen):
                return
            batch = asked.batch if asked else None
            inputs = None if _same_features(loaded.fitted, pair.shadow.fitted) or batch is None else batch.take(chosen)
            drawn = Drawn(pair, verdicts.p_values[chosen], verdicts.features[chosen], inputs)
            if self._rows + len(chosen) > MOST_ROWS or self._bytes + drawn.size > MOST_BYTES:
                self._figures.unshadowed.labels(loaded.name, BUSY).inc(len(chosen))
            else:
                self._waiting.append(drawn)
                self._count(drawn, +1)

    # Beside it

    def work(self) -> None:
        """Score and compare all rows that wait."""
        while drawn := self._next():
            try:
                p_values = _p_values(drawn)
            except Exception as error:  # noqa: BLE001  # whatever is wrong with a version, the others are compared
                log.warning("version %d of %s cannot shadow: %s", drawn.pair.shadow.number, drawn.pair.shadow.name, error)
                self._figures.unshadowed.labels(drawn.pair.version.name, FAILED).inc(len(drawn.p_values))
                continue
            self._compare(drawn, p_values)

    def refresh(self, names: Sequence[str]) -> None:
        """Look up the settings of these detectors, and load what shadows. Raises StoreUnavailable; what shadows goes on then."""
        with reached():
            asked = self._connection.client.pipeline(transaction=False)
            for name in names:
                asked.get(_key(name))
            found = dict(zip(names, asked.execute(), strict=True))
        settings = {name: Setting(**orjson.loads(text)) for name, text in found.items() if text}
        pairs = {name: pair for name, setting in settings.items() if (pair := self._pair(name, setting))}
        for name, old in self._pairs.items():
            if not old.same(pairs.get(name)):
                self._figures.forget_pairs(name)
        for name, pair in pairs.items():
            self._figures.declare_pair(name, pair.version.number, pair.shadow.number)
        self._pairs = pairs

    def put(self, name: str, setting: Setting) -> None:
        """Raises InvalidInput for a setting that compares nothing, UnknownDetector or UnknownAlias."""
        if setting.alias == setting.shadow:
            raise errors.InvalidInput(f"alias {setting.alias!r} cannot be its own shadow", "#/shadow")
        for alias in (setting.alias, setting.shadow):
            self._versions.get(name, alias)
        text = orjson.dumps({"alias": setting.alias, "shadow": setting.shadow, "share": setting.share})
        with reached():
            self._connection.client.set(_key(name), text)
        self.refresh(sorted({name, *self._pairs}))

    def get(self, name: str) -> tuple[Setting, Pair | None]:
        """The setting, and the pair that this process compares, if both aliases mean two versions. Raises UnknownShadow."""
        with reached():
            text = self._connection.client.get(_key(name))
        if text is None:
            raise errors.UnknownShadow(name)
        return Setting(**orjson.loads(text)), self._pairs.get(name)

    def delete(self, name: str) -> None:
        """Raises UnknownShadow."""
        with reached():
            gone = self._connection.client.unlink(_key(name))
        self.refresh(sorted(self._pairs))
        if not gone:
            raise errors.UnknownShadow(name)

    def _next(self) -> Drawn | None:
        with self._lock:
            if not self._waiting:
                return None
            drawn = self._waiting.popleft()
            self._count(drawn, -1)
            return drawn

    def _count(self, drawn: Drawn, sign: int) -> None:
        self._rows += sign * len(drawn.p_values)
        self._bytes += sign * drawn.size

    def _pair(self, name: str, setting: Setting) -> Pair | None:
        """The versions that the aliases mean now; None where one means nothing, or both mean the same."""
        try:
            version, shadow = self._versions.get(name, setting.alias), self._versions.get(name, setting.shadow)
        except (errors.NotFound, errors.VersionRefused):
            return None
        if version.number == shadow.number:
            return None
        pair, old = Pair(version, shadow, setting), self._pairs.get(name)
        return Pair(version, shadow, setting, old.compared) if old and pair.same(old) else pair

    def _compare(self, drawn: Drawn, p_values: NDArray[np.float64]) -> None:
        pair = drawn.pair
        labels = (pair.version.name, str(pair.version.number), str(pair.shadow.number))
        if not pair.same(self._pairs.get(pair.version.name)):
            return  # another shadow by now: its series are gone and stay gone
        alpha = pair.version.fitted.recipe.alpha
        by_version, by_shadow = drawn.p_values <= alpha, p_values <= alpha
        counts = {
            BOTH: by_version & by_shadow,
            NEITHER: ~by_version & ~by_shadow,
            BEFORE: by_version & ~by_shadow,
            AFTER: ~by_version & by_shadow,
        }
        for what, rows in counts.items():
            pair.compared.rows[what] += int(rows.sum())
            self._figures.shadowed.labels(*labels, what).inc(int(rows.sum()))
        differences = np.abs(drawn.p_values - p_values)
        pair.compared.difference += float(differences.sum())
        histogram = self._figures.differences.labels(*labels)
        for difference in differences.tolist():
            histogram.observe(difference)


def _p_values(drawn: Drawn) -> NDArray[np.float64]:
    """By the shadow. Raises InvalidInput where it cannot score rows such as these."""
    version, shadow = drawn.pair.version.fitted, drawn.pair.shadow.fitted
    features = drawn.features
    if not _same_features(version, shadow):
        if drawn.inputs is None:
            raise errors.InvalidInput("it needs another extractor's features, and the rows came without their inputs")
        features = extract(shadow.extractor, drawn.inputs)
    elif version.feature_names != shadow.feature_names:
        raise errors.InvalidInput("its features have other names")
    if features.shape[1] != shadow.width:
        raise errors.InvalidInput(f"rows have {features.shape[1]} features, and it takes {shadow.width}")
    return shadow.judge.judge(features, shadow.recipe.alpha).p_values


def _same_features(one: Fitted, other: Fitted) -> bool:
    return (one.extractor.digest if one.extractor else None) == (other.extractor.digest if other.extractor else None)


def _key(name: str) -> str:
    return f"farfield:{{{name}}}:shadow"
