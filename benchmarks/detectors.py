"""Our detectors beside those of scikit-learn and PyOD, with defaults on all sides, on the same splits of the same sets.

    python -m benchmarks.detectors --seeds 5 --write docs/evidence.md

Each detector runs in a process of its own, on one core, and is ended at --limit seconds of processor time; what it failed with,
or that it ran over time, is a result like any other, and further seeds are then not tried where it ran over time. Results are kept in a
JSON-lines file, one line each: a second run goes on where the first one stopped. --again NAME measures a detector anew.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import json
import multiprocessing
import os
import resource
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import ceil
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, cast

from benchmarks.contestants import LIBRARIES, Contestant, contestants, measure
from benchmarks.datasets import DataSet, datasets
from benchmarks.pages import written
from benchmarks.protocols import PROTOCOLS
from benchmarks.tables import Record, report

QUICK = ("glass", "wine", "vowels", "MVTec-AD_bottle resnet18")
FORK = multiprocessing.get_context("fork")  # a child has the rows and the libraries without loading them

Task = tuple[dict[str, Any], Callable[[], dict[str, Any]]]  # what is measured, and how


@dataclass(frozen=True, slots=True)
class Running:
    about: dict[str, Any]
    process: ForkProcess
    core: int


def tasks(
    sets: list[DataSet], seeds: int, protocols: list[str], field: list[Contestant], limit: float, done: list[Record]
) -> Iterator[Task]:
    """Everything still to be measured; ``done`` grows while the tasks are worked off."""
    for data in sets:
        rows = anomalous = None
        for seed in range(seeds):
            for protocol in protocols:
                trial = None
                for contestant in field:
                    key = {"set": data.name, "seed": seed, "protocol": protocol, "contestant": contestant.name}
                    if _settled(key, limit, done):
                        continue
                    if rows is None or anomalous is None:
                        rows, anomalous = data.read()
                    trial = trial or PROTOCOLS[protocol](rows, anomalous, seed)
                    about = {
                        **key,
                        "group": data.group,
                        "fitted": len(trial.fit),
                        "features": rows.shape[1],
                        "share": float(trial.truth.mean()),
                    }
                    yield {**about, "limit": limit}, partial(measure, contestant, trial, seed)


def _settled(key: dict[str, Any], limit: float, done: list[Record]) -> bool:
    """Whether this was measured, or ran over no smaller a limit with this seed or an earlier one. Failures are tried again."""
    for record in done:
        if all(record[name] == key[name] for name in ("set", "protocol", "contestant")):
            if record["status"] == "over time" and record["limit"] >= limit and record["seed"] <= key["seed"]:
                return True
            if record["seed"] == key["seed"] and record["status"] == "ok":
                return True
    return False


def results(waiting: Iterator[Task], jobs: int, limit: float) -> Iterator[Record]:
    """Work off the tasks, ``jobs`` at a time, each in a process that the kernel ends after ``limit`` seconds of processor time."""
    cores = sorted(os.sched_getaffinity(0))
    free = [cores[job % len(cores)] for job in range(jobs)]
    running: dict[Connection, Running] = {}
    while True:
        while free and (task := next(waiting, None)):
            receiver, sender = FORK.Pipe(duplex=False)
            core = free.pop()
            process = FORK.Process(target=_answer, args=(sender, core, limit, task[1]))
            process.start()
            sender.close()
            running[receiver] = Running(task[0], process, core)
        if not running:
            return
        for receiver in cast(list[Connection], wait(list(running))):
            job = running.pop(receiver)
            outcome = _received(receiver, job.process)
            receiver.close()
            free.append(job.core)
            yield {**job.about, **outcome}


def _answer(sender: Connection, core: int, limit: float, work: Callable[[], dict[str, Any]]) -> None:
    os.sched_setaffinity(0, {core})
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (ceil(limit), ceil(limit) + 5))
    sender.send(work())


def _received(receiver: Connection, process: ForkProcess) -> dict[str, Any]:
    try:
        outcome: dict[str, Any] = receiver.recv()
    except EOFError:
        process.join()
        over = process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL)
        outcome = {"status": "over time"} if over else {"status": "failed", "error": "the process ended without an answer"}
    process.join()
    return outcome


def latest(records: list[Record]) -> list[Record]:
    """The last record of each detector on each set with each seed: earlier ones were tried again."""
    return list({(r["set"], r["seed"], r["protocol"], r["contestant"]): r for r in records}.values())


def _kept(path: Path, again: list[str]) -> list[Record]:
    """Results of earlier runs, without those of detectors to be measured anew."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [record for record in latest([json.loads(line) for line in lines]) if record["contestant"] not in again]


