"""Following jobs: whoever listens waits without a thread, and all jobs that are listened to are asked for in one question at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from anyio import to_thread

from service import errors
from service.jobs.queue import Job, Jobs

LOOK_SECONDS = 0.25
SILENCE_SECONDS = 5.0  # after which a listener hears that nothing is new


class JobWatch:
    """Belongs to one event loop. It asks the store only while somebody listens."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._listeners: dict[str, set[asyncio.Queue[Job | None]]] = {}
        self._asking: asyncio.Task[None] | None = None
        self.stopping: Callable[[], bool] = lambda: False  # whether the service ends, and with it all listening

    async def follow(self, job_id: str) -> AsyncIterator[Job | None]:
        """A job, and again each time that it is otherwise, until it is over or forgotten; None after a while without news.

        Raises UnknownJob, or StoreUnavailable where the store does not even say whether there is such a job.
        """
        news: asyncio.Queue[Job | None] = asyncio.Queue(1)  # the latest alone, for listeners that are slow
        listeners = self._listeners.setdefault(job_id, set())
        listeners.add(news)
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        try:
            known: Job | None = None
            while known is None or not known.over:
                try:
                    async with asyncio.timeout(SILENCE_SECONDS):
                        while (found := await news.get()) == known is not None:
                            pass
                except TimeoutError:
                    if known is None:
                        raise errors.StoreUnavailable(f"nothing was heard of job {job_id} for {SILENCE_SECONDS} s") from None
                    yield None
                    continue
                if found is None:
                    if known is None:
                        raise errors.UnknownJob(job_id)
                    return
                known = found
                yield known
        finally:
            listeners.discard(news)
            if not listeners:
                self._listeners.pop(job_id, None)

    async def _ask(self) -> None:
        """Tell every listener how its job is, for as long as there are listeners; while the store is away, nothing."""
        while self._listeners:
            ids = list(self._listeners)
            if self.stopping():
                self._tell(ids, {})
                return
            with suppress(errors.StoreUnavailable):
                self._tell(ids, {job.id: job for job in await to_thread.run_sync(self._jobs.several, ids)})
            await asyncio.sleep(LOOK_SECONDS)

    def _tell(self, ids: list[str], found: dict[str, Job]) -> None:
        for job_id in ids:
            for news in self._listeners.get(job_id, ()):
                if news.full():
                    news.get_nowait()
                news.put_nowait(found.get(job_id))
