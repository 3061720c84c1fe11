"""Tables with other columns than those of the fit, and with columns of lists, as the commands take them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from pyarrow import parquet
from typer.testing import CliRunner, Result

from service.cli import app
from service.store import Store
from tests.service.served import rows

Typed = Callable[[str], Result]

OLD, NEW = rows(300), rows(100, seed=2) + 0.5
ARRAYS = {"old": OLD, "new": NEW, "gone": OLD[:40], "row": NEW[:1]}


def columns(array: NDArray[Any], order: tuple[int, ...]) -> pa.Table:
    return pa.table({"id": [f"row {i}" for i in range(len(array))], **{f"x{i}": array[:, i] for i in order}})


def lists(array: NDArray[Any], width: int = 4) -> pa.Table:
    kind = pa.list_(pa.float64())
    return pa.table({"id": [f"row {i}" for i in range(len(array))], "e": pa.array(array[:, :width].tolist(), kind)})


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Typed]:
    """Runs a command in a folder with the same rows as arrays and as tables with keys, on which ``pumps`` and ``lists`` are fitted."""
    folder = tmp_path_factory.mktemp("columns")
    for name, array in ARRAYS.items():
        np.save(folder / f"{name}.npy", array)
        parquet.write_table(columns(array, (0, 1, 2, 3) if name == "old" else (3, 0, 2, 1)), folder / f"{name}.parquet")
        parquet.write_table(lists(array), folder / f"{name}-lists.parquet")
    parquet.write_table(lists(NEW, width=3), folder / "short-lists.parquet")
    before = Path.cwd()
    os.chdir(folder)
    try:
        with Store.open("embedded:./farfield-data"):

            def run(line: str) -> Result:
                return CliRunner().invoke(app, line.split())

            for line in (
                "fit pumps --data old.parquet --key id --column x0 --column x1 --column x2 --column x3 --alpha 0.05",
                "fit lists --data old-lists.parquet --key id --column e --alpha 0.05",
            ):
                done = run(line)
                assert done.exit_code == 0, done.output
            yield run
    finally:
        os.chdir(before)


def told(typed: Typed, line: str) -> Any:
    done = typed(f"{line} --json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def made(typed: Typed, line: str) -> dict[str, Any]:
    """The blobs of the version that an update makes, by their sha256."""
    result = told(typed, line)
    (found,) = [one for one in told(typed, f"versions {result['detector']}") if one["version"] == result["version"]]
    return {name: blob["sha256"] for name, blob in found["blobs"].items()}


@pytest.mark.parametrize(("name", "end"), [("pumps", ""), ("lists", "-lists")])
def test_a_table_is_scored_as_its_rows_are(typed: Typed, name: str, end: str) -> None:
    """The columns of the fit by their names, or the column of lists."""
    assert told(typed, f"score {name}:1 --data new{end}.parquet") == told(typed, f"score {name}:1 --data new.npy")


@pytest.mark.parametrize(("name", "end"), [("pumps", ""), ("lists", "-lists")])
@pytest.mark.parametrize("what", ["--add new", "--forget gone"])
def test_a_table_updates_as_its_rows_do(typed: Typed, name: str, end: str, what: str) -> None:
    """To the last bit; rows to forget are found among those held out, in whatever order their columns stand."""
    assert made(typed, f"update {name}:1 {what}{end}.parquet") == made(typed, f"update {name}:1 {what}.npy")


def test_the_rows_of_a_table_are_found_to_be_forgotten(typed: Typed) -> None:
    """About the share that is held out."""
    done = told(typed, "update pumps:1 --forget gone.parquet")["update"]
    assert done["forgotten"] + done["forgotten_calibration"] == 40
    assert done["forgotten_calibration"] > 0


@pytest.mark.parametrize(("name", "end"), [("pumps", ""), ("lists", "-lists")])
def test_the_row_of_feedback_comes_from_a_table(typed: Typed, name: str, end: str) -> None:
    """Beside its key."""
    assert told(typed, f"feedback {name} k --verdict false_alarm --data row{end}.parquet")["changed"] == 1
    assert told(typed, f"feedback {name}")[0]["row"] is True


@pytest.mark.parametrize("line", ["score lists --data", "update lists --add", "feedback lists k --verdict confirmed --data"])
def test_lists_of_another_length_are_refused(typed: Typed, line: str) -> None:
    """In one line that names what is missing."""
    done = typed(f"{line} short-lists.parquet")
    assert done.exit_code == 1
    assert "short-lists.parquet lacks the columns ['e[3]'] that the detector was fitted on" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("option", ["--add", "--forget"])
def test_an_update_of_no_file_is_refused(typed: Typed, option: str) -> None:
    """As an empty variable of a shell gives it, which must not read the folder or do nothing."""
    done = CliRunner().invoke(app, ["update", "pumps", option, ""])
    assert done.exit_code == 1
    assert "no data are named: give a path or URL" in done.stderr
