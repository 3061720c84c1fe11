"""Slow, obvious twins of what the detectors compute fast, written from the papers' formulas."""

from __future__ import annotations

import numpy as np
from sklearn.covariance import LedoitWolf


def moments(rows):
    """Count, mean, and the sums of c c^T, |c|^2 c and |c|^4 over centred rows c, one row at a time."""
    mean = np.array([sum(column) / len(rows) for column in rows.T])
    scatter, cubic, quartic = np.zeros((len(mean), len(mean))), np.zeros(len(mean)), 0.0
    for row in rows:
        centred = row - mean
        length = sum(value * value for value in centred)
        scatter += np.outer(centred, centred)
        cubic += length * centred
        quartic += length * length
    return len(rows), mean, scatter, cubic, quartic


def squared_distances(mean, covariance, rows):
    """Squared Mahalanobis distance of each row, by solving one system per row."""
    return np.array([(row - mean) @ np.linalg.solve(covariance, row - mean) for row in rows])


def multi_level_distance(train, test, widths, *, reduce=None, kept_variance=0.99, unseen=False):
    """Sum over levels of the distance of Rippel et al. 2020: per level (negated) PCA, Ledoit-Wolf, distance.

    The principal components are those of the singular value decomposition of the centred rows: as many
    as rows where these are fewer than columns, unless ``unseen`` asks for the other directions too.
    """
    total, start = np.zeros(len(test)), 0
    for width in widths:
        level, query = train[:, start : start + width], test[:, start : start + width]
        start += width
        if reduce is not None:
            components = _components(level, reduce, kept_variance, unseen)
            level, query = level @ components.T, query @ components.T
        estimate = LedoitWolf().fit(level)
        total += np.sqrt(squared_distances(estimate.location_, estimate.covariance_, query))
    return total


def _components(rows, reduce, kept_variance, unseen):
    """Components up to the one that passes ``kept_variance`` ("pca"), or from one before it to the last ("npca")."""
    _, singular, components = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=unseen)
    share = [sum(singular[: k + 1] ** 2) / sum(singular**2) for k in range(len(singular))]
    passing = next(k for k in range(len(singular)) if share[k] > kept_variance)
    return components[: passing + 1] if reduce == "pca" else components[max(passing - 1, 0) :]


def conformal_threshold(calibration, alpha):
    """The smallest calibration score that at most a share alpha of n + 1 exchangeable scores exceeds; else infinity."""
    for score in sorted(calibration):
        if (1 + sum(other > score for other in calibration)) / (len(calibration) + 1) <= alpha:
            return score
    return float("inf")


def benjamini_hochberg(p_values, alpha):
    """Reject the k smallest p-values, k the largest with p_(k) <= k alpha / m."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    rejected = 0
    for rank, index in enumerate(order, start=1):
        if p_values[index] <= rank * alpha / len(p_values):
            rejected = rank
    decisions = np.zeros(len(p_values), bool)
    decisions[order[:rejected]] = True
    return decisions
