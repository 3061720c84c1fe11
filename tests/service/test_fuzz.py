"""Every decoder reads or refuses whatever bytes come: those of ``corpus/`` as they are, and changed at random.

A file of the corpus whose name begins with ``good`` is read, and one with ``bad`` is refused. ``FUZZ_EXAMPLES=50000`` before
``python -m pytest tests/service/test_fuzz.py`` tries that many changes of each kind; they are the same every time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import InvalidInput, TooLarge, Unsupported
from service.features import finite_rows
from service.protocol.envelope import decode
from service.protocol.messages import MESSAGES, Message
from service.protocol.query import Query
from service.protocol.tensors import Slot
from service.scoring import codecs
from service.settings import Settings

CORPUS = Path(__file__).parent / "corpus"
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "250"))
LIMIT = 2**16
SETTINGS = Settings(max_json_bytes=LIMIT, max_rows=1000, max_features=1000)
ROWS, IMAGES = Slot("rows", "FP64", (-1, 4)), Slot("images", "BYTES", (-1,))


def read_json(body: bytes) -> None:
    batch, others = codecs.batch_of_json(body, SETTINGS)
    assert batch.rows is not None and finite_rows(batch.rows).ndim == 2 and isinstance(others, dict)


def read_npy(body: bytes) -> None:
    batch = codecs.batch_of_npy(body, SETTINGS)
    assert len(batch) > 0
    if batch.rows is not None:
        assert finite_rows(batch.rows).ndim == 2


def read_v2(body: bytes) -> None:
    """The first line is the length of the JSON, or a dash where there is no such header."""
    length, _, rest = body.partition(b"\n")
    for expected in (ROWS, IMAGES):
        sound(decode(rest, None if length == b"-" else length.decode("latin-1"), expected, LIMIT))


def read_grpc(body: bytes) -> None:
    """What is read must be the message that protobuf itself reads."""
    message = Message(body, LIMIT)
    query = message.query(ROWS, SETTINGS)
    sound(query)
    whole = MESSAGES["ModelInferRequest"].FromString(body)
    assert (message.name, message.version, query.id or "") == (whole.model_name, whole.model_version, whole.id)
    assert list(query.inputs) == [tensor.name[:80] for tensor in whole.inputs]
    for tensor, raw in zip(query.inputs.values(), whole.raw_input_contents, strict=False):
        if isinstance(tensor.data, np.ndarray) and tensor.datatype != "BF16":
            assert tensor.data.tobytes() == raw


def sound(query: Query) -> None:
    """Tensors are what they say."""
    for tensor in query.inputs.values():
        if isinstance(tensor.data, list):
            assert len(tensor.data) == np.prod(tensor.shape) and all(type(element) is bytes for element in tensor.data)
        else:
            assert tensor.data.shape == tensor.shape and tensor.data.dtype.kind in "fiub"


READERS: dict[str, Callable[[bytes], None]] = {"json": read_json, "npy": read_npy, "v2": read_v2, "grpc": read_grpc}
FILES = sorted(path for path in CORPUS.rglob("*") if path.is_file())


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_corpus(path: Path) -> None:
    """Good ones are read, and bad ones refused in a short sentence."""
    read, body = READERS[path.parent.name], path.read_bytes()
    if path.name.startswith("good"):
        read(body)
        return
    with pytest.raises((InvalidInput, TooLarge, Unsupported)) as refused:
        read(body)
    assert 10 < len(str(refused.value)) < 500


def test_every_decoder_has_good_and_bad_ones() -> None:
    assert {(path.parent.name, path.name.partition("_")[0]) for path in FILES} == {
        (kind, way) for kind in READERS for way in ("good", "bad")
    }


odd_bytes = st.binary(max_size=6) | st.sampled_from(
    [b"\xff" * 4, b"\xff" * 9 + b"\x01", b"\x80" * 11, b"\x7f\xff\xff\xff", bytes(8), b"[[", b"-1", b"1e999", b"9" * 30, b'"', b"\n"]
)
changes = st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 9), odd_bytes), min_size=1, max_size=5)


@pytest.mark.parametrize("kind", READERS)
def test_changed_bodies_are_read_or_refused(kind: str) -> None:
    """Bytes replaced, inserted and cut out anywhere, and two bodies joined: nothing but a sound answer or a refusal."""
    bodies = [path.read_bytes() for path in FILES if path.parent.name == kind]

    @given(st.sampled_from(bodies), changes, st.none() | st.sampled_from(bodies))
    @settings(max_examples=EXAMPLES, derandomize=True, database=None, suppress_health_check=list(HealthCheck), print_blob=False)
    def changed(body: bytes, edits: list[tuple[int, int, bytes]], other: bytes | None) -> None:
        for place, removed, added in edits:
            place %= len(body) + 1
            body = body[:place] + added + body[place + removed :]
        with contextlib.suppress(InvalidInput, TooLarge, Unsupported):
            READERS[kind](body if other is None else body + other)

    changed()
