"""What a service does where CUDA is asked for and cannot be had: no GPU is visible to these processes."""

from __future__ import annotations

from pathlib import Path

from tests.service.samples import fitted
from tests.service.served import NORMAL, fitted_images, rows, served
from tests.service.test_health_metrics import labelled, samples, value

NO_GPU = {"FARFIELD_DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": ""}


def test_the_cpu_serves_and_says_so(tmp_path: Path) -> None:
    """The detector scores; a warning in the log, a counter and the provider's label tell that it is on the CPU."""
    with served(tmp_path, {"images": [fitted_images()]}, **NO_GPU) as service:
        answer = service.score("images", NORMAL[0].read_bytes(), media="image/png")
        found = samples(service.client)
        assert answer.status_code == 200, answer.text
        assert value(found, "farfield_device_fallbacks_total") == 1
        assert [info["provider"] for info in labelled(found, "farfield_extractor_info")] == ["CPUExecutionProvider"]
        assert "WARNING" in service.process.log() and "CUDA was asked for but cannot be had" in service.process.log()


def test_a_device_that_is_required_is_no_wish(tmp_path: Path) -> None:
    """With require, versions that need the device are refused with the reason; those without an extractor serve."""
    with served(tmp_path, {"images": [fitted_images()], "rows": [fitted()]}, **NO_GPU, FARFIELD_REQUIRE_DEVICE="true") as service:
        refused = service.score("images", NORMAL[0].read_bytes(), media="image/png")
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:farfield:problem:version-refused")
        assert "CUDA was asked for but cannot be had" in refused.json()["detail"]
        assert [item["detector"] for item in service.client.get("/readyz").json()["refused"]] == ["images"]
        assert service.score("rows", rows(3)).status_code == 200
