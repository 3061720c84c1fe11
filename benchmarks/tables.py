"""Markdown tables of the results of detectors on sets."""

from __future__ import annotations

import platform
import re
from collections import defaultdict
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from scipy.stats import rankdata

Record = dict[str, Any]  # one detector on one set with one seed: see benchmarks.detectors
Cells = dict[tuple[str, str], dict[str, float]]  # by set and detector: means over the seeds

PACKAGES = ("numpy", "scipy", "scikit-learn", "pyod")
CHANCE = {"auroc": 0.5, "fpr95": 1.0}  # of scores that are all the same; the AUPR is then the share of anomalies
COSTS = ("fit_seconds", "score_us", "state_bytes")


def report(records: list[Record], field: list[str], seeds: int) -> str:
    """For each protocol a table of means and a table by set, then what failed or warned, and the versions."""
    parts = []
    for protocol in dict.fromkeys(record["protocol"] for record in records):
        here = [record for record in records if record["protocol"] == protocol]
        cells, groups = by_set(here, field, seeds), {record["set"]: record["group"] for record in here}
        parts += [f"### {protocol}: means over {len(groups)} sets, {seeds} seeds", summary(cells, field, groups)]
        parts += [f"### {protocol}: AUROC by set", per_set(cells, field, groups)]
    parts += ["### What failed, ran over time or warned", troubles(records), f"Measured with {versions()}."]
    return "\n\n".join(parts)


def by_set(records: list[Record], field: list[str], seeds: int) -> Cells:
    """Means over the seeds for each set and detector.

    Where a seed has no answer, for a failure or for the limit, it counts as scores that are all the same; "answered" is the
    share of seeds with an answer, and the costs are means over those alone.
    """
    found: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        if record["status"] == "ok":
            found[record["set"], record["contestant"]].append(record)
    shares = {record["set"]: record["share"] for record in records}
    cells = {}
    for data, share in shares.items():
        for name in field:
            answers = found[data, name]
            chance = {**CHANCE, "aupr": share}
            cell = {key: _mean([*(r[key] for r in answers), *[value] * (seeds - len(answers))]) for key, value in chance.items()}
            costs = {key: _mean(r[key] for r in answers) for key in COSTS}
            cells[data, name] = {**cell, **costs, "answered": len(answers) / seeds}
    return cells


def summary(cells: Cells, field: list[str], groups: dict[str, str]) -> str:
    """One row per detector, best mean AUROC first."""
    kinds = list(dict.fromkeys(groups.values())) if len(set(groups.values())) > 1 else []
    common = [data for data in groups if all(cells[data, name]["answered"] == 1 for name in field)]
    ranks = _ranks(cells, field, list(groups))
    counts = [f"{kind} ({sum(group == kind for group in groups.values())})" for kind in kinds]
    columns = ["detector", "AUROC", *counts, f"the {len(common)} sets that all answered", "mean rank", "AUPR", "FPR at 95 %"]
    columns += ["sets answered", "fit, s", "score, µs per row", "state, kB"]
    lines = [f"| {' | '.join(columns)} |", "|---|" + "--:|" * (len(columns) - 1)]

    def mean(name: str, key: str, sets: Iterable[str]) -> float:
        return _mean(value for value in (cells[data, name][key] for data in sets) if np.isfinite(value))

    for name in sorted(field, key=lambda name: -mean(name, "auroc", groups)):
        bold = "**" if name.startswith("farfield") else ""
        aurocs = [groups, *([data for data, group in groups.items() if group == kind] for kind in kinds), common]
        answered = sum(cells[data, name]["answered"] == 1 for data in groups)
        figures = [
            *(f"{mean(name, 'auroc', sets):.3f}" for sets in aurocs), f"{ranks[name]:.2f}", f"{mean(name, 'aupr', groups):.3f}",
            f"{mean(name, 'fpr95', groups):.3f}", str(answered), f"{mean(name, 'fit_seconds', groups):.3f}",
            f"{mean(name, 'score_us', groups):.1f}", f"{mean(name, 'state_bytes', groups) / 1000:.0f}",
        ]  # fmt: skip
        lines.append(f"| {bold}{name}{bold} | " + " | ".join("–" if figure == "nan" else figure for figure in figures) + " |")
    return "\n".join(lines)


def per_set(cells: Cells, field: list[str], groups: dict[str, str]) -> str:
    """AUROC of each detector on each set; the best is bold, a dash is no answer with any seed, a star not with all of them."""
    lines = ["| set | " + " | ".join(field) + " |", "|---|" + "--:|" * len(field)]
    for data in groups:
        row = {name: cells[data, name] for name in field}
        best = max(round(cell["auroc"], 3) for cell in row.values() if cell["answered"])
        texts = [_cell(cell["auroc"], cell["answered"], best) for cell in row.values()]
        lines.append(f"| {data} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def troubles(records: list[Record]) -> str:
    """In how many runs each detector failed, ran over time or warned, by what it said."""
    kinds: dict[tuple[str, str], list[str]] = defaultdict(list)
    for record in records:
        told = [*record.get("warnings", []), *([record["error"]] if record["status"] == "failed" else [])]
        slow = [f"took over {record['limit']:g} s"] if record["status"] == "over time" else []
        for what in {*(_one_line(text) for text in told), *slow}:
            kinds[record["contestant"], what].append(record["set"])
    lines = ["| detector | what | runs | sets |", "|---|---|--:|---|"]
    for (name, what), sets in sorted(kinds.items()):
        names = sorted(set(sets))
        shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        lines.append(f"| {name} | {what} | {len(sets)} | {shown} |")
    return "\n".join(lines)


def _ranks(cells: Cells, field: list[str], sets: list[str]) -> dict[str, float]:
    """Mean over the sets of the rank by AUROC, 1 = best; detectors without an answer share the last places."""
    table = [[cells[data, name]["auroc"] if cells[data, name]["answered"] else -1 for name in field] for data in sets]
    means = rankdata(-np.array(table), axis=1).mean(axis=0)
    return dict(zip(field, means.tolist(), strict=True))


def _cell(auroc: float, answered: float, best: float) -> str:
    if not answered:
        return "–"
    text = f"{auroc:.3f}" + ("*" if answered < 1 else "")
    return f"**{text}**" if round(auroc, 3) == best else text


def _mean(values: Iterable[float]) -> float:
    taken = list(values)
    return float(np.mean(taken)) if taken else float("nan")


def _one_line(text: str) -> str:
    """A message fit for a cell: cut, without numbers, which differ from run to run."""
    return re.sub(r"[-+]?\d[\d.e+-]*", "…", " ".join(text.replace("|", "/").replace("`", "'").split()))[:120]


def versions() -> str:
    """Python and the libraries that were measured, as far as they are installed."""
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
