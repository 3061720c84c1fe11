"""A fit on a Dask cluster: its workers read and gather the parts of the data, and join what they have gathered, eight by eight.

Nothing but what a fit holds at the end ever reaches this process. The tree of joins depends on the data alone, so that two
runs give the same sums to the last bit, on however many workers. What a worker that dies had done, Dask has done again.
"""

from __future__ import annotations

import logging
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from models import Device, Extractor, Preprocessing, Tap
from service.engine import Fitted
from service.errors import ClusterUnavailable, InvalidInput, StartupError
from service.features import Progress
from service.fitting.features import Extraction
from service.fitting.gathering import Gathering, Plan
from service.fitting.parted import Parted
from service.fitting.passes import Second, parted
from service.fitting.task import Task
from service.sources import Loss, Losses, Source

FAN_IN = 8  # of the tree of joins
MOST_LOCAL = 256
WAIT_SECONDS = 10  # for a scheduler to answer


@dataclass(frozen=True, slots=True)
class Network:
    """An extractor as it is sent to a worker, which runs it on one core, since it has one for each of its tasks."""

    onnx_file: bytes
    spec: dict[str, Any]
    device: Device

    @classmethod
    def of(cls, extractor: Extractor) -> Network:
        return cls(extractor.onnx_file, extractor.spec(), extractor.device)

    def extractor(self) -> Extractor:
        declared = self.spec["preprocessing"]
        preprocessing = Preprocessing.from_json(declared) if declared else None
        taps = [Tap(**tap) for tap in self.spec["taps"]]
        return Extractor(self.onnx_file, preprocessing=preprocessing, taps=taps, device=self.device, threads=1)


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker needs to know besides the number of a part."""

    source: Source
    plan: Plan
    network: Network | None
    on_error: Any  # of Losses
    most_losses: int

    def chunks(self, part: int, losses: Losses) -> Iterator[Parted]:
        """The chunks of a part with their features."""
        with Extraction(self.network.extractor() if self.network else None, self.plan.max_pixels, 1) as extraction:
            yield from parted(self.source, self.plan, extraction, losses, (part, 0), part + 1)

    def losses(self) -> Losses:
        return Losses(self.on_error, self.most_losses)


@dataclass(frozen=True, slots=True)
class Gathered:
    """What the workers have gathered of some parts, in the order of the parts. A task never changes what another has given."""

    gathering: Gathering
    lost: list[Loss]


def fit(task: Task, plan: Plan, progress: Progress) -> Fitted:
    """Fit on the cluster that the task names. Raises InvalidInput for what the data are refused for, and what ``client`` raises."""
    with client(task.cluster or "") as connected:
        return fit_on(connected, task, plan, progress)


def fit_on(connected: Any, task: Task, plan: Plan, progress: Progress) -> Fitted:
    """Fit on the cluster of a client."""
    network = Network.of(task.extractor) if task.extractor else None
    parts = range(len(task.source.parts))
    sent = _sent(connected, Order(task.source, plan, network, task.losses.on_error, task.losses.limit))
    leaves = connected.map(_gathered, parts, order=sent, pure=False)
    whole: Gathered = _Told(task.source, "read", progress).result(connected, leaves, _joined)
    for loss in whole.lost:
        task.losses.add(loss.name, InvalidInput(loss.reason))
    second = Second()
    if whole.gathering.looks():
        first = _sent(connected, whole.gathering.sums)
        leaves = connected.map(_looked, parts, order=sent, first=first, pure=False)
        second = _Told(task.source, "second look", progress).result(connected, leaves, _summed)
        second.check(whole.gathering.learned)
    progress("fit", 0, 1)
    fitted = whole.gathering.fitted(second.sums, task.extractor)
    progress("fit", 1, 1)
    return fitted


@contextmanager
def client(address: str) -> Iterator[Any]:
    """A client of the scheduler at ``address``, or of N worker processes of this machine for ``local:N``.

    Raises ClusterUnavailable where no cluster answers, and where it is lost or gives up while it is used; StartupError without Dask.
    """
    try:
        distributed: Any = import_module("distributed")
    except ModuleNotFoundError:
        raise StartupError("a fit on a cluster needs Dask: pip install 'farfield[dask]'") from None
    lost = (distributed.client.FutureCancelledError, distributed.scheduler.KilledWorker, distributed.comm.CommClosedError)
    with ExitStack() as opened:
        place = opened.enter_context(_local(distributed, address)) if address.startswith("local:") else address
        try:
            if place is address:  # a client that finds nobody takes half a minute to say so, and to end
                socket.create_connection(distributed.comm.get_address_host_port(address), WAIT_SECONDS).close()
            connected = opened.enter_context(distributed.Client(place, timeout=WAIT_SECONDS, set_as_default=False))
        except (OSError, ValueError) as error:
            raise ClusterUnavailable(f"no Dask scheduler answers at {address}: {error}") from None
        try:
            yield connected
        except lost as error:
            why = f"the cluster {address} was lost in the middle of the fit, or its workers keep dying: {error}"
            raise ClusterUnavailable(why) from None


def _local(distributed: Any, address: str) -> Any:
    count = address.removeprefix("local:")
    if not count.isdecimal() or not 1 <= int(count) <= MOST_LOCAL:
        raise InvalidInput(f"cluster {address!r} must be the address of a scheduler, or local:N for N processes here", "#/cluster")
    quiet = {"dashboard_address": "127.0.0.1:0", "silence_logs": logging.CRITICAL}  # what workers say of their end is nobody's business
    return distributed.LocalCluster(n_workers=int(count), threads_per_worker=1, processes=True, **quiet)


@dataclass(frozen=True, slots=True)
class _Told:
    """Follows the tasks of one pass, and tells how many rows they have read."""

    source: Source
    phase: str
    progress: Progress

    def result(self, connected: Any, leaves: list[Any], join: Callable[[list[Any]], Any]) -> Any:
        """What ``join`` makes of the results of all ``leaves``, by a tree; workers let go of what has been joined."""
        level = _joints(connected, join, leaves)
        while len(level) > 1:
            level = _joints(connected, join, level)
        places = {leaf.key: place for place, leaf in enumerate(leaves)}
        done, total = 0, self.source.rows or len(leaves)
        self.progress(self.phase, 0, total)
        completed = import_module("distributed").as_completed(leaves, loop=connected.loop)
        leaves.clear()
        for leaf in completed:
            if leaf.status == "error":
                leaf.result()  # raises what the task did
            leaf.release()
            done += (self.source.parts[places[leaf.key]].rows or 0) if self.source.rows else 1
            self.progress(self.phase, done, total)
        return level[0].result()


def _sent(connected: Any, value: Any) -> Any:
    """A future of ``value``, by a task: unlike what is scattered, it outlives all workers."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sending large graph")  # a network, once
        return connected.submit(_itself, value, pure=False)


