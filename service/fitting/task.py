"""What is to be fitted, and whether memory holds it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from models import Extractor, Level
from service import __version__
from service.errors import InvalidInput
from service.fitting.gathering import Plan
from service.fitting.passes import chunk_rows
from service.judges import CrossJudge
from service.recipe import Recipe
from service.sources import Losses, Source

PACKED, TEXT = 4, 4  # times that rows grow at most, at a guess, when they are unpacked, and when they are parsed
DOUBLE = 8  # bytes of a float64


@dataclass(frozen=True, slots=True)
class Task:
    """A fit, with all that decides what comes of it."""

    recipe: Recipe
    source: Source
    extractor: Extractor | None
    losses: Losses
    memory: int  # bytes of rows and features to hold at most
    max_pixels: int
    cluster: str | None = None

    @property
    def levels(self) -> tuple[Level, ...]:
        """How the columns of the features divide; a source without an extractor is one level."""
        if self.extractor:
            return self.extractor.levels
        shape = self.source.layout.shape
        if shape is None or len(shape) != 1:
            raise InvalidInput(f"a row of the data has shape {shape}; without an extractor, [features] is needed", "#/data")
        return (Level("features", shape[0]),)

    @property
    def width(self) -> int:
        return sum(level.width for level in self.levels)

    @property
    def whole_bytes(self) -> int:
        """What all rows take in memory: inputs as they are stored, and features; a guess where rows are not counted."""
        packed = any(file.url.endswith("gz") for file in self.source.files)
        stored = self.source.bytes * (PACKED if packed else 1) * (TEXT if self.source.form == "csv" else 1)
        if self.source.rows is None:
            return stored
        return self.source.rows * DOUBLE * self.width + (stored if self.extractor else 0)

    @property
    def whole(self) -> bool:
        """Whether all rows are held at once: if there is room; on a cluster for cross-conformal calibration alone, which needs them all."""
        wanted = self.cluster is None or self.recipe.method == CrossJudge.METHOD
        return wanted and self.whole_bytes <= self.memory

    def plan(self) -> Plan:
        """How the rows of a fit that does not hold them all are shared out."""
        return Plan.of(self.recipe, self.levels, self.source.rows, self.memory, self.source.layout.names, self.max_pixels)

    def identity(self) -> dict[str, Any]:
        """What a checkpoint has to agree with."""
        return {
            "release": __version__,
            "recipe": asdict(self.recipe),
            "source": self.source.fingerprint,
            "extractor": self.extractor.digest if self.extractor else None,
            "memory": self.memory,
            "chunk": chunk_rows(self.source),
            "losses": [self.losses.on_error, self.losses.limit],
        }
