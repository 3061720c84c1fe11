"""Fixtures around every kind of server that a store runs on."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.service.stores import KINDS


@pytest.fixture(scope="session", params=KINDS)
def any_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Each kind of server in turn (see ``tests.service.stores``); detectors of other tests lie in it too."""
    started = KINDS[request.param](tmp_path_factory.mktemp(request.param) / "server")
    yield started
    started.close()


@pytest.fixture
def raw(any_server: Any) -> Iterator[Any]:
    """An administrator's client, to look at what is stored and to damage it."""
    with any_server.client() as client:
        yield client


@pytest.fixture
def name() -> str:
    """A detector that no other test knows."""
    return f"d{uuid.uuid4().hex[:12]}"
