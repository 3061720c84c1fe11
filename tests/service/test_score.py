"""``:score`` in every form of body: the same numbers as in process, whatever way they travelled."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from models import Extractor, bundled
from service import engine
from service.features import Batch
from service.recipe import Recipe
from service.settings import Settings
from service.verdicts import Verdicts
from service.versions import Loaded, load
from tests.servers import eventually
from tests.service.samples import fitted
from tests.service.served import JSON, NORMAL, NPY, ODD, Served, npy, pixels, rows, served

SHOWN = [*NORMAL[:3], *ODD[:3]]


def fitted_by_network() -> engine.Fitted:
    """A detector on the bundled network's features of 120 images."""
    onnx_file, preprocessing, taps = bundled("mobilenet_v2")
    images = Batch(images=[path.read_bytes() for path in NORMAL[:120]])
    return engine.fit(Recipe(alpha=0.1), images, Extractor(onnx_file, preprocessing=preprocessing, taps=taps, device="cpu"))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    detectors = {"rows": [fitted(1.0), fitted(2.0)], "led": [fitted(1.0), fitted(2.0), fitted(3.0)], "boards": [fitted_by_network()]}
    with served(tmp_path_factory.mktemp("score"), detectors) as running:
        running.store.move_alias("led", "champion", 2)
        running.store.move_alias("led", "shadow", 1)
        yield running


def loaded(service: Served, name: str, number: int) -> Loaded:
    return load(service.store, Settings(device="cpu"), name, number)


def in_process(service: Served, name: str, number: int, batch: Batch, **how: Any) -> Verdicts:
    """What the engine says of ``batch``, with the one thread for matrix products that a request has."""
    with threadpool_limits(1, user_api="blas"):
        return engine.score(loaded(service, name, number).fitted, batch, **how)


def assert_equal(answer: httpx2.Response, verdicts: Verdicts, rounding: float = 0.0) -> None:
    """The answer holds these verdicts, to the last bit, or where the batch may have been scored with others but for ``rounding``."""
    assert answer.status_code == 200, answer.text
    body = answer.json()
    np.testing.assert_allclose([result["score"] for result in body["results"]], verdicts.scores, rtol=rounding, strict=True)
    assert [result["p_value"] for result in body["results"]] == verdicts.p_values.tolist()
    assert [result["is_outlier"] for result in body["results"]] == verdicts.is_outlier.tolist()
    assert (body["alpha"], body["threshold"]) == (verdicts.alpha, verdicts.threshold)


def test_json_rows_are_scored_as_in_process(service: Served) -> None:
    """JSON keeps every bit of a float64, and the answer is exactly the engine's."""
    batch = rows(50)
    answer = service.score("rows", batch.tolist())
    assert answer.headers["content-type"] == JSON
    assert_equal(answer, in_process(service, "rows", 2, Batch(rows=batch)))
    assert answer.json()["n_calibration"] == loaded(service, "rows", 2).fitted.n_calibration


@pytest.mark.parametrize(
    "array",
    [
        rows(20).astype(np.float32),
        rows(20),
        rows(20).astype(np.float16),
        np.asfortranarray(rows(20)),
        rows(20).astype(">f8"),
        rows(20).astype(">f4"),
        (10 * rows(20)).astype(np.int8),
        (10 * rows(20)).astype(">i4"),
        np.abs(10 * rows(20)).astype(np.uint64),
        rows(20) > 0,
    ],
    ids=["f4", "f8", "f2", "fortran", "big-f8", "big-f4", "i1", "big-i4", "u8", "bool"],
)
def test_npy_rows_of_any_number_type_and_order(service: Served, array: np.ndarray[Any, Any]) -> None:
    """An .npy body is read as numpy itself reads it."""
    assert_equal(service.score("rows", array), in_process(service, "rows", 2, Batch(rows=np.asarray(array, np.float64))))


