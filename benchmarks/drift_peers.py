"""Drift detectors of other libraries, each watching one stream of scores. What is not installed does not take part."""

from __future__ import annotations

from importlib.util import find_spec


def peers():
    """Those whose library is installed, at their own defaults."""
    found = []
    if find_spec("river"):
        from river import drift

        found += [River("River ADWIN", drift.ADWIN), River("River Page–Hinkley", drift.PageHinkley)]
    return found


class River:
    """A detector of River, which takes one value at a time and knows no calibration set: it is shown that first."""

    most_rows = 10_000  # that it is shown before the change: a row takes it microseconds of Python

    def __init__(self, name, make):
        self.name, self.make = name, make

    def first_alarm(self, calibration, scores, seed):
        """Number of rows until the alarm; None where there is none. Alarms on the calibration set do not count."""
        detector = self.make()
        for value in calibration:
            detector.update(float(value))
        for row, value in enumerate(scores, 1):
            detector.update(float(value))
            if detector.drift_detected:
                return row
        return None
