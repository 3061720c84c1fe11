"""The passes over the data of a fit too large for memory, in one process: read, gather, and go on from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from service.engine import Fitted
from service.features import Features, Progress
from service.fitting.checkpoint import Checkpoint
from service.fitting.features import Extraction
from service.fitting.gathering import Gathering, Plan, hashes_of, learned_of, refused, sums_arrays, sums_restored
from service.sources import Chunk, Loss, Losses, Source
from service.sources.parts import rows_of

CHUNK_BYTES = 2**25  # of rows of numbers, of which four chunks are in memory at a time
IMAGES = 256  # in a chunk


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
    """Sums of the second pass, by type."""

    looks: dict[str, Any] = field(default_factory=dict)
    sums: dict[str, Any] = field(default_factory=dict)

    def take(self, chunk: Chunk, features: Features, plan: Plan) -> None:
        """Take in the rows of a chunk that the first pass learned."""
        rows, _ = learned_of(chunk, features, hashes_of(chunk, plan)[1])
        for kind, look in self.looks.items() if len(rows) else ():
            with refused(chunk):
                sums = look(rows)
            self.sums[kind] = self.sums[kind] + sums if kind in self.sums else sums

    def join(self, other: dict[str, Any]) -> None:
        """Take in the sums of other rows."""
        for kind, sums in other.items():
            self.sums[kind] = self.sums[kind] + sums if kind in self.sums else sums


def chunk_rows(source: Source) -> int:
    """Rows in a chunk, on which the rounding of sums depends."""
    return IMAGES if source.layout.shape is None else rows_of(source.layout.row_bytes, CHUNK_BYTES)


@dataclass(frozen=True, slots=True)
class Position:
    """Where the next chunk begins, and how many rows of this pass lie before it."""

    looking: bool = False  # whether this is the second pass
    part: int = 0
    row: int = 0
    rows: int = 0


def fit(source: Source, plan: Plan, extraction: Extraction, losses: Losses, keeper: Keeper, progress: Progress) -> Fitted:
    """Fit in one pass over ``source``, or two where a detector needs them, from the last checkpoint of ``keeper`` on.

    The same data, plan and checkpoints give the same sums to the last bit, wherever the fit was interrupted. Raises InvalidInput.
    """
    position, gathering, second = Position(), Gathering.begun(plan), Second()
    if found := keeper.load():
        position, gathering = Position(**found.progress["position"]), Gathering.restored(plan, found.arrays)
        losses.lost[:] = [Loss(*entry) for entry in found.progress["lost"]]
        second.sums = sums_restored(plan, found.arrays, "second")

    def keep() -> None:
        to_come = {part.name for part in source.parts[position.part :]}  # of which some may be lost already, since they are read ahead
        lost = [[loss.name, loss.reason] for loss in losses.lost if position.looking or loss.name not in to_come]
        progress_now = {"position": asdict(position), "lost": lost}
        keeper.save(Checkpoint(progress_now, {**gathering.arrays(), **sums_arrays(second.sums, "second")}))

    if not position.looking:
        for chunk, after in _walk(source, position, losses, progress):
            gathering.take(*extraction(chunk, losses))
            position = after
            if keeper.due():
                keep()
        position = Position(looking=True)
    if looks := gathering.looks():
        second.looks = looks
        again = Losses(losses.on_error, losses.limit)  # what is lost is lost again
        for chunk, after in _walk(source, position, again, progress):
            second.take(*extraction(chunk, again), plan)
            position = after
            if keeper.due():
                keep()
    progress("fit", 0, 1)
    fitted = gathering.fitted(second.sums, extraction.extractor)
    progress("fit", 1, 1)
    return fitted


def _walk(source: Source, start: Position, losses: Losses, progress: Progress) -> Iterator[tuple[Chunk, Position]]:
    """Chunks from ``start`` on, each with the position after it."""
    phase, rows, total = "second look" if start.looking else "read", start.rows, source.rows or 0
    progress(phase, rows, total)
    for chunk in source.walk((start.part, start.row), chunk_rows(source), losses):
        rows += len(chunk)
        yield chunk, Position(start.looking, chunk.part, chunk.end, rows)
        progress(phase, rows, max(total, rows))
