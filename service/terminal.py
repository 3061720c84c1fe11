"""What commands print: results on standard output, progress and refusals on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from service import errors

if TYPE_CHECKING:
    from service.features import Progress as Shown

SHOWN_ROWS = 20  # of a batch that is not written to a file

# A terminal has its own width; what is piped or logged is not cut at 80 columns.
out = Console(width=None if sys.stdout.isatty() else 120)
err = Console(stderr=True)


@contextmanager
def progress() -> Iterator[Shown]:
    """A bar on a terminal; elsewhere a plain line for every tenth of a phase, or for its beginning where the total is not known (0)."""
    if not err.is_terminal:
        shown: dict[str, int] = {}

        def lines(phase: str, done: int, total: int) -> None:
            tenth = 10 * done // max(total, 1)
            if shown.get(phase) != tenth:
                shown[phase] = tenth
                err.print(f"{phase}: {done} of {total or 'an unknown number'}", highlight=False)

        yield lines
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err) as bars:
        tasks: dict[str, Any] = {}

        def bar(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=None)
            bars.update(tasks[phase], completed=done, total=total or None)

        yield bar


class _Rate(ProgressColumn):
    """Steps a second, as of late."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s")


def say(text: str) -> None:
    """Print ``text`` without breaking its lines: paths and addresses in it can be copied."""
    out.print(text, highlight=False, soft_wrap=True)


def print_json(value: Any) -> None:
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")


def print_scores(content: dict[str, Any], keys: Any, *, everything: bool) -> None:
    results = content["results"]
    worst = sorted(range(len(results)), key=lambda i: -results[i]["score"])
    shown = worst[:SHOWN_ROWS] if everything else []
    if shown:
        extra = ["by chi-square"] if "chi_square_p_value" in results[0] else []
        table = Table("row", "score", "p-value", *extra, "verdict", "why")
        for i in shown:
            result = results[i]
            shares = result.get("attribution", [])
            why = ", ".join(f"{share[by]} {share['share']:+.3g}" for share in shares for by in share.keys() - {"share"})
            verdict = "[red]outlier[/]" if result["is_outlier"] else "normal"
            key = escape(keys[i]) if keys else str(i)
            beside = [f"{result['chi_square_p_value']:.4g}"] if extra else []
            table.add_row(key, f"{result['score']:.6g}", f"{result['p_value']:.4g}", *beside, verdict, escape(why))
        out.print(table)
    if len(results) > len(shown) and everything:
        say(f"the {len(shown)} highest of {len(results)} scores; --output FILE writes all")
    flagged = sum(result["is_outlier"] for result in results)
    say(f"{content['detector']} version {content['version']}: {flagged} of {len(results)} rows are outliers at alpha {content['alpha']:g}")
    if "tail" in content:
        err.print(f"tail: {content['tail']}", highlight=False, soft_wrap=True)


@contextmanager
def refusals() -> Iterator[None]:
    """Turn refusals into one clear line and exit code 1."""
    try:
        yield
    except (errors.ServiceError, OSError) as error:
        _refuse(error)
    except Exception as error:
        from models import ModelError  # not above: what has no network to refuse need not wait for the libraries of networks

        if not isinstance(error, ModelError):
            raise
        _refuse(error)


def _refuse(error: Exception) -> NoReturn:
    err.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
    raise typer.Exit(1) from None
