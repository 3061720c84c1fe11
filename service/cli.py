"""The command line, ``farfield``. Commands take arguments, call a use case, and print what it gave."""

from __future__ import annotations

import json
import os
import signal
import sys
import tomllib
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import orjson
import pyarrow as pa
import typer
from pyarrow import csv, parquet
from pydantic import ValidationError
from rich.markup import escape
from rich.table import Table

from detectors import REGISTRY
from models import BUNDLED, RANGES, Extractor, Tap, bundled, image_preprocessing
from models.preprocessing import Preprocessing
from service import __version__, demo, doctor, engine, errors, serving, sources
from service.evaluation import evaluate as evaluate_recipe
from service.manifest import Source
from service.names import checked_alias, checked_name, parsed_reference
from service.scoring import answer
from service.settings import Settings
from service.store import Store
from service.terminal import err, out, print_json, print_scores, progress, refusals, say
from service.versions import DEFAULT_ALIAS, load, publish, routes
from service.versions import promote as promote_version
from service.versions import rollback as rollback_alias

app = typer.Typer(name="farfield", no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, help=__doc__)

StoreOption = Annotated[str | None, typer.Option("--store", help="Where versions are kept; FARFIELD_STORE by default.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]
DataOption = Annotated[Path, typer.Option("--data", help="Rows (.npy .npz .csv .parquet .arrow), or a folder of images.")]
ExtractorOption = Annotated[str | None, typer.Option("--extractor", help=f"An ONNX file, or one of {', '.join(BUNDLED)}.")]
TapOption = Annotated[
    list[str] | None, typer.Option("--tap", help="Tensor to read features from, TENSOR or TENSOR=mean|max|none; repeat for levels.")
]
PixelsOption = Annotated[str | None, typer.Option("--pixels", help=f"Range of pixel values that the network takes: {', '.join(RANGES)}.")]
PreprocessingOption = Annotated[
    Path | None, typer.Option("--preprocessing", help="JSON file with the preprocessing in full, instead of --pixels.")
]
ParamOption = Annotated[list[str] | None, typer.Option("--param", help="Parameter of the detector, NAME=VALUE; repeatable.")]
SumOption = Annotated[bool, typer.Option("--sum-levels", help="Model each tap by itself and add the scores up, instead of all together.")]
AlphaOption = Annotated[float, typer.Option("--alpha", help="Accepted false-alarm rate.")]
CalibrateOption = Annotated[float, typer.Option("--calibrate", help="Share of the rows held out for calibration.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of the split into fit and calibration rows.")]


@app.command()
def fit(
    name: Annotated[str, typer.Argument(help="Name of the detector.")],
    data: DataOption,
    type: Annotated[str, typer.Option("--type", help=f"Type of the detector: {', '.join(REGISTRY)}.")] = "gaussian",
    extractor: ExtractorOption = None,
    tap: TapOption = None,
    pixels: PixelsOption = None,
    preprocessing: PreprocessingOption = None,
    param: ParamOption = None,
    sum_levels: SumOption = False,
    calibrate: CalibrateOption = 0.2,
    alpha: AlphaOption = 0.01,
    seed: SeedOption = 0,
    alias: Annotated[str | None, typer.Option("--alias", help="Alias to point at the new version.")] = None,
    store: StoreOption = None,
) -> None:
    """Fit a detector on normal data, calibrate it on held-out rows, and publish it as the next version."""
    with refusals():
        settings = _settings(store=store)
        recipe = engine.Recipe(type, _parameters(param), sum_levels, calibrate, alpha, seed)
        checked_name(name)
        if alias:
            checked_alias(alias)
        found = sources.read(data)
        network = _extractor(settings, found, extractor, tap, pixels, preprocessing)
        source = Source(name=found.name, rows=len(found.batch), sha256=engine.fingerprint(found.batch))
        with Store.open(settings.store) as opened:
            opened.ping()  # a store that is away is better known before the work than after it
            with progress() as told:
                fitted = engine.fit(
                    recipe, found.batch, network, feature_names=found.feature_names, max_pixels=settings.max_pixels, progress=told
                )
            number = publish(opened, name, fitted, source, alias)
        say(
            f"[bold]{name}[/] version [bold]{number}[/]: {type} on {fitted.n_fit} rows x {fitted.width} features, "
            f"calibrated on {len(fitted.calibration.scores)} rows{f', alias {alias}' if alias else ''}",
        )


@app.command()
def score(
    reference: Annotated[str, typer.Argument(metavar="NAME[@ALIAS|:VERSION]", help="What to score by.")],
    data: DataOption,
    output: Annotated[Path | None, typer.Option("--output", help="Write all rows to a .csv, .parquet or .npz file.")] = None,
    alpha: Annotated[float | None, typer.Option("--alpha", help="Accepted false-alarm rate; the version's own by default.")] = None,
    fdr: Annotated[bool, typer.Option("--fdr", help="Judge the batch together (Benjamini-Hochberg).")] = False,
    attribute: Annotated[int, typer.Option("--attribute", min=0, help="Name this many features with the largest shares.")] = 0,
    as_json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Score rows or images by a stored version, here in this process."""
    with refusals():
        settings = _settings(store=store)
        if alpha is not None and not 0 < alpha < 1:
            raise errors.InvalidInput(f"--alpha must lie between 0 and 1, not {alpha}")
        if output and output.suffix not in (".csv", ".parquet", ".npz"):
            raise errors.InvalidInput(f"--output must end in .csv, .parquet or .npz, not {output.suffix!r}")
        name, wanted = parsed_reference(reference)
        with Store.open(settings.store) as opened:
            number = routes(opened, [name])[name].number(name, wanted)
            loaded = load(opened, settings, name, number)
        found = sources.aligned(sources.read(data), loaded.fitted.feature_names)
        verdicts = engine.score(loaded.fitted, found.batch, alpha=alpha, fdr=fdr, attribute=attribute > 0, max_pixels=settings.max_pixels)
        content = answer(loaded, verdicts, attribute)
        if output:
            _write_scores(output, verdicts, found.keys)
        if as_json:
            sys.stdout.write(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode() + "\n")
        else:
            print_scores(content, found.keys, everything=output is None)


@app.command()
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
    calibrate: CalibrateOption = 0.2,
    alpha: AlphaOption = 0.01,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Fit on 70 % of the normal rows and test on the rest and all anomalous ones; publishes nothing."""
    with refusals():
        settings = _settings()
        found = sources.read(data, labels)
        if found.labels is None:
            raise errors.InvalidInput(f"{data} holds no labels: name them with --labels")
        network = _extractor(settings, found, extractor, tap, pixels, preprocessing)
        recipes = [engine.Recipe(kind, _parameters(param), sum_levels, calibrate, alpha, seed) for kind in type or ["gaussian"]]
        figures = [evaluate_recipe(recipe, found.batch, found.labels, network) for recipe in recipes]
        if as_json:
            print_json([figure.to_json() for figure in figures])
            return
        table = Table("type", "AUROC", "AUPR", "FPR@95TPR", f"false alarms at {alpha:g}", "detected", "fit s", "score s")
        for f in figures:
            shares = (f"{100 * value:.1f} %" for value in (f.auroc, f.aupr, f.fpr_at_95_tpr, f.false_alarm_rate, f.detection_rate))
            table.add_row(f.type, *shares, f"{f.fit_seconds:.2f}", f"{f.score_seconds:.2f}")
        out.print(table)
        first = figures[0]
        say(
            f"fitted on {first.n_fit}, calibrated on {first.n_calibration}, tested on {first.n_normal} normal "
            f"and {first.n_anomalous} anomalous rows; seed {seed}",
        )


@app.command()
def detectors(as_json: JsonOption = False, store: StoreOption = None) -> None:
    """List the detectors in the store."""
    with refusals(), Store.open(_settings(store=store).store) as opened:
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


@app.command()
def versions(name: str, as_json: JsonOption = False, store: StoreOption = None) -> None:
    """List the versions of a detector."""
    with refusals(), Store.open(_settings(store=store).store) as opened:
        found, damaged = opened.manifests(checked_name(name))
        aliases = opened.aliases(name)
        for number, reason in damaged.items():
            err.print(f"[red]version {number} is damaged:[/] {escape(reason)}", highlight=False, soft_wrap=True)
        if as_json:
            print_json(
                [
                    {"version": n, "aliases": [a for a, at in aliases.items() if at == n], **m.model_dump(mode="json", by_alias=True)}
                    for n, m in found.items()
                ]
            )
            return
        table = Table("version", "aliases", "type", "rows", "held out", "features", "alpha", "MiB", "created")
        for number, manifest in found.items():
            size = sum(blob.size for blob in manifest.blobs.values())
            table.add_row(
                str(number), ", ".join(a for a, at in aliases.items() if at == number), manifest.type, str(manifest.n_fit),
                str(manifest.calibration.n), str(manifest.width), f"{manifest.alpha:g}", f"{size / 2**20:.1f}", manifest.created[:16],
            )  # fmt: skip
        out.print(table)


@app.command()
def promote(
    reference: Annotated[str, typer.Argument(metavar="NAME:VERSION", help="The version to promote.")],
    alias: Annotated[str, typer.Option("--alias", help="The alias to point at it.")] = DEFAULT_ALIAS,
    expected: Annotated[int | None, typer.Option("--expected", help="Only if the alias is at this version now; 0: not set.")] = None,
    store: StoreOption = None,
) -> None:
    """Point an alias at a version, after a check that the version is whole."""
    with refusals():
        settings = _settings(store=store)
        name, number = parsed_reference(reference)
        if not isinstance(number, int):
            raise errors.InvalidInput(f"{reference!r} names no version: write NAME:NUMBER")
        with Store.open(settings.store) as opened:
            before = promote_version(opened, name, checked_alias(alias), number, partial(load, opened, settings), expected=expected)
        say(f"{name}@{alias} is now version {number}, before {before or 'not set'}")


@app.command()
def rollback(
    name: str,
    alias: Annotated[str, typer.Option("--alias", help="The alias to move back.")] = DEFAULT_ALIAS,
    store: StoreOption = None,
) -> None:
    """Point an alias back at where it was before its last move."""
    with refusals():
        settings = _settings(store=store)
        with Store.open(settings.store) as opened:
            left, reached = rollback_alias(opened, checked_name(name), checked_alias(alias), partial(load, opened, settings))
        say(f"{name}@{alias} is back at version {reached}, before {left}")


@app.command()
def serve(
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port to listen on; 0 takes any free one.")] = None,
    store: StoreOption = None,
) -> None:
    """Serve the HTTP interface, the metrics and the console."""
    with refusals():
        settings = _settings(store=store, host=host, port=port)
        serving.serve(settings, started=lambda url: err.print(f"farfield {__version__} on {url}", highlight=False))


@app.command("demo")
def demo_command(
    port: Annotated[int, typer.Option("--port", help="Port of the service; the next free one if it is taken.")] = 8000,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the service that an earlier demo left running.")] = False,
    store: StoreOption = None,
) -> None:
    """Fit, publish, serve and score real images, and leave the service running."""
    with refusals():
        settings = _settings(store=store)
        if stop:
            say(demo.stop(settings))
            return
        with progress() as told:
            table, lines = demo.run(settings, port, progress=told, say=say)
        out.print(table)
        say(lines)


@app.command("doctor")
def doctor_command(as_json: JsonOption = False, store: StoreOption = None) -> None:
    """Check Python, providers, disk, store and versions, and say what to do."""
    with refusals():
        findings = list(doctor.examine(_settings(store=store)))
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


def _settings(**given: Any) -> Settings:
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except tomllib.TOMLDecodeError as error:
        raise errors.InvalidInput(f"farfield.toml is not TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise errors.InvalidInput(f"setting {'.'.join(map(str, first['loc']))}: {first['msg']}, not {first['input']!r}") from None


def _parameters(given: list[str] | None) -> dict[str, Any]:
    """Parameters from ``NAME=VALUE``, where a value is JSON if it can be and else a string."""
    parameters: dict[str, Any] = {}
    for item in given or []:
        name, equals, value = item.partition("=")
        if not equals:
            raise errors.InvalidInput(f"--param {item!r} must read NAME=VALUE")
        try:
            parameters[name] = json.loads(value)
        except ValueError:
            parameters[name] = value
    return parameters


def _extractor(
    settings: Settings, data: sources.Data, extractor: str | None, taps: list[str] | None, pixels: str | None, preprocessing: Path | None
) -> Extractor | None:
    """The extractor that was asked for; for images without one, the bundled network."""
    if extractor is None and data.batch.images is None:
        if taps or pixels or preprocessing:
            raise errors.InvalidInput("--tap, --pixels and --preprocessing belong to an extractor: name one with --extractor")
        return None
    parsed = [Tap.parse(tap) for tap in taps or []]
    if extractor is None or extractor in BUNDLED:
        if pixels or preprocessing:
            raise errors.InvalidInput("--pixels and --preprocessing belong to a network of your own: a bundled one knows its preprocessing")
        onnx_file, declared, default_taps = bundled(extractor or next(iter(BUNDLED)))
        return Extractor(onnx_file, preprocessing=declared, taps=parsed or default_taps, **_device(settings))
    path = Path(extractor)
    if not path.is_file():
        raise errors.InvalidInput(f"--extractor {extractor}: no such file, and not one of {', '.join(BUNDLED)}")
    if path.stat().st_size > settings.max_extractor_bytes:
        raise errors.TooLarge(f"{path} has {path.stat().st_size} bytes; the limit is {settings.max_extractor_bytes}")
    onnx_file = path.read_bytes()
    if preprocessing:
        chosen: Preprocessing | None = _declared(preprocessing)
    else:
        chosen = image_preprocessing(onnx_file, pixels)
    return Extractor(onnx_file, preprocessing=chosen, taps=parsed, **_device(settings))


def _declared(path: Path) -> Preprocessing:
    try:
        declared = json.loads(path.read_text())
    except ValueError as error:
        raise errors.InvalidInput(f"--preprocessing {path} is not JSON: {error}") from None
    if not isinstance(declared, dict):
        raise errors.InvalidInput(f"--preprocessing {path} must hold one JSON object")
    return Preprocessing.from_json(declared)


def _device(settings: Settings) -> dict[str, Any]:
    """Where the extractor of a command runs: nothing else does meanwhile, so it gets all cores."""
    return {"device": settings.device, "require_device": settings.require_device, "threads": os.cpu_count() or 1}


def _write_scores(path: Path, verdicts: engine.Verdicts, keys: Any) -> None:
    columns: dict[str, Any] = {"score": verdicts.scores, "p_value": verdicts.p_values, "is_outlier": verdicts.is_outlier}
    if keys:
        columns = {"key": np.array(keys), **columns}
    if path.suffix == ".npz":
        np.savez(path, **columns)
    elif path.suffix == ".csv":
        csv.write_csv(pa.table(columns), path)
    else:
        parquet.write_table(pa.table(columns), path)


def _stop(signum: int, _frame: object) -> NoReturn:
    sys.exit(128 + signum)


def main() -> None:
    """Entry point. SIGTERM ends a command in order, so that an embedded store is left properly."""
    signal.signal(signal.SIGTERM, _stop)
    app()


if __name__ == "__main__":
    main()
