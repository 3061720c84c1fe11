"""What a fit would take, told before it: which way it would go, its memory, and its time by a look at the beginning of the data."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace

from service.engine import check_parameters, unfitted
from service.errors import InvalidInput
from service.fitting.features import Extraction
from service.fitting.gathering import Gathering, Plan
from service.fitting.parted import Parted
from service.fitting.passes import IMAGES, chunk_rows, held_bytes, summing_threads
from service.fitting.task import DOUBLE, Task
from service.judges import CrossJudge
from service.recipe import check
from service.settings import MIB
from service.sources import Losses
from service.sources.parts import CHUNK_BYTES

IMAGE_BYTES = CHUNK_BYTES // IMAGES  # at most, of an encoded image among those of one chunk
SINGLE = 4  # bytes
LOOK_IMAGES = 64  # which one core sends through a large network in some seconds
LOOK_SECONDS = 5.0  # after which no more chunks are looked at
SQUARE = ("gaussian", "class_gaussian", "robust_shrinkage")  # types that learn covariances
MATRICES = 6  # that these hold at a time, at most
NOBODY = 2.0**-65  # a share of the rows under which no hash falls


@dataclass(frozen=True, slots=True)
class Look:
    """The first rows that can be read, and the seconds in which one core has read them, made features and summed these."""

    rows: int
    seconds: float
    gathering: Gathering | None  # None where a fit has no plan, since it never reads in passes

    @classmethod
    def at(cls, task: Task, plan: Plan | None) -> Look:
        """A look at about as many rows as a chunk has, from however many files. Raises InvalidInput where none can be read."""
        learned = replace(plan, share=NOBODY) if plan else None  # what is said must not hang on the draw
        gathering = Gathering.begun(learned) if learned else None
        wanted = LOOK_IMAGES if task.source.layout.shape is None else chunk_rows(task.source)
        losses = Losses("skip", task.losses.limit)
        rows, seconds, start = 0, 0.0, time.perf_counter()
        with Extraction(task.extractor, task.max_pixels, 1) as extraction:
            for chunk in task.source.walk(rows=wanted, losses=losses):
                kept, features = extraction(chunk, losses)
                if gathering and learned:
                    parted = Parted.of(kept, features, learned.recipe.seed, learned.share)
                    gathering.take(parted, gathering.summed(parted))
                rows, seconds = rows + len(kept), time.perf_counter() - start
                if rows >= wanted or seconds > LOOK_SECONDS:
                    break
        if not rows:
            raise InvalidInput(f"no row can be read{f'; {losses.lost[0].reason}' if losses.lost else ''}")
        return cls(rows, seconds, gathering)


def forecast(task: Task) -> list[str]:
    """Lines that tell it. Reads headers, a look's rows, and where rows are not counted the beginning of one file; raises InvalidInput."""
    check(task.recipe, labelled=task.source.wanted.labels is not None)
    for kind in task.recipe.types:
        check_parameters(unfitted(task.recipe, kind, task.levels))
    crossed = task.whole and task.recipe.method == CrossJudge.METHOD
    plan = None if crossed else task.plan()
    look = Look.at(task, plan)
    rows, guessed = (task.source.rows, False) if task.source.rows is not None else (task.source.guessed_rows(), True)
    lines = [f"{task.recipe.type}, {task.recipe.method} calibration, alpha {task.recipe.alpha:g}, {task.width} features"]
    if task.whole:
        held = f"about {3 * task.whole_bytes // MIB + 1} MiB beside the program"
        lines.append(f"all rows are held in memory at once, up to {task.memory // MIB} MiB of them: {held}")
    elif plan and look.gathering:
        lines += _in_passes(task, plan, look.gathering, rows)
    if any(kind in SQUARE for kind in task.recipe.types):
        lines.append(f"at the end up to {MATRICES * DOUBLE * task.width**2 // MIB + 1} MiB of matrices of {task.width} x {task.width}")
    lines.append(_time(task, look, rows, guessed=guessed))
    untimed = task.recipe.types if plan is None else plan.sampled
    return [*lines, *(f"time of fitting {kind} after that: not known, since it does not grow evenly with the rows" for kind in untimed)]


def _in_passes(task: Task, plan: Plan, first: Gathering, rows: int | None) -> list[str]:
    where = f"on the cluster {task.cluster}" if task.cluster else "in this process"
    lines = [f"read in {'two passes' if first.looks() else 'one pass'} of {len(task.source.parts)} parts, {where}"]
    lines.append(f"held out: {plan.share:.2%} of the rows" + (f", about {round(plan.share * rows)}" if rows else ""))
    lines += [f"{kind} learns sums over all others" for kind in plan.additive]
    lines += [f"{kind} learns a sample of at most {plan.most_sampled} others" for kind in plan.sampled]
    state = sum(array.nbytes for array in first.arrays().values())
    kept = (plan.most_held + (2 * plan.most_sampled if plan.sampled else 0)) * DOUBLE * task.width + state
    row = task.source.layout.feature_bytes or IMAGE_BYTES + SINGLE * task.width
    threads = 1 if task.cluster else summing_threads(plan, os.cpu_count() or 1)
    chunks = held_bytes(plan, threads, chunk_rows(task.source) * row)
    lines.append(
        f"memory: about {kept // MIB + 1} MiB of rows and sums, and up to {chunks // MIB + 1} MiB of chunks on their way and their sums"
    )
    return lines


def _time(task: Task, look: Look, rows: int | None, *, guessed: bool) -> str:
    if rows is None:
        return f"time: not known, since {task.source.form} does not count its rows, and none is whole in the beginning of a file"
    passes = 2 if look.gathering and not task.whole and look.gathering.looks() else 1
    seconds = passes * look.seconds * rows / look.rows
    told = f"about {seconds:.0f} s" if seconds >= 1 else "under 1 s"
    counted = f"; about {rows} rows in all, by the size of the files" if guessed else ""
    return f"time: {told} on one core to go through the rows, by the first {look.rows} of them{counted}"
