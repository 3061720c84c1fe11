"""What a job does, in a process of its own: ``python -m service.work`` with the job as the first line of its standard input.

It tells the worker how far it is, and at last how it ended, by lines of JSON; what it, or a library, prints otherwise becomes the
log of the job. It ends at once when its worker does. A fit that was begun twice publishes once: by the id of its job.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from models import ModelError
from service import archive, attachment, codecs, engine, errors, sources
from service.arguments import extractor_of
from service.features import Batch, Progress, fingerprint
from service.job_schemas import KIND, FitOptions, check_data
from service.jobs import MOST_ATTEMPTS, Jobs
from service.manifest import Source
from service.settings import Settings
from service.store import Store

NICENESS = 10  # scoring on the same machine goes first
TOLD_SECONDS = 0.1  # between two words on the progress
RATED = 50  # words on the progress over which the rate is taken
PATIENCE_SECONDS = 60.0  # with a store that is away
AWAY_SECONDS = 0.5

T = TypeVar("T")


class Teller:
    """Tells the worker how far the job is."""

    def __init__(self, pipe: IO[str]) -> None:
        self._pipe = pipe
        self._phase, self._last = "", 0.0
        self._seen: deque[tuple[float, int]] = deque(maxlen=RATED)

    def say(self, **said: Any) -> None:
        self._pipe.write(json.dumps(said) + "\n")
        self._pipe.flush()

    def progress(self, phase: str, done: int, total: int) -> None:
        """Note it, and tell of it unless the worker has heard of this phase just now."""
        now = time.monotonic()
        if phase != self._phase:
            self._phase, self._last = phase, 0.0
            self._seen.clear()
        if now - self._last < TOLD_SECONDS and done < total:
            return
        self._last = now
        self._seen.append((now, done))
        then, before = self._seen[0]
        rate = (done - before) / (now - then) if now > then else 0.0
        self.say(progress=[phase, done, total, rate])


def main() -> None:
    order = attachment.order()
    attachment.watch(lambda: os._exit(1))
    teller = Teller(os.fdopen(os.dup(sys.stdout.fileno()), "w"))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    os.nice(NICENESS)
    teller.say(**ending(order, teller.progress))


def ending(order: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Do a job; how that ended, as ``attempt.Ending`` has it."""
    try:
        return {"result": _done(order, progress)}
    except ValidationError as error:
        return _failed("this worker cannot read the job: it is of another release than the service that took it", 1, error)
    except errors.StoreUnavailable as error:
        return _failed("the store was away for too long", MOST_ATTEMPTS, error)
    except (errors.ServiceError, ModelError, OSError) as error:
        return _failed(str(error), 1, error)
    except MemoryError as error:
        return _failed("the job ran out of memory: give fewer rows, or let it run where there is more", 2, error)
    except Exception as error:  # noqa: BLE001  # whatever it is belongs to the job, for administrators to read
        return _failed("the job failed for a reason that is not in the request; its log has the details", 1, error)


def _done(order: dict[str, Any], progress: Progress) -> dict[str, Any]:
    if order["kind"] != KIND:
        raise errors.InvalidInput(f"this worker knows no jobs of the kind {order['kind']!r}: it is older than the service that took it")
    settings = Settings(**order["settings"])
    options = FitOptions.model_validate(order["spec"])
    with patiently(lambda: Store.open(settings.store, timeout=settings.store_timeout), progress) as store:
        return fit(store, settings, order["id"], order["detector"], options, progress)


def fit(store: Store, settings: Settings, job: str, name: str, options: FitOptions, progress: Progress) -> dict[str, Any]:
    """Fit, calibrate and publish, unless an earlier attempt has published; what the job has for a result."""
    result: dict[str, Any] = {"detector": name}
    number = patiently(lambda: store.published(name, job), progress)
    if number is None:
        data = _uploaded(store, job, options, progress) if options.data is None else _read(options, settings, progress)
        extractor = extractor_of(settings, data, options.extractor, options.taps, None, None)
        fitted = engine.fit(
            options.recipe(),
            data.batch,
            extractor,
            feature_names=data.feature_names,
            classes=data.labels,
            max_pixels=settings.max_pixels,
            progress=progress,
        )
        source = Source(name=data.name, rows=len(data.batch), sha256=fingerprint(data.batch))
        manifest, blobs = archive.pack(fitted, name, source)
        size = sum(map(len, blobs.values()))
        result |= {"rows": len(data.batch), "n_fit": fitted.n_fit, "n_calibration": fitted.n_calibration, "features": fitted.width}

        def publish() -> int:
            return store.publish(name, manifest, blobs, written=lambda done: progress("publish", done, size), token=job)

        number = patiently(publish, progress)
    if options.alias:
        alias, version = options.alias, number
        patiently(lambda: store.move_alias(name, alias, version, token=f"{job}:alias"), progress)
        result["alias"] = alias
    return {**result, "version": number}


def patiently(call: Callable[[], T], progress: Progress) -> T:
    """What ``call`` returns, once the store answers. Raises StoreUnavailable where it does not for ``PATIENCE_SECONDS``."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return call()
        except errors.StoreUnavailable:
            if time.monotonic() > deadline:
                raise
            progress("wait for the store", 0, 0)
            time.sleep(AWAY_SECONDS)


def _uploaded(store: Store, job: str, options: FitOptions, progress: Progress) -> sources.Data:
    """The rows that came with the request."""
    body = patiently(lambda: Jobs(store.connection).rows(job), progress)
    classes = None if options.classes is None else np.array(options.classes)
    return sources.Data(Batch(rows=codecs.parse_npy(body)), "rows in a request", labels=classes)


def _read(options: FitOptions, settings: Settings, progress: Progress) -> sources.Data:
    """The data at a path or URL, read whole, so far as this worker's own settings let them be read."""
    check_data(options, settings)
    labels = options.classes if isinstance(options.classes, str) else None
    source = sources.open_source(options.data or "", labels=labels, allow=settings.data_roots)
    chunks: list[sources.Chunk] = []
    rows = 0
    progress("read", 0, source.rows or 0)
    for chunk in source.walk():
        chunks.append(chunk)
        rows += len(chunk)
        progress("read", rows, source.rows or rows)
    if not rows:
        raise errors.InvalidInput(f"{options.data} holds no rows")
    blocks: list[NDArray[Any]] = [chunk.rows for chunk in chunks if chunk.rows is not None]
    batch = Batch(rows=np.concatenate(blocks)) if blocks else Batch(images=[image for chunk in chunks for image in chunk.images or ()])
    classes = [chunk.labels for chunk in chunks if chunk.labels is not None]
    names = list(source.layout.names) if source.layout.names else None
    name = PurePosixPath(options.data or "").name
    return sources.Data(batch, name, names, labels=np.concatenate(classes) if classes else None)


def _failed(error: str, most_attempts: int = 1, caught: BaseException | None = None) -> dict[str, Any]:
    return {"error": error, "traceback": "".join(traceback.format_exception(caught)) if caught else "", "most_attempts": most_attempts}


if __name__ == "__main__":
    main()