def _itself(value: Any) -> Any:
    return value


def _joints(connected: Any, join: Callable[[list[Any]], Any], level: list[Any]) -> list[Any]:
    return [connected.submit(join, level[i : i + FAN_IN], pure=False) for i in range(0, len(level), FAN_IN)]


def _gathered(part: int, order: Order) -> Gathered:
    gathering, losses = Gathering.begun(order.plan), order.losses()
    for chunk in order.chunks(part, losses):
        gathering.take(chunk, gathering.summed(chunk))
    gathering.detectors.clear()  # which whoever needs them makes anew: no reason to send them
    return Gathered(gathering, losses.lost)


def _looked(part: int, order: Order, first: dict[str, Any]) -> Second:
    second = Second(Gathering(order.plan, first).looks())
    for chunk in order.chunks(part, order.losses()):
        second.join(second.summed(chunk), chunk.learned)
    return Second(sums=second.sums, learned=second.learned)


def _joined(found: list[Gathered]) -> Gathered:
    whole = Gathering.begun(found[0].gathering.plan)
    for one in found:
        whole.join(one.gathering)
    return Gathered(whole, [loss for one in found for loss in one.lost])


def _summed(found: list[Second]) -> Second:
    whole = Second()
    for one in found:
        whole.join(one.sums, one.learned)
    return whole
