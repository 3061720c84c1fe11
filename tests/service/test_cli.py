"""The command line, as a user types it: each command in a process of its own, with real files and a real store."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet
from rich.console import Console
from typer.testing import CliRunner

from service import terminal
from service.cli import COMMANDS, app
from service.store import Store
from tests.service.served import NORMAL, rows

ENVIRONMENT = {key: value for key, value in os.environ.items() if not key.startswith("FARFIELD_")}


@dataclass(frozen=True)
class Shell:
    """A folder with data, in which commands are typed."""

    folder: Path

    def run(self, line: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "service.cli", *line.split()]
        done = subprocess.run(
            command, cwd=self.folder, env={**ENVIRONMENT, **environment}, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == code, (line, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    def out(self, line: str, **environment: str) -> str:
        return self.run(line, **environment).stdout

    def quick(self, line: str, code: int = 0) -> str:
        """The same in this process, where what matters is what the command does, not how it is started."""
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            done = CliRunner().invoke(app, line.split())
        finally:
            os.chdir(before)
        assert done.exit_code == code, (line, done.output, done.exception)
        return done.stdout

    def json(self, line: str) -> Any:
        return json.loads(self.quick(line))


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A folder with files, and detector ``pumps`` with three versions; a member keeps the embedded store running."""
    folder = tmp_path_factory.mktemp("shell")
    write_data(folder)
    shell = Shell(folder)
    with Store.open(f"embedded:{folder / 'farfield-data'}"):
        shell.run("fit pumps --data rows.npy --alpha 0.05 --alias champion")
        shell.quick("fit pumps --data rows.npz --alpha 0.05 --param covariance=oas --param normalize=true --seed 7")
        shell.quick("fit pumps --data rows.csv --alpha 0.05")
        yield shell


def write_data(folder: Path) -> None:
    data = rows(200, width=3)
    odd = rows(40, width=3, seed=2) + 6
    labelled, labels = np.concatenate([data, odd]), np.repeat([0, 1], [200, 40])
    np.save(folder / "rows.npy", data)
    np.savez(folder / "rows.npz", X=data)
    np.savez(folder / "labelled.npz", X=labelled, y=labels)
    np.save(folder / "all.npy", labelled)
    np.save(folder / "labels.npy", labels)
    table = pa.table({"flow": data[:, 0], "heat[C]": data[:, 1], "load": data[:, 2]})
    csv.write_csv(table, folder / "rows.csv")
    parquet.write_table(table, folder / "rows.parquet")
    columns = {"flow": labelled[:, 0], "kind": labels, "heat[C]": labelled[:, 1], "load": labelled[:, 2]}
    csv.write_csv(pa.table(columns), folder / "labelled.csv")
    (folder / "images").mkdir()
    for path in NORMAL[:40]:
        (folder / "images" / path.name).write_bytes(path.read_bytes())


def test_help_and_usage(shell: Shell) -> None:
    """Help is there for every command, with exit code 0; wrong usage is 2."""
    assert "farfield" in shell.out("--help")
    for command in ("fit", "score", "evaluate", "detectors", "versions", "promote", "rollback", "serve", "demo", "doctor"):
        assert "Usage" in shell.quick(f"{command} --help")
    wrong = ["nonsense", "fit", "fit x", "score", "fit x --data rows.npy --alpha much", "score pumps --data rows.npy --attribute -1"]
    for line in (*wrong, "detectors --nope"):
        shell.quick(line, code=2)


def test_fit_says_what_it_made(shell: Shell) -> None:
    """One line on stdout, which names the version; on stderr what the data are, and progress as plain lines where that is no terminal."""
    done = shell.run("fit said --data rows.parquet --alpha 0.05 --calibrate 0.25 --alias shadow")
    assert done.stdout == "said version 1: gaussian on 150 rows x 3 features, split-conformal calibration on 50 rows, alias shadow\n"
    form, columns, fingerprint, *progress = done.stderr.splitlines()
    assert form.startswith("parquet: 1 files in 1 parts, ")
    assert form.endswith(" bytes; 200 rows of 3 float64")
    assert columns == "columns: flow, heat[C], load"
    assert re.fullmatch("fingerprint: [0-9a-f]{64}", fingerprint)
    assert progress == ["read: 0 of 200", "read: 200 of 200", "fit: 0 of 1", "fit: 1 of 1"]
    assert shell.json("detectors --json")[-1]["aliases"] == {"shadow": 1}


