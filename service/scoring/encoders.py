"""What ``:score`` answers, and the forms in which it can be sent: the same content in each."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray
from safetensors.numpy import save
from starlette.responses import Response

from service.errors import NotAcceptable
from service.schemas import Options
from service.verdicts import Verdicts, largest
from service.versions import Loaded

TAIL = "generalised Pareto: p-values below 1 / (n_calibration + 1) are a model's, without guarantee"


@dataclass(frozen=True, slots=True)
class Answer:
    """``head`` says what judged, ``columns`` (n,) each what came out; ``parts`` and ``shares`` (n, k) who has the largest shares."""

    head: dict[str, Any]
    columns: dict[str, NDArray[Any]]
    by: str = "feature"  # what a part is
    parts: NDArray[np.str_] | None = None
    shares: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, loaded: Loaded, verdicts: Verdicts, options: Options) -> Answer:
        fitted = loaded.fitted
        columns: dict[str, NDArray[Any]] = {"score": verdicts.scores, "p_value": verdicts.p_values, "is_outlier": verdicts.is_outlier}
        if verdicts.off_span.any():
            columns["off_span"] = verdicts.off_span
        if verdicts.nearest_class is not None:
            columns["nearest_class"] = verdicts.nearest_class
        if verdicts.chi_square_p_values is not None:
            columns["chi_square_p_value"] = verdicts.chi_square_p_values
        head: dict[str, Any] = {
            "detector": loaded.name,
            "version": loaded.number,
            "alpha": verdicts.alpha,
            "threshold": None if verdicts.threshold is None or math.isinf(verdicts.threshold) else verdicts.threshold,
            "calibration": fitted.judge.METHOD,
            "n_calibration": fitted.n_calibration,
        }
        if options.tail:
            head["tail"] = TAIL
        if verdicts.attributions is None:
            return cls(head, columns)
        head["attribution"] = fitted.detector.ATTRIBUTION
        order = largest(verdicts.attributions, options.attribute)
        names = np.array([fitted.part_name(index, options.attribute_by) for index in range(verdicts.attributions.shape[1])])
        return cls(head, columns, options.attribute_by, names[order], np.take_along_axis(verdicts.attributions, order, axis=1))

    def plain(self) -> dict[str, Any]:
        """As objects of JSON, with one for each row."""
        columns: dict[str, list[Any]] = {name: values.tolist() for name, values in self.columns.items()}
        if self.parts is not None and self.shares is not None:
            columns["attribution"] = [
                [{self.by: part, "share": share} for part, share in zip(*row, strict=True)]
                for row in zip(self.parts.tolist(), self.shares.tolist(), strict=True)
            ]
        names = tuple(columns)
        return {**self.head, "results": [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]}

    def flat(self) -> dict[str, NDArray[Any]]:
        """As columns alone, for forms that have no place beside them: those of the head are the same in each row."""
        count = len(self.columns["score"])
        flat = {name: np.full(count, value) for name, value in self.head.items() if value is not None}
        flat |= {name: _typed(values) for name, values in self.columns.items()}
        if self.parts is not None and self.shares is not None:
            for place in range(self.parts.shape[1]):
                flat[f"{self.by}_{place + 1}"] = self.parts[:, place]
                flat[f"share_{place + 1}"] = self.shares[:, place]
        return flat


def as_json(answer: Answer) -> bytes:
    return orjson.dumps(answer.plain())


def as_arrow(answer: Answer) -> bytes:
    """An IPC stream of one batch; the head stands in the metadata of the schema, each value as JSON."""
    columns = {name: pa.array(_typed(values)) for name, values in answer.columns.items()}
    if answer.parts is not None and answer.shares is not None:
        count, width = answer.parts.shape
        fields = [pa.array(answer.parts.ravel()), pa.array(answer.shares.ravel())]
        offsets = pa.array(np.arange(count + 1, dtype=np.int32) * width)
        columns["attribution"] = pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(fields, [answer.by, "share"]))
    batch = pa.RecordBatch.from_pydict(columns, metadata=_texts(answer.head))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def as_safetensors(answer: Answer) -> bytes:
    """Tensors by name; the head and the names that tensors cannot hold stand in the metadata, each as JSON."""
    texts = dict(answer.head)
    tensors = {name: np.ascontiguousarray(values) for name, values in answer.columns.items() if name != "nearest_class"}
    if answer.parts is not None and answer.shares is not None:
        tensors["attribution_share"] = np.ascontiguousarray(answer.shares)
        names, places = np.unique(answer.parts, return_inverse=True)
        tensors["attribution_part"] = places.reshape(answer.parts.shape)
        texts |= {"attribution_by": answer.by, "attribution_parts": names.tolist()}
    if (classes := answer.columns.get("nearest_class")) is not None:
        names, tensors["nearest_class"] = np.unique(_typed(classes), return_inverse=True)
        texts["classes"] = names.tolist()
    return save(tensors, _texts(texts))


def as_npy(answer: Answer) -> bytes:
    """Records with a field for each column."""
    flat = answer.flat()
    records = np.empty(len(answer.columns["score"]), [(name, values.dtype) for name, values in flat.items()])
    for name, values in flat.items():
        records[name] = values
    stream = io.BytesIO()
    np.save(stream, records, allow_pickle=False)
    return stream.getvalue()


def as_csv(answer: Answer) -> bytes:
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(pa.table({name: pa.array(values) for name, values in answer.flat().items()}), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


class Encoded(Response):
    """An answer of 200 whose body and headers, with names in small letters, need nothing more done to them."""

    def __init__(self, body: bytes, media: str, headers: Mapping[str, str]) -> None:
        self.status_code, self.body, self.background = 200, body, None
        kind = f"{media}; charset=utf-8" if media.startswith("text/") else media
        given = {"content-length": str(len(body)), "content-type": kind, **headers}
        self.raw_headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in given.items()]


Encode = Callable[[Answer], bytes]
JSON = "application/json"
FORMS: dict[str, Encode] = {
    JSON: as_json,
    "application/vnd.apache.arrow.stream": as_arrow,
    "application/vnd.safetensors": as_safetensors,
    "application/x-npy": as_npy,
    "text/csv": as_csv,
}
MOST_ACCEPTED = 4096  # characters of the header


def accepted(header: str) -> str:
    """The media type of FORMS that an ``Accept`` header likes best, the first of them where it likes several as well.

    Raises NotAcceptable where it names none.

    >>> accepted("text/html, text/csv;q=0.5, */*;q=0.1")
    'text/csv'
    """
    if header in ("", "*/*", JSON):
        return JSON
    if header in FORMS:
        return header
    liked = dict(_ranges(header[:MOST_ACCEPTED]))
    quality = {form: liked.get(form, liked.get(f"{form.partition('/')[0]}/*", liked.get("*/*", 0.0))) for form in FORMS}
    best = max(FORMS, key=lambda form: quality[form])
    if quality[best] <= 0:
        raise NotAcceptable(f"there is no answer of type {header[:100]!r}; there are {', '.join(FORMS)}")
    return best


def _ranges(header: str) -> list[tuple[str, float]]:
    """Media ranges with their quality; one that is not a number counts as 1."""
    found = []
    for item in header.split(","):
        media, *parameters = (part.strip().lower() for part in item.split(";"))
        quality = next((text[2:] for text in parameters if text.startswith("q=")), "1")
        found.append((media, float(quality) if quality.replace(".", "", 1).isdecimal() else 1.0))
    return found


def _texts(values: dict[str, Any]) -> dict[str, str]:
    return {name: orjson.dumps(value).decode() for name, value in values.items()}


def _typed(values: NDArray[Any]) -> NDArray[Any]:
    """Names of classes as text or numbers, and not as objects of Python."""
    return np.array(values.tolist()) if values.dtype == object else values
