"""A child process that is started again when it dies, and ends with who keeps it."""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Self

from service import attachment

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before it is started again; doubled each time
HEALTHY_SECONDS = 60.0  # one that lived so long is started again after the first pause


class Kept:
    """A context in which the process that ``start`` starts, see ``attachment``, runs; ``what`` names it in the log.

    It has ``grace`` seconds to end in order when the context does.
    """

    def __init__(self, what: str, start: Callable[[], subprocess.Popen[bytes]], grace: float) -> None:
        self._what, self._start, self._grace = what, start, grace
        self._stopping = threading.Event()
        self._process = start()
        self._keeper = threading.Thread(target=self._keep, name=what)

    def __enter__(self) -> Self:
        self._keeper.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        try:
            self._process.wait(self._grace)
        except subprocess.TimeoutExpired:
            log.warning("%s has not ended within %g s and is killed", self._what, self._grace)
            self._process.kill()
            self._process.wait()

    def release(self) -> None:
        """Have the process end, and wait for nothing."""
        self._stopping.set()
        self._keeper.join()
        attachment.detach(self._process)

    def _keep(self) -> None:
        pause, since = FIRST_PAUSE, time.monotonic()
        while not self._stopping.wait(FIRST_PAUSE):
            status = self._process.poll()
            if status is None:
                continue
            pause = FIRST_PAUSE if time.monotonic() - since > HEALTHY_SECONDS else min(2 * pause, LONGEST_PAUSE)
            log.warning("%s ended with status %d; another one starts in %g s", self._what, status, pause)
            if self._stopping.wait(pause):
                return
            attachment.detach(self._process)
            self._process, since = self._start(), time.monotonic()
