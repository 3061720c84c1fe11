"""The worker that ``farfield serve`` runs as a child process: started with it, started again when it dies, stopped with it."""

from __future__ import annotations

import subprocess

from service import attachment
from service.serving.kept import Kept
from service.settings import Settings

GRACE_SECONDS = 10.0  # that it has to end


def own_worker(settings: Settings) -> Kept:
    """A context in which ``python -m service.jobs.worker`` runs on these settings."""

    def start() -> subprocess.Popen[bytes]:
        return attachment.start("service.jobs.worker", settings.model_dump(mode="json"))

    return Kept("the worker of this service", start, GRACE_SECONDS)
