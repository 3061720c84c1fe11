"""The worker that ``farfield serve`` runs as a child process: started with it, started again when it dies, stopped with it."""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from typing import Self

from service import attachment
from service.settings import Settings

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before it is started again; doubled each time
HEALTHY_SECONDS = 60.0  # one that lived so long is started again after the first pause
GRACE_SECONDS = 10.0  # that it has to end


class OwnWorker:
    """A context in which ``python -m service.worker`` runs on these settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = threading.Event()
        self._process = self._started()
        self._keeper = threading.Thread(target=self._keep, name="own worker")

    def __enter__(self) -> Self:
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._keeper.join()
        attachment.detach(self._process)
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _started(self) -> subprocess.Popen[bytes]:
        return attachment.start("service.worker", self._settings.model_dump(mode="json"))

    def _keep(self) -> None:
        pause, since = FIRST_PAUSE, time.monotonic()
        while not self._stopping.wait(FIRST_PAUSE):
            status = self._process.poll()
            if status is None:
                continue
            pause = FIRST_PAUSE if time.monotonic() - since > HEALTHY_SECONDS else min(2 * pause, LONGEST_PAUSE)
            log.warning("the worker of this service ended with status %d; another one starts in %g s", status, pause)
            if self._stopping.wait(pause):
                return
            attachment.detach(self._process)
            self._process, since = self._started(), time.monotonic()
