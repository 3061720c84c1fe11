"""What ``farfield evaluate`` advises, and that it is so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from service.cli import app
from service.engine import fit
from service.evaluation import evaluate
from service.features import Batch
from service.recipe import Recipe

WIDTH, PLANTED = 12, 60
MIXED = np.linalg.cholesky(0.8 ** np.abs(np.subtract.outer(np.arange(WIDTH), np.arange(WIDTH))))


def drawn(count: int, seed: int) -> NDArray[np.float64]:
    """Normal rows whose columns depend on those beside them."""
    return np.random.default_rng(seed).standard_normal((count, WIDTH)) @ MIXED.T


def planted(seed: int) -> NDArray[np.float64]:
    """Anomalies: rows that lie together, out along one direction."""
    return 0.3 * drawn(PLANTED, seed) + 4


def area(kind: str, fitted_on: NDArray[np.float64]) -> float:
    """Area under the ROC curve of a detector on fresh rows and fresh anomalies."""
    asked = np.concatenate([drawn(400, 1), planted(2)])
    detector = fit(Recipe(kind, alpha=0.1), Batch(rows=fitted_on)).detector
    return float(roc_auc_score(np.arange(len(asked)) >= 400, detector.scores(asked)))


def test_evaluate_says_what_to_take_for_which_rows(tmp_path: Path) -> None:
    """Beside the figures, which are of clean rows: robust_shrinkage where there may be anomalies, gaussian or weighting where not."""
    file = tmp_path / "labelled.npz"
    np.savez(file, X=np.concatenate([drawn(200, 3), planted(4)]), y=np.arange(200 + PLANTED) >= 200)
    done = CliRunner().invoke(app, ["evaluate", "--data", str(file), "--alpha", "0.1", "--type", "gaussian", "--type", "robust_shrinkage"])
    assert done.exit_code == 0, done.output
    said = " ".join(done.stdout.split())
    assert "The rows fitted on here are clean. If yours may hold anomalies, prefer robust_shrinkage" in said
    assert "on clean rows gaussian and weighting mostly rank better" in said


def test_on_contaminated_rows_the_advice_holds() -> None:
    """Fitted on rows of which a fifth are anomalies, robust_shrinkage ranks far above Ledoit-Wolf, which follows them."""
    contaminated = np.concatenate([drawn(300, 5), planted(6)])
    assert area("robust_shrinkage", contaminated) > area("gaussian", contaminated) + 0.1


@pytest.mark.parametrize(("rival", "apart"), [("gaussian", 0.0), ("weighting", 4.0)])
def test_on_clean_rows_the_advice_holds(rival: str, apart: float) -> None:
    """Fitted on few clean rows, as ``evaluate`` does, gaussian ranks better where they are of one law, weighting where they are of two."""
    areas: dict[str, list[float]] = {"robust_shrinkage": [], rival: []}
    for seed in range(8):
        normal = drawn(100, seed) + apart * np.repeat([-1.0, 1.0], 50)[:, None]
        anomalous = 1.2 * np.random.default_rng(100 + seed).standard_normal((200, WIDTH))
        batch, labels = Batch(rows=np.concatenate([normal, anomalous])), np.repeat([0, 1], [100, 200])
        for kind, found in areas.items():
            found.append(evaluate(Recipe(kind, alpha=0.2, seed=seed), batch, labels).auroc)
    assert np.mean(areas[rival]) > np.mean(areas["robust_shrinkage"])
