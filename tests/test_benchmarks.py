"""The arithmetic of the comparison with other libraries: splits, chance, ranks, time limits, resuming."""

from __future__ import annotations

import itertools
import json
import os
import warnings
from collections import deque
from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import LocalOutlierFactor

from benchmarks import classes, datasets
from benchmarks.contestants import Contestant, contestants, measure
from benchmarks.datasets import DataSet
from benchmarks.detectors import latest, results, tasks
from benchmarks.pages import written
from benchmarks.protocols import DRAWN_SHARE, PROTOCOLS, Trial
from benchmarks.tables import by_set, per_set, summary, troubles
from detectors import ClassGaussian, Gaussian
from service import evaluation
from service.features import Batch
from service.recipe import Recipe

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(200, 3)) * [1, 10, 100]
ANOMALOUS = np.arange(200) >= 180
ROWS[ANOMALOUS] += [5, 50, 500]


def record(data="a", seed=0, contestant="farfield gaussian", protocol="clean", **others):
    costs = {"fit_seconds": 1.0, "score_us": 2.0, "state_bytes": 3000}
    given = {"status": "ok", "auroc": 0.9, "aupr": 0.8, "fpr95": 0.2, "share": 0.1, "group": "tables", "limit": 60, **costs, **others}
    return {"set": data, "seed": seed, "contestant": contestant, "protocol": protocol, **given}


def test_the_clean_split_is_that_of_evaluate(monkeypatch):
    """Fitted and tested rows are those that farfield's command evaluates with, for the same seed."""
    seen = {}
    fit, score = evaluation.fit, evaluation.score
    monkeypatch.setattr(evaluation, "fit", lambda recipe, batch, **others: seen.update(fit=batch.rows) or fit(recipe, batch, **others))
    monkeypatch.setattr(evaluation, "score", lambda fitted, batch: seen.update(test=batch.rows) or score(fitted, batch))
    evaluation.evaluate(Recipe(alpha=0.1, seed=3), Batch(rows=ROWS), ANOMALOUS.astype(int))
    trial = PROTOCOLS["clean"](ROWS, ANOMALOUS, 3)
    assert_array_equal(trial.fit, seen["fit"])
    assert_array_equal(trial.test, seen["test"])
    assert trial.truth.sum() == ANOMALOUS.sum()


def test_a_contaminated_fit_scores_the_rows_it_fits():
    """A share of all rows, another one with each seed, with the truth of each of them."""
    one, other = (PROTOCOLS["contaminated"](ROWS, ANOMALOUS, seed) for seed in (0, 1))
    assert one.test is None
    assert len(one.fit) == len(one.truth) == DRAWN_SHARE * len(ROWS)
    assert len(np.unique(one.fit, axis=0)) == len(one.fit)
    assert not np.array_equal(one.fit, other.fit)
    assert_array_equal(one.fit[:, 2] > 250, one.truth)


@pytest.mark.parametrize("name", ["clean", "contaminated"])
def test_standardising_uses_the_fitted_rows_alone(name):
    """Fitted columns get mean 0 and deviation 1, tested ones the same transformation, constant ones stay."""
    rows = np.column_stack([ROWS, np.full(len(ROWS), 7.0)])
    plain, scaled = PROTOCOLS[name](rows, ANOMALOUS, 0), PROTOCOLS[f"{name}-standardised"](rows, ANOMALOUS, 0)
    assert_allclose(scaled.fit.mean(axis=0), 0, atol=1e-12)
    assert_allclose(scaled.fit.std(axis=0), [1, 1, 1, 0], atol=1e-12)
    if plain.test is not None:
        assert_allclose(scaled.test[:, :3] * plain.fit[:, :3].std(axis=0) + plain.fit[:, :3].mean(axis=0), plain.test[:, :3])


