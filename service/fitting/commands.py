"""The command ``farfield fit``: from options and a file of them to a fit, and what it prints."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import Field, ValidationError
from rich.markup import escape

from detectors import REGISTRY
from service import errors
from service.arguments import StoreOption, settings_of
from service.fitting import run
from service.fitting.arguments import (
    ExtractorOption,
    FoldsOption,
    MethodOption,
    ParamOption,
    PixelsOption,
    PreprocessingOption,
    SumOption,
    TapOption,
    parameters_of,
)
from service.fitting.checkpoint import Checkpoints
from service.fitting.forecast import forecast
from service.fitting.order import task_of
from service.fitting.sample import told
from service.fitting.task import Task
from service.jobs.schemas import FitOptions
from service.judges import CrossJudge
from service.names import checked_alias, checked_name
from service.problems import explained
from service.publication import publish
from service.settings import Settings
from service.sources.files import schemes
from service.store import Store
from service.terminal import err, progress, refusals, say

OPTIONS = {"method": "calibration", "columns": "column", "taps": "tap", "parameters": "param"}  # where they have another name


class FitConfig(FitOptions):
    """All that the command line can say of a fit, as ``--config`` reads it from a TOML file."""

    name: str = Field(description="Name of the detector.")
    preprocessing: Path | None = Field(None, description="JSON file with the preprocessing in full, instead of `pixels`.")
    memory: int | None = Field(None, gt=0, description="MiB of rows and features to hold at most.")
    cluster: str | None = Field(None, description="Dask scheduler to fit on, or local:N for N processes here.")
    store: str | None = Field(None, description="Where versions are kept.")


def fit(
    name: Annotated[str | None, typer.Argument(help="Name of the detector.")] = None,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="A file of rows (.npy .npz .csv .parquet .arrow .zarr), a glob, a folder, or a URL; repeatable."),
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="TOML file with any of these options; those given here win.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, and what it takes of memory and time; fit nothing.")] = False,
    type: Annotated[  # noqa: A002  # the name of the option
        str | None, typer.Option("--type", help=f"Type of the detector, or several joined by +: {', '.join(REGISTRY)}.")
    ] = None,
    columns: Annotated[list[str] | None, typer.Option("--column", help="Column of the table to learn; repeatable, all by default.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="Column that tells rows apart.")] = None,
    on_error: Annotated[str | None, typer.Option("--on-error", help="fail or skip: what a file that cannot be read does.")] = None,
    most_losses: Annotated[int | None, typer.Option("--most-losses", help="How much may be left out with --on-error skip.")] = None,
    extractor: ExtractorOption = None,
    taps: TapOption = None,
    pixels: PixelsOption = None,
    preprocessing: PreprocessingOption = None,
    param: ParamOption = None,
    sum_levels: SumOption = False,
    calibrate: Annotated[float | None, typer.Option("--calibrate", help="Share of the rows held out for calibration.")] = None,
    method: MethodOption = None,
    folds: FoldsOption = None,
    trim: Annotated[float | None, typer.Option("--trim", help="Share of the highest calibration scores to leave out.")] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", help="An .npy file, or the column or array of --data: the class of each row.")
    ] = None,
    alpha: Annotated[float | None, typer.Option("--alpha", help="Accepted false-alarm rate.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the choice of the rows held out.")] = None,
    alias: Annotated[str | None, typer.Option("--alias", help="Alias to point at the new version.")] = None,
    memory: Annotated[int | None, typer.Option("--memory", help="MiB of rows to hold; of more, the data are read in passes.")] = None,
    cluster: Annotated[str | None, typer.Option("--cluster", help="Dask scheduler to fit on, or local:N for N processes here.")] = None,
    store: StoreOption = None,
) -> None:
    """Fit a detector on normal data, calibrate it on held-out rows, and publish it as the next version."""
    with refusals():
        given = {
            "name": name, "data": data, "type": type, "columns": columns, "key": key, "on_error": on_error, "most_losses": most_losses,
            "extractor": extractor, "taps": taps, "pixels": pixels, "preprocessing": preprocessing,
            "parameters": parameters_of(param) or None, "sum_levels": sum_levels or None, "calibrate": calibrate, "method": method,
            "folds": folds, "trim": trim, "classes": classes, "alpha": alpha, "seed": seed, "alias": alias, "memory": memory,
            "cluster": cluster, "store": store,
        }  # fmt: skip
        options = _config(config, {key: value for key, value in given.items() if value is not None})
        settings = settings_of(store=options.store, fit_memory=options.memory, cluster=options.cluster)
        places = [options.data] if isinstance(options.data, str) else options.data or []
        allow = schemes([*places, *([options.classes] if isinstance(options.classes, str) else [])])
        task = task_of(options, settings, places, allow=allow, preprocessing=options.preprocessing)
        for line in task.source.describe():
            err.print(escape(line), highlight=False, soft_wrap=True)
        if dry_run:
            for line in forecast(task):
                say(line)
            return
        _fit(task, options, settings)


def _fit(task: Task, options: FitConfig, settings: Settings) -> None:
    with Store.open(settings.store) as opened:
        opened.ping()  # a store that is away is better known before the work than after it
        checkpoints = Checkpoints(opened.connection, options.name, task.identity(), settings.checkpoint_seconds)
        try:
            with progress() as shown:
                fitted, source = run.fit(task, checkpoints, shown)
                number, before = publish(opened, options.name, fitted, source, options.alias, shown)
        finally:  # what was left out may be why nothing can be fitted
            for loss in task.losses.lost[len(task.source.lost) :]:
                err.print(f"left out: {escape(loss.reason)}", highlight=False, soft_wrap=True)
        checkpoints.drop()
    moved = f", alias {options.alias}{f' (before at {before})' if before else ''}" if options.alias else ""
    say(
        f"[bold]{options.name}[/] version [bold]{number}[/]: {options.type} on {fitted.n_fit} rows x {fitted.width} features, "
        f"{fitted.judge.METHOD} calibration on {fitted.n_calibration} rows{moved}",
    )
    if stated := told(fitted.sampled):
        say(stated)


def _config(file: Path | None, given: dict[str, Any]) -> FitConfig:
    """The options of the file, those ``given`` on the command line in their place. Raises InvalidInput, naming the one that is wrong."""
    found: dict[str, Any] = {}
    if file:
        try:
            found = tomllib.loads(file.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise errors.InvalidInput(f"{file} is not TOML: {error}") from None
    try:
        options = FitConfig.model_validate({**found, **given})
    except ValidationError as error:
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")  # a misspelt option may be why another is missing
        option = str(first["loc"][0])
        if option in found and option not in given:
            raise errors.InvalidInput(f"{file}: {option}: {explained(first)}") from None
        raise _usage(option, explained(first)) from None
    if not options.data:
        raise _usage("data", "name the data, here or in the file of --config")
    if isinstance(options.classes, list):
        raise errors.InvalidInput(f"{file}: classes: beside data they are the name of a column or array, or the path of an .npy file")
    if "folds" in options.model_fields_set and options.recipe().method != CrossJudge.METHOD:
        raise _usage("folds", f"is for --calibration {CrossJudge.METHOD}, not for {options.recipe().method}")
    if "calibrate" in options.model_fields_set and options.recipe().method == CrossJudge.METHOD:
        raise _usage("calibrate", f"holds rows out, and {CrossJudge.METHOD} calibration holds none out")
    checked_name(options.name)
    if options.alias:
        checked_alias(options.alias)
    return options


def _usage(option: str, text: str) -> typer.BadParameter:
    return typer.BadParameter(text, param_hint="NAME" if option == "name" else f"--{OPTIONS.get(option, option).replace('_', '-')}")