def test_npy_without_a_media_type_of_its_own(service: Served) -> None:
    """Clients that know no better may send .npy as octets."""
    answer = service.score("rows", npy(rows(3)), media="application/octet-stream")
    assert_equal(answer, in_process(service, "rows", 2, Batch(rows=rows(3))))


def test_an_image_scores_the_same_in_every_form(service: Served, tmp_path: Path) -> None:
    """One by one, several in a form, as an array of pixels, and by the command line: one score per image."""
    expected = in_process(service, "boards", 1, Batch(images=[path.read_bytes() for path in SHOWN]))
    parts = [("images", (path.name, path.read_bytes(), "image/png")) for path in SHOWN]
    form = service.client.post("/v1/detectors/boards:score", files=parts)
    singles = [service.score("boards", path.read_bytes(), media="image/png") for path in SHOWN]
    array = service.score("boards", pixels(SHOWN))
    assert_equal(form, expected)
    found = {
        "single": [answer.json()["results"][0]["score"] for answer in singles],
        "pixels": [result["score"] for result in array.json()["results"]],
        "command line": scores_by_command_line(service, tmp_path),
    }
    for scores in found.values():
        np.testing.assert_allclose(scores, expected.scores, rtol=1e-5)
    assert min(expected.scores[3:]) > max(expected.scores[:3])


def scores_by_command_line(service: Served, folder: Path) -> list[float]:
    for index, path in enumerate(SHOWN):
        (folder / f"{index}.png").write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "service.cli", "score", "boards", "--data", str(folder), "--json", "--store", service.store_url]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    return [result["score"] for result in json.loads(done.stdout)["results"]]


@pytest.mark.parametrize(
    ("reference", "version"),
    [
        ("rows", 2),
        ("rows@latest", 2),
        ("rows/versions/1", 1),
        ("led", 2),
        ("led@champion", 2),
        ("led@shadow", 1),
        ("led@latest", 3),
        ("led/versions/3", 3),
    ],
)
def test_each_reference_means_one_version(service: Served, reference: str, version: int) -> None:
    """The default is the champion, or else the latest; every answer names its detector and version and is of that version."""
    name = reference.partition("@")[0].partition("/")[0]
    answer = service.score(reference, rows(5).tolist())
    assert (answer.json()["detector"], answer.json()["version"]) == (name, version)
    assert_equal(answer, in_process(service, name, version, Batch(rows=rows(5))))


def test_options_stand_in_the_query_or_in_the_body(service: Served) -> None:
    """alpha, fdr and attribute mean the same in both places, and the body wins."""
    batch = 3 * rows(40)
    for options in ({"alpha": 0.2, "fdr": False}, {"alpha": 0.3, "fdr": True}):
        expected = in_process(service, "rows", 2, Batch(rows=batch), **options)
        assert_equal(service.score("rows", batch, params=options), expected)
        assert_equal(service.score("rows", {"rows": batch.tolist(), **options}), expected)
        assert_equal(service.score("rows", {"rows": batch.tolist(), **options}, params={"alpha": 0.9, "fdr": not options["fdr"]}), expected)
    shown = service.score("rows", {"rows": batch.tolist(), "attribute": 2}, params={"attribute": 4}).json()["results"]
    assert {len(result["attribution"]) for result in shown} == {2}


def test_fdr_judges_the_batch_together(service: Served) -> None:
    """Rows that are outliers alone are none among many normal ones under the false-discovery rate."""
    batch = rows(200, seed=5)
    alone = service.score("rows/versions/1", batch, params={"alpha": 0.05}).json()["results"]
    together = service.score("rows/versions/1", batch, params={"alpha": 0.05, "fdr": True}).json()["results"]
    assert sum(r["is_outlier"] for r in together) < sum(r["is_outlier"] for r in alone)
    assert [r["p_value"] for r in together] == [r["p_value"] for r in alone]


