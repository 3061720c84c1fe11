"""What the service is to reach beside other servers, and the arithmetic of rounds: medians, spreads, and ratios within each round."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.pages import median_and_spread
from benchmarks.serving_peers.servers import Sample

OURS, TWO = "farfield", "farfield, two workers"
KERNEL, NETWORK = "the kernel, in process", "onnxruntime, in process"
BINARY = "v2 binary"
MOST_TAIL = 5  # times the median, of the slowest in a hundred

Contestant = tuple[str, str]  # a server, and the form of the bodies that it gets
Rounds = dict[Contestant, list[Sample]]
Figures = dict[tuple[str, int], Rounds]  # by shape and connections; sample i of each contestant is of the same round


@dataclass(frozen=True, slots=True)
class Target:
    """Ours answers ``least`` times as many requests as the other one, for bodies of ``shape``."""

    shape: str
    ours: Contestant
    other: Contestant
    least: float
    connections: tuple[int, ...] = (8, 64)


TARGETS = [
    Target("1 x 512", (OURS, BINARY), ("MLServer", "v2 JSON"), 10),
    Target("1 x 512", (OURS, BINARY), ("FastAPI", "raw"), 2),
    Target("1 x 512", (OURS, BINARY), ("Triton", BINARY), 20),
    Target("1 x 512", (OURS, "JSON"), ("MLServer", "v2 JSON"), 7),
    Target("1 x 512", (OURS, "JSON"), ("FastAPI", "JSON"), 3),
    Target("32 x 512", (OURS, BINARY), ("MLServer", "v2 JSON"), 6),
    Target("1024 x 512", (OURS, BINARY), ("Triton", BINARY), 2),
    Target("1024 x 512", (OURS, BINARY), ("MLServer", "v2 JSON"), 10),
    Target("1024 x 512", (OURS, BINARY), (KERNEL, ""), 0.6),
    *(Target(shape, (TWO, BINARY), (OURS, BINARY), 1.7) for shape in ("1 x 512", "32 x 512", "1024 x 512")),
    Target("1 JPEG", (OURS, "images"), (NETWORK, ""), 0.85, (64,)),
]


def ratios(ours: list[Sample], other: list[Sample]) -> list[float]:
    """Of rates, round by round; rounds in which the other one answered nothing say nothing."""
    return [a.rate / b.rate for a, b in zip(ours, other, strict=True) if b.rate]


def judged(figures: Figures) -> Iterator[str]:
    """Markdown: each target that was measured, and whether it is met."""
    yield from ("| bodies | connections | ours | beside | at least | found | met |", "|---|--:|---|---|--:|--:|---|")
    for target in TARGETS:
        for connections in target.connections:
            rounds = figures.get((target.shape, connections), {})
            if target.ours in rounds and target.other in rounds and (values := ratios(rounds[target.ours], rounds[target.other])):
                median, spread = median_and_spread(values)
                names = f"{_named(target.ours)} | {_named(target.other)}"
                met = _met(median >= target.least)
                yield f"| {target.shape} | {connections} | {names} | {target.least:g}x | {median:.2f}x ± {spread:.0f} % | {met} |"
    for (shape, connections), rounds in figures.items():
        for contestant, samples in rounds.items():
            if contestant[0] == OURS and connections == 64:
                median, spread = median_and_spread([sample.p99 / sample.p50 for sample in samples if sample.p50] or [0.0])
                told = f"{_named(contestant)}, p99 | its p50 | at most {MOST_TAIL}x"
                yield f"| {shape} | 64 | {told} | {median:.2f}x ± {spread:.0f} % | {_met(0 < median <= MOST_TAIL)} |"


def table(figures: Figures, shape: str) -> Iterator[str]:
    """Markdown: answers per second and latencies of one shape, by contestant and number of connections."""
    columns = [connections for name, connections in figures if name == shape]
    contestants = dict.fromkeys(contestant for connections in columns for contestant in figures[shape, connections])
    heads = [f"{c} connection{'s' * (c > 1)}: answers/s | p50, p99 ms" for c in columns]
    yield from ("", f"**{shape}**", "", f"| server, body | {' | '.join(heads)} |", "|---" * (1 + 2 * len(columns)) + "|")
    for contestant in contestants:
        cells = [_cells(figures[shape, connections].get(contestant, [])) for connections in columns]
        yield f"| {_named(contestant)} | {' | '.join(cells)} |"


def _cells(samples: list[Sample]) -> str:
    if not samples:
        return "- | -"
    median, spread = median_and_spread([sample.rate for sample in samples])
    failures = sum(sample.failures for sample in samples)
    rate = f"{median:.{0 if median >= 100 else 1}f} ± {spread:.0f} %{f', {failures} failed' * (failures > 0)}"
    p50, p99 = (statistics.median(column) for column in list(zip(*samples, strict=True))[1:3])
    return f"{rate} | {f'{p50:.2f}, {p99:.2f}' if p50 else ''}"


def _named(contestant: Contestant) -> str:
    return ", ".join(filter(None, contestant))


def _met(is_met: bool) -> str:
    return "yes" if is_met else "**no**"
