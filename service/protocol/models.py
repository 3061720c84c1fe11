"""What the protocol can be asked, whatever it is asked over: each version of a detector is a version of a model of its name."""

from __future__ import annotations

import re
from typing import TypeVar

from service import __version__
from service.errors import InvalidInput, NotReady, UnknownDetector, Unsupported
from service.names import ALIAS_PATTERN
from service.protocol.schemas import IndexEntry, ModelMetadata, ModelReady, ServerMetadata, Statistics
from service.protocol.scoring import Inferred, Sent, Task
from service.routes import Service
from service.scoring.callers import Caller
from service.versions import Loaded, Reference, Versions, routes

T = TypeVar("T")

VERSION_PATTERN = rf"^([0-9]{{1,18}}|{ALIAS_PATTERN.strip('^$')})$"
EXTENSIONS = ["binary_tensor_data", "model_repository", "model_repository(unload_dependents)", "statistics"]
LOADING = {"unload_dependents"}  # parameters of loading and unloading that change nothing here


class Models:
    """The models of one process. Its methods raise what ``Versions.get`` raises, InvalidInput, NotReady and Unsupported."""

    def __init__(self, parts: Service) -> None:
        self.parts = parts
        self._unloaded: set[tuple[str, int]] = set()  # names and numbers that a client has unloaded from this process

    def server(self) -> ServerMetadata:
        return ServerMetadata(name="farfield", version=__version__, extensions=EXTENSIONS)

    def check_ready(self) -> None:
        """Raises NotReady unless versions are served."""
        if not serves(self.parts.versions):
            raise NotReady("no version is loaded and checked yet")

    async def names(self) -> list[str]:
        return sorted(await self.parts.lookups.run(self.parts.store.known))

    async def metadata(self, name: str, reference: Reference) -> ModelMetadata:
        """Of what ``reference`` means; without one of the default version, beside the numbers of all."""
        loaded = await self.loaded(name, reference)
        numbers = await self._numbers(name) if reference is None else [loaded.number]
        return ModelMetadata.of(loaded, numbers)

    async def readiness(self, name: str, reference: Reference) -> ModelReady:
        """Loads the version if it is not in memory, unless it was unloaded by request."""
        if self.parts.versions.cached(name, reference) is None and self._unloaded:
            number = await self._number(name, reference)
            if (name, number) in self._unloaded:
                raise NotReady(f"version {number} of model {name!r} was unloaded; the next request to load it or to infer loads it")
        loaded = await self.loaded(name, reference)
        return ModelReady(name=name, version=str(loaded.number), ready=True)

    async def loaded(self, name: str, reference: Reference) -> Loaded:
        loaded = self.parts.versions.cached(name, reference)
        if loaded is None:
            loaded = await self.parts.lookups.run(self.parts.versions.get, name, reference)
            self._unloaded.discard((name, loaded.number))
        return loaded

    async def infer(self, loaded: Loaded, sent: Sent[T], caller: Caller, since: float) -> Inferred[T]:
        """The answer to ``sent``, which waits for a thread no longer than there is a ``caller``, or for none if it is small.

        It came at ``since``, by time.monotonic, from when on what its timeout allows counts.
        """
        return await self.parts.judging.judge(loaded, Task(sent, caller, since))

    async def index(self, *, only_ready: bool) -> list[IndexEntry]:
        """All versions of all models, or those that are in memory."""
        entries = await self.parts.lookups.run(self._index)
        return [entry for entry in entries if entry.state == "READY" or not only_ready]

    async def load(self, name: str, given: set[str]) -> ModelReady:
        """Load the default version as the store has it now; ``given`` are the names of parameters."""
        _refuse_overrides(given)
        await self.parts.lookups.run(self.parts.versions.refresh, name)
        loaded = await self.loaded(name, None)
        return ModelReady(name=name, version=str(loaded.number), ready=True)

    async def unload(self, name: str, given: set[str]) -> ModelReady:
        """Drop all versions from memory, and delete nothing."""
        _refuse_overrides(given)
        numbers = await self._numbers(name)
        await self.parts.lookups.run(self.parts.versions.unload, name)
        self._unloaded.update((name, number) for number in numbers)
        return ModelReady(name=name, version=str(numbers[-1]), ready=False)

    async def statistics(self, name: str | None, reference: Reference = None) -> Statistics:
        """Of one version, of what is loaded of one model, or of everything loaded."""
        if name is not None and reference is not None:
            loaded = self.parts.versions.cached(name, reference)
            versions = [(name, loaded.number if loaded else await self._number(name, reference))]
        else:
            versions = [(loaded.name, loaded.number) for loaded in self.parts.versions.loaded() if name in (None, loaded.name)]
            if name is not None and not versions:
                await self._numbers(name)
        return Statistics.of(self.parts.metrics, sorted(versions))

    async def _number(self, name: str, reference: Reference) -> int:
        found = await self.parts.lookups.run(routes, self.parts.store, [name])
        number: int = found[name].number(name, reference)
        return number

    async def _numbers(self, name: str) -> list[int]:
        """Numbers of all versions of ``name``, ascending. Raises UnknownDetector."""
        found = await self.parts.lookups.run(routes, self.parts.store, [name])
        numbers: list[int] = found[name].numbers
        if not numbers:
            raise UnknownDetector(name)
        return numbers

    def _index(self) -> list[IndexEntry]:
        in_memory = {(loaded.name, loaded.number) for loaded in self.parts.versions.loaded()}
        refused = {(item["detector"], item["version"]): str(item["reason"]) for item in self.parts.versions.refused()}
        entries = []
        for name, routing in routes(self.parts.store, sorted(self.parts.store.known())).items():
            for number in routing.numbers:
                key = (name, number)
                if key in in_memory:
                    entries.append(IndexEntry(name=name, version=str(number), state="READY", reason=""))
                else:
                    reason = refused.get(key) or ("unloaded by request" if key in self._unloaded else "not in memory")
                    entries.append(IndexEntry(name=name, version=str(number), state="UNAVAILABLE", reason=reason))
        return entries


def serves(versions: Versions) -> bool:
    """Whether the store has been looked into, and not every version found there was refused."""
    return versions.ready and (bool(versions.loaded()) or not versions.refused())


def reference_of(version: str) -> Reference:
    """What a version written as a number or an alias refers to; the empty text refers to the default.

    >>> reference_of("3"), reference_of("champion"), reference_of("")
    (3, 'champion', None)
    """
    if not version:
        return None
    if not re.fullmatch(VERSION_PATTERN, version):
        raise InvalidInput(f"version must be a number or an alias, not {version[:40]!r}")
    return int(version) if version.isdecimal() else version


def _refuse_overrides(given: set[str]) -> None:
    """Models come from the store alone: a configuration or files in the request are not taken."""
    if others := sorted(given - LOADING):
        raise Unsupported(f"models are loaded as the store has them: {', '.join(others)[:200]} cannot be given")
