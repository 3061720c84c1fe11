"""What ``farfield evaluate`` advises, and that it is so."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from service.cli import app
from service.commands import GUIDANCE
from service.engine import fit
from service.evaluation import evaluate
from service.features import Batch
from service.recipe import Recipe

ROOT = Path(__file__).parents[2]
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
    """Beside the figures, which are of clean rows: robust_shrinkage for tables with anomalies among them, gaussian for the rest."""
    file = tmp_path / "labelled.npz"
    np.savez(file, X=np.concatenate([drawn(200, 3), planted(4)]), y=np.arange(200 + PLANTED) >= 200)
    done = CliRunner().invoke(app, ["evaluate", "--data", str(file), "--alpha", "0.1", "--type", "gaussian", "--type", "robust_shrinkage"])
    assert done.exit_code == 0, done.output
    said = " ".join(done.stdout.split())
    assert GUIDANCE in said


def test_the_figures_of_the_advice_are_those_of_the_evidence() -> None:
    """Means over the contaminated tables and embeddings, of as many sets as are named, and in the order that is claimed."""
    page = (ROOT / "docs" / "evidence.md").read_text()
    head, _, *rows = page.split("### contaminated: means over")[1].split("###")[0].strip().splitlines()[2:]
    tables, embeddings = re.findall(r"(?:tables|embeddings) \((\d+)\)", head)
    means = {cells[1].strip(" *"): cells[3:5] for cells in (row.split("|") for row in rows)}
    robust, plain = ([mean.strip() for mean in means[f"farfield {kind}"]] for kind in ("robust_shrinkage", "gaussian"))
    assert f"mean AUROC {robust[0]} on {tables} contaminated tables, gaussian {plain[0]}." in GUIDANCE
    assert f"{plain[1]} on {embeddings} sets, robust_shrinkage {robust[1]}." in GUIDANCE
    assert robust[0] > plain[0]
    assert robust[1] < plain[1]


def test_on_a_contaminated_table_the_advice_holds() -> None:
    """Fitted on rows of which a fifth are anomalies that lie together, robust_shrinkage ranks far above Ledoit-Wolf, which follows them."""
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
