"""From what a request or a command line says of a fit to the task that it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from service import sources
from service.fitting.arguments import extractor_of
from service.fitting.task import Task
from service.jobs.schemas import FitOptions
from service.settings import MIB, Settings


def task_of(
    options: FitOptions, settings: Settings, places: str | Sequence[str], *, allow: Sequence[str], preprocessing: Path | None = None
) -> Task:
    """The fit of the data at ``places``, so far as ``allow`` lets them be read. Raises InvalidInput, naming what is wrong with them."""
    losses = sources.Losses(options.on_error, options.most_losses)
    labels = options.classes if isinstance(options.classes, str) else None
    source = sources.open_source(places, columns=options.columns, labels=labels, key=options.key, allow=allow, losses=losses)
    shape = source.layout.shape
    images = shape is None or (len(shape) == 3 and source.layout.dtype == "uint8")
    # On a CPU the images are shared out among threads, each of which runs the network by itself.
    threads = 1 if settings.device != "cuda" else os.cpu_count() or 1
    extractor = extractor_of(settings, images, options.extractor, options.taps, options.pixels, preprocessing, threads)
    return Task(options.recipe(), source, extractor, losses, settings.fit_memory * MIB, settings.max_pixels, settings.cluster)
