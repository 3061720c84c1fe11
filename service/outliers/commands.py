"""The commands about outliers: ``farfield outliers``, ``farfield feedback`` and ``farfield calibrate``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from service import errors, sources
from service.arguments import JsonOption, StoreOption, settings_of
from service.features import finite_rows
from service.manifest import Manifest
from service.names import checked_alias, checked_name, parsed_reference, row_keys
from service.outliers.feed import Feed
from service.outliers.feedback import Feedback
from service.outliers.recalibration import recalibrate
from service.outliers.schemas import MarkAnswer, OutlierAnswer
from service.sources.files import schemes
from service.sources.urls import shown_url
from service.store import Store
from service.terminal import out, print_json, refusals, say
from service.versions import routes

MOST_MARKED = 1000  # rows by one command


def outliers(
    name: Annotated[str, typer.Argument(help="Name of the detector.")],
    count: Annotated[int, typer.Option("--count", min=1, max=1000, help="How many.")] = 20,
    as_json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """List the newest outliers of a detector."""
    with refusals():
        settings = settings_of(store=store)
        with Store.open(settings.store) as opened:
            routes(opened, [checked_name(name)])[name].number(name, None)
            found = [OutlierAnswer.of(outlier) for outlier in Feed(opened.connection, settings).newest(name, count)]
        if as_json:
            print_json([outlier.model_dump(exclude_none=True) for outlier in found])
            return
        table = Table("time", "key", "version", "score", "p-value", "why")
        for outlier in found:
            why = ", ".join(f"{share.feature} {share.share:+.3g}" for share in outlier.attribution)
            scored = (str(outlier.version), f"{outlier.score:.6g}", f"{outlier.p_value:.4g}")
            table.add_row(outlier.time, escape(outlier.key), *scored, escape(why))
        out.print(table if found else "no outliers yet", soft_wrap=not found)


def feedback(
    name: Annotated[str, typer.Argument(help="Name of the detector.")],
    keys: Annotated[list[str] | None, typer.Argument(help="Keys of the rows to mark; without any, what was said is listed.")] = None,
    verdict: Annotated[
        Literal["false_alarm", "confirmed", "none"] | None, typer.Option("--verdict", help="What they are; none takes it back.")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="A file or URL with the rows, in the order of the keys.")] = None,
    as_json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Mark outliers as false alarms or as confirmed, or list what was said of them."""
    with refusals():
        if bool(keys) != bool(verdict) or (data and not keys):
            raise errors.InvalidInput("to mark rows give their keys and --verdict; --data goes with them")
        settings = settings_of(store=store)
        with Store.open(settings.store) as opened:
            number = routes(opened, [checked_name(name)])[name].number(name, None)
            marks = Feedback(opened.connection, Feed(opened.connection, settings), settings)
            if not keys:
                _list([MarkAnswer.of(mark) for mark in marks.all(name)], as_json)
                return
            if len(keys) > MOST_MARKED:
                raise errors.InvalidInput(f"{len(keys)} keys; {MOST_MARKED} at most are marked at a time")
            rows = _rows(data, len(keys), opened.manifest(name, number)) if data else None
            changed = marks.mark(name, row_keys(keys), None if verdict == "none" else verdict, rows)
        if as_json:
            print_json({"detector": name, "changed": changed})
        else:
            say(f"marks of {changed} of {len(keys)} rows of {name} changed")


def calibrate(
    reference: Annotated[str, typer.Argument(metavar="NAME[@ALIAS|:VERSION]", help="The version to calibrate again.")],
    with_feedback: Annotated[bool, typer.Option("--with-feedback", help="By its false alarms, beside the rows held out.")] = False,
    alias: Annotated[str | None, typer.Option("--alias", help="Alias to point at the new version, if nobody moves it meanwhile.")] = None,
    as_json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Make a version with the same detector that is calibrated by its false alarms too."""
    with refusals():
        if not with_feedback:
            raise errors.InvalidInput("say by what to calibrate: --with-feedback")
        settings = settings_of(store=store)
        name, start = parsed_reference(reference)
        wanted = None if alias is None else checked_alias(alias)
        with Store.open(settings.store) as opened:
            marks = Feedback(opened.connection, Feed(opened.connection, settings), settings)
            result = recalibrate(opened, settings, name, start, marks, wanted)
        if as_json:
            print_json(result)
            return
        at = f", alias {result['alias']}" if "alias" in result else ""
        say(
            f"[bold]{name}[/] version [bold]{result['version']}[/], made of version {result['parent']}: "
            f"calibrated on {result['n_calibration']} rows, {result['false_alarms']} of them new false alarms{at}"
        )
        say(f"left out: {result['without_row']} false alarms without their row, {result['unlike']} of another width or extractor")


def _rows(data: str, count: int, manifest: Manifest) -> NDArray[Any]:
    if manifest.extractor:
        raise errors.InvalidInput("rows of a detector with an extractor come from the feed alone: leave --data out")
    names = manifest.feature_names
    found = sources.aligned(sources.read(data, features=names, allow=schemes([data])), names).batch.rows
    if found is None or found.shape != (count, manifest.width):
        raise errors.InvalidInput(f"{shown_url(data)} must hold {count} rows of {manifest.width} numbers, one for each key")
    return finite_rows(found)


def _list(marks: list[MarkAnswer], as_json: bool) -> None:
    if as_json:
        print_json([mark.model_dump() for mark in marks])
        return
    table = Table("time", "key", "verdict", "version", "score", "p-value", "row")
    for mark in marks:
        scored = (_text(mark.version), _text(mark.score), _text(mark.p_value))
        table.add_row(mark.time, escape(mark.key), mark.verdict, *scored, "kept" if mark.row else "")
    out.print(table if marks else "no feedback yet", soft_wrap=not marks)


def _text(number: float | None) -> str:
    return "" if number is None else f"{number:.6g}"