def test_a_class_set_has_the_share_of_anomalies_that_is_named():
    """The normal class in full, and of the others as many as make the share, always the same ones."""
    classes = np.repeat(np.arange(5), 40)
    features = np.arange(200, dtype=np.float32)[:, None]
    rows, anomalous = datasets._one_class(lambda images: (features, classes), "any", 2)
    assert_array_equal(np.flatnonzero(classes == 2), rows[~anomalous, 0])
    assert anomalous.mean() == datasets.ANOMALY_SHARE
    assert_array_equal(rows, datasets._one_class(lambda images: (features, classes), "any", 2)[0])


def test_sets_are_found_by_folder_under_names_of_their_own(tmp_path):
    """Tables and embeddings as they are in the archives, image sets by class and network; a folder without tables is refused."""
    with pytest.raises(FileNotFoundError, match="give the folder of the data"):
        datasets.datasets(tmp_path, tmp_path)
    for name in ("tabular/adbench/4_wine", "features_nc/mvtec_ad_vit/MVTec-AD_bottle", "features_nc/mvtec_ad_resnet18/MVTec-AD_bottle"):
        (tmp_path / name).parent.mkdir(parents=True)
        np.savez(tmp_path / f"{name}.npz", X=ROWS.astype(np.float32), y=ANOMALOUS.astype(int))
    found = datasets.datasets(tmp_path, tmp_path)
    assert [data.name for data in found[:3]] == ["wine", "MVTec-AD_bottle resnet18", "MVTec-AD_bottle vit"]
    assert [data.group for data in found[:2]] == ["tables", "embeddings"]
    assert len({data.name for data in found}) == len(found) == 3 + 3 + 2 * 2 * len(datasets.CLASSES)
    rows, anomalous = found[0].read()
    assert rows.dtype == np.float64
    assert_array_equal(anomalous, ANOMALOUS)


@pytest.mark.parametrize("library", ["farfield", "scikit-learn"])
def test_all_scores_grow_with_anomaly(library):
    """With the sign and on the rows that each library has, for fitted rows and for others."""
    near = np.random.default_rng(1).normal(size=(60, 2)) + 10
    far = near[:4] + 40 * np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
    truth = np.repeat([False, True], [60, 4])
    for contestant in contestants((library,)):
        clean = measure(contestant, Trial(near[:40], np.concatenate([near[40:], far]), truth[40:]), 0)
        assert clean["status"] == "ok", clean
        assert clean["auroc"] > 0.9 or contestant.name == "farfield knn", contestant.name  # whose rows of one direction are the same to it
        mixed = measure(contestant, Trial(np.concatenate([near, far]), None, truth), 0)
        assert mixed["status"] == "ok", mixed
        assert mixed["state_bytes"] > 0


def test_figures_are_those_of_the_detector():
    """AUROC of its scores; in a contaminated fit the local outlier factor's own, which leave each row out."""
    trial = PROTOCOLS["clean"](ROWS, ANOMALOUS, 0)
    field = {contestant.name: contestant for contestant in contestants(("farfield", "scikit-learn"))}
    found = measure(field["farfield gaussian"], trial, 0)
    assert found["auroc"] == roc_auc_score(trial.truth, Gaussian().fit(trial.fit).scores(trial.test))
    assert found["state_bytes"] > 8 * (3 + 3 * 3)
    mixed = PROTOCOLS["contaminated"](ROWS, ANOMALOUS, 0)
    expected = roc_auc_score(mixed.truth, -LocalOutlierFactor().fit(mixed.fit).negative_outlier_factor_)
    assert measure(field["scikit-learn LocalOutlierFactor"], mixed, 0)["auroc"] == expected


def test_classes_reach_the_detectors_that_learn_them():
    """The others get the same rows without; each form is that of its name."""
    normal, intents = ROWS[~ANOMALOUS], np.repeat(["buy", "sell"], 90)
    normal = normal + 60 * (intents == "buy")[:, None]
    trial = Trial(normal, np.concatenate([normal[::9], ROWS[ANOMALOUS] + [0, 0, 5000]]), np.repeat([False, True], 20))
    found = {contestant.name: measure(contestant, trial, 0) for contestant in classes.field(intents)}
    assert len(found) == len(classes.field(intents))
    assert {record["status"] for record in found.values()} == {"ok"}, found
    relative = ClassGaussian(relative=True).fit(trial.fit, intents).scores(trial.test)
    assert found["farfield class_gaussian, relative=true"]["auroc"] == roc_auc_score(trial.truth, relative)
    on_the_sphere = Gaussian(normalize=True).fit(trial.fit).scores(trial.test)
    assert found["farfield gaussian, normalize=true"]["auroc"] == roc_auc_score(trial.truth, on_the_sphere)


