"""``farfield update`` and ``farfield versions`` as a user types them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from service.cli import app
from service.store import Store
from service.updates import successors
from tests.service.served import rows

Typed = Callable[[str], Result]


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Typed]:
    """Runs a command in a folder with data and with detector ``pumps``, of which version 2 is version 1 with rows added."""
    folder = tmp_path_factory.mktemp("typed")
    np.save(folder / "a.npy", rows(300))
    np.save(folder / "b.npy", rows(100, seed=2) + 0.5)
    np.save(folder / "gone.npy", rows(300)[:20])
    np.savez(folder / "classes.npz", X=rows(300), y=np.arange(300) % 2)
    before = Path.cwd()
    os.chdir(folder)
    try:
        with Store.open("embedded:./farfield-data"):

            def run(line: str) -> Result:
                return CliRunner().invoke(app, line.split())

            assert run("fit pumps --data a.npy --alpha 0.05 --alias champion").exit_code == 0
            assert run("update pumps --add b.npy").exit_code == 0
            yield run
    finally:
        os.chdir(before)


def test_an_update_tells_what_it_did(typed: Typed) -> None:
    """The number, the parent, what was done, and how far the mean and the covariance moved."""
    done = typed("update pumps:1 --forget gone.npy --add b.npy --half-life 100 --alias next")
    assert done.exit_code == 0, done.output
    counts = re.search(r"^forgotten: (\d+) rows, which were found .*\nforgotten: (\d+) rows, taken out of sums", done.stdout, re.MULTILINE)
    assert counts
    assert sum(map(int, counts.groups())) == 20
    assert 0 < int(counts[1]) < 20
    for text in ("made of version 1", "alias next", "added: 80 rows to those learned, 20 to those held out"):
        assert text in done.stdout
    assert "half-life 100 rows: each earlier row counts 0.5 of what it did" in done.stdout
    assert "the mean moved by" in done.stdout


def test_strangers_are_told_as_such(typed: Typed) -> None:
    """Rows that were never members are found nowhere, and taken out of the sums; the manifest keeps the counts."""
    done = typed("update pumps:1 --forget b.npy")
    assert done.exit_code == 0, done.output
    assert "\nforgotten: 0 rows, which were found among those held out\nforgotten: 100 rows, taken out of sums" in done.stdout
    number = int(re.findall(r"^pumps version (\d+)", done.stdout)[0])
    listed = {entry["version"]: entry for entry in json.loads(typed("versions pumps --json").stdout)}
    assert (listed[number]["update"]["forgotten"], listed[number]["update"]["forgotten_calibration"]) == (100, 0)


def test_an_update_as_json(typed: Typed) -> None:
    """As a job's result has it."""
    result = json.loads(typed("update pumps@champion --merge pumps:1 --add b.npy --json").stdout or "null")
    assert result is None  # a version does not merge with itself
    result = json.loads(typed("update pumps@champion --add b.npy --json").stdout)
    assert (result["parent"], result["update"]["added"]) == (1, 80)
    assert result["difference"]["changes"]["n_fit"] == [240, 320]


def test_the_difference_of_two_versions(typed: Typed) -> None:
    """As a table with sentences, and as JSON."""
    shown = typed("versions pumps --diff 1 2").stdout
    assert "version 1" in shown
    assert "p-value of golden row 0" in shown
    assert "standard deviations" in shown
    found = json.loads(typed("versions pumps --diff 1 2 --json").stdout)
    assert found["changes"]["n_fit"] == [240, 320]
    assert 0.15 < found["shifts"][0]["mean_shift"] < 0.35  # a quarter of the rows lies 1.0 away


def test_the_list_names_the_parent(typed: Typed) -> None:
    """Beside the number."""
    assert "2 of 1" in typed("versions pumps").stdout
    listed = json.loads(typed("versions pumps --json").stdout)
    assert [entry["parent"] for entry in listed[:2]] == [None, 1]
    assert listed[1]["update"]["added_calibration"] == 20


def test_rows_with_classes(typed: Typed) -> None:
    """A detector of classes takes them by the name of their column or array; without, it is refused."""
    assert typed("fit kinds --type class_gaussian --data classes.npz --classes y --alpha 0.05").exit_code == 0
    assert typed("update kinds --add classes.npz --classes y").exit_code == 0
    refused = typed("update kinds --add classes.npz")
    assert refused.exit_code == 1
    assert "give the class of each row" in refused.stderr


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("update pumps", "an update adds rows, forgets rows or merges versions"),
        ("update pumps --merge pumps", "'pumps' names no version to merge: write NAME:NUMBER"),
        ("update pumps --half-life 5 --forget gone.npy", "half_life is counted in rows added"),
        ("update pumps --half-life nan --add b.npy", "must be a positive number of rows"),
        ("update pumps --half-life 1 --add b.npy", "100 rows are 100 half-lives"),
        ("update pumps --add nothing.npy", "nothing.npy"),
        ("update nobody --add b.npy", "there is no detector named 'nobody'"),
        ("update pumps:99 --add b.npy", "has no version 99"),
        ("update pumps --add b.npy --alias v3", "cannot be an alias"),
        ("versions pumps --diff 1 99", "has no version 99"),
        ("versions nobody --diff 1 2", "there is no detector named 'nobody'"),
    ],
)
def test_what_is_refused(typed: Typed, line: str, reason: str) -> None:
    """With one clear line and exit code 1."""
    done = typed(line)
    assert done.exit_code == 1, done.output
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_alias_that_was_moved_meanwhile(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version is there, the alias stays where another put it, and the command says so with exit code 1."""
    whole = successors.updated

    def meanwhile(*given: object, **how: object) -> object:
        assert typed("promote pumps:2 --alias moved").exit_code == 0
        return whole(*given, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(successors, "updated", meanwhile)
    done = typed("update pumps:1 --add b.npy --alias moved")
    assert done.exit_code == 1
    assert "alias 'moved' of detector 'pumps' is at version 2, though it was expected not to be set" in done.stderr
