"""Exact false-alarm rates, from known laws of scores, of a Pareto tail and of a trimmed calibration."""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy.stats import chi2, expon, f, lognorm, norm, t, uniform

from benchmarks.rates import DEVIATIONS, marked, table
from detectors import Calibration, ParetoTail

FAR = 1e6  # how much higher far anomalies score: no normal row reaches it


class Rare:
    """Normal scores, of which one in 500 is of another kind, far above the others."""

    def rvs(self, size, random_state):
        return random_state.normal(size=size) + 10 * (random_state.uniform(size=size) < 1 / 500)

    def sf(self, score):
        return 0.998 * norm.sf(score) + 0.002 * norm.sf(score - 10)


LAWS = {
    "exponential": expon(),
    "chi-square, 10 degrees": chi2(10),
    "uniform (the tail ends)": uniform(),
    "log-normal": lognorm(1),
    "Student, 5 degrees": t(5),
    "squared distance of Student rows, 10 features": f(10, 5),
    "normal, 1 in 500 of another kind": Rare(),
}


def beyond(repetitions, sizes=(240, 1000), alphas=(1e-2, 1e-3, 1e-4)):
    """Mean rate, divided by alpha, of thresholds by a Pareto tail; nothing is promised where counting would not allow alpha."""
    rows = []
    for (name, law), size in product(LAWS.items(), sizes):
        rng = np.random.default_rng(11)
        tails = [ParetoTail.of(Calibration.of(law.rvs(size=size, random_state=rng))) for _ in range(repetitions)]
        rates = {alpha: law.sf(np.array([tail.threshold(alpha) for tail in tails])) / alpha for alpha in alphas}
        cells = [f"{r.mean():.2f} ({np.quantile(r, 0.05):.2f}–{np.quantile(r, 0.95):.2f})" for r in rates.values()]
        marks = ["" if alpha >= 1 / (size + 1) else "*" for alpha in alphas]
        rows.append([name, size, *(f"{mark}{cell}{mark}" for mark, cell in zip(marks, cells, strict=True))])
    return table(["law of the scores", "calibration rows", *(f"alpha = {alpha:g}" for alpha in alphas)], rows)


def trimmed(repetitions, size=499, alpha=0.05, shares=(0.0, 0.02, 0.05, 0.1)):
    """Rates of normal rows, and anomalies found, for shares of anomalies among the calibration rows and shares left out.

    Normal scores are chi-square with ten degrees. Anomalies score a million more ("far"), or like normal rows ("hidden"), where of the
    formula of ``Calibration.of`` the form without known anomalies holds.
    """
    rows, outside = [], []
    for hidden, contamination, trim in product((False, True), shares, shares):
        if hidden and contamination != shares[2]:
            continue
        rng, thresholds = np.random.default_rng(12), []
        anomalies, left_out = int(size * contamination), int(size * trim)
        normal = size - anomalies
        for _ in range(repetitions):
            scores = rng.chisquare(10, size)
            scores[normal:] += 0 if hidden else FAR
            thresholds.append(Calibration.of(scores, trim=trim).threshold(alpha))
        rates, found = (chi2.sf(np.array(thresholds) - shift, 10) for shift in (0, FAR))
        known = 0 if hidden else anomalies
        bound = max((left_out - known + alpha * (size - left_out + 1)) / (normal + 1), 0)
        error = DEVIATIONS * np.std(rates) / np.sqrt(repetitions)
        cell = marked(np.mean(rates), np.mean(rates) - error <= bound, error)
        outside += [f"trim {trim} of contamination {contamination}"] * ("outside" in cell)
        kind = "hidden" if hidden else "far"
        power = "" if hidden else f"{100 * np.mean(found):.1f}"
        rows.append([kind, f"{100 * contamination:g}", f"{100 * trim:g}", cell, f"{100 * bound:.2f}", power])
    return table(["anomalies", "among the rows, %", "left out, %", "false alarms, %", "bound, %", "found, %"], rows), outside
