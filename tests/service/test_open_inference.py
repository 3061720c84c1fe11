"""``/v2`` beside the protocol's own OpenAPI document, and as KServe's client sends and reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from jsonschema import Draft4Validator
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from tests.service.envelopes import HEADER
from tests.service.samples import fitted
from tests.service.served import Served, rows, served

DOCUMENT: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "open_inference.yaml").read_text())
REAL = {"MODEL_NAME": "rows", "MODEL_VERSION": "1"}
BATCH = rows(3)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("open"), {"rows": [fitted()]}) as running:
        yield running


def conforms(name: str, value: Any) -> None:
    Draft4Validator({"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}).validate(value)


def test_requests_made_from_the_protocols_document(service: Served) -> None:
    """Whatever it allows is answered in its form, or refused in its form; by any name, and by one that is there."""
    tried = set()
    for result in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations():
        operation = result.ok()
        tried.add(operation.path)

        @given(case=operation.as_strategy())
        @settings(
            max_examples=20,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def answered(case: schemathesis.Case) -> None:
            for names in (dict(case.path_parameters), REAL):
                case.path_parameters = names
                answer = case.call_and_validate(
                    base_url=service.process.url, checks=[not_a_server_error, content_type_conformance, response_schema_conformance]
                )
                assert answer.status_code == 200 or list(answer.json()) == ["error"]

        answered()
    assert tried == set(DOCUMENT["paths"])


def test_real_answers_are_as_the_protocols_document_says(service: Served) -> None:
    """Metadata, an answer and a refusal."""
    conforms("server", service.client.get("/v2/").json())
    conforms("model", service.client.get("/v2/models/rows/versions/1").json())
    tensor = {"name": "rows", "shape": [3, 4], "datatype": "FP64", "data": BATCH.ravel().tolist()}
    asked = {"id": "7", "inputs": [tensor], "outputs": [{"name": "score"}]}
    conforms("request", asked)
    answer = service.client.post("/v2/models/rows/versions/1/infer", json=asked)
    conforms("response", answer.json())
    assert answer.status_code == 200 and answer.json()["id"] == "7"
    conforms("error", service.client.post("/v2/models/rows/versions/1/infer", json={"inputs": []}).json())


@pytest.mark.parametrize("binary", [True, False])
def test_what_kserves_client_sends(service: Served, binary: bool) -> None:
    """The very forms of its 0.21: a model name in the body, no outputs, options as strings, binary data behind the JSON.

    The client itself pulls in Kubernetes' and holds protobuf back, so that it is tried by hand and not installed here.
    """
    tensor = {"name": "rows", "shape": [3, 4], "datatype": "FP64"}
    tensor |= {"parameters": {"binary_data_size": BATCH.nbytes}} if binary else {"data": BATCH.ravel().tolist()}
    text = json.dumps(
        {"id": "k1", "model_name": "rows", "inputs": [tensor], "parameters": {"alpha": "0.1"}}, separators=(",", ":")
    ).encode()
    headers = {HEADER: str(len(text)), "Content-Type": "application/octet-stream"} if binary else {"Content-Type": "application/json"}
    answer = service.client.post("/v2/models/rows/infer", content=text + BATCH.tobytes() * binary, headers=headers)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["id"], found["parameters"]["alpha"]) == ("k1", 0.1)
    expected = [result["score"] for result in service.score("rows", BATCH).json()["results"]]
    np.testing.assert_array_equal(found["outputs"][0]["data"], expected)
