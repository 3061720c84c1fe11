"""The commands about what is fitted, stored and scored. Commands take arguments, call a use case, and print what it gave."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import orjson
import pyarrow as pa
import typer
from pyarrow import csv, parquet
from rich.markup import escape
from rich.table import Column, Table

from service import demo, doctor, engine, errors, sources
from service.arguments import AlphaOption, AttributeByOption, DataOption, JsonOption, SeedOption, StoreOption, settings_of
from service.evaluation import evaluate as evaluate_recipe
from service.fitting.arguments import (
    CalibrateOption,
    ExtractorOption,
    FoldsOption,
    MethodOption,
    ParamOption,
    PixelsOption,
    PreprocessingOption,
    SumOption,
    TapOption,
    TrimOption,
    extractor_of,
    options_of,
    recipe_of,
)
from service.names import checked_alias, checked_name, parsed_reference
from service.publication import promote as promote_version
from service.publication import rollback as rollback_alias
from service.scoring.scoring import answer, terms_of
from service.sources.files import schemes
from service.sources.urls import shown_url
from service.store import Store
from service.terminal import out, print_json, print_scores, progress, refusals, say
from service.versions import DEFAULT_ALIAS, load, routes

GUIDANCE = (
    "The rows fitted on here are clean. If yours are a table that may hold anomalies, try robust_shrinkage, which was built for that: "
    "mean AUROC 0.825 on 22 contaminated tables, gaussian 0.818. On embeddings gaussian ranked better even then: 0.818 on 42 sets, "
    "robust_shrinkage 0.737. On clean rows gaussian and weighting mostly rank better (docs/evidence.md). "
    "False alarms by chi-square are shown to warn of it."
)


def score(
    reference: Annotated[str, typer.Argument(metavar="NAME[@ALIAS|:VERSION]", help="What to score by.")],
    data: DataOption,
    output: Annotated[Path | None, typer.Option("--output", help="Write all rows to a .csv, .parquet or .npz file.")] = None,
    alpha: Annotated[float | None, typer.Option("--alpha", help="Accepted false-alarm rate; the version's own by default.")] = None,
    fdr: Annotated[bool, typer.Option("--fdr", help="Judge the batch together (Benjamini-Hochberg).")] = False,
    tail: Annotated[bool, typer.Option("--tail", help="Continue p-values by a Pareto model, which guarantees nothing.")] = False,
    attribute: Annotated[int, typer.Option("--attribute", min=0, help="Name this many features with the largest shares.")] = 0,
    attribute_by: AttributeByOption = None,
    chi_square: Annotated[bool, typer.Option("--chi-square", help="Add the p-value by the detector's own model; not calibrated.")] = False,
    as_json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Score rows or images by a stored version, here in this process."""
    with refusals():
        settings = settings_of(store=store)
        if attribute_by and not attribute:
            raise errors.InvalidInput("--attribute-by says what --attribute K counts: give both")
        by = attribute_by or "feature"
        options = options_of(
            alpha=alpha, fdr=fdr, tail="pareto" if tail else None, attribute=attribute, attribute_by=by, chi_square=chi_square
        )
        if output and output.suffix not in (".csv", ".parquet", ".npz"):
            raise errors.InvalidInput(f"--output must end in .csv, .parquet or .npz, not {output.suffix!r}")
        name, wanted = parsed_reference(reference)
        with Store.open(settings.store) as opened:
            number = routes(opened, [name])[name].number(name, wanted)
            loaded = load(opened, settings, name, number)
        names = loaded.fitted.feature_names
        found = sources.aligned(sources.read(data, features=names, allow=schemes([data])), names)
        verdicts = engine.score(loaded.fitted, found.batch, **terms_of(options)._asdict(), max_pixels=settings.max_pixels)
        content = answer(loaded, verdicts, options)
        if output:
            _write_scores(output, content["results"], found.keys)
        if as_json:
            sys.stdout.write(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode() + "\n")
        else:
            print_scores(content, found.keys, everything=output is None)