def main() -> None:
    scratch = Path(tempfile.gettempdir()) / "farfield-benchmark"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the data")
    parser.add_argument("--seeds", type=int, default=5, help="splits, numbered from 0")
    parser.add_argument("--sets", nargs="+", default=["*"], help="tables, embeddings, or names of sets with * for any letters")
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}")
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS), help="ways to split and scale")
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=list(LIBRARIES), help="whose detectors run")
    parser.add_argument("--without", nargs="+", default=[], metavar="NAME", help="detectors to leave out, such as 'pyod MCD'")
    parser.add_argument("--limit", type=float, default=60, help="seconds of one core for one fit with its scores")
    parser.add_argument("--jobs", type=int, default=1, help="detectors at a time; for timings no more than idle cores")
    parser.add_argument("--cache", type=Path, default=scratch, help="folder of extracted features")
    parser.add_argument("--results", type=Path, default=scratch / "results.jsonl", help="results kept between runs")
    parser.add_argument("--again", nargs="+", default=[], metavar="NAME", help="detectors to measure anew, such as 'farfield knn'")
    parser.add_argument("--output", type=Path, help="write all results as CSV")
    parser.add_argument("--write", type=Path, help="put the tables between the two marker comments of this file")
    options = parser.parse_args()

    patterns = QUICK if options.quick else options.sets
    try:
        found = datasets(options.data, options.cache)
        field = [one for one in contestants(tuple(options.libraries)) if one.name not in options.without]
    except (FileNotFoundError, ModuleNotFoundError) as error:
        parser.error(str(error))
    sets = [data for data in found if any(data.group == p or fnmatch.fnmatchcase(data.name, p) for p in patterns)]
    done = _kept(options.results, options.again)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    with options.results.open("a") as file:
        for record in results(tasks(sets, options.seeds, options.protocols, field, options.limit, done), options.jobs, options.limit):
            done.append(record)
            file.write(json.dumps(record) + "\n")
            file.flush()
            print(_line(record), file=sys.stderr)

    sought = ({data.name for data in sets}, range(options.seeds), options.protocols, {one.name for one in field})
    kinds = ("set", "seed", "protocol", "contestant")
    chosen = [r for r in latest(done) if all(r[kind] in wanted for kind, wanted in zip(kinds, sought, strict=True))]
    order = {data.name: number for number, data in enumerate(sets)}
    chosen.sort(key=lambda r: (options.protocols.index(r["protocol"]), order[r["set"]], r["seed"]))
    text = f"{report(chosen, [one.name for one in field], options.seeds)} The command was\n\n    {_command(options, parser)}"
    print(text)
    if options.output:
        _write_csv(chosen, options.output)
    if options.write:
        options.write.write_text(written(options.write.read_text(), "benchmarks.detectors", text))


def _command(options: argparse.Namespace, parser: argparse.ArgumentParser) -> str:
    """The command line that prints these tables: what was asked for, without folders and files of this machine."""
    words = ["python", "-m", "benchmarks.detectors"]
    for name in ("seeds", "limit", "jobs", "quick", "sets", "protocols", "libraries", "without"):
        value = getattr(options, name)
        if name in ("seeds", "limit", "jobs"):
            words += [f"--{name}", f"{value:g}"]
        elif value != parser.get_default(name):
            words += [f"--{name}", *(value if isinstance(value, list) else [])]
    return shlex.join(words)


def _line(record: Record) -> str:
    what = f"AUROC {record['auroc']:.3f} fit {record['fit_seconds']:.2f} s" if record["status"] == "ok" else record["status"]
    notes = "; ".join([record.get("error", ""), *record.get("warnings", [])]).strip("; ")
    return f"{record['set']} {record['seed']} {record['protocol']} {record['contestant']}: {what} {notes}"


def _write_csv(records: list[Record], path: Path) -> None:
    columns = list(dict.fromkeys(name for record in records for name in record))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(records)


if __name__ == "__main__":
    main()
