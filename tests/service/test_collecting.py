"""Who is judged on the event loop, who in a thread, and who together with others there."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from starlette.requests import ClientDisconnect

from models import Extractor
from service import archive, engine, errors
from service.features import Batch
from service.gate import Gate
from service.manifest import Source
from service.protocol import scoring as protocol
from service.protocol.envelope import Body
from service.recipe import Recipe
from service.schemas import Options
from service.scoring import judging, scoring
from service.scoring.callers import Caller
from service.scoring.judging import INLINE_BYTES, INLINE_PRODUCTS, Judging, little
from service.scoring.work import judged
from service.settings import Settings
from service.versions import Loaded
from tests.models import graphs
from tests.service.samples import fitted
from tests.service.served import NORMAL, fitted_images, npy, rows
from tests.service.test_judging import Told

SETTINGS = Settings(device="cpu")
IMAGES = [path.read_bytes() for path in NORMAL[:16]]


def version(detector: engine.Fitted, name: str = "parts", number: int = 1) -> Loaded:
    manifest, _ = archive.pack(detector, name, Source(name="data", rows=1, sha256="0" * 64))
    return Loaded(name, number, manifest, detector)


PUMPS, PARTS = version(fitted(), "pumps"), version(fitted_images())


async def silence() -> Any:
    await asyncio.Event().wait()


def native(body: bytes | list[bytes], encoding: str = "", **options: Any) -> scoring.Task:
    form = "images" if isinstance(body, list) else "npy"
    return scoring.Task(form, body, encoding, Options(**options), "application/json", Caller(silence))


def inference(count: int, encoding: str = "", outputs: tuple[str, ...] = ()) -> protocol.Task[Any]:
    given = {"name": "rows", "shape": [count, 4], "datatype": "FP64", "data": rows(count).ravel().tolist()}
    body = json.dumps({"inputs": [given], "outputs": [{"name": name} for name in outputs]} if outputs else {"inputs": [given]}).encode()
    return protocol.Task(Body(gzip.compress(body) if encoding else body, encoding, None, ""), Caller(silence), 0.0)


class Place:
    """A judging with one thread, which notes what the thread was given: how many requests each time."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.told, self.batches, self.names = Told(), [], []  # type: Told, list[int], list[str]
        self.seconds, self.second = seconds, asyncio.Event()  # that the thread waits before it begins; whether it is given a second batch
        noting, gate = self, Gate(1, 64)
        thread = gate.thread

        async def noted(function: Callable[..., Any], loop: Any, places: list[Any]) -> Any:
            noting.batches.append(len(places))
            if len(noting.batches) == 2:
                noting.second.set()
            noting.names.append(places[0].loaded.name)

            def late() -> Any:
                time.sleep(noting.seconds)
                return function(loop, places)

            return await thread(late)

        gate.thread = noted  # type: ignore[method-assign, assignment]  # the gate's own, looked at
        self.judge = Judging(SETTINGS, gate, self.told).judge  # type: ignore[arg-type]  # only what is told of is noted


def answers(*works: Any, loaded: Loaded = PARTS, place: Place | None = None) -> tuple[list[Any], Place]:
    """What comes of requests that come together, each a task or a version and a task: the plain answer, or the error."""
    place = place or Place()

    async def together() -> list[Any]:
        pairs = [one if isinstance(one, tuple) else (loaded, one) for one in works]
        return await asyncio.wait_for(asyncio.gather(*[place.judge(*pair) for pair in pairs], return_exceptions=True), 60)

    found = asyncio.run(together())
    return [json.loads(one.body) if isinstance(one, scoring.Scored) else one for one in found], place


@contextmanager
def batch_of(count: int, *versions: Loaded) -> Iterator[None]:
    """As if so many inputs suited the network best."""
    with pytest.MonkeyPatch.context() as patch:
        for loaded in versions or (PARTS,):
            patch.setattr(loaded.fitted.extractor, "batch", count)
        yield


def alone(one: scoring.Task, loaded: Loaded = PARTS) -> Any:
    return json.loads(judged(loaded, one, SETTINGS)[0].body)


