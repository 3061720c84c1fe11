"""The OpenAPI document: valid, complete, and true of the running service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from tests.service.samples import fitted
from tests.service.served import Served, rows, served

Operation = dict[str, Any]
PROBLEM = "#/components/schemas/Problem"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("openapi"), {"screws": [fitted(), fitted(2.0)]}) as running:
        running.store.move_alias("screws", "champion", 1)
        yield running


@pytest.fixture(scope="module")
def document(service: Served) -> dict[str, Any]:
    found: dict[str, Any] = service.client.get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> dict[str, Operation]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method != "parameters"
    }


def references(node: Any) -> Iterator[str]:
    """Every $ref anywhere in ``node``."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for child in node.values():
            yield from references(child)
    elif isinstance(node, list):
        for child in node:
            yield from references(child)


def resolved(document: dict[str, Any], reference: str) -> Any:
    node: Any = document
    for part in reference.removeprefix("#/").split("/"):
        node = node[part.replace("~1", "/").replace("~0", "~")]
    return node


def conforms(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    """``value`` is as ``schema``, whose references lie in ``document``, says."""
    Draft202012Validator({**schema, "components": document["components"]}).validate(value)


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    """As the OpenAPI Initiative's own schema has it."""
    validate(document)
    assert document["info"]["title"] == "farfield" and document["info"]["version"]


def test_every_reference_resolves(document: dict[str, Any]) -> None:
    """No schema is named that is not there, and none is there that nothing names."""
    found = set(references(document))
    for reference in found:
        assert resolved(document, reference) is not None
    assert {f"#/components/schemas/{name}" for name in document["components"]["schemas"]} == found


def test_every_route_is_described(document: dict[str, Any]) -> None:
    """Summary, tag and a name of its own; every parameter has a description; every body and answer a schema."""
    found = operations(document)
    assert len({operation["operationId"] for operation in found.values()}) == len(found)
    for name, operation in found.items():
        assert operation["summary"] and operation["tags"], name
        for parameter in operation.get("parameters", []):
            assert parameter.get("description") or parameter["schema"].get("description"), (name, parameter["name"])


def test_every_route_documents_its_errors(document: dict[str, Any]) -> None:
    """Routes that ask the store, or take something from the caller, say how they refuse: as problems."""
    for name, operation in operations(document).items():
        if " /v1/" not in name:
            continue
        refusals = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
        assert "503" in refusals, name
        assert operation.get("parameters") is None or {"404", "422"} <= refusals.keys(), name
        for status, answer in refusals.items():
            assert answer["description"], (name, status)
            assert set(answer["content"]) == {"application/problem+json"}, (name, status)
            assert answer["content"]["application/problem+json"]["schema"] == {"$ref": PROBLEM}


def test_the_routes_are_the_ones_there_are(service: Served, document: dict[str, Any]) -> None:
    """Every documented route exists: none answers that there is nothing at its path, or not by its method."""
    filled = {"{name}": "nope", "{alias}": "nope", "{number}": "7", "{version}": "7"}
    for name in operations(document):
        method, path = name.split()
        for placeholder, value in filled.items():
            path = path.replace(placeholder, value)
        answer = service.client.request(method, path)
        assert answer.status_code != 405, name
        assert answer.status_code != 404 or "there is nothing at" not in answer.text, name


def test_the_examples_of_score_are_accepted(service: Served, document: dict[str, Any]) -> None:
    """The example body of each :score route is scored, or refused for its width alone, which depends on the detector."""
    for name, operation in operations(document).items():
        if not name.endswith(":score"):
            continue
        content = operation["requestBody"]["content"]
        assert set(content) >= {"application/json", "application/x-npy", "multipart/form-data", "image/*"}
        example = content["application/json"]["example"]
        conforms(document, content["application/json"]["schema"], example)
        reference = name.split("/v1/detectors/")[1].removesuffix(":score")
        reference = reference.format(name="screws", alias="champion", number=2)
        assert "features; this detector takes 4" in service.score(reference, example).json()["detail"]
        doubled = {**example, "rows": [row * 2 for row in example["rows"]]}
        assert service.score(reference, doubled).status_code == 200


def schema_of(document: dict[str, Any], route: str, status: str = "200") -> dict[str, Any]:
    found: dict[str, Any] = operations(document)[route]["responses"][status]["content"]["application/json"]["schema"]
    return found


def test_answers_are_as_documented(service: Served, document: dict[str, Any]) -> None:
    """Real answers conform to the schemas of their routes, and so do the examples."""
    root = "/v1/detectors"
    service.client.put(f"{root}/screws/aliases/shadow", json={"version": 2})
    moved = service.client.put(f"{root}/screws/aliases/shadow", json={"version": 1, "expected": 2})
    answers = {
        f"POST {root}/{{name}}:score": service.score("screws", {"rows": rows(3).tolist(), "attribute": 2}),
        f"GET {root}": service.client.get(root),
        f"GET {root}/{{name}}": service.client.get(f"{root}/screws"),
        f"GET {root}/{{name}}/versions": service.client.get(f"{root}/screws/versions"),
        f"GET {root}/{{name}}/versions/{{number}}": service.client.get(f"{root}/screws/versions/1"),
        f"PUT {root}/{{name}}/aliases/{{alias}}": moved,
        f"GET {root}/{{name}}/aliases/{{alias}}": service.client.get(f"{root}/screws/aliases/shadow"),
        f"POST {root}/{{name}}/aliases/{{alias}}:rollback": service.client.post(f"{root}/screws/aliases/shadow:rollback"),
        "GET /livez": service.client.get("/livez"),
        "GET /readyz": service.client.get("/readyz"),
    }
    for route, answer in answers.items():
        assert answer.status_code == 200, (route, answer.text)
        conforms(document, schema_of(document, route), answer.json())
    for schema in document["components"]["schemas"].values():
        if "example" in schema:
            conforms(document, schema, schema["example"])


def test_refusals_are_as_documented(service: Served, document: dict[str, Any]) -> None:
    """Real problems conform to the schema of problems."""
    for answer in (service.score("nope", rows(1)), service.score("screws", rows(1, width=5)), service.client.get("/nothing")):
        conforms(document, {"$ref": PROBLEM}, answer.json())


def test_the_documentation_page_asks_no_other_host(service: Served) -> None:
    """/docs and all that it loads come from the service itself."""
    page = service.client.get("/docs").text
    assert "http://" not in page and "https://" not in page
    for path in ("/assets/docs/swagger-ui-bundle.js", "/assets/docs/swagger-ui.css", "/assets/console/icon.svg", "/openapi.json"):
        assert path in page
        assert service.client.get(path).status_code == 200