def test_progress_on_a_terminal_has_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar for each phase; one whose total is not known counts on without an end."""
    shown = StringIO()
    monkeypatch.setattr(terminal, "err", Console(file=shown, force_terminal=True, width=120, color_system=None))
    with terminal.progress() as told:
        for done in range(0, 5001, 1000):
            told("read", done, 0)
            told("publish", done, 10_000)
            time.sleep(0.01)  # a rate needs some time to have passed
    last = {line.split()[0]: line for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue()).splitlines() if line.strip()}
    assert re.search(r" 5000/\? +[\d,]+/s \d:\d\d:\d\d *$", last["read"]), last
    assert re.search(r" 5000/10000 +[\d,]+/s \d:\d\d:\d\d \d:\d\d:\d\d *$", last["publish"]), last


def test_versions_tell_how_they_were_fitted(shell: Shell) -> None:
    """Parameters, seed, names of features, source and aliases, as JSON and as a table."""
    first, second, third = shell.json("versions pumps --json")[:3]
    assert [first["version"], second["version"], third["version"]] == [1, 2, 3]
    assert first["aliases"] == ["champion"]
    assert (second["parameters"]["covariance"], second["parameters"]["normalize"], second["seed"]) == ("oas", True, 7)
    assert (first["feature_names"], third["feature_names"]) == (None, ["flow", "heat[C]", "load"])
    assert (first["source"]["name"], first["source"]["rows"]) == ("rows.npy", 200)
    assert first["source"]["sha256"] == second["source"]["sha256"] == third["source"]["sha256"]
    assert first["schema"] == 1
    lines = shell.out("versions pumps").splitlines()
    assert any("champion" in line and "gaussian" in line and "160" in line for line in lines)


def test_detectors_are_listed(shell: Shell) -> None:
    """With versions, aliases and default."""
    found = {item["name"]: item for item in shell.json("detectors --json")}
    assert found["pumps"]["versions"][:3] == [1, 2, 3]
    assert found["pumps"]["aliases"]["champion"] == found["pumps"]["default_version"] == 1
    table = shell.out("detectors")
    assert "pumps" in table and "champion -> 1" in table
    assert "no detectors yet" in shell.quick("detectors --store embedded:./empty")
    assert shell.json("detectors --json --store embedded:./empty") == []


def test_score_prints_the_highest(shell: Shell) -> None:
    """A table of the highest scores, why, and how many are outliers, in whole lines though no terminal is there."""
    output = shell.out("score pumps:3 --data labelled.npz --alpha 0.05 --attribute 2")
    table = [line for line in output.splitlines() if re.match(r"│ \d+ ", line)]
    assert len(table) == 20
    scores = [float(line.split("│")[2]) for line in table]
    assert scores == sorted(scores, reverse=True)
    assert all("outlier" in line and re.search(r"(flow|heat\[C\]|load) [+-]", line) for line in table)
    assert "the 20 highest of 240 scores; --output FILE writes all" in output
    flagged = re.search(r"pumps version 3: (\d+) of 240 rows are outliers at alpha 0.05\n", output)
    assert flagged and 40 <= int(flagged[1]) < 70


def test_score_as_json(shell: Shell) -> None:
    """The same content as the answer of the service."""
    found = json.loads(shell.out("score pumps --data rows.npy --json --alpha 0.1 --attribute 1"))
    assert (found["detector"], found["version"], found["alpha"], len(found["results"])) == ("pumps", 1, 0.1, 200)
    assert set(found["results"][0]) == {"score", "p_value", "is_outlier", "attribution"}
    assert len(found["results"][0]["attribution"]) == 1


@pytest.mark.parametrize(("reference", "version"), [("pumps", 1), ("pumps@champion", 1), ("pumps@latest", 3), ("pumps:2", 2)])
def test_references(shell: Shell, reference: str, version: int) -> None:
    """NAME, NAME@ALIAS and NAME:VERSION mean what they mean over HTTP."""
    assert shell.json(f"score {reference} --data rows.npy --json")["version"] == version


def test_every_row_is_written(shell: Shell) -> None:
    """CSV, Parquet and npz hold the scores, p-values and decisions of all rows, as JSON has them."""
    results = shell.json("score pumps:3 --data rows.csv --json --alpha 0.1")["results"]
    for name in ("out.csv", "out.parquet", "out.npz"):
        said = shell.quick(f"score pumps:3 --data rows.csv --alpha 0.1 --output {name}")
        assert said.startswith("pumps version 3: ") and said.count("\n") == 1
        written = columns(shell.folder / name)
        for key in ("score", "p_value", "is_outlier"):
            assert written[key] == [result[key] for result in results]


def columns(path: Path) -> dict[str, list[Any]]:
    if path.suffix == ".npz":
        with np.load(path) as archive:
            return {key: archive[key].tolist() for key in archive.files}
    table = csv.read_csv(path) if path.suffix == ".csv" else parquet.read_table(path)
    return {name: table[name].to_pylist() for name in table.column_names}


def test_fdr(shell: Shell) -> None:
    """With --fdr fewer normal rows are called outliers, and --alpha still means what it says."""
    alone = shell.json("score pumps:3 --data rows.npy --json --alpha 0.2")["results"]
    together = shell.json("score pumps:3 --data rows.npy --json --alpha 0.2 --fdr")["results"]
    assert sum(r["is_outlier"] for r in together) < sum(r["is_outlier"] for r in alone)


def test_an_alpha_out_of_reach_is_refused(shell: Shell) -> None:
    """The refusal says how many calibration rows it takes."""
    done = shell.run("score pumps:1 --data rows.npy --alpha 0.001", code=1)
    assert "needs at least 999 calibration rows; there are 40" in done.stderr
    assert done.stdout == ""


def test_promote_and_rollback(shell: Shell) -> None:
    """Aliases move, only from where they are expected if that is said, and go back."""
    assert shell.out("promote pumps:2 --alias trial") == "pumps@trial is now version 2, before not set\n"
    assert shell.quick("promote pumps:3 --alias trial --expected 2") == "pumps@trial is now version 3, before 2\n"
    shell.quick("promote pumps:1 --alias trial --expected 2", code=1)
    assert shell.json("score pumps@trial --data rows.npy --json")["version"] == 3
    assert shell.quick("rollback pumps --alias trial") == "pumps@trial is back at version 2, before 3\n"
    shell.quick("rollback pumps --alias trial", code=1)
    shell.quick("promote pumps --alias trial", code=1)


def test_images_through_the_bundled_network(shell: Shell) -> None:
    """A folder of images needs no extractor to be named; taps and --sum-levels make levels; keys are the files."""
    tap = "--tap features --tap Relu6__90:0=max"
    done = shell.run(f"fit boards --data images --alpha 0.2 --calibrate 0.4 {tap} --sum-levels")
    assert "boards version 1: gaussian on 24 rows x 2560 features" in done.stdout
    assert "read: 40 of 40" in done.stderr
    made = shell.json("versions boards --json")[0]
    assert [level["name"] for level in made["levels"]] == ["features", "Relu6__90:0"]
    assert made["parameters"]["levels"] == [level["width"] for level in made["levels"]]
    shell.quick("score boards --data images --output images.csv")
    assert columns(shell.folder / "images.csv")["key"] == [path.name for path in NORMAL[:40]]


@pytest.mark.parametrize("given", ["labelled.npz", "labelled.csv --labels kind", "all.npy --labels labels.npy"])
def test_evaluate(shell: Shell, given: str) -> None:
    """Labels from an array, a column or a file give the same figures, and far-off rows are told apart."""
    (found,) = shell.json(f"evaluate --data {given} --alpha 0.1 --json")
    assert (found["type"], found["n_normal"], found["n_anomalous"]) == ("gaussian", 60, 40)
    assert (found["n_fit"], found["n_calibration"]) == (112, 28)
    assert found["auroc"] > 0.99 and found["aupr"] > 0.99 and found["fpr_at_95_tpr"] < 0.05
    assert found["detection_rate"] > 0.95 and found["false_alarm_rate"] < 0.3
    assert found["fit_seconds"] > 0 and found["score_seconds"] > 0
    assert found["score_us_per_row"] == pytest.approx(1e6 * found["score_seconds"] / 100)


def test_evaluate_tells_the_size_of_what_scoring_needs(shell: Shell) -> None:
    """The state without the sums that updates need, which hold matrices of their own, and that of the detectors of all folds."""
    np.savez(shell.folder / "wide.npz", X=np.concatenate([rows(200, width=40), rows(40, width=40, seed=2) + 6]), y=np.arange(240) >= 200)
    one, folds = (
        shell.json(f"evaluate --data wide.npz --alpha 0.1 --json {given}")[0]["state_bytes"]
        for given in ("", "--calibration cross-conformal --folds 3")
    )
    assert 40 * 40 * 8 < one < 2 * 40 * 40 * 8
    assert folds == 3 * one


def test_evaluate_prints_a_table(shell: Shell) -> None:
    """One line per type; nothing is published."""
    before = shell.json("detectors --json")
    output = shell.out("evaluate --data labelled.npz --alpha 0.1 --type gaussian --type gaussian")
    assert output.count("│ gaussian │") == 2
    assert "fitted on 112, calibrated on 28, tested on 60 normal and 40 anomalous rows; seed 0" in output
    assert shell.json("detectors --json") == before


def test_settings_from_variables_and_file(shell: Shell, tmp_path: Path) -> None:
    """farfield.toml in the working folder is read; FARFIELD_* wins over it, and an argument over both."""
    other = Shell(tmp_path)
    url = f"embedded:{shell.folder / 'farfield-data'}"
    (tmp_path / "farfield.toml").write_text(f'store = "{url}"\n')
    assert "pumps" in other.out("detectors")
    assert "no detectors yet" in other.out("detectors", FARFIELD_STORE="embedded:./a")
    assert "pumps" in other.out(f"detectors --store {url}", FARFIELD_STORE="embedded:./a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "farfield.toml"]


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("store = ", "farfield.toml is not TOML"),
        ("stor = 'x'", "setting stor: "),
        ("port = 'x'", "setting port: "),
        ("queue = -1", "not -1"),
    ],
)
def test_settings_that_are_none(tmp_path: Path, toml: str, says: str) -> None:
    """Are refused by name, in one line."""
    (tmp_path / "farfield.toml").write_text(toml)
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        done = CliRunner().invoke(app, ["detectors"])
    finally:
        os.chdir(before)
    assert done.exit_code == 1 and says in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_all_commands_is_that_of_each(name: str) -> None:
    """Its first line stands in a list, so that no command need be imported to show it."""
    module, _, function = COMMANDS[name][0].partition(":")
    assert COMMANDS[name][1] == (getattr(import_module(module), function).__doc__ or "").partition("\n")[0]


@pytest.mark.parametrize("line", ["--help", "versions nobody --store redis://127.0.0.1:1/0"])
def test_what_needs_no_numbers_does_not_wait_for_them(line: str) -> None:
    """Help and lists import neither the numerical libraries nor those of the web."""
    code = f"import sys; from service.cli import main; sys.argv[1:] = {line.split()!r}\ntry: main()\nfinally: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)
    assert "service.cli" in done.stdout
    assert not {"numpy", "sklearn", "onnxruntime", "pyarrow", "fastapi"} & set(done.stdout.split())


def test_names_that_look_like_markup(shell: Shell) -> None:
    """Files and features with brackets in their names are printed as they are."""
    folder = shell.folder / "[red]images"
    folder.mkdir()
    for path in NORMAL[:2]:
        (folder / f"[b]{path.name}").write_bytes(path.read_bytes())
    shell.quick("fit pixels --data images --alpha 0.2 --calibrate 0.4")
    assert f"[b]{NORMAL[0].name}" in shell.quick(f"score pixels --data {folder.name}")
    assert "heat[C] " in shell.quick("score pumps:3 --data rows.csv --attribute 3")
