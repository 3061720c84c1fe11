"""The commands about versions: ``farfield versions`` and ``farfield update``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from service import errors
from service.arguments import JsonOption, StoreOption, settings_of
from service.manifest import CalibrationRecord
from service.names import checked_name, parsed_reference
from service.store import Store
from service.terminal import err, out, print_json, progress, refusals, say

if TYPE_CHECKING:
    from service.updates.successors import Reader


def versions(
    name: Annotated[str, typer.Argument(help="Name of the detector.")],
    diff: Annotated[tuple[int, int] | None, typer.Option("--diff", metavar="OLDER NEWER", help="How these two versions differ.")] = None,
    as_json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """List the versions of a detector, or tell how two of them differ."""
    with refusals():
        settings = settings_of(store=store)
        with Store.open(settings.store) as opened:
            if diff is None:
                _list(opened, checked_name(name), as_json)
                return
            from service.updates.successors import difference  # not above: a list need not wait for the numerical libraries

            found = difference(opened, settings, checked_name(name), *diff).to_json()
        if as_json:
            print_json(found)
            return
        _print_difference(found, *diff)


def update(
    reference: Annotated[str, typer.Argument(metavar="NAME[@ALIAS|:VERSION]", help="What to start from.")],
    add: Annotated[str | None, typer.Option("--add", help="Normal rows to learn: what --data of a fit may be, a URL too.")] = None,
    forget: Annotated[str | None, typer.Option("--forget", help="Rows to take out again, each as it was given.")] = None,
    merge: Annotated[
        list[str] | None, typer.Option("--merge", metavar="NAME:VERSION", help="A version of which to add the rows; repeatable.")
    ] = None,
    half_life: Annotated[float | None, typer.Option("--half-life", help="Rows added after which the earlier ones count half.")] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", help="The column or array of --add and --forget with the class of each row.")
    ] = None,
    alias: Annotated[str | None, typer.Option("--alias", help="Alias to point at the new version, if nobody moves it meanwhile.")] = None,
    as_json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Make a new version of an old one without fitting it again: forget rows, merge versions, let old rows decay, add rows."""
    from service.updates.successors import Order
    from service.updates.successors import update as make_successor

    with refusals():
        settings = settings_of(store=store)
        name, start = parsed_reference(reference)
        order = Order(start, _reader(forget, classes), tuple(merge or ()), half_life, _reader(add, classes), alias)
        order.check()
        with Store.open(settings.store) as opened, progress() as shown:
            result = make_successor(opened, settings, name, order, progress=shown)
        if as_json:
            print_json(result)
        else:
            _print_result(result)
        if "alias_refused" in result:
            raise errors.Conflict(f"version {result['version']} is there, but {result['alias_refused']}")


def _reader(place: str | None, classes: str | None) -> Reader | None:
    from service.sources import read
    from service.sources.files import schemes

    return None if place is None else lambda names: read(place, classes, features=names, allow=schemes([place, classes or ""]))


def _list(store: Store, name: str, as_json: bool) -> None:
    found, damaged = store.manifests(name)
    aliases = store.aliases(name)
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
    table = Table("version", "aliases", "type", "rows", "calibration", "calibrated on", "features", "alpha", "MiB", "created")
    for number, manifest in found.items():
        size = sum(blob.size for blob in manifest.blobs.values())
        table.add_row(
            f"{number} of {manifest.parent}" if manifest.parent else str(number), ", ".join(a for a, at in aliases.items() if at == number),
            manifest.type, str(manifest.n_fit), _calibration(manifest.calibration),
            str(manifest.calibration.n), str(manifest.width), f"{manifest.alpha:g}", f"{size / 2**20:.1f}", manifest.created[:16],
        )  # fmt: skip
    out.print(table)
    if any(manifest.sample for manifest in found.values()):
        from service.fitting.sample import told

        for number, manifest in found.items():
            if stated := told(manifest.sample):
                say(f"version {number}: {stated}")
    for number, manifest in found.items():
        for facts in filter(None, manifest.facts):
            say(f"version {number}: {', '.join(f'{fact} {value:g}' for fact, value in facts.items())}")


def _calibration(record: CalibrationRecord) -> str:
    return f"{record.method}, {record.trim:.0%} trimmed" if record.trim else record.method


def _print_result(result: dict[str, Any]) -> None:
    alias = f", alias {result['alias']}" if "alias" in result else ""
    say(
        f"[bold]{result['detector']}[/] version [bold]{result['version']}[/], made of version {result['parent']}: "
        f"{result['n_fit']} rows x {result['features']} features, calibrated on {result['n_calibration']} rows{alias}"
    )
    done = result["update"]
    if done["added"] or done["added_calibration"]:
        say(f"added: {done['added']} rows to those learned, {done['added_calibration']} to those held out")
    if done["forgotten"] or done["forgotten_calibration"]:
        say(f"forgotten: {done['forgotten_calibration']} rows, which were found among those held out")
    if done["forgotten"]:
        say(f"forgotten: {done['forgotten']} rows, taken out of sums that cannot tell whether they were ever learned")
    if done["merged"]:
        say(f"merged: {', '.join(done['merged'])}")
    if done["half_life"]:
        say(f"half-life {done['half_life']:g} rows: each earlier row counts {done['weight']:.3g} of what it did")
    _print_difference(result["difference"], result["parent"], result["version"])


def _print_difference(found: dict[str, Any], older: int, newer: int) -> None:
    table = Table("", f"version {older}", f"version {newer}")
    for what, (before, after) in found["changes"].items():
        table.add_row(what, _short(before), _short(after))
    for shift in found["shifts"]:
        if shift["effective_rows"]:
            table.add_row(f"effective rows, {shift['part']}", *(f"{count:.6g}" for count in shift["effective_rows"]))
    for index, pair in enumerate(found["golden_p_values"] or ()):
        table.add_row(f"p-value of golden row {index}", *(f"{p_value:.4g}" for p_value in pair))
    out.print(table)
    for shift in found["shifts"]:
        if shift["mean_shift"] is None:
            say(f"{escape(shift['part'])}: how far mean and covariance moved is unknown")
            continue
        say(f"{escape(shift['part'])}: the mean moved by {shift['mean_shift']:.3g}, the covariance by {shift['covariance_change']:.1%}")
        for feature in shift["features"]:
            sizes = feature["standard_deviations"]
            by = "which never varied before" if sizes is None else f"{sizes:+.3g} standard deviations"
            say(f"  {escape(feature['feature'])}: {feature['older']:.6g} to {feature['newer']:.6g}, {by}")


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else escape(str(value))
