"""Slow, obvious twins of what the detectors compute fast, written from the papers' formulas."""

from __future__ import annotations

from itertools import product
from math import factorial

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
    return len(rows), mean, scatter, cubic, quartic, np.append(np.diag(scatter), quartic)


def squared_distances(mean, covariance, rows):
    """Squared Mahalanobis distance of each row, by solving one system per row."""
    return np.array([(row - mean) @ np.linalg.solve(covariance, row - mean) for row in rows])


def class_distance(rows, labels, queries, *, relative=False):
    """Least squared distance to a class mean under the tied covariance, less that to all rows where ``relative``; and the class."""
    classes = sorted(set(labels))
    means = {c: rows[labels == c].mean(axis=0) for c in classes}
    tied = sum(np.outer(row - means[c], row - means[c]) for row, c in zip(rows, labels, strict=True)) / len(rows)
    distances = np.array([squared_distances(means[c], tied, queries) for c in classes])
    scores = distances.min(axis=0)
    if relative:
        scores -= squared_distances(rows.mean(axis=0), np.cov(rows.T, bias=True), queries)
    return scores, [classes[index] for index in distances.argmin(axis=0)]


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


def comedian(centred):
    """Median of the products of each pair of columns, one pair at a time."""
    width = centred.shape[1]
    return np.array([[np.median(centred[:, j] * centred[:, k]) for k in range(width)] for j in range(width)])


def city_block_medoid(rows):
    """The row with the least sum of city-block distances to all, the first of several."""
    totals = [sum(np.abs(row - other).sum() for other in rows) for row in rows]
    return rows[totals.index(min(totals))]


def signature(path, depth):
    """Levels 1 to ``depth``, word by word: each word's integral grows along a step by Chen's identity."""
    words = [word for level in range(1, depth + 1) for word in product(range(path.shape[1]), repeat=level)]
    value = {(): 1.0} | dict.fromkeys(words, 0.0)
    for step in np.diff(path, axis=0):
        segment = {word: float(np.prod(step[list(word)])) / factorial(len(word)) for word in value}
        value = {word: sum(value[word[:i]] * segment[word[i:]] for i in range(len(word) + 1)) for word in value}
    return np.array([value[word] for word in words])


def chen(left, right, channels, depth):
    """Signature of one path followed by another, from the signatures of both."""
    words = [word for level in range(1, depth + 1) for word in product(range(channels), repeat=level)]
    first, second = ({(): 1.0} | dict(zip(words, values, strict=True)) for values in (left, right))
    return np.array([sum(first[word[:i]] * second[word[i:]] for i in range(len(word) + 1)) for word in words])


def weighting(points, t):
    """Similarity matrix and the weights that solve Z w = 1."""
    similarity = np.array([[np.exp(-t * np.linalg.norm(a - b)) for b in points] for a in points])
    return similarity, np.linalg.solve(similarity, np.ones(len(points)))


def unexplained_and_weight(points, query, t):
    """Share of a new point that the set does not explain, and its weight in the set enlarged by it."""
    enlarged, weights = weighting(np.vstack([points, query]), t)
    return 1 / np.linalg.inv(enlarged)[-1, -1], weights[-1]


def conformance(corpus, row, rank_tolerance=1e-6):
    """Least variance norm of the differences to the rows of ``corpus``; infinite where each leaves their span."""
    _, singular, right = np.linalg.svd(corpus - corpus.mean(axis=0), full_matrices=False)
    right = right[singular > rank_tolerance * singular[0]]
    inverse = np.linalg.pinv(np.cov(corpus.T, bias=True), rcond=rank_tolerance**2, hermitian=True)
    best = np.inf
    for gap in row - corpus:
        outside = np.linalg.norm(gap - right.T @ (right @ gap))
        if outside <= 1e-3 * np.linalg.norm(gap):
            best = min(best, np.sqrt(max(gap @ inverse @ gap, 0)))
    return best
