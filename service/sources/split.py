"""Rows held out for calibration, chosen by a hash of their keys."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidInput
from service.sources.parts import Keys

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def held_out(hashes: NDArray[np.uint64], share: float) -> NDArray[np.bool_]:
    """Which rows (n,) are held out: those whose hash (n,), as of ``hashed``, falls under ``share`` of the range of 64 bits.

    The answer for a key depends on the key, the seed of the hash and ``share`` alone: not on the machine, the order, the
    chunk or the number of rows. A larger share holds out all that a smaller one does. The number held out is random:
    ``share * n`` with a standard deviation of ``sqrt(n share (1 - share))``.

    >>> held_out(hashed(np.arange(6), seed=0), share=0.5).tolist()
    [True, False, True, True, False, True]
    """
    if not 0 < share < 1:
        raise InvalidInput(f"share={share} must lie between 0 and 1", "#/calibrate")
    return hashes < np.uint64(int(share * 2**64))


def hashed(keys: Keys, seed: int) -> NDArray[np.uint64]:
    """Keyed hash (n,) of each key, uniform over the range of 64 bits.

    Integer keys go through the finaliser of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
    OOPSLA 2014), strings through BLAKE2b with the seed as its key. Cost: about 10 passes over the 64-bit keys.
    """
    salt = hashlib.blake2b(str(seed).encode(), digest_size=8).digest()
    if isinstance(keys, np.ndarray) and keys.dtype.kind in "iu":
        return _mixed(_mixed(keys.astype(np.uint64)) ^ np.frombuffer(salt, "<u8").astype(np.uint64))
    hashes = b"".join(hashlib.blake2b(str(key).encode(), key=salt, digest_size=8).digest() for key in keys)
    return np.frombuffer(hashes, "<u8").astype(np.uint64)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One step of SplitMix64 from each of the states ``values``; arithmetic is modulo 2^64."""
    values = values + GOLDEN_GAMMA
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
