"""What the files of deployment name exists, and what they promise stands in them; ``make test-deploy`` runs them."""

from __future__ import annotations

import importlib.util
import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from service import __version__
from service.metrics import Metrics
from service.settings import Settings
from tests.servers import program
from tests.service.stores import ACL_RULE

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "farfield"
FILES = [
    ROOT / "Dockerfile",
    ROOT / "docker-compose.yml",
    *sorted(path for path in (ROOT / "deploy").rglob("*") if path.is_file() and "__pycache__" not in path.parts),
]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]

by_service = pytest.mark.parametrize("service", SERVICES.values(), ids=list(SERVICES))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_settings_that_are_named_exist(path: Path) -> None:
    """Each FARFIELD_* variable of each file is one that is read."""
    assert set(re.findall(r"\bFARFIELD_[A-Z_]*[A-Z]\b", path.read_text())) <= {f"FARFIELD_{name.upper()}" for name in Settings.model_fields}


@pytest.mark.parametrize("path", ["helm/prometheus-adapter.yaml", "helm/farfield/templates/autoscaling.yaml", "helm/farfield/values.yaml"])
def test_metrics_that_are_named_exist(path: str) -> None:
    """What autoscalers ask for is what the service tells."""
    named = set(re.findall(r"\bfarfield_[a-z_]+", (ROOT / "deploy" / path).read_text()))
    assert named
    assert named <= {family.name for family in Metrics().registry.collect()}


def test_redis_allows_what_is_documented() -> None:
    """One user with the documented rule, and nobody else.

    Default is off but may do everything: as that user Redis 7.0 reads its file of transactions back, and leaves out what it may not.
    """
    default, farfield = (ROOT / "deploy/redis/users.acl").read_text().splitlines()
    assert default == "user default off ~* &* +@all"
    assert farfield == f"user farfield on #PASSWORD_SHA256 {ACL_RULE}"


def test_versions_agree() -> None:
    """The image of compose and the one of the chart are those of this source."""
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == __version__
    assert {SERVICES[name]["image"] for name in ("farfield", "worker")} == {f"farfield:{__version__}"}


@by_service
def test_containers_can_do_little(service: dict[str, Any]) -> None:
    """A read-only root, no rights, a bound on memory, and a fresh start after a death."""
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert service["deploy"]["resources"]["limits"]["memory"]


@by_service
def test_ports_are_open_on_loopback_alone(service: dict[str, Any]) -> None:
    """Nothing here asks who is calling."""
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_nobody_gets_around_the_proxy() -> None:
    """Service, worker and Redis publish no port and are in no network but the inner one."""
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    for name in ("farfield", "worker", "redis"):
        assert "ports" not in SERVICES[name]
        assert SERVICES[name]["networks"] == ["inside"]


def test_no_password_has_a_default() -> None:
    """Each stops compose with a sentence where it is not set."""
    references = re.findall(r"\$\{(\w*PASSWORD\w*)([^}]*)\}", (ROOT / "docker-compose.yml").read_text())
    assert {name for name, _ in references} == {"REDIS_PASSWORD", "GRAFANA_PASSWORD"}
    assert {rest for _, rest in references} == {":?run make env first"}


def test_make_env_writes_passwords_once(tmp_path: Path) -> None:
    """Long ones, different ones, which nobody else can read, and which a second call leaves alone."""
    make = [program("make"), "--file", str(ROOT / "Makefile"), f"PYTHON={sys.executable}", "env"]
    subprocess.run(make, cwd=tmp_path, check=True, capture_output=True)
    written = (tmp_path / ".env").read_text()
    passwords = re.fullmatch(r"REDIS_PASSWORD=([0-9a-f]{48})\nGRAFANA_PASSWORD=([0-9a-f]{48})\n", written)
    assert passwords
    assert passwords[1] != passwords[2]
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    subprocess.run(make, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / ".env").read_text() == written


