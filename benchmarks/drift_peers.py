"""Drift detectors of other libraries, each watching one stream of scores. What is not installed does not take part."""

from __future__ import annotations

from importlib.util import find_spec

WINDOW = 100  # rows that a test of alibi-detect is given at a time; it has no default of its own


def peers():
    """Those whose library is installed, at their own defaults."""
    found = []
    if find_spec("river"):
        from river import drift

        found += [River("River ADWIN", drift.ADWIN), River("River Page–Hinkley", drift.PageHinkley)]
    if find_spec("alibi_detect"):
        from alibi_detect.cd import KSDrift, MMDDrift

        found += [Alibi(f"alibi-detect KS, each {WINDOW} rows", KSDrift), Alibi(f"alibi-detect MMD, each {WINDOW} rows", MMDDrift)]
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


class Alibi:
    """A test of alibi-detect, of one window of rows after the other against the calibration set, each at its level of 5 %."""

    most_rows = 10_000  # that it is shown before the change: a window takes it up to half a second

    def __init__(self, name, make):
        self.name, self.make = name, make

    def first_alarm(self, calibration, scores, seed):
        """Number of rows until the end of the first window that differs; None where none does."""
        import tensorflow as tf  # which draws the permutations of MMD, by default

        tf.random.set_seed(seed[-1])
        test = self.make(calibration[:, None])
        for end in range(WINDOW, len(scores) + 1, WINDOW):
            if test.predict(scores[end - WINDOW : end, None])["data"]["is_drift"]:
                return end
        return None
