"""Detectors that learn with classes beside those that learn without, on questions whose intent was or was not among the classes.

    pip install '.[bench]'
    python -m benchmarks.classes [--write docs/evidence.md]

prints a Markdown table; ``--write`` also puts it into that page, between the comments that name it. The questions are those of CLINC150
(Larson and others 2019): fitted are the 15 000 of the training split, 100 of each of 150 intents, and tested the 4500 of the test split,
which are normal, and its 1000 of no intent, which are anomalous. The rows are their embeddings of 384 numbers by MiniLM, as the network
gives them, each question by itself; they are computed once, in a minute or two, and kept in the cache folder.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession, SessionOptions

from benchmarks.contestants import Contestant, contestants, measure
from benchmarks.detectors import results
from benchmarks.pages import written
from benchmarks.protocols import Trial
from benchmarks.tables import Record, versions
from detectors import ClassGaussian, Gaussian
from service.evaluation import stored_bytes

PARTS = ("train", "test", "oos_test")  # fitted, normal and anomalous questions
FORMS: tuple[dict[str, Any], ...] = (
    {},
    {"covariance": "oas"},
    {"normalize": True},
    {"relative": True},
    {"relative": True, "normalize": True},
)


class Classed:
    """A detector that learns with classes, called like one that learns without: it knows those of the fitted rows beforehand."""

    def __init__(self, detector: ClassGaussian, classes: NDArray[np.str_]) -> None:
        self.detector = detector
        self.classes = classes

    def fit(self, rows: NDArray[np.float64]) -> None:
        self.detector.fit(rows, self.classes)

    def scores(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.detector.scores(rows)


def field(classes: NDArray[np.str_]) -> list[Contestant]:
    """Class-conditional Gaussians, which know the ``classes`` (n,) of the fitted rows, and the detectors that do without."""
    others = contestants(("farfield", "scikit-learn"))
    plain = next(one for one in others if one.name == "farfield gaussian")
    on_the_sphere = replace(plain, name="farfield gaussian, normalize=true", make=lambda own, seed: Gaussian(normalize=True))
    return [*(_classed(form, classes) for form in FORMS), on_the_sphere, *others]


def _classed(form: dict[str, Any], classes: NDArray[np.str_]) -> Contestant:
    return Contestant(
        ", ".join(["farfield class_gaussian", *(f"{name}={str(value).lower()}" for name, value in form.items())]),
        lambda own, seed: Classed(ClassGaussian(**form), classes),
        lambda model, rows: model.scores(rows),
        lambda model, rows: model.scores(rows),
        lambda model: stored_bytes(model.detector),
    )


def clinc150(data: Path, kept: Path) -> tuple[Trial, NDArray[np.str_]]:
    """What is fitted and tested, and the intent of each fitted question."""
    questions = json.loads((data / "text" / "clinc150" / "data_full.json").read_text())
    fitted, normal, anomalous = (_embedded(data, kept, part, [text for text, _ in questions[part]]) for part in PARTS)
    truth = np.repeat([False, True], [len(normal), len(anomalous)])
    return Trial(fitted, np.concatenate([normal, anomalous]), truth), np.array([intent for _, intent in questions[PARTS[0]]])


def _embedded(data: Path, kept: Path, part: str, texts: list[str]) -> NDArray[np.float64]:
    """Embeddings (n, 384) of ``texts``, from the cache where they are there."""
    path = kept / f"clinc150-{part}.npy"
    if not path.exists():
        kept.mkdir(parents=True, exist_ok=True)
        np.save(path, np.concatenate(list(_embeddings(data / "models" / "minilm", texts))))
    rows: NDArray[np.float32] = np.load(path, allow_pickle=False)
    return rows.astype(np.float64)


def _embeddings(folder: Path, texts: list[str]) -> Iterator[NDArray[np.float32]]:
    """One text at a time: the network quantises by the range of all numbers it is given, so that others would move a text's embedding."""
    from tokenizers import Tokenizer  # needed only until the embeddings are kept

    options = SessionOptions()
    options.intra_op_num_threads = 1
    session = InferenceSession(folder / "all-MiniLM-L6-v2_int8.onnx", options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    for text in texts:
        words = tokenizer.encode(text)
        taken = {"input_ids": words.ids, "attention_mask": words.attention_mask, "token_type_ids": words.type_ids}
        yield session.run(["sentence_embedding"], {name: np.array([values]) for name, values in taken.items()})[0]


def table(records: list[Record]) -> str:
    """One row per detector, best AUROC first; ours are bold, a dash is no answer."""
    lines = ["| detector | AUROC | AUPR | FPR at 95 % | fit, s | score, µs per row | state, kB |", "|---|" + "--:|" * 6]
    for record in sorted(records, key=lambda record: -record.get("auroc", 0)):
        name = f"**{record['contestant']}**" if record["contestant"].startswith("farfield") else record["contestant"]
        lines.append(f"| {name} | {' | '.join(_figures(record))} |")
    return "\n".join(lines)


def _figures(record: Record) -> list[str]:
    if record["status"] != "ok":
        return ["–"] * 6
    shares = (f"{record[name]:.3f}" for name in ("auroc", "aupr", "fpr95"))
    return [*shares, f"{record['fit_seconds']:.2f}", f"{record['score_us']:.1f}", f"{record['state_bytes'] / 1000:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the data")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "farfield-benchmark", help="folder of embeddings")
    parser.add_argument("--limit", type=float, default=60, help="seconds of one core for one fit with its scores")
    parser.add_argument("--seed", type=int, default=0, help="of the detectors that take one")
    parser.add_argument("--write", type=Path, help="put the table between the two marker comments of this file")
    options = parser.parse_args()

    try:
        trial, classes = clinc150(options.data, options.cache)
    except FileNotFoundError as error:
        parser.error(f"{error}: give the folder of the data with --data")
    except ModuleNotFoundError as error:
        parser.error(f"{error}: pip install '.[bench]'")
    tasks = (({"contestant": one.name}, partial(measure, one, trial, options.seed)) for one in field(classes))
    records = list(results(tasks, 1, options.limit))
    failures = [f"{one['contestant']}: {one.get('error', f'over {options.limit:g} s')}." for one in records if one["status"] != "ok"]
    text = "\n\n".join([table(records), *failures, f"Measured with {versions()}."])
    print(text)
    if options.write:
        options.write.write_text(written(options.write.read_text(), "benchmarks.classes", text))


if __name__ == "__main__":
    main()
