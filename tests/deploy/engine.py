"""What the checks of deployment call: Docker, compose and helm as programs, and farfield over HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from service import __version__
from tests.servers import eventually

ROOT = Path(__file__).parents[2]
IMAGE = f"farfield:{__version__}"
CHART = ROOT / "deploy" / "helm" / "farfield"
PATH = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))  # hadolint and the like come with the extra `deploy`


def call(*words: str | Path, refused: bool = False, errors: bool = False, **environment: str) -> str:
    """What a program printed, with its ``errors`` if asked for.

    AssertionError, with all of it, where the program did not end as it should: well, or ``refused``.
    """
    surroundings = {**os.environ, "PATH": PATH, **environment}
    ended = subprocess.run([str(word) for word in words], cwd=ROOT, env=surroundings, capture_output=True, text=True)
    everything = ended.stdout + ended.stderr
    assert (ended.returncode != 0) is refused, f"{' '.join(map(str, words))}: exit {ended.returncode}\n{everything}"
    return everything if errors or refused else ended.stdout


def inspect(name: str) -> Any:
    """All that Docker knows of a container, an image or a network."""
    return json.loads(call("docker", "inspect", name))[0]


def get(address: str, path: str) -> str:
    """The body of an answer, which has to be 200."""
    answer = httpx2.get(f"{address}{path}", timeout=20)
    assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
    return answer.text


def post(address: str, path: str, body: Any) -> Any:
    """The JSON of an answer, which has to be a good one."""
    answer = httpx2.post(f"{address}{path}", json=body, timeout=20)
    assert answer.status_code < 300, f"{answer.status_code} {answer.text}"
    return answer.json()


def rows(count: int = 1000) -> list[list[float]]:
    found: list[list[float]] = np.random.default_rng(1).standard_normal((count, 3)).tolist()
    return found


def fit(address: str, name: str, **recipe: Any) -> int:
    """The number of the version that a job has fitted, of ``rows`` unless the recipe names data."""
    data = {} if "data" in recipe else {"rows": rows()}
    job = post(address, f"/v1/detectors/{name}:fit", {**data, **recipe})["id"]

    def ended() -> Any:
        told = json.loads(get(address, f"/v1/jobs/{job}"))
        assert told["state"] not in ("failed", "cancelled"), told
        return told["state"] == "done" and told

    return int(eventually(ended, "the job is done", 120)["result"]["version"])
