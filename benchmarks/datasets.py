"""Labelled sets that detectors are compared on: tables, and embeddings of images and of text.

The folder of the data holds ``tabular/``, ``features_nc/``, ``features_text/``, ``images/`` and ``models/``, as listed in
docs/evidence.md. Features of images are extracted once and kept as .npy files in a cache folder.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models import Extractor, Preprocessing, Tap, bundled

CLASSES = range(0, 10, 2)  # of the image sets of ten classes, each in turn the normal one
ANOMALY_SHARE = 0.2  # of a class set: rows of the other classes, one to four normal ones
LITE0 = Preprocessing(224, 224, mean=(127.0,) * 3, std=(128.0,) * 3)
BATCH = 256  # images decoded at a time

Labelled = tuple[NDArray[np.float64], NDArray[np.bool_]]  # rows (n, d); which of them are anomalous
Images = tuple[list[Image.Image], NDArray[np.int_]]  # with the class of each


@dataclass(frozen=True, slots=True)
class DataSet:
    name: str
    group: str  # "tables" or "embeddings"
    read: Callable[[], Labelled]


def datasets(data: Path, kept: Path) -> list[DataSet]:
    """All sets of the folder ``data``, tables first; ``kept`` is the folder of extracted features.

    Raises FileNotFoundError where there are no tables: then ``data`` is the wrong folder.
    """
    tables = sorted((data / "tabular").rglob("*.npz"))
    if not tables:
        raise FileNotFoundError(f"{data / 'tabular'} holds no .npz file: give the folder of the data with --data")
    embeddings = [*sorted((data / "features_nc").rglob("*.npz")), *sorted((data / "features_text").rglob("*.npz"))]
    return [
        *(DataSet(path.stem.split("_", 1)[1], "tables", partial(_archive, path)) for path in tables),
        *(DataSet(_embedding_name(path), "embeddings", partial(_archive, path)) for path in embeddings),
        *_image_sets(data, kept),
    ]


def _image_sets(data: Path, kept: Path) -> list[DataSet]:
    found = []
    for network, stage in (("mobilenet_v2", "features"), ("efficientnet_lite0", "features"), ("efficientnet_lite0", "stage5")):
        extracted = partial(_extracted, data, kept, network, stage)
        if stage == "stage5":  # middle stages are for defects, the head for classes
            found.append(DataSet(f"DeepPCB {network} {stage}", "embeddings", partial(_defects, extracted)))
            continue
        found.append(DataSet(f"DeepPCB {network}", "embeddings", partial(_defects, extracted)))
        for images in ("fashion_mnist", "cifar10"):
            found.extend(
                DataSet(f"{images} {normal} {network}", "embeddings", partial(_one_class, extracted, images, normal)) for normal in CLASSES
            )
    return found


def _embedding_name(path: Path) -> str:
    return f"{path.stem} {path.parent.name.rsplit('_', 1)[1]}" if path.parent.name.startswith("mvtec") else path.stem


def _archive(path: Path) -> Labelled:
    with np.load(path, allow_pickle=False) as archive:
        return archive["X"].astype(np.float64), archive["y"] != 0


def _defects(extracted: Callable[[str], tuple[NDArray[np.float32], NDArray[np.int_]]]) -> Labelled:
    features, defect = extracted("deeppcb")
    return features.astype(np.float64), defect != 0


def _one_class(extracted: Callable[[str], tuple[NDArray[np.float32], NDArray[np.int_]]], images: str, normal: int) -> Labelled:
    """One class as the normal rows; of the others so many rows, drawn by the number of the class, as make ANOMALY_SHARE."""
    features, classes = extracted(images)
    inside, outside = np.flatnonzero(classes == normal), np.flatnonzero(classes != normal)
    count = round(len(inside) * ANOMALY_SHARE / (1 - ANOMALY_SHARE))
    drawn = np.random.default_rng(normal).choice(outside, count, replace=False)
    taken = np.sort(np.concatenate([inside, drawn]))
    return features[taken].astype(np.float64), classes[taken] != normal


def _extracted(data: Path, kept: Path, network: str, tap: str, images: str) -> tuple[NDArray[np.float32], NDArray[np.int_]]:
    """Features of all images of a set, from the cache where they are there."""
    path, labels = kept / f"{images}-{network}-{tap}.npy", kept / f"{images}-classes.npy"
    if not path.exists() or not labels.exists():
        pictures, classes = _READERS[images](data / "images")
        extractor = _extractor(data, network, tap)
        starts = range(0, len(pictures), BATCH)
        kept.mkdir(parents=True, exist_ok=True)
        np.save(labels, classes)
        np.save(path, np.concatenate([extractor.images(pictures[start : start + BATCH]) for start in starts]))
    return np.load(path, mmap_mode="r", allow_pickle=False), np.load(labels, allow_pickle=False)


@cache
def _extractor(data: Path, network: str, tap: str) -> Extractor:
    if network == "mobilenet_v2":
        onnx_file, preprocessing, taps = bundled(network)
        return Extractor(onnx_file, preprocessing=preprocessing, taps=taps, device="cpu", threads=1)
    return Extractor((data / "models" / f"{network}.onnx").read_bytes(), preprocessing=LITE0, taps=(Tap(tap),), device="cpu", threads=1)


def _deeppcb(folder: Path) -> Images:
    with np.load(folder / "deeppcb" / "deeppcb_patches_64.npz", allow_pickle=False) as archive:
        return [Image.fromarray(patch) for patch in archive["patch"]], archive["label"].astype(int)


def _fashion_mnist(folder: Path) -> Images:
    with np.load(folder / "fashion_mnist" / "fashion_mnist_13k.npz", allow_pickle=False) as archive:
        return [Image.fromarray(pixels) for pixels in archive["X"]], archive["y"].astype(int)


def _cifar10(folder: Path) -> Images:
    with zipfile.ZipFile(folder / "cifar10_jpeg" / "cifar10_jpeg_4500.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        folders = [name.split("/")[-2] for name in names]
        pictures = [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names]
    return pictures, np.unique(folders, return_inverse=True)[1]


_READERS: dict[str, Callable[[Path], Images]] = {"deeppcb": _deeppcb, "fashion_mnist": _fashion_mnist, "cifar10": _cifar10}