def test_questions_are_fitted_and_tested_as_their_file_splits_them(tmp_path):
    """Training questions with their intents; those of the test without anomaly, those of no intent with."""
    questions = {"train": [["a", "buy"], ["b", "sell"], ["c", "buy"]], "test": [["d", "buy"]], "oos_test": [["e", "oos"], ["f", "oos"]]}
    (tmp_path / "text" / "clinc150").mkdir(parents=True)
    (tmp_path / "text" / "clinc150" / "data_full.json").write_text(json.dumps(questions))
    for number, (part, texts) in enumerate(questions.items()):
        np.save(tmp_path / f"clinc150-{part}.npy", np.full((len(texts), 4), number, np.float32))
    trial, intents = classes.clinc150(tmp_path, tmp_path)
    assert trial.fit.dtype == np.float64
    assert_array_equal(trial.fit, np.zeros((3, 4)))
    assert_array_equal(trial.test[:, 0], [1, 2, 2])
    assert_array_equal(trial.truth, [False, True, True])
    assert intents.tolist() == ["buy", "sell", "buy"]


def test_the_table_of_classes_has_the_best_first_and_dashes_last():
    """Ours bold, costs in the units of the header."""
    records = [record(contestant="x", status="over time"), record(contestant="y", auroc=0.7), record(contestant="farfield z", auroc=0.8)]
    del records[0]["auroc"]
    assert classes.table(records).splitlines()[2:] == [
        "| **farfield z** | 0.800 | 0.800 | 0.200 | 1.00 | 2.0 | 3 |",
        "| y | 0.700 | 0.800 | 0.200 | 1.00 | 2.0 | 3 |",
        "| x | – | – | – | – | – | – |",
    ]


class Failing:
    def fit(self, rows):
        warnings.warn("these rows are odd", stacklevel=1)
        raise ValueError("too odd")


def test_a_failure_is_a_result_with_its_warnings():
    """The error says what and where; warnings come with it."""
    contestant = Contestant("failing", lambda own, seed: Failing(), None, None, None)
    found = measure(contestant, PROTOCOLS["clean"](ROWS, ANOMALOUS, 0), 0)
    assert found["status"] == "failed"
    assert found["error"].startswith("ValueError: too odd (test_benchmarks.py:")
    assert found["warnings"] == ["UserWarning: these rows are odd"]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("jobs", [1, 3])
def test_what_never_ends_or_dies_is_reported_and_the_others_answer(jobs):
    """One record per task: the endless process is ended at the limit, the one that died says so."""
    work = {
        "good": lambda: {"status": "ok"},
        "endless": lambda: deque(itertools.count(), maxlen=0),
        "dies": lambda: os._exit(3),
        "last": lambda: {"status": "ok"},
    }
    found = {r["name"]: r["status"] for r in results((({"name": name}, task) for name, task in work.items()), jobs, 1)}
    assert found == {"good": "ok", "endless": "over time", "dies": "failed", "last": "ok"}


def test_a_second_run_goes_on_where_the_first_stopped():
    """Answers are kept, failures tried again; what ran over time is tried neither again nor with later seeds, unless given longer."""
    field = [Contestant(name, None, None, None, None) for name in ("done", "failed", "slow")]
    data = DataSet("a", "tables", lambda: (ROWS, ANOMALOUS))
    earlier = [
        record(contestant="done"),
        record(contestant="failed", status="failed"),
        record(contestant="slow", status="over time", limit=10),
    ]

    def left(limit):
        return [(about["contestant"], about["seed"]) for about, _ in tasks([data], 2, ["clean"], field, limit, earlier)]

    assert left(10) == [("failed", 0), ("done", 1), ("failed", 1)]
    assert left(20) == [("failed", 0), ("slow", 0), ("done", 1), ("failed", 1), ("slow", 1)]
    unread = DataSet("a", "tables", partial(pytest.fail, "read although nothing is left"))
    assert not list(tasks([unread], 1, ["clean"], field[:1], 10, earlier))


