"""What a job does, in a process of its own: ``python -m service.jobs.work`` with the job as the first line of its standard input.

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
from dataclasses import replace
from typing import IO, Any, TypeVar

import numpy as np
from pydantic import ValidationError

from models import ModelError
from service import archive, attachment, engine, errors
from service.connection import patiently
from service.features import Batch, Progress, fingerprint
from service.fitting import run
from service.fitting.checkpoint import Checkpoints
from service.fitting.order import task_of
from service.jobs.queue import MOST_ATTEMPTS, Jobs
from service.jobs.schemas import KIND, FitOptions, check_data
from service.manifest import Source
from service.scoring import codecs
from service.settings import Settings
from service.store import Store
from service.updates import schemas as update_schemas
from service.updates.successors import update
from service.uploads import data_sets

NICENESS = 10  # scoring on the same machine goes first
TOLD_SECONDS = 0.1  # between two words on the progress
RATED = 50  # words on the progress over which the rate is taken
MAY_PASS = (errors.SourceUnavailable, errors.ClusterUnavailable)  # so that the job may succeed another time

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
        what = "full" if isinstance(error, errors.StoreFull) else "away"
        return _failed(f"the store was {what} for too long", MOST_ATTEMPTS, error)
    except (errors.ServiceError, ModelError, OSError) as error:
        return _failed(str(error), MOST_ATTEMPTS if isinstance(error, MAY_PASS) else 1, error)
    except MemoryError as error:
        return _failed("the job ran out of memory: give fewer rows, or let it run where there is more", 2, error)
    except Exception as error:  # noqa: BLE001  # whatever it is belongs to the job, for administrators to read
        return _failed("the job failed for a reason that is not in the request; its log has the details", 1, error)


def _done(order: dict[str, Any], progress: Progress) -> dict[str, Any]:
    if order["kind"] not in (KIND, update_schemas.KIND):
        raise errors.InvalidInput(f"this worker knows no jobs of the kind {order['kind']!r}: it is older than the service that took it")
    settings = Settings(**order["settings"])
    if order["kind"] == update_schemas.KIND:
        return _updated(settings, order, progress)
    options = FitOptions.model_validate(order["spec"])
    with patiently(lambda: Store.open(settings.store, timeout=settings.store_timeout), progress) as store:
        return fit(store, settings, order["id"], order["detector"], options, progress)


def fit(store: Store, settings: Settings, job: str, name: str, options: FitOptions, progress: Progress) -> dict[str, Any]:
    """Fit, calibrate and publish, unless an earlier attempt has published; what the job has for a result."""
    result: dict[str, Any] = {"detector": name}
    number = patiently(lambda: store.published(name, job), progress)
    if number is None:
        fitted, source, checkpoints = _fitted(store, settings, job, name, options, progress)
        manifest, blobs = archive.pack(fitted, name, source)
        size = sum(map(len, blobs.values()))
        result |= {"rows": source.rows, "n_fit": fitted.n_fit, "n_calibration": fitted.n_calibration, "features": fitted.width}
        if source.lost:
            result["lost"] = source.lost
        if manifest.sample:
            result["sample"] = manifest.sample.model_dump()

        def publish() -> int:
            return store.publish(name, manifest, blobs, written=lambda done: progress("publish", done, size), token=job)

        number = patiently(publish, progress)
        if checkpoints:
            checkpoints.drop()
    if options.alias:
        alias, version = options.alias, number
        before = patiently(lambda: store.move_alias(name, alias, version, token=f"{job}:alias"), progress)
        result |= {"alias": alias, "alias_before": before}
    return {**result, "version": number}


def _fitted(
    store: Store, settings: Settings, job: str, name: str, options: FitOptions, progress: Progress
) -> tuple[engine.Fitted, Source, Checkpoints | None]:
    """Fit on the rows that came with the request, on an upload, or on data as far as this worker's own settings let them be read."""
    if options.data is None:
        body = patiently(lambda: Jobs(store.connection).rows(job), progress)
        batch, classes = Batch(rows=codecs.parse_npy(body)), None if options.classes is None else np.array(options.classes)
        fitted = engine.fit(options.recipe(), batch, classes=classes, max_pixels=settings.max_pixels, progress=progress)
        return fitted, Source(name="rows in a request", rows=len(batch), sha256=fingerprint(batch)), None
    check_data(options, settings)
    with data_sets.readable(store, options.data, settings.data_roots) as (places, allow):
        task = task_of(options, settings, places, allow=allow)
        if places is not options.data:
            task = replace(task, cluster=None)  # an upload is fetched to this machine, where no other can read it
        sys.stderr.write("".join(f"{line}\n" for line in task.source.describe()))  # the log of the job
        sys.stderr.flush()
        checkpoints = Checkpoints(store.connection, name, task.identity(), settings.checkpoint_seconds)
        return *run.fit(task, checkpoints, progress), checkpoints


def _updated(settings: Settings, order: dict[str, Any], progress: Progress) -> dict[str, Any]:
    job, options = order["id"], update_schemas.UpdateJob.model_validate(order["spec"])

    def asked(call: Callable[[], T]) -> T:
        return patiently(call, progress)

    with asked(lambda: Store.open(settings.store, timeout=settings.store_timeout)) as store:
        wanted = update_schemas.order(options, settings, lambda: asked(lambda: Jobs(store.connection).rows(job)), progress, store)
        return update(store, settings, order["detector"], wanted, progress=progress, token=job, asked=asked)


def _failed(error: str, most_attempts: int = 1, caught: BaseException | None = None) -> dict[str, Any]:
    return {"error": error, "traceback": "".join(traceback.format_exception(caught)) if caught else "", "most_attempts": most_attempts}


if __name__ == "__main__":
    main()
