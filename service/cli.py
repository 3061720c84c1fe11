"""The command line, ``farfield``: what commands there are. Each is imported when it is called: none waits for what others need."""

from __future__ import annotations

import signal
import sys
from importlib import import_module
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand

from service.imports import unswept

COMMANDS = {  # by name: module and function, and the first line of the function's help
    "score": ("service.commands:score", "Score rows or images by a stored version, here in this process."),
    "evaluate": (
        "service.commands:evaluate",
        "Fit on 70 % of the normal rows and test on the rest and all anomalous ones; publishes nothing.",
    ),
    "detectors": ("service.commands:detectors", "List the detectors in the store."),
    "promote": ("service.commands:promote", "Point an alias at a version, after a check that the version is whole."),
    "rollback": ("service.commands:rollback", "Point an alias back at where it was before its last move."),
    "serve": (
        "service.serving.commands:serve",
        "Serve the HTTP interface, the metrics and the console, and do the jobs that are asked for.",
    ),
    "demo": ("service.commands:demo_command", "Fit, publish, serve and score real images, and leave the service running."),
    "doctor": ("service.commands:doctor_command", "Check Python, providers, disk, store and versions, and say what to do."),
    "fit": (
        "service.fitting.commands:fit",
        "Fit a detector on normal data, calibrate it on held-out rows, and publish it as the next version.",
    ),
    "jobs": ("service.jobs.commands:jobs", "List the newest jobs, or show one, with its log; cancel it, or wait for it."),
    "worker": (
        "service.jobs.commands:worker",
        "Do the jobs that are asked for over HTTP, until stopped; jobs in hand go back into the queue.",
    ),
    "versions": ("service.updates.commands:versions", "List the versions of a detector, or tell how two of them differ."),
    "update": (
        "service.updates.commands:update",
        "Make a new version of an old one without fitting it again: forget rows, merge versions, let old rows decay, add rows.",
    ),
    "outliers": ("service.outliers.commands:outliers", "List the newest outliers of a detector."),
    "feedback": (
        "service.outliers.commands:feedback",
        "Mark outliers as false alarms or as confirmed, or list what was said of them.",
    ),
    "calibrate": (
        "service.outliers.commands:calibrate",
        "Make a version with the same detector that is calibrated by its false alarms too.",
    ),
    "upload": (
        "service.retention.commands:upload",
        "Put a file into the store, where a fit asked for over HTTP can name it; one that was interrupted goes on where it was.",
    ),
    "uploads": ("service.retention.commands:uploads", "List uploads and data sets, or show or delete one."),
    "gc": ("service.retention.commands:gc", "Print what no rule keeps, with its bytes; delete it only with --delete."),
}


class Named(TyperCommand):
    """A command of which only the name and the line of help are known, until it is called."""

    def loaded(self) -> Any:
        """The command itself."""
        module, _, function = COMMANDS[str(self.name)][0].partition(":")
        with unswept():
            found = getattr(import_module(module), function)
        alone = typer.Typer(add_completion=False)
        alone.command(self.name)(found)
        return typer.main.get_command(alone)

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        return self.loaded().make_context(*arguments, **options)


app = typer.Typer(
    name="farfield",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="The command line, farfield. Commands take arguments, call a use case, and print what it gave.",
)
for name, (_, line) in COMMANDS.items():
    app.command(name, cls=Named, help=line)(lambda: None)


def _stop(signum: int, _frame: object) -> NoReturn:
    sys.exit(128 + signum)


def main() -> None:
    """Entry point. SIGTERM ends a command in order, so that an embedded store is left properly."""
    signal.signal(signal.SIGTERM, _stop)
    app()


if __name__ == "__main__":
    main()
