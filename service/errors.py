"""Everything that the service refuses; the HTTP status of each stands in ``service.problems``.

ServiceError
  InvalidInput         the request or the data are not what is needed; names the place
  UnsupportedMedia     a body in a form that is not read
  NotAcceptable        an answer in none of the forms that there are
  ForeignOrigin        a web page of another site asks for a change
  TooLarge             a body, an image or a batch over its limit
  NotFound
    UnknownDetector
    UnknownVersion
    UnknownAlias
    UnknownJob
    UnknownUpload
    UnknownShadow
  Conflict
    AliasMoved         the alias is not where the caller expected it
    VersionInUse       an alias points at the version that was to be deleted
    NothingToRollBack  the alias has no earlier version that still exists
    KeyReused          an idempotency key came again with another request
    OffsetMoved        a part of an upload does not begin where the upload ends
  ChecksumMismatch     a part of an upload is not the bytes that were sent
  UploadsFull          no room for another upload
  FeedbackFull         no room for another mark
  NotReady             there is nothing to score by yet, or it was unloaded by request
  Unsupported          a part of the Open Inference Protocol, or of an extension of it, that is not offered
  VersionRefused       the stored version is damaged, or gives other scores than when it was fitted
  Overloaded           no room for another request now
  DeadlineExceeded     the time that the caller allows is over
  StoreUnavailable     the store did not answer
    StoreFull          it answered that it has no memory left
  SourceUnavailable    data on another machine cannot be reached now; nothing is wrong with them
  ClusterUnavailable   the Dask cluster does not answer, or was lost
  StartupError         the embedded store or the service cannot start
"""

from __future__ import annotations


class ServiceError(Exception):
    """Base of all refusals; its text is one or more sentences written for the caller."""


class InvalidInput(ServiceError):
    """``pointer`` is the place in the request, as a JSON pointer in a URI fragment: ``#/rows/2/5``."""

    def __init__(self, detail: str, pointer: str | None = None) -> None:
        super().__init__(detail)
        self.pointer = pointer


class UnsupportedMedia(ServiceError): ...


class NotAcceptable(ServiceError): ...


class ForeignOrigin(ServiceError): ...


class TooLarge(ServiceError):
    """``pointer`` as in InvalidInput; none where the whole body is meant."""

    def __init__(self, detail: str, pointer: str | None = None) -> None:
        super().__init__(detail)
        self.pointer = pointer


class NotFound(ServiceError): ...


class UnknownDetector(NotFound):
    def __init__(self, name: str) -> None:
        super().__init__(f"there is no detector named {name!r}")


class UnknownVersion(NotFound):
    def __init__(self, name: str, version: int) -> None:
        super().__init__(f"detector {name!r} has no version {version}")


class UnknownAlias(NotFound):
    def __init__(self, name: str, alias: str) -> None:
        super().__init__(f"detector {name!r} has no alias {alias!r}")


class UnknownJob(NotFound):
    def __init__(self, job: str) -> None:
        super().__init__(f"there is no job {job!r}, or it ended more than a week ago")


class UnknownUpload(NotFound):
    def __init__(self, upload: str) -> None:
        super().__init__(f"there is no upload {upload!r}, or it has expired")


class UnknownShadow(NotFound):
    def __init__(self, name: str) -> None:
        super().__init__(f"no version of detector {name!r} has a shadow")


class Conflict(ServiceError): ...


class AliasMoved(Conflict):
    def __init__(self, name: str, alias: str, expected: int, found: int | None) -> None:
        where = f"at version {found}" if found else "not set"
        wanted = f"not at version {expected} as expected" if expected else "though it was expected not to be set"
        super().__init__(f"alias {alias!r} of detector {name!r} is {where}, {wanted}")


class VersionInUse(Conflict):
    def __init__(self, name: str, version: int, aliases: list[str]) -> None:
        super().__init__(f"version {version} of detector {name!r} is in use by alias {', '.join(aliases)}: move it first")


class NothingToRollBack(Conflict):
    def __init__(self, name: str, alias: str) -> None:
        super().__init__(f"alias {alias!r} of detector {name!r} has no earlier version to go back to")


class KeyReused(Conflict):
    def __init__(self, key: str, job: str) -> None:
        super().__init__(f"Idempotency-Key {key!r} came before with another request, which became job {job}: use a new key")


class NotReady(ServiceError): ...


class Unsupported(ServiceError): ...


class OffsetMoved(Conflict):
    def __init__(self, upload: str, offset: int, given: int) -> None:
        super().__init__(f"upload {upload!r} goes on at offset {offset}, not at {given}")


class ChecksumMismatch(ServiceError): ...


class UploadsFull(ServiceError): ...


class FeedbackFull(ServiceError): ...


class VersionRefused(ServiceError):
    def __init__(self, name: str, version: int, reason: str) -> None:
        super().__init__(f"version {version} of detector {name!r} was refused: {reason}")
        self.reason = reason


class Overloaded(ServiceError):
    retry_after = 1  # seconds


class DeadlineExceeded(ServiceError): ...


class StoreUnavailable(ServiceError):
    """Its text has the server's address and its own words; ``public`` is what a caller over HTTP is told."""

    public = "the store did not answer; try again in a moment"
    retry_after = 1  # seconds


class StoreFull(StoreUnavailable):
    public = "the store has no memory left; delete what is not needed (farfield gc), or give it more"
    retry_after = 10


class SourceUnavailable(ServiceError): ...


class ClusterUnavailable(ServiceError): ...


class StartupError(ServiceError): ...
