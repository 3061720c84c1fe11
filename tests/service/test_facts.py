"""What detectors tell of their fit and of rows beyond it, as users see it: over HTTP and on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from typer.testing import CliRunner

from service import engine
from service.cli import app
from service.features import Batch
from service.recipe import Recipe
from tests.service.served import Served, rows, served

CHANNELS = {"channels": 2, "depth": 2, "augmentations": ()}


def streams(count: int, seed: int = 0) -> NDArray[np.float64]:
    """Walks of eight points in one channel, beside a second one that never varies."""
    walks = np.random.default_rng(seed).standard_normal((count, 8)).cumsum(axis=1)
    return np.stack([walks, np.full_like(walks, 3.0)], axis=2).reshape(count, 16)


def weighting(t: float) -> engine.Fitted:
    return engine.fit(Recipe("weighting", {"scale": "fixed", "scale_value": t}, alpha=0.05), Batch(rows=rows(300, width=2)))


@pytest.fixture(scope="module")
def fitted() -> dict[str, engine.Fitted]:
    """Points far closer than 1 / t, whose similarities do not factor as they are; others; and streams."""
    strokes = engine.fit(Recipe("signature", CHANNELS, alpha=0.05), Batch(rows=streams(200)))
    return {
        "close": weighting(1e-14),
        "apart": weighting(1.0),
        "strokes": strokes,
        "cells": engine.fit(Recipe("knn", {"indexed_rows": 2000, "normalize": False}, alpha=0.05), Batch(rows=rows(20_000, width=12))),
        "plain": engine.fit(Recipe(alpha=0.05), Batch(rows=rows(300))),
    }


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, fitted: dict[str, engine.Fitted]) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("facts"), {name: [version] for name, version in fitted.items()}) as service:
        yield service


def listed(running: Served, name: str, *options: str) -> str:
    done = CliRunner().invoke(app, ["versions", name, "--store", running.store_url, *options])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize(("name", "low", "high"), [("close", 1e-12, 1e-10), ("apart", 0, 0)])
def test_the_jitter_of_a_weighting_is_told(running: Served, fitted: dict[str, engine.Fitted], name: str, low: float, high: float) -> None:
    """What the diagonal took to be factored, 0 where it took nothing, beside the number of points and t; the same wherever one looks."""
    state = fitted[name].detector.state_
    assert low <= state.jitter <= high
    expected = {"points": 240, "t": state.t, "jitter": state.jitter}
    assert running.client.get(f"/v1/detectors/{name}/versions/1").json()["facts"] == [expected]
    assert json.loads(listed(running, name, "--json"))[0]["facts"] == [expected]
    assert f"version 1: jitter {state.jitter:g}, points 240, t {state.t:g}\n" in listed(running, name)


def test_a_signature_tells_how_many_directions_it_was_shown(running: Served) -> None:
    """Of two channels with one that never varies: the increment, its square, and the products with the constant, which are all zero."""
    (found,) = running.client.get("/v1/detectors/strokes/versions/1").json()["facts"]
    assert found == {"features": 6, "rank": 2}


def test_an_approximate_search_tells_how_far_off_it_is(running: Served, fitted: dict[str, engine.Fitted]) -> None:
    """On 250 of its rows, each left out; by exact distances to all others the same comes out."""
    detector = fitted["cells"].detector
    (found,) = json.loads(listed(running, "cells", "--json"))[0]["facts"]
    points = detector.state_.points
    asked = points[np.random.default_rng(0).choice(len(points), 250, replace=False)]
    errors = detector.training_scores(detector.state_, asked) / np.sort(cdist(asked, points), axis=1)[:, 5] - 1
    assert errors.min() > -1e-9 and errors.max() > 0.001, "no cell has all neighbours of every row in it"
    assert found["cells"] == len(detector.state_.cells.centres)
    assert found["error_mean"] == pytest.approx(errors.mean(), abs=1e-6)
    assert found["error_95"] == pytest.approx(np.quantile(errors, 0.95), abs=1e-6)
    assert "version 1: cells " in listed(running, "cells")


def test_detectors_without_facts_tell_none(running: Served) -> None:
    """An empty entry, and no line."""
    assert running.client.get("/v1/detectors/plain/versions/1").json()["facts"] == [{}]
    assert "version 1:" not in listed(running, "plain")


@pytest.mark.parametrize("binary", [False, True])
def test_a_stream_off_the_span_is_told_and_ranks_first(running: Served, binary: bool) -> None:
    """One that varies in the constant channel has a finite score above those of all on the span, however far."""
    asked = np.concatenate([streams(30, seed=1), streams(2, seed=2), streams(2, seed=3)])
    asked[30:32, ::2] *= 1e6
    asked[32, 5], asked[33, 5] = 3.5, 1e6
    answer = running.score("strokes", asked if binary else asked.tolist(), params={"alpha": 0.05})
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    scores = np.array([result["score"] for result in results])
    assert np.isfinite(scores).all()
    assert [result["off_span"] for result in results] == [False] * 32 + [True] * 2
    assert scores[30:32].min() > 1000 * scores[:30].max()
    assert scores[32:].min() > 10 * scores[30:32].max()
    assert all(result["is_outlier"] and result["p_value"] == 1 / 41 for result in results[30:])


def test_streams_on_the_span_are_not_marked(running: Served) -> None:
    """Where no row left the span the answer says nothing of it."""
    results = running.score("strokes", streams(5, seed=4).tolist()).json()["results"]
    assert not any("off_span" in result for result in results)
