"""``farfield demo``: the main job from end to end on real images, through the same doors that users take."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from rich.table import Table
from sklearn.metrics import roc_auc_score

from models import Extractor, bundled
from service import engine, errors, sources
from service.connection import without_password
from service.features import Progress, fingerprint
from service.manifest import Source
from service.publication import publish
from service.recipe import Recipe
from service.serving import start as serving
from service.settings import Settings
from service.store import Store
from service.versions import DEFAULT_ALIAS

NAME = "demo"
RECIPE = Recipe(alpha=0.05)
IMAGES = Path(str(files("service") / "demo_images"))
READY_SECONDS = 60.0
SHOWN = 6  # rows of the table for each kind of image


def run(settings: Settings, port: int, *, progress: Progress, say: Callable[[str], None]) -> tuple[Table, str]:
    """Fit and publish unless that is done, start the service unless it runs, score images over HTTP."""
    with Store.open(settings.store) as store:
        _fit(settings, store, progress, say)
        url = _running(settings)
        if url is None:
            url = _start(settings, port, say)
        else:
            say(f"service: still running from an earlier demo on {url}")
    return _report(url)


def stop(settings: Settings) -> str:
    """Stop the service that ``run`` left running; say what was done."""
    note = _note(settings)
    url = _running(settings)
    if url is None:
        return "no demo service is running"
    pid = json.loads(note.read_text())["pid"]
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + READY_SECONDS
    while _running(settings) and time.monotonic() < deadline:
        time.sleep(0.05)
    note.unlink(missing_ok=True)
    return f"stopped the service on {url}"


def _fit(settings: Settings, store: Store, progress: Progress, say: Callable[[str], None]) -> None:
    data = sources.read(IMAGES / "normal")
    sha256 = fingerprint(data.batch)
    for number in store.numbers(NAME):
        if store.manifest(NAME, number).source.sha256 == sha256:
            say(f"fit: {NAME} version {number} was fitted on these images before")
            return
    onnx_file, preprocessing, taps = bundled("mobilenet_v2")
    extractor = Extractor(onnx_file, preprocessing=preprocessing, taps=taps, device=settings.device, threads=os.cpu_count() or 1)
    fitted = engine.fit(RECIPE, data.batch, extractor, progress=progress)
    source = Source(name="printed-circuit patches", rows=len(data.batch), sha256=sha256)
    number, _ = publish(store, NAME, fitted, source, DEFAULT_ALIAS)
    held_out = fitted.n_calibration
    say(
        f"fit: {NAME} version {number}, gaussian on the {fitted.width} MobileNetV2 features of {fitted.n_fit} normal images, "
        f"calibrated on {held_out} held out, published to {without_password(settings.store)}"
    )


def _start(settings: Settings, port: int, say: Callable[[str], None]) -> str:
    """Start the service in the background on ``port`` or the next free one; return its address once it is ready."""
    with serving.listen(settings.host, port, strict=False) as listener:
        url, free = serving.address(listener), listener.getsockname()[1]
    if free != port:
        say(f"service: port {port} is taken, so it uses {free}")
    note = _note(settings)
    note.parent.mkdir(parents=True, exist_ok=True)
    log = note.with_suffix(".log")
    command = [sys.executable, "-m", "service.cli", "serve", "--port", str(free)]
    environment = os.environ | {"FARFIELD_STORE": settings.store}  # not an argument, which others could read
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, env=environment)
    note.write_text(json.dumps({"pid": process.pid, "url": url}))
    deadline = time.monotonic() + READY_SECONDS
    while not _ready(url):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            last = log.read_text(errors="replace").strip().splitlines()[-3:]
            raise errors.StartupError(f"the service did not become ready; {log} ends with: {' | '.join(last)}")
        time.sleep(0.05)
    say(f"service: ready on {url}")
    return url


def _report(url: str) -> tuple[Table, str]:
    """Score the test images over HTTP, and show what came back: a table, and lines below it."""
    paths = sorted((IMAGES / "test").rglob("*.png"))
    odd = np.array([path.parent.name == "odd" for path in paths])
    parts = [("images", (path.name, path.read_bytes(), "image/png")) for path in paths]
    answer = httpx2.post(f"{url}/v1/detectors/{NAME}:score", files=parts, timeout=120)
    answer.raise_for_status()
    body = answer.json()
    table = Table(
        "image", "truth", "score", "p-value", "verdict",
        title=f"{len(paths)} images that the fit has not seen, scored by {NAME} version {body['version']} at alpha {body['alpha']:g}",
    )  # fmt: skip
    for kind in (False, True):
        indices = np.flatnonzero(odd == kind)
        for i in indices[np.linspace(0, len(indices) - 1, SHOWN).astype(int)]:
            table.add_row(*_row(paths[i], bool(kind), body["results"][i]))
        table.add_section()
    return table, _figures(body, odd) + "\n" + _pointers(url)


def _row(path: Path, odd: bool, result: dict[str, Any]) -> tuple[str, ...]:
    truth = path.stem.partition("_")[2] if odd else "normal"
    verdict = "[red]outlier[/]" if result["is_outlier"] else "normal"
    return f"{path.parent.name}/{path.name}", truth, f"{result['score']:.1f}", f"{result['p_value']:.4f}", verdict


def _figures(body: dict[str, Any], odd: np.ndarray[Any, np.dtype[np.bool_]]) -> str:
    scores = np.array([result["score"] for result in body["results"]])
    flagged = np.array([result["is_outlier"] for result in body["results"]])
    return (
        f"[bold]AUROC {roc_auc_score(odd, scores):.3f}[/] · {flagged[odd].sum()} of {odd.sum()} odd images found · "
        f"{flagged[~odd].sum()} false alarms among {(~odd).sum()} normal ones, where alpha {body['alpha']:g} allows "
        f"{body['alpha'] * (~odd).sum():g} on average"
    )


def _pointers(url: str) -> str:
    image = IMAGES / "test" / "odd"
    example = next(iter(sorted(image.glob("*.png"))))
    return (
        f"\nconsole  {url}/\nAPI      {url}/docs\nmetrics  {url}/metrics\n"
        f"try      curl -F images=@{example} {url}/v1/detectors/{NAME}:score\n"
        "stop     farfield demo --stop   (or: make demo-stop)"
    )


def _note(settings: Settings) -> Path:
    """Where the process and address of the service are noted that the last demo started."""
    return (settings.embedded_folder() or Path("farfield-data")) / "demo.json"


def _running(settings: Settings) -> str | None:
    """Address of the service that an earlier demo started, if it still answers."""
    try:
        note = json.loads(_note(settings).read_text())
        os.kill(note["pid"], 0)
    except (OSError, ValueError):
        return None
    return str(note["url"]) if _ready(note["url"]) else None


def _ready(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx2.HTTPError:
        return False
