"""Golden rows: a few inputs with the scores that they had when a version was fitted. A loaded version must give them again. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models import Extractor
from service.errors import InvalidInput, TooLarge, VersionRefused
from service.features import Batch, EncodedImage, Features, extract
from service.judges import Judge

GOLDEN_ROWS = 8
GOLDEN_INPUTS = 4
GOLDEN_INPUT_BYTES = 2**20  # a larger image is not kept as golden input
GOLDEN_RELATIVE = 1e-6
GOLDEN_SPREAD = 0.05  # of the calibration scores' interquartile range


@dataclass(frozen=True, slots=True)
class Golden:
    """Rows and raw inputs with the scores that they had when the version was fitted."""

    features: Features
    scores: NDArray[np.float64]
    inputs: Batch
    input_scores: NDArray[np.float64]
    relative: float = GOLDEN_RELATIVE
    absolute: float = 1e-9

    @classmethod
    def of(cls, judge: Judge, batch: Batch, features: Features, held_out: NDArray[np.intp], extractor: Extractor | None) -> Golden:
        """The first of the rows held out, and of their raw inputs where an extractor made the features of them."""
        return cls.scored(judge, features[held_out[:GOLDEN_ROWS]], batch.take(held_out), extractor)

    @classmethod
    def scored(cls, judge: Judge, features: Features, held_out: Batch, extractor: Extractor | None) -> Golden:
        """The first of rows of ``features``, and of the inputs ``held_out`` where there is an extractor, with their scores."""
        rows = features[:GOLDEN_ROWS]
        small = [i for i in range(len(held_out)) if held_out.images is None or size(held_out.images[i]) <= GOLDEN_INPUT_BYTES]
        inputs = held_out.take(np.array(small[:GOLDEN_INPUTS], dtype=np.intp)) if extractor else Batch()
        input_scores = judge.scores(extract(extractor, inputs)) if len(inputs) else np.empty(0)
        low, middle, high = np.quantile(judge.reference, [0.25, 0.5, 0.75])
        absolute = max(GOLDEN_SPREAD * (high - low), GOLDEN_RELATIVE * abs(middle), 1e-12)
        return cls(rows, judge.scores(rows), inputs, input_scores, absolute=float(absolute))

    def check(self, judge: Judge, extractor: Extractor | None, name: str, number: int) -> None:
        """Score the golden rows and inputs again. Raises VersionRefused where they come out differently, or not at all."""
        try:
            scores = judge.scores(self.features)
            input_scores = judge.scores(extract(extractor, self.inputs)) if len(self.inputs) else np.empty(0)
            rows_agree = np.allclose(scores, self.scores, rtol=self.relative, atol=0)
            inputs_agree = np.allclose(input_scores, self.input_scores, rtol=0, atol=self.absolute)
        except (ValueError, InvalidInput, TooLarge) as error:
            raise VersionRefused(name, number, f"its golden rows cannot be scored: {error}") from None
        if not rows_agree:
            raise VersionRefused(name, number, f"a golden row scores {_worst(scores, self.scores)} when fitted")
        if not inputs_agree:
            raise VersionRefused(name, number, f"a golden input scores {_worst(input_scores, self.input_scores)} when fitted")


def size(image: EncodedImage) -> int:
    """Bytes of an image, as it is kept."""
    return len(image) if isinstance(image, bytes) else image.nbytes


def _worst(scores: NDArray[np.float64], expected: NDArray[np.float64]) -> str:
    index = int(np.argmax(np.abs(scores - expected)))
    return f"{scores[index]:.9g} now and {expected[index]:.9g}"
