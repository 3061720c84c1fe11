"""The commands about jobs: ``farfield jobs`` and ``farfield worker``."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from service import errors, features, terminal
from service.arguments import JsonOption, StoreOption, settings_of
from service.jobs import worker as workers
from service.jobs.queue import Job, Jobs
from service.jobs.schemas import told
from service.store import Store

LOOK_SECONDS = 0.25
AWAY_SECONDS = 1.0


def jobs(
    id: Annotated[str | None, typer.Argument(help="A job; without it, the newest are listed.")] = None,  # noqa: A002  # as it is shown
    cancel: Annotated[bool, typer.Option("--cancel", help="Cancel the job.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show how far the job is until it is over; exit code 1 unless it is done.")
    ] = False,
    show_log: Annotated[bool, typer.Option("--log", help="Print the log of the job, and the traceback if it failed.")] = False,
    as_json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """List the newest jobs, or show one, with its log; cancel it, or wait for it."""
    with terminal.refusals():
        if id is None and (cancel or watch or show_log):
            raise errors.InvalidInput("--cancel, --watch and --log are for one job: name it by its id")
        with Store.open(settings_of(store=store).store) as opened:
            queue = Jobs(opened.connection)
            if id is None:
                _list(queue.newest(), as_json)
                return
            job = queue.cancel(id) if cancel else queue.get(id)
            if watch:
                with terminal.progress() as shown:
                    job = _followed(queue, job, shown)
            if as_json:
                terminal.print_json(told(job))
            elif show_log:
                _print_log(job, queue.log(id))
            else:
                _print(job)
        if watch and job.state != "done":
            raise typer.Exit(1)


def worker(
    concurrency: Annotated[int | None, typer.Option("--concurrency", help="Jobs done at the same time.")] = None,
    memory: Annotated[int | None, typer.Option("--memory", help="MiB that one job may take, on Linux; 0 sets no limit.")] = None,
    store: StoreOption = None,
) -> None:
    """Do the jobs that are asked for over HTTP, until stopped; jobs in hand go back into the queue."""
    with terminal.refusals():
        workers.run(settings_of(store=store, worker_concurrency=concurrency, worker_memory=memory))


def _followed(queue: Jobs, job: Job, shown: features.Progress) -> Job:
    """The job when it is over; ``shown`` is told how far it is meanwhile."""
    while not job.over:
        if job.progress.phase and job.state == "running":
            shown(job.progress.phase, job.progress.done, job.progress.total)
        time.sleep(LOOK_SECONDS)
        try:
            job = queue.get(job.id)
        except errors.StoreUnavailable as error:
            terminal.err.print(f"{escape(str(error))}; trying again", highlight=False, soft_wrap=True)
            time.sleep(AWAY_SECONDS)
    return job


def _list(found: list[Job], as_json: bool) -> None:
    if as_json:
        terminal.print_json([told(job) for job in found])
        return
    table = Table("id", "kind", "detector", "state", "progress", "created", "attempts")
    for job in found:
        table.add_row(job.id, job.kind, job.detector, job.state, _progress(job), (told(job)["created"] or "")[:19], str(job.attempts))
    terminal.out.print(table if found else "no jobs yet", soft_wrap=not found)


def _print(job: Job) -> None:
    terminal.say(f"[bold]{job.id}[/] {job.kind} of {job.detector}: {job.state}{', being cancelled' * (job.cancelling and not job.over)}")
    if job.state == "running":
        terminal.say(f"{_progress(job)}, by worker {job.worker}, attempt {job.attempts}")
    if job.result:
        terminal.say(f"version {job.result['version']}")
    if job.error:
        terminal.say(escape(job.error))


def _print_log(job: Job, lines: list[str]) -> None:
    for line in [*lines, *(job.traceback or "").splitlines()]:
        terminal.say(escape(line))


def _progress(job: Job) -> str:
    if job.state != "running" or not job.progress.phase:
        return ""
    progress = job.progress
    text = f"{progress.phase} {progress.done}" + (f" of {progress.total}" if progress.total else "")
    if progress.rate:
        text += f", {progress.rate:.3g}/s"
    if progress.seconds_left is not None:
        text += f", {progress.seconds_left:.0f} s left"
    return text
