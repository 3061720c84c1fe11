"""Anomalies among streams: nearest neighbours of path signatures in the variance norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval, StrOptions

from detectors.arrays import Matrix, Rows, Scores, Vector
from detectors.base import Detector
from detectors.neighbours import nearest
from detectors.paths import AUGMENTATIONS, Paths, signature_width, signatures

LARGEST_WIDTH = 20_000  # columns of the signature
OFF_SPAN_TOLERANCE = 1e-3  # share of a difference outside the span above which it counts as off it
ROUNDING = 1e-12  # share of a signature that may be rounding
TIE_SHARE = 1e-12  # of its distance to the nearest other path that a path of the corpus scores
OFF_SPAN_SCORE = 1e12  # score of a row off the span, times 1 + its share outside
SPARE = 8
BLOCK_NUMBERS = 2**21


@dataclass(frozen=True, slots=True)
class SignatureState:
    low: Vector  # (c,), least value of each channel in the corpus
    high: Vector  # (c,)
    mean: Vector  # (D,), of the corpus' signatures
    basis: Matrix  # (D, r), right singular vectors of the centred signatures
    deviations: Vector  # (r,), standard deviations along them
    whitened: Rows  # (n, r), the corpus in units of these
    alone: Vector  # (n,), distance of each path of the corpus to the nearest other one


class Signature(Detector[SignatureState]):
    r"""Distance in the variance norm to the nearest signature of the corpus (SigMahaKNN).

    Shao, Chan, Cochrane, Foster and Lyons (2020, arXiv:2006.03487). With :math:`\phi` the truncated signature of the augmented
    path and :math:`\Sigma` the covariance of the corpus' signatures,

    .. math:: s(x) = \min_y \|\phi(x) - \phi(y)\|_\Sigma, \qquad \|v\|_\Sigma^2 = v^\top \Sigma^{+} v \text{ on the span of the corpus}

    and the norm is infinite off the span. A pair counts as off it if more than a thousandth of :math:`\phi(x) - \phi(y)` lies
    outside. A row off the span from every corpus path gets a finite score above all others, ordered by its share outside:
    :math:`10^{12}(1 + \text{share})`. With :math:`\Sigma` over n scores do not depend on the size of the corpus; the authors'
    code leaves out the n, so that its scores are :math:`1/\sqrt n` of these.

    A row of ``c * L`` numbers is a stream of L points with c channels, point by point. Streams of unlike length are padded by
    repeating the last point, which changes no signature; the clock of "time" runs on over the padding, at one pace for all, so
    that their length is seen too. It suits streams whose order and shape matter. On pen strokes the
    local outlier factor on whitened signatures, fitted on the corpus alone, does as well; the paper's comparison fitted it on
    corpus and test data together.

    Parameters
    ----------
    channels : int, default=1
    depth : int, default=3
    augmentations : sequence of {"time", "basepoint", "lead_lag", "invisibility"}, default=("time",)
        Applied in this order.
    scaling : {"corpus", "stream", "none"}, default="corpus"
        Each channel to [0, 1] by the least and largest value in the corpus, or by those of the stream itself.
    neighbours : int, default=1
        The distance to this many-th nearest path.
    rank_tolerance : float, default=1e-6
        Share of the largest singular value below which a direction counts as never shown. The authors' code cuts at 1e-12,
        not relative to anything; smaller shares make scores depend on rounding.
    contamination : float in (0, 0.5], default=0.1
        Share of the training rows that scikit-learn's ``predict`` calls outliers.

    Notes
    -----
    A path of the corpus finds itself: it scores 0, plus 1e-12 times its distance to the nearest other one. Calibrate on
    held-out streams. Fit: a thin singular value decomposition,
    :math:`O(nD\min(n, D))`; score: the signature and :math:`4nr` floating-point operations per row.

    >>> t = np.linspace(0, 1, 20)
    >>> waves = np.sin(2 * np.pi * (t + np.linspace(0, 1, 50)[:, None]))
    >>> detector = Signature(depth=2).fit(waves)
    >>> bool(detector.scores(waves[:1] ** 3)[0] > detector.scores(waves[:1] * 0.99)[0])
    True
    """

    State = SignatureState
    VARIANTS: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"channels": 2, "depth": 2, "augmentations": ("lead_lag",)},
        {"depth": 2, "augmentations": ("time", "invisibility"), "scaling": "stream"},
        {"depth": 2, "augmentations": ("basepoint",), "scaling": "none", "neighbours": 3},
    )
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "channels": [Interval(Integral, 1, None, closed="left")],
        "depth": [Interval(Integral, 1, 12, closed="both")],
        "augmentations": ["array-like"],
        "scaling": [StrOptions({"corpus", "stream", "none"})],
        "neighbours": [Interval(Integral, 1, None, closed="left")],
        "rank_tolerance": [Interval(Real, 0, 1, closed="neither")],
        "contamination": [Interval(Real, 0, 0.5, closed="right")],
    }

    def __init__(
        self,
        *,
        channels: int = 1,
        depth: int = 3,
        augmentations: Sequence[str] = ("time",),
        scaling: str = "corpus",
        neighbours: int = 1,
        rank_tolerance: float = 1e-6,
        contamination: float = 0.1,
    ) -> None:
        self.channels = channels
        self.depth = depth
        self.augmentations = augmentations
        self.scaling = scaling
        self.neighbours = neighbours
        self.rank_tolerance = rank_tolerance
        self.contamination = contamination

    def learn(self, rows: Rows) -> SignatureState:
        points = self._paths(rows).reshape(-1, self.channels)
        low, high = points.min(axis=0), points.max(axis=0)
        features = self._signatures(rows, low, high)
        mean = features.mean(axis=0)
        left, singular, right = np.linalg.svd(features - mean, full_matrices=False)
        rank = int((singular > self.rank_tolerance * singular[0]).sum())
        root = np.sqrt(len(rows))
        whitened = left[:, :rank] * root
        alone = nearest(whitened, whitened, 2)[0][:, -1]
        return SignatureState(low, high, mean, right[:rank].T.copy(), singular[:rank] / root, whitened, alone)

    def anomaly_scores(self, state: SignatureState, rows: Rows) -> Scores:
        scores = np.empty(len(rows))
        step = max(1, BLOCK_NUMBERS // max(len(state.whitened), len(state.mean)))
        for start in range(0, len(rows), step):
            block = slice(start, start + step)
            features = self._signatures(rows[block], state.low, state.high)
            centred = features - state.mean
            along = centred @ state.basis
            outside = np.linalg.norm(centred - along @ state.basis.T, axis=1)
            outside[outside <= ROUNDING * np.linalg.norm(features, axis=1)] = 0
            scores[block] = self._conformance(state, along, outside)
        return scores

    def _conformance(self, state: SignatureState, along: Rows, outside: Vector) -> Scores:
        """Distance to the k-th nearest corpus path that differs from the row on the span, for coordinates ``along`` (m, r)."""
        whitened = along / state.deviations
        order = _squared_distances(whitened, state.whitened)
        lengths = np.sqrt(_squared_distances(along, state.whitened * state.deviations) + np.square(outside)[:, None])
        order[outside[:, None] > OFF_SPAN_TOLERANCE * lengths] = np.inf
        count = min(self.neighbours, len(state.whitened))
        candidates = min(count + SPARE, len(state.whitened))
        chosen = np.argpartition(order, candidates - 1, axis=1)[:, :candidates]
        gaps = whitened[:, None] - state.whitened[chosen]
        exact = np.sqrt(np.einsum("ijk,ijk->ij", gaps, gaps))
        exact[np.isinf(np.take_along_axis(order, chosen, axis=1))] = np.inf
        equal = exact <= ROUNDING * np.linalg.norm(whitened, axis=1)[:, None]
        exact[equal] = TIE_SHARE * state.alone[chosen[equal]]
        distances = np.partition(exact, count - 1, axis=1)[:, count - 1]
        share = np.minimum(outside / np.maximum(lengths.min(axis=1), np.finfo(float).tiny), 1)
        return np.asarray(np.where(np.isfinite(distances), distances, OFF_SPAN_SCORE * (1 + share)))

    def _signatures(self, rows: Rows, low: Vector, high: Vector) -> NDArray[np.float64]:
        paths = self._paths(rows)
        if self.scaling == "corpus":
            paths = (paths - low) / np.where(high > low, high - low, 1)
        elif self.scaling == "stream":
            least, most = paths.min(axis=1, keepdims=True), paths.max(axis=1, keepdims=True)
            paths = (paths - least) / np.where(most > least, most - least, 1)
        for name in self.augmentations:
            paths = AUGMENTATIONS[name](paths)
        if paths.shape[1] < 2:
            raise ValueError(f"streams of one point (n_features = {rows.shape[1]}) have no signature: add the augmentation 'basepoint'")
        width = signature_width(paths.shape[2], self.depth)
        if width > LARGEST_WIDTH:
            raise ValueError(
                f"depth={self.depth} of {paths.shape[2]} channels gives {width} features, over {LARGEST_WIDTH}: lower the depth"
            )
        return np.asarray(signatures(paths, self.depth))

    def _paths(self, rows: Rows) -> Paths:
        unknown = set(self.augmentations) - set(AUGMENTATIONS)
        if unknown:
            raise ValueError(f"augmentations {sorted(unknown)} are unknown; there are {sorted(AUGMENTATIONS)}")
        if rows.shape[1] % self.channels:
            raise ValueError(f"rows of {rows.shape[1]} numbers are no streams of channels={self.channels}: it must divide them")
        return rows.reshape(len(rows), -1, self.channels)


def _squared_distances(left: Rows, right: Rows) -> NDArray[np.float64]:
    squares = np.square(left).sum(axis=1)[:, None] + np.square(right).sum(axis=1)
    return np.asarray(np.maximum(squares - 2 * left @ right.T, 0))
