"""A request to score, whatever interface it came by: decoded, judged, encoded."""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeVar

from service import engine
from service.features import Batch, Timed
from service.outliers.sightings import Asked
from service.scoring.callers import Caller
from service.settings import Settings
from service.verdicts import Verdicts
from service.versions import Loaded

T = TypeVar("T")
A_co = TypeVar("A_co", covariant=True)


class Terms(NamedTuple):
    """On which a batch is judged: the keywords of ``engine.score``."""

    alpha: float | None = None
    fdr: bool = False
    tail: bool = False
    attribute_by: str | None = None
    chi_square: bool = False


class Work(Asked, Protocol[A_co]):
    """One request, in parts that can be done apart: ``decode`` comes first, and the others may need what it has found."""

    caller: Caller
    seconds: dict[str, float]  # of its stages so far

    @property
    def size(self) -> int | None:
        """Bytes of what has to be decoded; None where they are compressed, and so may become any number."""

    def decode(self, loaded: Loaded, settings: Settings) -> Batch:
        """What is to be scored; looked into once. Raises ServiceError."""

    def terms(self) -> Terms:
        """On which it is to be judged."""

    def encode(self, loaded: Loaded, verdicts: Verdicts) -> A_co:
        """The answer, once ``verdicts.seconds`` have all stages before this one; adds its own there."""


def judged(loaded: Loaded, work: Work[T], settings: Settings) -> tuple[T, Verdicts]:
    """The answer to ``work`` by itself, and the verdicts in it. Raises what ``Caller.check`` does, between the stages."""
    batch = work.decode(loaded, settings)
    work.caller.check()
    verdicts = engine.score(loaded.fitted, batch, **work.terms()._asdict(), max_pixels=settings.max_pixels)
    work.caller.check()
    return answered(loaded, work, verdicts), verdicts


def answered(loaded: Loaded, work: Work[T], verdicts: Verdicts) -> T:
    """The answer with ``verdicts``, whose seconds then are those of all stages of ``work``."""
    for stage, spent in work.seconds.items():
        verdicts.seconds[stage] = verdicts.seconds.get(stage, 0.0) + spent
    with Timed(verdicts.seconds, "encode"):
        return work.encode(loaded, verdicts)
