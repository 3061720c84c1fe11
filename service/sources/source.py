"""A source: data described by their headers, footers and listings alone, and then read in bounded chunks."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidInput
from service.sources import arrays, images, tables, zarr_arrays
from service.sources.ahead import ahead
from service.sources.files import LOCAL, NO_FILE, File, digest, listed
from service.sources.losses import Loss, Losses, reading
from service.sources.parts import Chunk, Layout, Part, Stretch, Wanted, repeated, rows_of
from service.sources.urls import shown_url, suffix

IMAGES_PER_CHUNK = 256
LOOK_BYTES = 2**23  # of a file, from which the rows of all are guessed
NAMED = 5  # columns and losses that a description names


@dataclass(frozen=True, slots=True)
class Form:
    """A form of data: what its files are called, how they are described and how they are read."""

    name: str
    suffixes: frozenset[str]
    scan: Callable[[Sequence[File], Wanted, Losses], Layout]
    read: Callable[[Stretch], Iterator[Chunk]]
    begun: Callable[[File, int], tuple[int, int]] | None = None  # rows in the first bytes of a file, where only reading counts them


FORMS = {
    form.name: form
    for form in (
        Form("npy", frozenset({".npy"}), arrays.scan_npy, arrays.read_npy),
        Form("npz", frozenset({".npz"}), arrays.scan_npz, arrays.read_npz),
        Form("parquet", frozenset({".parquet"}), tables.scan_parquet, tables.read_parquet),
        Form("arrow", frozenset({".arrow", ".feather"}), tables.scan_arrow, tables.read_arrow),
        Form("csv", frozenset({".csv", ".csv.gz"}), tables.scan_csv, tables.read_csv, tables.begun_csv),
        Form("zarr", frozenset(), zarr_arrays.scan_zarr, zarr_arrays.read_zarr),
        Form("images", frozenset(images.IMAGE_SUFFIXES), images.scan_images, images.read_images),
        Form("shards", frozenset({".tar", ".tar.gz", ".tgz"}), images.scan_shards, images.read_shards, images.begun_shard),
    )
}


@dataclass(frozen=True, slots=True)
class Source:
    """What is known of data before they are read: plain values that can be sent to another process.

    ``fingerprint`` is a sha256 over the form, the shape and names of the rows, what is asked for, and the name, size
    and mark of every file in order. The mark is the ETag or checksum of a remote file and the time of change of a
    local one. So a file that is added, taken away, renamed, put elsewhere in the order or written again changes it.
    It does not see a change that keeps size and mark, and a copy with new times of change has another one.
    """

    form: str
    files: tuple[File, ...]
    layout: Layout
    wanted: Wanted
    label_file: File | None
    lost: tuple[Loss, ...]  # files that the policy left out when the source was opened
    fingerprint: str

    @property
    def parts(self) -> tuple[Part, ...]:
        return self.layout.parts

    @property
    def rows(self) -> int | None:
        """In all parts; None where only reading would tell."""
        known = [part.rows for part in self.parts if part.rows is not None]
        return sum(known) if len(known) == len(self.parts) else None

    def guessed_rows(self) -> int | None:
        """About how many there are where they are not counted, as the beginning of the first file that can be read has them.

        None where that holds no whole row. Reads up to LOOK_BYTES.
        """
        if (begun := FORMS[self.form].begun) is None:
            return None
        for file in (self.files[part.file] for part in self.parts):
            with suppress(InvalidInput), reading(file.shown):
                rows, size = begun(file, LOOK_BYTES)
                return round(rows * self.bytes / size) if rows else None
        return None

    @property
    def name(self) -> str:
        """For people: that of the first file, and how many there are."""
        first = posixpath.basename(self.files[0].shown.partition("?")[0])
        return first if len(self.files) == 1 else f"{first} and {len(self.files) - 1} more"

    @property
    def bytes(self) -> int:
        """Of the files, as they are stored."""
        return sum(file.size for file in self.files)

    def describe(self) -> list[str]:
        """Lines to print before the work starts: form, counts, rows, fingerprint, and what was left out."""
        rows = "rows not counted" if self.rows is None else f"{self.rows} rows"
        shape = "encoded images" if self.layout.shape is None else f"{' x '.join(map(str, self.layout.shape))} {self.layout.dtype}"
        lines = [f"{self.form}: {len(self.files)} files in {len(self.parts)} parts, {self.bytes} bytes; {rows} of {shape}"]
        if self.layout.names:
            more = "" if len(self.layout.names) <= NAMED else f" and {len(self.layout.names) - NAMED} more"
            lines.append(f"columns: {', '.join(self.layout.names[:NAMED])}{more}")
        lines.append(f"fingerprint: {self.fingerprint}")
        lines.extend(f"left out: {loss.reason}" for loss in self.lost[:NAMED])
        if len(self.lost) > NAMED:
            lines.append(f"left out: {len(self.lost) - NAMED} more")
        return lines

    def chunks(self, part: int, start: int = 0, rows: int | None = None, losses: Losses | None = None) -> Iterator[Chunk]:
        """The rows of a part from ``start`` on, in chunks of ``rows``; by default as many as CHUNK_BYTES hold.

        Raises InvalidInput with the name of a file that cannot be read; the chunks before it have then been given.
        ``losses`` is for images, which can be left out one by one. Numbers are given as they are, NaN too.
        Memory: one chunk, and what a form's reader says of itself.
        """
        form = FORMS[self.form]
        default = IMAGES_PER_CHUNK if self.layout.shape is None else rows_of(self.layout.row_bytes)
        stretch = Stretch(self.files, self.layout, self.wanted, part, start, rows or default, losses or Losses())
        labels = arrays.labels_of(self.label_file) if self.label_file else None
        name = self.files[self.parts[part].file].shown if self.form != "images" else self.parts[part].name
        with reading(name):
            for chunk in form.read(stretch):
                yield chunk if labels is None else self._labelled(chunk, labels)

    def walk(
        self, start: tuple[int, int] = (0, 0), rows: int | None = None, losses: Losses | None = None, stop: int | None = None
    ) -> Iterator[Chunk]:
        """The chunks that ``steps`` gives, read ahead by a thread."""
        return ahead(self.steps(start, rows, losses, stop))

    def steps(
        self, start: tuple[int, int] = (0, 0), rows: int | None = None, losses: Losses | None = None, stop: int | None = None
    ) -> Iterator[Chunk]:
        """All chunks from row ``start[1]`` of part ``start[0]`` up to part ``stop``, free of NaN and infinity.

        After a chunk, ``(chunk.part, chunk.end)`` is where another walk goes on. The rows of a part before the first
        damage or NaN are given, and the rest of the part goes to ``losses``; the default refuses the first one.
        They are the same whenever the data, ``rows`` and the limits of ``losses`` are.
        """
        losses = losses or Losses()
        for number in range(start[0], len(self.parts) if stop is None else stop):
            try:
                part, file = self.parts[number], "" if self.form == "images" else self.files[self.parts[number].file].shown
                for bare in self.chunks(number, start[1] if number == start[0] else 0, rows, losses):
                    chunk = replace(bare, file=file, first=part.first + bare.start)
                    odd = first_not_finite(chunk.rows)
                    if odd is None:
                        yield chunk
                        continue
                    place, value = odd
                    if place[0]:
                        yield chunk.head(place[0])
                    raise InvalidInput(self._not_finite(chunk, place, value))
            except InvalidInput as error:
                losses.add(self.parts[number].name, error)

    def _not_finite(self, chunk: Chunk, place: tuple[int, ...], value: float) -> str:
        names = self.layout.names
        column = repr(names[place[1]]) if names else list(place[1:]) if len(place) > 2 else place[1]
        return f"{chunk.file} holds {value} in row {chunk.first + place[0]}, column {column}; finite numbers are needed"

    def _labelled(self, chunk: Chunk, labels: NDArray[Any]) -> Chunk:
        before = sum(part.rows or 0 for part in self.parts[: chunk.part])
        taken = labels[before + chunk.start : before + chunk.end]
        if len(taken) != len(chunk):
            raise InvalidInput(
                f"there are {len(labels)} labels in {self.label_file and self.label_file.shown}, too few, or images were left out"
            )
        return replace(chunk, labels=taken)


def open_source(
    urls: str | os.PathLike[str] | Sequence[str],
    *,
    columns: Sequence[str] | None = None,
    features: Sequence[str] | None = None,
    labels: str | None = None,
    key: str | None = None,
    allow: Sequence[str] = LOCAL,
    losses: Losses | None = None,
    numbers_alone: bool = False,
) -> Source:
    """The source of a path, URL, glob or folder, or of several: ``.npy``, ``.npz``, Parquet, Arrow, CSV, Zarr, images, shards.

    ``columns`` selects columns of tables, in this order. ``features`` are the names of a version's features: of
    tables the columns that hold them are read, other forms as they are. With ``numbers_alone`` columns that hold anything
    else are passed over where none are named, not refused. ``labels`` is a column, or an array of an ``.npz``
    or Zarr group, or an ``.npy`` file with one for each row, or in shards ``cls`` or an entry of each ``.json``. ``key`` is
    a column of integers or strings that tells rows apart; without it images have their names and rows their number in the
    file plus 2^40 for each file before it. ``allow``: see ``files.listed``. Files that cannot be described go to
    ``losses``, which by default refuses the first one; a folder of both images and other data is refused.

    Reads headers, footers, listings, the first block of a CSV and one record batch of an Arrow file with lists; no
    more. Raises InvalidInput with the name of the file and what was expected and found.
    """
    losses = losses or Losses()
    before = len(losses.lost)
    files = listed(urls, allow)
    form, files = _form(files, [os.fspath(urls)] if isinstance(urls, str | os.PathLike) else list(urls))
    files = [file for file in files if _is_file(file, losses)]
    if not files:
        raise InvalidInput(f"nothing can be read; {losses.lost[-1].reason}")
    if form.name != "images" and (twice := repeated(os.path.normpath(file.url) if file.local else file.url for file in files)):
        raise InvalidInput(f"{shown_url(twice[0])} is given twice: its rows would be learned and held out at once")
    wanted = Wanted(tuple(columns or ()) or None, labels, key, tuple(features or ()) or None, numbers_alone)
    layout = form.scan(files, wanted, losses)
    lost = tuple(losses.lost[before:])
    if not layout.parts:
        names = files[0].shown if len(files) == 1 else f"{files[0].shown} and {len(files) - 1} more files"
        raise InvalidInput(f"{names}: {f'nothing can be read; {lost[0].reason}' if lost else 'holds no rows'}")
    label_file = None
    if labels is not None and not layout.labelled:
        label_file = _label_file(labels, files, allow)
    beside = [label_file] if label_file else []
    schema = f"{form.name} {layout.shape} {layout.dtype} {layout.names} {columns} {key} {None if label_file else labels}"
    source = Source(form.name, tuple(files), layout, wanted, label_file, lost, digest([*files, *beside], schema))
    if label_file:
        _check_labels(source, label_file)
    return source


def first_not_finite(rows: NDArray[Any] | None) -> tuple[tuple[int, ...], float] | None:
    """The first NaN or infinity and its place, None where there is none; one pass that adds the numbers up where all is well."""
    if rows is None or rows.dtype.kind != "f":
        return None
    with np.errstate(all="ignore"):
        if np.isfinite(rows.sum()):
            return None
    odd = ~np.isfinite(rows)
    if not odd.any():
        return None
    place = tuple(int(i) for i in np.unravel_index(int(odd.argmax()), odd.shape))
    return place, float(rows[place])


def _is_file(file: File, losses: Losses) -> bool:
    """Whether a file can be read at all; otherwise it goes to ``losses``."""
    wrong = ""
    if file.size == NO_FILE:
        wrong = "is no file: it is a link that leads nowhere, a pipe or the like"
    elif not file.url.isascii() and any("\ud800" <= letter <= "\udfff" for letter in file.url):
        wrong = "has a name that is no UTF-8: rename it"
    if wrong:
        losses.add(file.url, InvalidInput(f"{file.shown.encode(errors='backslashreplace').decode()} {wrong}"))
    return not wrong


def _form(files: list[File], given: list[str]) -> tuple[Form, list[File]]:
    """The one form that the files have; in a folder, those that have none are passed over."""
    if any(file.url.rsplit("/", 1)[-1] in zarr_arrays.DESCRIPTIONS for file in files):
        return FORMS["zarr"], files
    of = {suffix: form for form in FORMS.values() for suffix in form.suffixes}
    named = [file for file in files if file.suffix in of]
    found = sorted({of[file.suffix].name for file in named})
    places = ", ".join(map(shown_url, given))
    if not found:
        if len(files) == 1 and files[0].url == given[0]:
            kind = files[0].suffix or "none"
            raise InvalidInput(f"{files[0].shown}: files of type {kind!r} are not read, only {', '.join(sorted(of))}")
        raise InvalidInput(f"{places} holds no images and no other data ({', '.join(sorted(of))})")
    if len(found) > 1:
        raise InvalidInput(f"{places} holds data of more than one form: {', '.join(found)}")
    return FORMS[found[0]], named


def _label_file(labels: str, files: Sequence[File], allow: Sequence[str]) -> File:
    if suffix(labels) != ".npy":
        raise InvalidInput(f"{files[0].shown} holds no labels named {shown_url(labels)!r}, and that is no .npy file")
    return listed(labels, allow)[0]


def _check_labels(source: Source, label_file: File) -> None:
    if source.lost:
        raise InvalidInput(f"labels in {label_file.shown} cannot be told apart where files are left out: {source.lost[0].reason}")
    if source.rows is None and len(source.parts) > 1:
        raise InvalidInput(f"labels in {label_file.shown} need a form whose rows are counted; {source.form} is not")
    found = len(arrays.labels_of(label_file))
    if source.rows not in (None, found):
        raise InvalidInput(f"there are {found} labels for the {source.rows} rows of {source.files[0].shown}")
