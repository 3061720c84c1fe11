"""What could not be read: refused at once, or left out up to a limit and remembered by name."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

from service.errors import InvalidInput, ServiceError, SourceUnavailable
from service.sources.tries import may_pass
from service.sources.urls import SCHEME, shown

UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    NotImplementedError,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    pa.ArrowException,
)


@dataclass(frozen=True, slots=True)
class Loss:
    """A file, part or image that was left out, and why."""

    name: str  # of a file its URL, with what may let others in: not for people
    reason: str  # for people


@dataclass(slots=True)
class Losses:
    """The policy for damaged data, and the list of what it left out.

    Under ``on_error="fail"`` the first loss is raised as the InvalidInput that it is. Under ``"skip"``
    up to ``limit`` are left out; one more raises InvalidInput with the number and the latest reason. What is lost for
    the same reason again counts once: a fit that goes on from a checkpoint meets again what had been read ahead of it.

    >>> losses = Losses("skip", limit=1)
    >>> losses.add("a.png", InvalidInput("a.png is empty"))
    >>> losses.lost
    [Loss(name='a.png', reason='a.png is empty')]
    """

    on_error: Literal["fail", "skip"] = "fail"
    limit: int = 100
    lost: list[Loss] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.on_error not in ("fail", "skip"):
            raise InvalidInput(f"on_error={self.on_error!r} must be 'fail' or 'skip'")
        if self.limit < 0:
            raise InvalidInput(f"limit={self.limit} must be at least 0")

    def add(self, name: str, error: InvalidInput) -> None:
        if self.on_error == "fail":
            raise error
        loss = Loss(name, str(error))
        if loss in self.lost:
            return
        if len(self.lost) >= self.limit:
            raise InvalidInput(f"more than limit={self.limit} pieces of the data cannot be read; the latest: {error}") from error
        self.lost.append(loss)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Errors of the libraries that read become InvalidInput with the name of the file, in one line.

    Of a URL all are, since each file system has errors of its own; but SourceUnavailable where the connection broke and the same
    may succeed later: that is no damage, which could be left out.
    """
    try:
        yield
    except (ServiceError, MemoryError):
        raise
    except Exception as error:
        if SCHEME.match(name) and may_pass(error):
            raise SourceUnavailable(f"{name} cannot be read now: {_said(error)}") from None
        if SCHEME.match(name) or isinstance(error, UNREADABLE):
            raise InvalidInput(f"{name} cannot be read: {_said(error)}") from None
        raise


def _said(error: Exception) -> str:
    return " ".join(shown(str(error)).split()) or type(error).__name__