def test_a_later_try_takes_the_place_of_an_earlier_one():
    """Of the same detector, set, seed and protocol alone."""
    failed, other, answered = record(status="failed"), record(seed=1), record(auroc=0.7)
    assert latest([failed, other, answered]) == [answered, other]


def test_no_answer_counts_as_chance():
    """For every seed without one; costs are means over the answers."""
    cells = by_set([record(seed=0, auroc=0.9, fit_seconds=4.0), record(seed=1, status="over time")], ["farfield gaussian"], 2)
    cell = cells["a", "farfield gaussian"]
    assert cell["auroc"] == pytest.approx((0.9 + 0.5) / 2)
    assert cell["aupr"] == pytest.approx((0.8 + 0.1) / 2)
    assert cell["fpr95"] == pytest.approx((0.2 + 1.0) / 2)
    assert cell["fit_seconds"] == 4.0
    assert cell["answered"] == 0.5


def test_tables_rank_average_and_mark():
    """Best mean first, ranks averaged over sets with ties shared and the unanswered last, costs in the units of the header."""
    records = [
        record("a", contestant="x", auroc=0.7), record("a", contestant="y", auroc=0.9), record("a", contestant="z", auroc=0.9),
        record("b", contestant="x", auroc=0.4, group="embeddings"), record("b", contestant="y", auroc=1.0, group="embeddings"),
        record("b", contestant="z", status="failed", error="ValueError: no", group="embeddings"),
    ]  # fmt: skip
    field, groups = ["x", "y", "z"], {"a": "tables", "b": "embeddings"}
    cells = by_set(records, field, 1)
    rows = [line.strip("| ").split(" | ") for line in summary(cells, field, groups).splitlines()]
    assert "the 1 sets that all answered" in rows[0]
    assert [row[0] for row in rows[2:]] == ["y", "z", "x"]
    assert rows[2][1:6] == ["0.950", "0.900", "1.000", "0.900", "1.25"]
    assert rows[3][1:6] == ["0.700", "0.900", "0.500", "0.900", "2.25"]
    assert rows[4][1:6] == ["0.550", "0.700", "0.400", "0.700", "2.50"]
    assert rows[3][-4:] == ["1", "1.000", "2.0", "3"]
    assert per_set(cells, field, groups).splitlines()[2:] == ["| a | 0.700 | **0.900** | **0.900** |", "| b | 0.400 | **1.000** | – |"]
    assert troubles(records).splitlines()[2:] == ["| z | ValueError: no | 1 | b |"]


def test_messages_that_differ_in_numbers_are_one():
    """Counted once per run; the sets of a message are listed, many of them by their number."""
    records = [record(f"s{n}", warnings=[f"W: {n}.5 rows", f"W: {n + 1} rows"]) for n in range(8)]
    records += [record("a", seed=1, status="over time", limit=60)]
    assert troubles(records).splitlines()[2:] == [
        "| farfield gaussian | W: … rows | 8 | s0, s1, s2, s3, s4, s5 and 2 more |",
        "| farfield gaussian | took over 60 s | 1 | a |",
    ]


def test_tables_replace_what_stands_between_the_markers():
    """And nothing else, however often; a page without them is refused."""
    page = "before\n<!-- a: b begins -->\nold\n<!-- a: b ends -->\nafter\n"
    once = written(page, "a: b", "new")
    assert once == "before\n<!-- a: b begins -->\n\nnew\n\n<!-- a: b ends -->\nafter\n"
    assert written(once, "a: b", "new") == once
    with pytest.raises(ValueError, match="must hold the lines"):
        written("no markers", "a: b", "new")
