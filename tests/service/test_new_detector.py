"""A new type of detector is one file and its registration: the guide's own example is fitted, stored, loaded and scored."""

from __future__ import annotations

import inspect
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from detectors import REGISTRY, Detector
from detectors.arrays import Rows, Scores, Vector
from detectors.checks import CHECKS, Check
from service import engine
from service.archive import pack, unpack
from service.features import Batch
from service.manifest import Manifest, Source
from service.recipe import Recipe
from tests.service.served import rows

GUIDE = Path(__file__).parents[2] / "CONTRIBUTING.md"


@dataclass(frozen=True, slots=True)
class CentroidState:
    mean: Vector  # (d,)


class Centroid(Detector[CentroidState]):
    State = CentroidState

    def __init__(self, *, contamination: float = 0.1) -> None:
        self.contamination = contamination  # every detector has it, for scikit-learn's predict

    def learn(self, rows: Rows) -> CentroidState:
        return CentroidState(rows.mean(axis=0))

    def anomaly_scores(self, state: CentroidState, rows: Rows) -> Scores:
        return np.linalg.norm(rows - state.mean, axis=1)


def test_the_guide_shows_this_very_detector() -> None:
    """State and class stand there as they do here."""
    for part in (CentroidState, Centroid):
        assert textwrap.indent(inspect.getsource(part), "   ", lambda line: bool(line.strip())) in GUIDE.read_text()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
def test_it_keeps_the_contract(check: Check) -> None:
    """With nothing but its two methods."""
    check("centroid", Centroid(), rows(40))


def test_one_line_in_the_registry_carries_it_through_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe names it, a fit calibrates it, a version holds it, and what comes out of the store scores as what went in."""
    monkeypatch.setitem(REGISTRY, "centroid", Centroid)
    before = engine.fit(Recipe(type="centroid", alpha=0.05), Batch(rows=rows(300)))
    manifest, blobs = pack(before, "pumps", Source(name="random", rows=300, sha256="0" * 64))
    after = unpack(Manifest.parse(manifest.canonical()), blobs.__getitem__)
    assert isinstance(after.detector, Centroid)
    far = Batch(rows=np.vstack([rows(9), rows(1) + 100]))
    one, other = (engine.score(version, far) for version in (before, after))
    np.testing.assert_array_equal(one.scores, other.scores)
    np.testing.assert_array_equal(one.p_values, other.p_values)
    assert other.p_values.argmin() == 9
    assert other.p_values[9] <= 0.05