def test_only_what_is_small_is_judged_on_the_event_loop() -> None:
    """By both interfaces; what is compressed or asks for shares is not, nor many rows, nor a large body, nor what a network has to see."""
    large = INLINE_BYTES // (8 * 4)
    small: list[Any] = [native(npy(rows(5))), inference(5), inference(5, outputs=("score",))]
    others = [
        native(npy(rows(large))),
        native(gzip.compress(npy(rows(5))), "gzip"),
        native(npy(rows(5)), attribute=2),
        inference(large),
        inference(5, "gzip"),
        inference(5, outputs=("score", "attribution")),
        (PARTS, native(IMAGES[:1])),
    ]
    assert [answers(one, loaded=PUMPS)[1].batches for one in (*small, *others)] == [[]] * 3 + [[1]] * 7
    most = 8 * INLINE_PRODUCTS // PUMPS.manifest.state_bytes
    assert little(PUMPS, most) and not little(PUMPS, most + 1)


def test_a_request_that_is_wrong_is_refused_before_it_has_a_thread() -> None:
    (found,), place = answers(inference(5, outputs=("scores",)), loaded=PUMPS)
    assert isinstance(found, errors.InvalidInput) and "no output 'scores'" in str(found)
    assert (place.batches, place.told.failures) == ([], 1)


def test_images_that_wait_for_a_thread_are_judged_together() -> None:
    """As many as suit the network, in the order in which they came; each answer is that of the images by themselves."""
    parts = [IMAGES[:1], IMAGES[1:3], IMAGES[3:4], IMAGES[4:7], IMAGES[7:8], IMAGES[9:16], IMAGES[8:9]]
    with batch_of(4):
        found, place = answers(*(native(part) for part in parts))
    assert place.batches == [1, 3, 2, 1]  # the first has the thread at once; 2 + 1 + 1 images; 3 + 1; the 7 that are more than a batch
    for answer, part in zip(found, parts, strict=True):
        expected = alone(native(part))
        assert [row["is_outlier"] for row in answer["results"]] == [row["is_outlier"] for row in expected["results"]]
        np.testing.assert_allclose([row["score"] for row in answer["results"]], [row["score"] for row in expected["results"]], rtol=1e-6)
    assert sorted(place.told.sizes) == sorted(place.batches)


def test_one_by_one_where_that_suits_the_network() -> None:
    with batch_of(1):
        _, place = answers(*(native(IMAGES[index : index + 1]) for index in range(5)))
    assert place.batches == [1] * 5


def test_rows_for_a_network_are_collected_too() -> None:
    model = graphs.linear(width=4, element_type=TensorProto.FLOAT)
    network = Extractor(model.SerializeToString(), device="cpu", threads=1)
    loaded = version(engine.fit(Recipe(alpha=0.1), Batch(rows=rows(200)), network))
    with batch_of(8, loaded):
        found, place = answers(*(native(npy(rows(2, seed=seed))) for seed in range(5)), native(npy(rows(1)[:, :2])), loaded=loaded)
    assert place.batches == [1, 4, 1]  # another width is another line
    for seed, answer in enumerate(found[:5]):
        expected = alone(native(npy(rows(2, seed=seed))), loaded)
        np.testing.assert_allclose([row["score"] for row in answer["results"]], [row["score"] for row in expected["results"]], rtol=1e-6)
    assert isinstance(found[5], errors.InvalidInput)


def test_only_what_is_judged_alike_is_collected() -> None:
    """Never two versions, nor two alphas; nor what counts false discoveries, is compressed, or too large to be worth it."""
    other = version(PARTS.fitted, number=2)
    large = native([IMAGES[0] + bytes(judging.COLLECTED_BYTES)])
    works = [
        native(IMAGES[:1]), native(IMAGES[:1]), (other, native(IMAGES[:1])), (other, native(IMAGES[:1])), native(IMAGES[:1], alpha=0.2),
        native(IMAGES[:1], alpha=0.2), native(IMAGES[:1], fdr=True), native(IMAGES[:1], fdr=True), large, native(IMAGES[:1]),
    ]  # fmt: skip
    with batch_of(16):
        found, place = answers(*works)
    assert place.batches == [1, 2, 2, 2, 1, 1, 1]
    assert [answer["version"] for answer in found] == [1, 1, 2, 2, 1, 1, 1, 1, 1, 1]
    assert [answer["alpha"] for answer in found][4:6] == [0.2, 0.2]