def test_shares_add_up_to_the_score(service: Served) -> None:
    """All shares of a row add up to its score; the first of them are the largest, by name."""
    results = service.score("rows", rows(10), params={"attribute": 99}).json()["results"]
    for result in results:
        shares = [item["share"] for item in result["attribution"]]
        assert len(shares) == 4
        assert sum(shares) == pytest.approx(result["score"], rel=1e-9)
        assert [abs(share) for share in shares] == sorted((abs(share) for share in shares), reverse=True)
        assert {item["feature"] for item in result["attribution"]} == {f"features[{i}]" for i in range(4)}
    first = service.score("rows", rows(10), params={"attribute": 1}).json()["results"]
    assert [r["attribution"] for r in first] == [r["attribution"][:1] for r in results]


def test_no_attribution_unless_asked_for(service: Served) -> None:
    """Without attribute, or with 0, results carry none."""
    for options in ({}, {"attribute": 0}):
        assert all("attribution" not in result for result in service.score("rows", rows(2), params=options).json()["results"])


def test_the_threshold_decides_as_the_p_value_does(service: Served) -> None:
    """A row is an outlier exactly where its score is above the threshold, at any alpha."""
    for alpha in (0.02, 0.05, 0.1, 0.5):
        body = service.score("rows", 2 * rows(100), params={"alpha": alpha}).json()
        assert all(result["is_outlier"] == (result["score"] > body["threshold"]) for result in body["results"])


def test_an_alpha_that_nothing_can_reach_is_refused(service: Served) -> None:
    """Below the smallest possible p-value nothing would ever be an outlier: the refusal says how many rows it takes."""
    refused = service.score("rows", rows(3).tolist(), params={"alpha": 0.001})
    assert refused.status_code == 422
    problem = refused.json()
    assert "needs at least 999 calibration rows; there are 60, which allow 0.0164 and more" in problem["detail"]
    assert problem["errors"][0]["pointer"] == "#/alpha"
    assert service.score("rows", rows(3), params={"alpha": 0.02}).status_code == 200


def test_scores_beyond_float64_stay_numbers(service: Served) -> None:
    """A row so far away that its score overflows gets the largest float64: JSON has no infinity."""
    result = service.score("rows", np.full((1, 4), 1e300)).json()["results"][0]
    assert result["score"] == np.finfo(np.float64).max
    assert result["is_outlier"]


def test_concurrent_requests_do_not_mix(service: Served) -> None:
    """64 requests at the same time, of rows and of versions of their own, each get their own answer."""
    batches = [rows(1 + index % 7, seed=index) for index in range(64)]
    numbers = [1 + index % 2 for index in range(64)]

    def ask(index: int) -> httpx2.Response:
        body = batches[index] if index % 3 else batches[index].tolist()
        return service.score(f"rows/versions/{numbers[index]}", body)

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(ask, range(64)))
    for answer, batch, number in zip(answers, batches, numbers, strict=True):
        assert answer.json()["version"] == number
        assert_equal(answer, in_process(service, "rows", number, Batch(rows=batch)), rounding=1e-12)


def test_a_full_queue_refuses_at_once_and_recovers(tmp_path: Path) -> None:
    """With one thread and one place in the queue a burst is partly refused with Retry-After; what is answered is right."""
    with served(tmp_path, {"rows": [fitted()]}, FARFIELD_THREADS="1", FARFIELD_QUEUE="1") as service:
        batch = rows(20_000)
        body = npy(batch)
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: service.score("rows", body, media=NPY), range(12)))
        refused = [answer for answer in answers if answer.status_code == 503]
        assert {answer.status_code for answer in answers} == {200, 503}
        for answer in refused:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["type"] == "urn:farfield:problem:overloaded"
        expected = in_process(service, "rows", 1, Batch(rows=batch)).scores.tolist()
        for answer in answers:
            if answer.status_code == 200:
                assert [result["score"] for result in answer.json()["results"]] == expected
        eventually(lambda: service.score("rows", rows(3)).status_code == 200, "the service answers again")
        assert "farfield_queue_depth 0.0" in service.client.get("/metrics").text
