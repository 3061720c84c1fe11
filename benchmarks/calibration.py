"""What calibration promises, against what simulated data give: rates of false alarms and false discoveries.

    python -m benchmarks.calibration [--quick] [--write]

prints tables, among them one of every registered detector; ``--write`` also puts them into docs/calibration.md, between the
comments that name them, and draws docs/images/calibration.png. Ends with status 1 if any figure lies outside of its interval.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import rates, tails, thresholds
from benchmarks.pages import written

PAGE, PICTURE = Path("docs/calibration.md"), Path("docs/images/calibration.png")


def sections(quick, picture):
    """Name, table and what lies outside, of each section in turn."""
    widths, seeds = ([16, 64], 2) if quick else ([16, 32, 64, 128, 256, 512], 20)
    measured = thresholds.measure(widths, 1000, 20_000, seeds, 0.01)
    if picture:
        thresholds.draw(measured, widths, 1000, 0.01, picture)
    yield "thresholds", thresholds.table(measured, widths, 1000), []
    shapes = [(200, 4)] if quick else [(200, 4), (200, 32), (1000, 32), (100, 128)]
    yield "detectors", *rates.by_detector(shapes, 20 if quick else 200)
    yield "folds", *rates.by_folds(5 if quick else 100)
    yield "combination", *rates.by_combination(20 if quick else 300)
    yield "groups", *rates.by_group(50 if quick else 1000)
    yield "trimming", *tails.trimmed(100 if quick else 2000)
    yield "tail", tails.beyond(50 if quick else 1000), []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repetitions, to see that it runs")
    parser.add_argument("--write", action="store_true", help=f"put the tables into {PAGE} and draw {PICTURE}")
    options = parser.parse_args()
    failed = []
    for name, table, outside in sections(options.quick, PICTURE if options.write else None):
        print(f"## {name}\n\n{table}\n", flush=True)
        failed += [f"{name}: {what}" for what in outside]
        if options.write:
            PAGE.write_text(written(PAGE.read_text(), f"benchmarks.calibration: {name}", table))
    print("\n".join(["Outside:", *failed]) if failed else "Nothing lies outside.")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