def test_an_image_that_is_none_takes_nobody_with_it() -> None:
    """What is wrong is said of the request's own image."""
    works = [native(IMAGES[:1]), native(IMAGES[:2]), native([IMAGES[0], b"no image"]), native(IMAGES[:3])]
    with batch_of(16):
        found, place = answers(native(IMAGES[:1]), *works)
    assert place.batches == [1, 4]
    found = found[1:]
    assert [len(one["results"]) for one in (found[0], found[1], found[3])] == [1, 2, 3]
    assert isinstance(found[2], errors.InvalidInput) and found[2].pointer == "#/images/1"
    assert place.told.failures == 1


def test_detectors_take_turns_whatever_is_collected() -> None:
    """One with many requests in line has a batch at a time; the other one's single request comes after the first of those that wait."""
    other = version(PARTS.fitted, "others")
    with batch_of(4):
        _, place = answers(*(native(IMAGES[:1]) for _ in range(13)), (other, native(IMAGES[:1])))
    assert list(zip(place.names, place.batches, strict=True)) == [("parts", 1), ("parts", 4), ("others", 1), ("parts", 4), ("parts", 4)]


def test_who_has_left_is_not_judged_and_costs_the_others_nothing() -> None:
    """Nor who was cancelled, in line or as the first of a batch that runs; those that run with it get their answers."""
    place = Place()

    async def together() -> list[Any]:
        works = [native(IMAGES[:1]) for _ in range(7)]
        asked = [asyncio.ensure_future(place.judge(PARTS, work)) for work in works]
        await asyncio.sleep(0)  # the first has the thread, the others are in line
        asked[2].cancel()
        works[4].caller.left = True
        await asyncio.wait_for(place.second.wait(), 60)
        asked[1].cancel()  # with whom the second batch began
        asked[5].cancel()
        return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 60)

    with batch_of(16):
        found = asyncio.run(together())
    gone = asyncio.CancelledError
    assert [type(one) for one in found] == [scoring.Scored, gone, gone, scoring.Scored, ClientDisconnect, gone, scoring.Scored]
    assert place.batches == [1, 5]
    assert place.told.sizes == [1, 4]  # who is cancelled while its batch runs is judged with it


def test_a_deadline_that_passes_in_line_is_told_at_once() -> None:
    place, late = Place(seconds=0.3), native(IMAGES[:1])

    async def together() -> float:
        first = asyncio.ensure_future(place.judge(PARTS, native(IMAGES[:1])))
        await asyncio.sleep(0)
        late.caller.deadline = time.monotonic() + 0.05
        begun = time.monotonic()
        with pytest.raises(errors.DeadlineExceeded):
            await place.judge(PARTS, late)
        waited = time.monotonic() - begun
        assert not first.done()
        await first
        return waited

    asyncio.run(together())
    assert sum(place.told.sizes) == 1


def test_a_refused_request_is_let_go_of() -> None:
    """Without the collector's help, which might come late: a large body would take its memory until then."""

    async def refused(work: Awaitable[Any]) -> None:
        with pytest.raises(errors.InvalidInput, match="finite"):
            await work

    gc.collect()
    gc.disable()
    try:
        for count in (1, 5000):  # on the event loop, and in a thread
            data = np.full((count, 4), np.nan)
            work = native(npy(data))
            held = weakref.ref(work.decode(PUMPS, SETTINGS).rows)  # type: ignore[arg-type]
            asyncio.run(refused(Place().judge(PUMPS, work)))
            del work
            assert held() is None
    finally:
        gc.enable()