def test_defaults_of_compose_are_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all that it takes from its environment; the worker alone is told of webhooks."""
    found = {name: re.fullmatch(r"\$\{[A-Z_]+:-(.*)\}", text) for name, text in SERVICES["worker"]["environment"].items()}
    given = {name: default[1] for name, default in found.items() if default}
    assert len(given) == 8
    for name, default in given.items():
        monkeypatch.setenv(name, default)
    assert Settings().model_copy(update={"webhook_secret": Settings().webhook_secret or None}) == Settings.model_construct()
    assert not [name for name in SERVICES["farfield"]["environment"] if name.startswith("FARFIELD_WEBHOOK")]


def test_defaults_of_the_chart_are_those_of_the_settings() -> None:
    """Of the feeds and of webhooks."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    outliers, defaults = values["outliers"], Settings.model_construct()
    assert (outliers["most"], outliers["seconds"]) == (defaults.max_outliers, defaults.outlier_seconds)
    assert (outliers["inputs"], outliers["feedbackSeconds"]) == (defaults.outlier_inputs, defaults.feedback_seconds)
    assert values["webhooks"]["rate"] == defaults.webhook_rate


def test_values_obey_their_schema() -> None:
    """The example does; the chart's own do but for the Secret, which has no default."""
    validator = jsonschema.Draft7Validator(yaml.safe_load((CHART / "values.schema.json").read_text()))
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert [list(error.path) for error in validator.iter_errors(values)] == [["store", "existingSecret"]]
    assert not list(validator.iter_errors(yaml.safe_load((ROOT / "deploy/helm/everything.yaml").read_text())))


@pytest.mark.parametrize(
    "wrong",
    [
        {"replica": 3},
        {"service": {"replicas": "two"}},
        {"settings": {"FARFIELD_STORE": "redis://x"}},
        {"settings": {"FARFIELD_QUEUE": 64}},
        {"settings": {"FARFIELD_WEBHOOKS": "[]"}},
        {"outliers": {"seconds": "1 week"}},
        {"webhooks": {"urls": ["https://alerts.example.com/"]}},
        {"webhooks": {"urls": ["alerts.example.com"], "existingSecret": "s"}},
        {"ingress": {"enabled": True, "host": "farfield.example.com"}},
    ],
    ids=str,
)
def test_wrong_values_are_refused(wrong: dict[str, Any]) -> None:
    """A misspelt name, a wrong type, a store beside the Secret, a number as setting, a setting with a value of its own, a time in words,
    webhooks without a Secret, a target that is no URL, an ingress without TLS."""
    validator = jsonschema.Draft7Validator(yaml.safe_load((CHART / "values.schema.json").read_text()))
    assert not validator.is_valid({"store": {"existingSecret": "s", "key": "url"}, **wrong})


@pytest.mark.parametrize("name", ["prometheus.yml", "compose.yml"])
def test_prometheus_takes_its_configuration(name: str) -> None:
    """With the rules beside it."""
    subprocess.run([program("promtool"), "check", "config", str(ROOT / "deploy/prometheus" / name)], check=True, capture_output=True)


def requirements(*extras: str) -> list[str]:
    specification = importlib.util.spec_from_file_location("requirements", ROOT / "deploy" / "requirements.py")
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    lines: list[str] = module.requirements(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"], list(extras))
    return lines


def test_an_image_requires_what_the_project_does() -> None:
    """Without extras as it stands in pyproject.toml, with one what that adds."""
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert requirements() == required
    assert [line for line in requirements("dask") if line not in required] == ["dask[distributed]>=2024.11"]


def test_the_gpu_image_has_one_onnxruntime() -> None:
    """Its CUDA build with the CUDA libraries; the CPU build would lie in the same folder."""
    assert [line for line in requirements("gpu") if line.startswith("onnxruntime")] == ["onnxruntime-gpu[cuda,cudnn]>=1.20"]


def test_an_unknown_extra_is_refused() -> None:
    """With those that there are."""
    with pytest.raises(SystemExit, match="there is no extra 'gpus'; there are gpu, dask"):
        requirements("gpus")
