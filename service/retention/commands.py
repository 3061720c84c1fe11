"""The commands about what the store keeps: ``farfield upload``, ``farfield uploads`` and ``farfield gc``."""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from service import errors, features, terminal
from service.arguments import JsonOption, StoreOption, settings_of
from service.names import checked_name
from service.retention import rules as retention
from service.retention.rules import Item, Rules
from service.settings import Settings
from service.store import Store
from service.uploads import data_sets
from service.uploads.parts import SUFFIXES, Upload, Uploads
from service.uploads.schemas import told

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
LONGEST_AGE = timedelta(days=36_500)


def upload(
    file: Annotated[Path, typer.Argument(help=f"A file: {', '.join(SUFFIXES)}.")],
    as_json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Put a file into the store, where a fit asked for over HTTP can name it; one that was interrupted goes on where it was."""
    with terminal.refusals():
        settings = settings_of(store=store)
        with Store.open(settings.store, timeout=settings.store_timeout) as opened, terminal.progress() as shown:
            sent = _sent(opened, settings, file, shown)
        if as_json:
            terminal.print_json(told(sent))
        else:
            terminal.say(f"{escape(sent.name)} is {data_sets.PREFIX}{sent.id} until {told(sent)['expires'][:16]}")


def uploads(
    id: Annotated[str | None, typer.Argument(help="An upload; without it, all are listed.")] = None,  # noqa: A002  # as it is shown
    delete: Annotated[bool, typer.Option("--delete", help="Delete the upload.")] = False,
    as_json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """List uploads and data sets, or show or delete one."""
    with terminal.refusals():
        if delete and id is None:
            raise errors.InvalidInput("--delete is for one upload: name it by its id")
        with Store.open(settings_of(store=store).store) as opened:
            kept = Uploads(opened.connection)
            found = kept.all() if id is None else [kept.get(id.removeprefix(data_sets.PREFIX))]
            if delete:
                kept.delete(found[0].id)
        if as_json:
            terminal.print_json([told(one) for one in found] if id is None else told(found[0]))
            return
        table = Table("id", "file", "state", "bytes", "rows", "expires")
        for one in found:
            size = str(one.size) if one.state != "open" else f"{one.offset} of {one.size}"
            rows = "" if one.rows is None else str(one.rows)
            table.add_row(one.id, escape(one.name), "deleted" if delete else one.state, size, rows, told(one)["expires"][:16])
        terminal.out.print(table if found else "no uploads yet: farfield upload FILE", soft_wrap=not found)
        if id is not None and found[0].reason:
            terminal.say(escape(found[0].reason))


def gc(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Detectors; without any, all, and jobs and uploads.")
    ] = None,
    keep: Annotated[int | None, typer.Option("--keep", help="Newest versions to leave; FARFIELD_KEEP_VERSIONS by default.")] = None,
    newer_than: Annotated[
        str | None, typer.Option("--newer-than", help="Leave versions younger than this: 30d, 12h; FARFIELD_KEEP_DAYS by default.")
    ] = None,
    rollbacks: Annotated[
        int | None, typer.Option("--rollbacks", help="Earlier places of each alias to leave; FARFIELD_KEEP_ROLLBACKS by default.")
    ] = None,
    jobs: Annotated[str, typer.Option("--jobs", help="Leave jobs that ended less than this ago.")] = "7d",
    uploads: Annotated[str | None, typer.Option("--uploads", help="Leave uploads begun less than this ago.")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Delete it; without this, what would be deleted is printed.")] = False,
    as_json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Print what no rule keeps, with its bytes; delete it only with --delete."""
    with terminal.refusals():
        settings = settings_of(store=store, keep_versions=keep, keep_rollbacks=rollbacks)
        rules = Rules(
            settings.keep_versions,
            timedelta(days=settings.keep_days) if newer_than is None else _age("--newer-than", newer_than),
            settings.keep_rollbacks,
            _age("--jobs", jobs),
            timedelta(seconds=settings.upload_kept_seconds) if uploads is None else _age("--uploads", uploads),
        )
        chosen = [checked_name(name) for name in names or []]
        with Store.open(settings.store) as opened:
            items = retention.plan(opened, chosen, rules)
            if delete:
                items = list(retention.delete(opened, items, rules))
        _print(items, deleted=delete, as_json=as_json)


def _sent(store: Store, settings: Settings, file: Path, shown: features.Progress) -> Upload:
    """The complete upload of a file: one that there is already, one that was begun, or a new one."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        kept = Uploads(store.connection)
        same = [one for one in kept.all() if (one.name, one.size, one.sha256) == (file.name, size, digest) and one.state != "refused"]
        begun = same[-1] if same else kept.create(file.name, size, settings, digest)
        offset = begun.offset
        while offset < size:
            opened.seek(offset)
            offset = kept.append(begun.id, offset, opened.read(settings.max_part_bytes))
            shown("upload", offset, size)
    return data_sets.complete(store, begun.id)


def _age(option: str, text: str) -> timedelta:
    """An age such as ``30d``, ``12h`` or ``90s``."""
    found = re.fullmatch(r"(\d{1,10}(?:\.\d{1,6})?)([smhdw])", text)
    if not found:
        raise errors.InvalidInput(f"{option} {text!r} is no age: write a number and one of {', '.join(UNITS)}, as in 30d")
    return min(timedelta(seconds=float(found[1]) * UNITS[found[2]]), LONGEST_AGE)


def _print(items: list[Item], *, deleted: bool, as_json: bool) -> None:
    total = sum(item.bytes for item in items)
    if as_json:
        listed = [{"kind": item.kind, "name": item.name, "bytes": item.bytes, "reason": item.reason} for item in items]
        terminal.print_json({"deleted": deleted, "items": listed, "bytes": total})
        return
    if items:
        table = Table("what", "name", "bytes", "why")
        for item in items:
            table.add_row(item.kind, item.name, str(item.bytes), escape(item.reason))
        terminal.out.print(table)
    done = "deleted" if deleted else "would be deleted"
    terminal.say(f"{len(items)} things of {total} bytes {done}{'' if deleted or not items else '; --delete deletes them'}")
