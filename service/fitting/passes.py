"""The passes over the data of a fit too large for memory, in one process: read, gather, and go on from a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from threadpoolctl import threadpool_limits

from service.engine import Fitted
from service.errors import InvalidInput
from service.features import Progress
from service.fitting.checkpoint import Checkpoint
from service.fitting.features import Extraction
from service.fitting.gathering import Gathering, Plan, add, sums_arrays, sums_restored
from service.fitting.parted import Parted, refused
from service.sources import Loss, Losses, Source
from service.sources.ahead import abreast, ahead
from service.sources.parts import rows_of

CHUNK_BYTES = 2**24  # of rows of numbers
THREADS = 8  # that sum chunks, at most: more than one that reads keeps busy
SUMS_BYTES = 2**28  # of matrices that these hold at a time
SUMS_MATRICES = 4  # of them in a thread: products and scatter of a chunk, in double precision, and what they are made of
IMAGES = 256  # in a chunk

Summed = Callable[[Parted], dict[str, Any]]


class Keeper(Protocol):
    """Where checkpoints go."""

    def load(self) -> Checkpoint | None: ...
    def due(self) -> bool: ...
    def save(self, checkpoint: Checkpoint) -> None: ...


class Nowhere:
    """Keeps no checkpoints."""

    def load(self) -> Checkpoint | None:
        return None

    def due(self) -> bool:
        return False

    def save(self, checkpoint: Checkpoint) -> None:
        raise NotImplementedError("nothing is ever due here")


@dataclass(slots=True)
class Second:
    """Sums of the second pass, by type, and over how many rows they are."""

    looks: dict[str, Any] = field(default_factory=dict)
    sums: dict[str, Any] = field(default_factory=dict)
    learned: int = 0

    def summed(self, chunk: Parted) -> dict[str, Any]:
        """Sums over the rows of a chunk that the first pass learned, by type; nothing is changed."""
        rows = chunk.passing()
        with refused(chunk):
            return {kind: look(rows) for kind, look in self.looks.items() if len(rows)}

    def join(self, sums: dict[str, Any], learned: int) -> None:
        """Take in the sums of other rows, and how many these are."""
        for kind, more in sums.items():
            add(self.sums, kind, more)
        self.learned += learned

    def check(self, learned: int) -> None:
        """Raise InvalidInput unless it went over as many rows as the first pass ``learned``."""
        if self.learned != learned:
            raise InvalidInput(
                f"the data changed while they were read twice: {learned} rows were learned in the first pass and {self.learned} "
                "in the second: give data that stay as they are",
                "#/data",
            )


def chunk_rows(source: Source) -> int:
    """Rows in a chunk, on which the rounding of sums depends."""
    return IMAGES if source.layout.shape is None else rows_of(source.layout.feature_bytes, CHUNK_BYTES)


@dataclass(frozen=True, slots=True)
class Position:
    """Where the next chunk begins, and how many rows of this pass lie before it."""

    looking: bool = False  # whether this is the second pass
    part: int = 0
    row: int = 0
    rows: int = 0


def summing_threads(plan: Plan, cores: int) -> int:
    """How many threads sum chunks beside each other: as many as there are ``cores``, fewer where rows are so wide that sums take memory."""
    return max(1, min(cores, most_threads(plan)))


def most_threads(plan: Plan) -> int:
    """As many as may sum chunks beside each other on any machine; fewer than two for rows of more than 2047 features."""
    width = sum(level.width for level in plan.levels)
    return min(THREADS, SUMS_BYTES // (SUMS_MATRICES * 8 * width**2))


def held_bytes(plan: Plan, threads: int, chunk: int) -> int:
    """Of chunks of so many bytes on their way at a time, at most, of copies of the rows that are learned, and of their sums.

    One chunk is in the making, one waits, one is taken in, and each thread sums one; who takes in or sums makes a copy.
    """
    return chunk * (4 + 2 * threads) + threads * SUMS_MATRICES * 8 * sum(level.width for level in plan.levels) ** 2


def fit(
    source: Source, plan: Plan, extraction: Extraction, losses: Losses, keeper: Keeper, progress: Progress, *, threads: int = 1
) -> Fitted:
    """Fit in one pass over ``source``, or two where a detector needs them, from the last checkpoint of ``keeper`` on.

    The same data, plan and checkpoints give the same sums to the last bit, wherever the fit was interrupted, and whatever number of
    ``threads`` sums chunks; of more than 2047 features, on machines of as many cores. Raises InvalidInput, for data too that are
    not the same in the second pass.
    """
    position, gathering, second = Position(), Gathering.begun(plan), Second()
    if found := keeper.load():
        position, gathering = Position(**found.progress["position"]), Gathering.restored(plan, found.arrays)
        losses.lost[:] = [Loss(*entry) for entry in found.progress["lost"]]
        second.sums, second.learned = sums_restored(plan, found.arrays, "second"), found.progress["looked"]

    def keep() -> None:
        to_come = {part.name for part in source.parts[position.part :]}  # of which some may be lost already, since they are read ahead
        lost = [[loss.name, loss.reason] for loss in losses.lost if position.looking or loss.name not in to_come]
        progress_now = {"position": asdict(position), "lost": lost, "looked": second.learned}
        keeper.save(Checkpoint(progress_now, {**gathering.arrays(), **sums_arrays(second.sums, "second")}))

    def walk(start: Position, losses: Losses, summed: Summed) -> Iterator[tuple[Parted, dict[str, Any], Position]]:
        chunks = parted(source, plan, extraction, losses, (start.part, start.row))
        return _walk(abreast(summed, chunks, threads), start, source.rows or 0, progress)

    # Where rows are so wide that one thread sums, its products have all cores but the one that makes chunks ready.
    with threadpool_limits(1 if most_threads(plan) > 1 else max((os.cpu_count() or 1) - 1, 1), user_api="blas"):
        if not position.looking:
            for one, sums, after in walk(position, losses, gathering.summed):
                gathering.take(one, sums)
                position = after
                if keeper.due():
                    keep()
            position = Position(looking=True)
        if looks := gathering.looks():
            second.looks = looks
            again = Losses(losses.on_error, losses.limit)  # what is lost is lost again
            for one, sums, after in walk(position, again, second.summed):
                second.join(sums, one.learned)
                position = after
                if keeper.due():
                    keep()
            second.check(gathering.learned)
    progress("fit", 0, 1)
    fitted = gathering.fitted(second.sums, extraction.extractor)
    progress("fit", 1, 1)
    return fitted


def parted(
    source: Source, plan: Plan, extraction: Extraction, losses: Losses, start: tuple[int, int] = (0, 0), stop: int | None = None
) -> Iterator[Parted]:
    """The chunks from row ``start[1]`` of part ``start[0]`` up to part ``stop``, with their features, made ready ahead by a thread.

    What a network has to go through is read ahead of that by another one.
    """
    read = source.walk if extraction.extractor else source.steps
    chunks = read(start, chunk_rows(source), losses, stop)
    return ahead((Parted.of(*extraction(chunk, losses), plan.recipe.seed, plan.share) for chunk in chunks), depth=1)


def _walk(
    chunks: Iterator[tuple[Parted, dict[str, Any]]], start: Position, total: int, progress: Progress
) -> Iterator[tuple[Parted, dict[str, Any], Position]]:
    """Chunks of which the first begins at ``start``, each with its sums and the position after it."""
    phase, rows = "second look" if start.looking else "read", start.rows
    progress(phase, rows, total)
    for one, sums in chunks:
        rows += len(one.chunk)
        yield one, sums, Position(start.looking, one.chunk.part, one.chunk.end, rows)
        progress(phase, rows, max(total, rows) if total else 0)
