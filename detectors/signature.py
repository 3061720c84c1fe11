"""Anomalies among streams: nearest neighbours of path signatures in the variance norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import Interval, StrOptions

from detectors.arrays import Matrix, Rows, Scores, Vector
from detectors.base import Detector
from detectors.neighbours import nearest
from detectors.paths import AUGMENTATIONS, Paths, Signatures, augmented, signature_width, signatures

LARGEST_WIDTH = 20_000  # columns of the signature
OFF_SPAN_TOLERANCE = 1e-3  # share of a difference outside the span above which it counts as off it
ROUNDING = 1e-12  # share of a signature that may be rounding
OFF_SPAN_SCORE = 1e12  # score of a row off the span, times 1 + its share outside
FAR = 1e11  # distance on the span from which scores are bent to stay below those off it
SPARE = 8
BLOCK_NUMBERS = 2**21


@dataclass(frozen=True, slots=True)
class SignatureState:
    centre: Vector  # (d,), the mean stream of the corpus
    low: Vector  # (c,), least value of each channel in the corpus
    high: Vector  # (c,)
    mean: Vector  # (D,), of the corpus' signatures
    basis: Matrix  # (D, r), right singular vectors of the centred signatures
    deviations: Vector  # (r,), standard deviations along them
    whitened: Rows  # (n, r), the corpus in units of these
    alone: Vector  # (n,), distance of each path of the corpus to the neighbours-th nearest other one


class Signature(Detector[SignatureState]):
    r"""Distance in the variance norm to the nearest signature of the corpus (SigMahaKNN).

    Shao, Chan, Cochrane, Foster and Lyons (2020, arXiv:2006.03487). With :math:`\phi` the truncated signature of the augmented
    path and :math:`\Sigma` the covariance of the corpus' signatures,

    .. math:: s(x) = \min_y \|\phi(x) - \phi(y)\|_\Sigma, \qquad \|v\|_\Sigma^2 = v^\top \Sigma^{+} v \text{ on the span of the corpus}

    and the norm is infinite off the span. A pair counts as off it if more than a thousandth of :math:`\phi(x) - \phi(y)` lies
    outside. A row off the span from every corpus path gets a finite score above all others, ordered by its share outside:
    :math:`10^{12}(1 + \text{share})`, and ``off_span`` tells it; distances d on the span beyond :math:`10^{11}` become
    :math:`10^{12} - 9\cdot 10^{22} / d`. With :math:`\Sigma` over n scores do not depend on the size of the corpus; the authors'
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
        Each channel to [0, 1] by the least and largest value in the corpus, or by those of the stream itself. With "corpus" one
        path 1e13 times as large squeezes all others to nothing: rank 1, and scores that tell nothing. So it is with "none".
    neighbours : int, default=1
        The distance to this many-th nearest path.
    rank_tolerance : float, default=1e-12
        Share of the largest singular value below which a direction counts as never shown. The authors' code cuts at 1e-12, not
        relative to anything, and its scores are these wherever the corpus varies by about as much as the unit. Give 1e-6 for values
        once held in float32: where one channel follows from others, their rounding, a few 1e-7 of the variation, is a direction else.
    contamination : float in (0, 0.5], default=0.1
        Share of the training rows that scikit-learn's ``predict`` calls outliers.

    Notes
    -----
    A path of the corpus finds itself and scores 0. Calibrate on held-out streams, or on ``leave_one_out_scores``. scikit-learn's
    ``predict``, ``decision_function`` and ``score_samples`` take the latter for the threshold and for paths equal to one of the
    corpus, as its own local outlier factor does for the rows it learned.

    Attributions leave one number out: they say how far the score falls when it takes its value in the mean stream of the
    corpus. They do not add up to the score, are negative where the mean would break a normal shape, and tell single points out of
    place rather than a wrong shape, of which no single number is to blame.

    Fit: a thin singular value decomposition, :math:`O(nD\min(n, D))`; score: the signature and :math:`4nr` floating-point
    operations per row; attributions: c L scores per row.

    >>> t = np.linspace(0, 1, 20)
    >>> waves = np.sin(2 * np.pi * (t + np.linspace(0, 1, 50)[:, None]))
    >>> detector = Signature().fit(waves)
    >>> bool(detector.scores(waves[:1] ** 3)[0] > detector.scores(waves[:1] * 0.99)[0])
    True
    """

    State = SignatureState
    VARIANTS: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"channels": 2, "depth": 2, "augmentations": ("lead_lag",)},
        {"depth": 2, "augmentations": ("time", "invisibility"), "scaling": "stream"},
        {"depth": 2, "augmentations": ("time", "basepoint"), "scaling": "none", "neighbours": 3},
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
        rank_tolerance: float = 1e-12,
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
        self._check_width(rows.shape[1])
        points = rows.reshape(-1, self.channels)
        low, high = points.min(axis=0), points.max(axis=0)
        with np.errstate(over="ignore", invalid="ignore"):
            features = self._signatures(rows, low, high)
        if not np.isfinite(features).all():
            raise ValueError(f"signatures of depth={self.depth} of these values leave the range of float64: use scaling='corpus'")
        mean = features.mean(axis=0)
        left, singular, right = np.linalg.svd(features - mean, full_matrices=False)
        floor = max(self.rank_tolerance * singular[0], ROUNDING * np.linalg.norm(features))
        rank = int((singular > floor).sum())
        root = np.sqrt(len(rows))
        whitened = left[:, :rank] * root
        alone = nearest(whitened, whitened, self.neighbours + 1)[0][:, -1]
        return SignatureState(rows.mean(axis=0), low, high, mean, right[:rank].T.copy(), singular[:rank] / root, whitened, alone)

    def anomaly_scores(self, state: SignatureState, rows: Rows) -> Scores:
        return self._conformance(state, rows, itself=True)

    def training_scores(self, state: SignatureState, rows: Rows) -> Scores:
        """Distance of each path of the corpus to the neighbours-th nearest other one."""
        return state.alone

    def leave_one_out_scores(self) -> Scores:
        r"""Score (n,) that each path of the corpus would get without being its own neighbour, in the order of the fitted rows.

        A calibration set that costs no streams. It is exact but for mean and covariance, which contain the path: with many
        more streams than features these hardly change, and the rate of false alarms is near the nominal one; with few streams
        the scores are too small, down to :math:`\sqrt{2n}` each where the features are as many as the streams, and it is too high.
        """
        self._require_state()
        return self.state_.alone.copy()

    def score_samples(self, X: ArrayLike) -> Scores:
        """The scores negated; a path equal to one of the corpus is not its own neighbour, as in ``leave_one_out_scores``."""
        return -self._finite(partial(self._conformance, itself=False), self._scorable(X))

    def off_span(self, scores: Scores) -> NDArray[np.bool_]:
        """Which ``scores`` (n,) are of streams that differ from each of the corpus in directions that it never showed."""
        return scores >= OFF_SPAN_SCORE

    def facts(self, state: SignatureState) -> dict[str, float]:
        """The number of numbers of a signature, and of directions that the corpus showed, the ``rank``."""
        return {"features": len(state.mean), "rank": len(state.deviations)}

    def baseline(self, state: SignatureState, rows: Rows) -> Rows:
        """The mean stream of the corpus for each row: it holds still whatever the row does."""
        return np.broadcast_to(state.centre, rows.shape)

    def _conformance(self, state: SignatureState, rows: Rows, *, itself: bool) -> Scores:
        """Scores of ``rows`` (m, d), some at a time; ``itself`` tells whether a path of the corpus is its own neighbour."""
        candidates = min(self.neighbours + SPARE, len(state.whitened))
        step = max(1, BLOCK_NUMBERS // max(len(state.whitened), len(state.mean), candidates * len(state.deviations)))
        blocks = (rows[start : start + step] for start in range(0, len(rows), step))
        return np.concatenate([self._distances(state, self._signatures(b, state.low, state.high), candidates, itself) for b in blocks])

    def _distances(self, state: SignatureState, features: Signatures, candidates: int, itself: bool) -> Scores:
        """Distance to the k-th nearest corpus path that differs from the row on the span, of signatures ``features`` (m, D)."""
        centred = features - state.mean
        along = centred @ state.basis
        rounding = ROUNDING * np.linalg.norm(features, axis=1)
        outside = np.linalg.norm(centred - along @ state.basis.T, axis=1)
        outside[outside <= rounding] = 0
        whitened = along / state.deviations
        order = _squared_distances(whitened, state.whitened)
        lengths = np.sqrt(_squared_distances(along, state.whitened * state.deviations) + np.square(outside)[:, None])
        order[outside[:, None] > OFF_SPAN_TOLERANCE * lengths] = np.inf
        chosen = np.argpartition(order, candidates - 1, axis=1)[:, :candidates]
        gaps = whitened[:, None] - state.whitened[chosen]
        exact = np.linalg.norm(gaps, axis=2)
        equal = np.linalg.norm(gaps * state.deviations, axis=2) <= rounding[:, None]
        exact[equal] = 0
        exact[np.isinf(np.take_along_axis(order, chosen, axis=1))] = np.inf
        count = min(self.neighbours, len(state.whitened))
        distances = np.partition(exact, count - 1, axis=1)[:, count - 1]
        if not itself:
            found, which = equal.any(axis=1), equal.argmax(axis=1)
            distances[found] = state.alone[chosen[found, which[found]]]
        share = np.minimum(outside / np.maximum(lengths.min(axis=1), np.finfo(float).tiny), 1)
        return np.where(np.isfinite(distances), _bent(distances), OFF_SPAN_SCORE * (1 + share))

    def _signatures(self, rows: Rows, low: Vector, high: Vector) -> Signatures:
        """Signatures (n, D) of the scaled and augmented paths of ``rows`` (n, d), some at a time."""
        parts = []
        step = max(1, BLOCK_NUMBERS // rows.shape[1])
        for start in range(0, len(rows), step):
            paths = rows[start : start + step].reshape(-1, rows.shape[1] // self.channels, self.channels)
            parts.append(signatures(augmented(self._scaled(paths, low, high), self.augmentations), self.depth))
        return np.concatenate(parts)

    def _scaled(self, paths: Paths, low: Vector, high: Vector) -> Paths:
        if self.scaling == "none":
            return paths
        if self.scaling == "stream":
            low, high = paths.min(axis=1, keepdims=True), paths.max(axis=1, keepdims=True)
        return np.asarray((paths - low) / np.where(high > low, high - low, 1))

    def _check_width(self, numbers: int) -> None:
        """Refuse what cannot be cut into streams or would have no signature or one too wide, before any memory is taken."""
        names = list(self.augmentations)
        unknown = set(names) - set(AUGMENTATIONS)
        if unknown:
            raise ValueError(f"augmentations {sorted(unknown)} are unknown; there are {sorted(AUGMENTATIONS)}")
        if len(set(names)) < len(names):
            raise ValueError(f"augmentations {names} name one twice: each can be applied once")
        if numbers % self.channels:
            raise ValueError(f"rows of {numbers} numbers are no streams of channels={self.channels}: it must divide them")
        _, points, channels = augmented(np.zeros((1, 1, self.channels)), names).shape
        if numbers == self.channels and points < 2:
            raise ValueError(f"streams of one point (n_features = {numbers}) have no signature: add the augmentation 'basepoint'")
        width = signature_width(channels, self.depth)
        if width > LARGEST_WIDTH:
            raise ValueError(f"depth={self.depth} of {channels} channels gives {width} features, over {LARGEST_WIDTH}: lower the depth")


def _bent(distances: Scores) -> Scores:
    """``distances``, those beyond FAR bent so that they grow on but stay below OFF_SPAN_SCORE."""
    return np.where(distances > FAR, OFF_SPAN_SCORE - (OFF_SPAN_SCORE - FAR) * (FAR / np.maximum(distances, FAR)), distances)


def _squared_distances(left: Rows, right: Rows) -> NDArray[np.float64]:
    squares = np.square(left).sum(axis=1)[:, None] + np.square(right).sum(axis=1)
    return np.asarray(np.maximum(squares - 2 * left @ right.T, 0))
