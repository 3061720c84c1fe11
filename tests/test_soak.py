"""The soak: what it would call an error is one, and a short one of the real service finds none."""

import asyncio

import numpy as np
import orjson

from benchmarks import soak


def answer(version, scores):
    return orjson.dumps({"version": version, "results": [{"score": score} for score in scores]})


def test_errors_and_mixed_versions_are_told():
    """An answer is mixed if its scores are those of another version than the one it names."""
    seen = soak.Seen({1: np.array([1.0, 2.0]), 2: np.array([3.0, 4.0])})
    seen.answer(200, answer(1, [1.0, 2.0]))
    seen.answer(200, answer(2, [3.0, 4.0]))
    assert (seen.answers, seen.mixed, seen.errors, seen.versions) == (2, 0, [], {1, 2})
    seen.answer(200, answer(1, [3.0, 4.0]))
    seen.answer(200, answer(2, [3.0, 2.0]))
    seen.answer(503, b"overloaded")
    assert (seen.answers, seen.mixed, len(seen.errors)) == (5, 2, 1)


def test_growth_is_that_of_the_last_tenth_over_the_first():
    """By medians, so that one sample does not decide."""
    seen = soak.Seen({}, memory=[100.0, 100.0, 900.0, *[105.0] * 25, 110.0, 110.0])
    assert seen.growth() == (100.0, 110.0, 110.0 / 100 - 1)


def test_a_second_of_it():
    """Requests are answered while the alias moves, without an error."""
    with soak.service(1) as (port, expected):
        _, seen = asyncio.run(soak.soak(port, expected, 2.0, 0.5))
    assert (seen.errors, seen.mixed) == ([], 0)
    assert seen.answers > 0 and seen.versions <= {1, 2} and seen.promotes == len(seen.memory) > 0
