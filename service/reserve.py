"""The rows that a version holds out, kept with it so that an update can calibrate again. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from service.features import Batch, Features

MOST_ROWS = 20_000
MOST_BYTES = 64 * 2**20  # of their features
DIGEST_BYTES = 8

Digests = NDArray[np.uint64]  # (n,)


@dataclass(frozen=True, slots=True)
class Reserve:
    """Features of rows held out, and digests of the inputs that they came from.

    Of more rows than are kept it is a random sample, the share ``rate`` of them. ``passed`` are digests of the rows held out that are
    not in it: neither were they learned, which is to be known when one of them is to be forgotten.
    """

    rows: Features  # (n, d)
    digests: Digests  # (n,)
    passed: Digests  # (m,)
    rate: float = 1.0
    untold: int = 0  # rows held out of which not even a digest is kept

    @classmethod
    def of(cls, inputs: Batch, features: Features, seed: int) -> Reserve:
        """The rows held out with ``features`` (n, d), which came of ``inputs``; at most ``MOST_ROWS`` and ``MOST_BYTES`` of them."""
        return cls(features, digests_of(inputs), np.empty(0, np.uint64)).bounded(seed)

    def __len__(self) -> int:
        return len(self.rows)

    def bounded(self, seed: int) -> Reserve:
        """As many of the rows as may be kept, drawn by ``seed``."""
        most = max(1, min(MOST_ROWS, MOST_BYTES // max(self.rows[:1].nbytes, 1)))
        return self.thinned(self.rate * min(1.0, most / max(len(self), 1)), seed)

    def thinned(self, rate: float, seed: int) -> Reserve:
        """A sample at ``rate``, at most the one there is, drawn by ``seed``."""
        return self._sampled(round(len(self) * min(1.0, rate / self.rate)), min(rate, self.rate), seed)

    def decayed(self, weight: float, seed: int) -> Reserve:
        """The share ``weight`` of the rows, drawn by ``seed``, beside which later ones count as they do among those learned.

        What passed is not kept: no learned row can be forgotten any more.
        """
        return replace(self._sampled(round(len(self) * weight), self.rate, seed), passed=self.passed[:0])

    def joined(self, other: Reserve, seed: int) -> Reserve:
        """The rows of both, each as often as in all that both held out."""
        rate = min(self.rate, other.rate)
        one, two = self.thinned(rate, seed), other.thinned(rate, seed)
        rows, digests = np.concatenate([one.rows, two.rows]), np.concatenate([one.digests, two.digests])
        return Reserve(rows, digests, np.concatenate([one.passed, two.passed]), rate, one.untold + two.untold)

    def holds(self, digests: Digests) -> NDArray[np.bool_]:
        """Which of the inputs with these digests were held out, where one that was so once answers for one input alone."""
        known, counts = np.unique(np.concatenate([self.digests, self.passed]), return_counts=True)
        found = np.zeros(len(digests), dtype=np.bool_)
        left = dict(zip(known.tolist(), counts.tolist(), strict=True))
        for index, digest in enumerate(digests.tolist()):
            if left.get(digest, 0):
                left[digest] -= 1
                found[index] = True
        return found

    def without(self, digests: Digests) -> Reserve:
        """All but the rows that came from inputs with these digests."""
        kept = ~np.isin(self.digests, digests)
        passed = self.passed[~np.isin(self.passed, digests)]
        return replace(self, rows=self.rows[kept], digests=self.digests[kept], passed=passed)

    def shared(self, other: Reserve) -> float:
        """Share of the rows held out of the smaller one that were held out in both, whether they are kept or have passed."""
        smaller, larger = sorted((np.concatenate([one.digests, one.passed]) for one in (self, other)), key=len)
        return float(np.isin(smaller, larger).mean()) if len(smaller) else 0.0

    def _sampled(self, count: int, rate: float, seed: int) -> Reserve:
        if count == len(self):
            return replace(self, rate=rate)
        kept = np.zeros(len(self), dtype=np.bool_)
        kept[np.random.default_rng([seed, len(self)]).choice(len(self), count, replace=False)] = True
        passed = np.concatenate([self.passed, self.digests[~kept]])
        return Reserve(self.rows[kept], self.digests[kept], passed, rate, self.untold)


def digests_of(inputs: Batch) -> Digests:
    """A digest of each row or image: of the numbers of a row in float64, and of the bytes of an image as they came."""
    if inputs.rows is not None:
        rows = np.ascontiguousarray(inputs.rows, dtype=np.float64) + 0.0  # no minus zero, which equals zero
        found = [_digest(row.data) for row in rows]
    else:
        found = [_digest(image if isinstance(image, bytes) else np.ascontiguousarray(image).data) for image in inputs.images or ()]
    return np.frombuffer(b"".join(found), "<u8").astype(np.uint64)


def _digest(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()
