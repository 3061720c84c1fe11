"""The files of compose and of the chart, as their own tools read them. Needs docker compose and helm, but no engine."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.deploy.engine import CHART, ROOT, call

VALUES = {
    "least": ["--set", "store.existingSecret=s"],
    "everything": ["--values", str(ROOT / "deploy/helm/everything.yaml")],
    "alone": ["--set", "store.existingSecret=s,worker.enabled=false,networkPolicy.enabled=false"],
}

PASSWORDS = {"REDIS_PASSWORD": "x", "GRAFANA_PASSWORD": "x"}

with_values = pytest.mark.parametrize("values", VALUES.values(), ids=list(VALUES))


@with_values
def test_helm_finds_nothing(values: list[str]) -> None:
    """``helm lint --strict`` passes."""
    assert "0 chart(s) failed" in call("helm", "lint", "--strict", CHART, *values)


@with_values
def test_objects_are_as_kubernetes_has_them(values: list[str], tmp_path: Path) -> None:
    """Every object passes Kubernetes' schema, and has no field that it does not know; only ServiceMonitor has none there."""
    rendered = tmp_path / "objects.yaml"
    rendered.write_text(call("helm", "template", "far", CHART, *values))
    printed = call("kubernetes-validate", "--strict", rendered, errors=True)
    kinds = re.findall(r"^kind: (\w+)", rendered.read_text(), re.MULTILINE)
    assert len(re.findall(r"^INFO .* passed", printed, re.MULTILINE)) == len(kinds) - kinds.count("ServiceMonitor")


def test_a_misspelt_field_would_be_found(tmp_path: Path) -> None:
    """The check above is one that can fail."""
    rendered = tmp_path / "objects.yaml"
    rendered.write_text(call("helm", "template", "far", CHART, *VALUES["least"]).replace("containerPort:", "containerport:"))
    call("kubernetes-validate", "--strict", rendered, refused=True)


def test_helm_refuses_a_chart_without_store() -> None:
    """With the name of the value."""
    assert "/store/existingSecret" in call("helm", "template", "far", CHART, refused=True)


def test_parts_find_each_other() -> None:
    """What selects pods selects those of the part that it is for."""
    objects = call("helm", "template", "far", CHART, *VALUES["everything"])
    for part in ("service", "worker", "dask-scheduler", "dask-worker"):
        assert re.search(rf"matchLabels:\n(?:\s+.*\n){{0,2}}\s+app.kubernetes.io/component: {part}\n", objects), part
    assert re.search(r"name: FARFIELD_CLUSTER\n\s+value: tcp://far-farfield-dask:8786\n", objects)


def test_webhooks_are_the_workers_alone() -> None:
    """With what signs them from a Secret; what feeds keep is known to both, in whole numbers."""
    objects = yaml.safe_load_all(call("helm", "template", "far", CHART, *VALUES["everything"]))
    pods = {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in objects if one["kind"] == "Deployment"}
    service, worker = (
        {given["name"]: given for given in pods[name]["containers"][0]["env"]} for name in ("far-farfield", "far-farfield-worker")
    )
    assert worker["FARFIELD_WEBHOOK_SECRET"]["valueFrom"] == {"secretKeyRef": {"name": "farfield-webhooks", "key": "secret"}}
    assert json.loads(worker["FARFIELD_WEBHOOKS"]["value"])[1] == "https://pager.internal:8443/hook"
    assert json.loads(worker["FARFIELD_WEBHOOK_NETWORKS"]["value"]) == ["10.20.0.0/16"]
    assert worker["FARFIELD_WEBHOOK_CA"]["value"] == "/certificates/ca.crt"
    assert not [name for name in service if name.startswith("FARFIELD_WEBHOOK")]
    assert service["FARFIELD_FEEDBACK_SECONDS"]["value"] == worker["FARFIELD_FEEDBACK_SECONDS"]["value"] == "7776000"


def test_helm_refuses_webhooks_that_nothing_signs() -> None:
    """With the name of the value."""
    given = ("--set", "store.existingSecret=s", "--set", "webhooks.urls={https://alerts.example.com/}")
    assert "/webhooks/existingSecret" in call("helm", "template", "far", CHART, *given, refused=True)


def test_compose_lets_webhooks_out() -> None:
    """With the override the worker, and it alone, has their settings, the authorities and a way out."""
    words = ("--file", "docker-compose.yml", "--file", "deploy/compose.webhooks.yml", "config", "--format", "json")
    given = {"WEBHOOKS": '["https://alerts.example.com/"]', "WEBHOOK_SECRET": "whsec_eA==", "WEBHOOK_CA": "/etc/ca.pem", **PASSWORDS}
    services = json.loads(call("docker", "compose", *words, **given))["services"]
    environment = services["worker"]["environment"]
    assert (environment["FARFIELD_WEBHOOKS"], environment["FARFIELD_WEBHOOK_SECRET"]) == (given["WEBHOOKS"], "whsec_eA==")
    mounted = {volume["target"]: volume["source"] for volume in services["worker"]["volumes"]}
    assert mounted[environment["FARFIELD_WEBHOOK_CA"]] == "/etc/ca.pem"
    assert {name for name in ("farfield", "worker", "redis") if "outside" in services[name]["networks"]} == {"worker"}
    without = json.loads(call("docker", "compose", *words, **{**given, "WEBHOOK_CA": ""}))["services"]["worker"]["environment"]
    assert without["FARFIELD_WEBHOOK_CA"] == ""
    assert "WEBHOOK_SECRET" in call("docker", "compose", *words, refused=True, **{**given, "WEBHOOK_SECRET": ""})


def test_compose_file_obeys_the_specification() -> None:
    """By the schema of the compose specification."""
    call("check-jsonschema", "--builtin-schema", "vendor.compose-spec", ROOT / "docker-compose.yml")


def test_tls_takes_the_place_of_the_open_port() -> None:
    """With the override the proxy publishes one port, that of TLS."""
    words = ("--file", "docker-compose.yml", "--file", "deploy/compose.tls.yml", "config", "--format", "json")
    given = {"TLS_NAME": "farfield.test", "CERTIFICATES": "/certificates", **PASSWORDS}
    ports = json.loads(call("docker", "compose", *words, **given))["services"]["proxy"]["ports"]
    assert [(port["published"], port["target"]) for port in ports] == [("443", 8443)]


@pytest.mark.parametrize("missing", ["REDIS_PASSWORD", "GRAFANA_PASSWORD"])
def test_compose_refuses_to_start_without_passwords(missing: str, tmp_path: Path) -> None:
    """And says what to do."""
    given = {**PASSWORDS, missing: ""}
    (tmp_path / ".env").write_text("")
    printed = call("docker", "compose", "--env-file", tmp_path / ".env", "config", refused=True, **given)
    assert missing in printed
    assert "run make env first" in printed