def evaluate(
    data: DataOption,
    labels: Annotated[str, typer.Option("--labels", help="An .npy file, or the column or array of --data: 0 normal, 1 anomalous.")] = "y",
    type: Annotated[list[str] | None, typer.Option("--type", help="Type of detector; repeat for one table of several.")] = None,
    extractor: ExtractorOption = None,
    tap: TapOption = None,
    pixels: PixelsOption = None,
    preprocessing: PreprocessingOption = None,
    param: ParamOption = None,
    sum_levels: SumOption = False,
    calibrate: CalibrateOption = None,
    method: MethodOption = None,
    folds: FoldsOption = None,
    trim: TrimOption = 0.0,
    alpha: AlphaOption = 0.01,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Fit on 70 % of the normal rows and test on the rest and all anomalous ones; publishes nothing."""
    with refusals():
        settings = settings_of()
        found = sources.read(data, labels, allow=schemes([data, labels]))
        if found.labels is None:
            raise errors.InvalidInput(f"{shown_url(data)} holds no labels: name them with --labels")
        network = extractor_of(settings, found.batch.images is not None, extractor, tap, pixels, preprocessing, os.cpu_count() or 1)
        recipes = [
            recipe_of(
                kind, param=param, sum_levels=sum_levels, calibrate=calibrate, alpha=alpha, seed=seed, method=method, folds=folds, trim=trim
            )
            for kind in type or ["gaussian"]
        ]
        figures = [evaluate_recipe(recipe, found.batch, found.labels, network) for recipe in recipes]
        if as_json:
            print_json([figure.to_json() for figure in figures])
            return
        rated = ("AUROC", "AUPR", "FPR@95TPR", f"false alarms at {alpha:g}", "by chi-square", "detected")
        table = Table(Column("type", no_wrap=True), *rated, "fit s", "score µs/row", "state kB")
        for f in figures:
            rates = (f.auroc, f.aupr, f.fpr_at_95_tpr, f.false_alarm_rate, f.chi_square_false_alarm_rate, f.detection_rate)
            shares = ("-" if value is None else f"{100 * value:.1f} %" for value in rates)
            table.add_row(f.type, *shares, f"{f.fit_seconds:.2f}", f"{f.score_us_per_row:.1f}", f"{f.state_bytes / 1000:.1f}")
        out.print(table)
        first = figures[0]
        say(
            f"fitted on {first.n_fit}, calibrated on {first.n_calibration}, tested on {first.n_normal} normal "
            f"and {first.n_anomalous} anomalous rows; seed {seed}",
        )
        say(GUIDANCE)


def detectors(as_json: JsonOption = False, store: StoreOption = None) -> None:
    """List the detectors in the store."""
    with refusals(), Store.open(settings_of(store=store).store) as opened:
        found = routes(opened, opened.names())
        if as_json:
            print_json(
                [
                    {"name": name, "versions": routing.numbers, "aliases": routing.aliases, "default_version": routing.number(name, None)}
                    for name, routing in found.items()
                ]
            )
            return
        table = Table("detector", "versions", "aliases", "default")
        for name, routing in found.items():
            aliases = ", ".join(f"{alias} -> {number}" for alias, number in routing.aliases.items())
            table.add_row(name, ", ".join(map(str, routing.numbers)), aliases, str(routing.number(name, None)))
        out.print(table if found else "no detectors yet: farfield fit NAME --data FILE", soft_wrap=not found)


def promote(
    reference: Annotated[str, typer.Argument(metavar="NAME:VERSION", help="The version to promote.")],
    alias: Annotated[str, typer.Option("--alias", help="The alias to point at it.")] = DEFAULT_ALIAS,
    expected: Annotated[int | None, typer.Option("--expected", help="Only if the alias is at this version now; 0: not set.")] = None,
    store: StoreOption = None,
) -> None:
    """Point an alias at a version, after a check that the version is whole."""
    with refusals():
        settings = settings_of(store=store)
        name, number = parsed_reference(reference)
        if not isinstance(number, int):
            raise errors.InvalidInput(f"{reference!r} names no version: write NAME:NUMBER")
        with Store.open(settings.store) as opened:
            before = promote_version(opened, name, checked_alias(alias), number, partial(load, opened, settings), expected=expected)
        say(f"{name}@{alias} is now version {number}, before {before or 'not set'}")


def rollback(
    name: str,
    alias: Annotated[str, typer.Option("--alias", help="The alias to move back.")] = DEFAULT_ALIAS,
    store: StoreOption = None,
) -> None:
    """Point an alias back at where it was before its last move."""
    with refusals():
        settings = settings_of(store=store)
        with Store.open(settings.store) as opened:
            left, reached = rollback_alias(opened, checked_name(name), checked_alias(alias), partial(load, opened, settings))
        say(f"{name}@{alias} is back at version {reached}, before {left}")


def demo_command(
    port: Annotated[int, typer.Option("--port", help="Port of the service; the next free one if it is taken.")] = 8000,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the service that an earlier demo left running.")] = False,
    store: StoreOption = None,
) -> None:
    """Fit, publish, serve and score real images, and leave the service running."""
    with refusals():
        settings = settings_of(store=store)
        if stop:
            say(demo.stop(settings))
            return
        with progress() as told:
            table, lines = demo.run(settings, port, progress=told, say=say)
        out.print(table)
        say(lines)


def doctor_command(as_json: JsonOption = False, store: StoreOption = None) -> None:
    """Check Python, providers, disk, store and versions, and say what to do."""
    with refusals():
        findings = list(doctor.examine(settings_of(store=store)))
        if as_json:
            print_json([{"check": f.check, "state": f.state, "found": f.found, "advice": f.advice} for f in findings])
        else:
            colours = {"ok": "green", "warning": "yellow", "failed": "red"}
            for f in findings:
                say(f"[{colours[f.state]}]{f.state:8}[/] [bold]{f.check}[/]: {escape(f.found)}")
                if f.advice:
                    say(f"         -> {escape(f.advice)}")
        if any(f.state == "failed" for f in findings):
            raise typer.Exit(1)


def _write_scores(path: Path, results: list[dict[str, Any]], keys: Any) -> None:
    """The results as columns; of an attribution the names and the shares, largest first."""
    columns = {name: np.array([result[name] for result in results]) for name in results[0] if name != "attribution"}
    if keys:
        columns = {"key": np.array(keys), **columns}
    for rank in range(len(results[0].get("attribution", ()))):
        shares = [result["attribution"][rank] for result in results]
        columns[f"attribution_{rank + 1}"] = np.array([next(str(share[by]) for by in share if by != "share") for share in shares])
        columns[f"share_{rank + 1}"] = np.array([share["share"] for share in shares])
    if path.suffix == ".npz":
        np.savez(path, **columns)  # type: ignore[arg-type]  # no column is called allow_pickle
    elif path.suffix == ".csv":
        csv.write_csv(pa.table(columns), path)
    else:
        parquet.write_table(pa.table(columns), path)
