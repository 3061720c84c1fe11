"""Fits on a Dask cluster of processes: they give what one process gives, also when workers die, and refuse in one line."""

from __future__ import annotations

import io
import os
import pickle
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster

from service.engine import Fitted
from service.errors import ClusterUnavailable, InvalidInput
from service.sources import Losses
from tests.service.fits import fit, packed, rows, task_of, write_parts
from tests.service.served import pixel_extractor
from tests.service.source_data import images

COUNT = 4000
NEW = rows(300, seed=2)
TWO_PASSES = {"reduce": "pca", "kept_variance": 0.9}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_parts(tmp_path_factory.mktemp("parts") / "data", rows(COUNT), 40)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a scheduler with two worker processes; those that die are started again."""
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0") as local:
        yield local.scheduler_address


@pytest.fixture(scope="module")
def undisturbed(parts: Path, cluster: str) -> Fitted:
    """Fitted in two passes on the cluster."""
    return fit(task_of(parts, cluster=cluster, parameters=TWO_PASSES))


def workers(address: str) -> list[int]:
    with Client(address, set_as_default=False) as client:
        return list(client.run(os.getpid).values())


def assert_close(one: Fitted, other: Fitted) -> None:
    np.testing.assert_allclose(one.judge.scores(NEW), other.judge.scores(NEW), rtol=1e-9)
    np.testing.assert_allclose(one.judge.reference, other.judge.reference, rtol=1e-9)
    assert (one.n_fit, one.sampled) == (other.n_fit, other.sampled)


def test_a_cluster_gives_what_one_process_gives(parts: Path, cluster: str, undisturbed: Fitted) -> None:
    """To rounding, with a sample or without; and the whole of the progress is told."""
    told: list[tuple[str, int, int]] = []
    found = fit(task_of(parts, "gaussian+knn", cluster=cluster), progress=lambda *word: told.append(word))
    assert_close(found, fit(task_of(parts, "gaussian+knn")))
    assert [word for word in told if word[0] == "read"][-1] == ("read", COUNT, COUNT)
    assert_close(undisturbed, fit(task_of(parts, parameters=TWO_PASSES)))


@pytest.mark.parametrize(("at", "count"), [("read", 1), ("second look", 2)])
def test_workers_are_killed_in_the_middle(parts: Path, cluster: str, undisturbed: Fitted, at: str, count: int) -> None:
    """One, or all there are: what they had is done again by others, and the version is the same to the last bit."""
    victims, task = workers(cluster)[:count], task_of(parts, cluster=cluster, parameters=TWO_PASSES)

    def progress(phase: str, done: int, total: int) -> None:
        while victims and phase == at and 0 < done < total:
            os.kill(victims.pop(), signal.SIGKILL)

    disturbed = fit(task, progress=progress)
    assert not victims
    assert packed(task, disturbed) == packed(task, undisturbed)


@pytest.fixture
def brought(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """All that clients of this process get from workers, in the order in which it comes; results and gathered futures alike."""
    found: list[Any] = []
    gather = Client._gather

    async def noted(self: Client, *asked: Any, **options: Any) -> Any:
        results = await gather(self, *asked, **options)
        found.extend(results)
        return results

    monkeypatch.setattr(Client, "_gather", noted)
    return found


class Sized(pickle.Pickler):
    """Counts each type of numbers alike: numpy makes one of its own for an array that was sent, and one for all that were not."""

    def persistent_id(self, obj: Any) -> str | None:
        return obj.str if isinstance(obj, np.dtype) else None


def size(value: Any) -> int:
    """Bytes of ``value`` as it is sent."""
    stream = io.BytesIO()
    Sized(stream, protocol=5).dump(value)
    return stream.tell()


@pytest.mark.parametrize(("parameters", "passes"), [({}, 1), (TWO_PASSES, 2)], ids=["one pass", "two passes"])
def test_what_comes_to_the_client_does_not_grow_with_the_rows(
    tmp_path: Path, cluster: str, brought: list[Any], parameters: dict[str, Any], passes: int
) -> None:
    """Of a gaussian one transfer for each pass: as many bytes for ten times the rows, but for the rows held out, which are bounded."""
    sizes = []
    for count in (2_000, 20_000):
        data = rows(count, 16)
        task = task_of(write_parts(tmp_path / f"{count}", data, 10), cluster=cluster, parameters=parameters)
        brought.clear()
        fit(task)
        assert len(brought) == passes
        whole, held = sum(map(size, brought)), brought[0].gathering.held
        assert 0 < len(held) <= task.plan().most_held
        assert whole < data.nbytes / 5
        sizes.append(whole - size(held))
    assert abs(sizes[1] - sizes[0]) < data[0].nbytes, "not one row more; whole numbers take some bytes more or less"


def test_one_part_and_processes_of_this_machine(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """``local:2`` starts two processes and ends them, without a word."""
    np.save(tmp_path / "x.npy", rows(COUNT))
    alone = fit(task_of(tmp_path / "x.npy"))
    found = fit(task_of(tmp_path / "x.npy", cluster="local:2"))
    np.testing.assert_allclose(found.judge.reference, alone.judge.reference, rtol=1e-9)
    assert capfd.readouterr() == ("", "")


def test_images_on_a_cluster(tmp_path: Path, cluster: str) -> None:
    """The network is sent to the workers; what they leave out is told by name, and counts against one limit."""
    images(tmp_path / "images", 60)
    for number in (3, 30):
        (tmp_path / "images" / "0" / f"{number:03}.png").write_bytes(b"no image")
    place, extractor = tmp_path / "images", pixel_extractor()
    alone, there = Losses("skip"), Losses("skip")
    one = fit(task_of(place, extractor=extractor, losses=alone, alpha=0.2))
    other = fit(task_of(place, extractor=extractor, losses=there, alpha=0.2, cluster=cluster))
    np.testing.assert_allclose(other.judge.reference, one.judge.reference, rtol=1e-6)
    assert [loss.name for loss in there.lost] == ["0/003.png", "0/030.png"] == [loss.name for loss in alone.lost]
    with pytest.raises(InvalidInput, match=r"more than limit=1 pieces.*0/030\.png: not an image"):
        fit(task_of(place, extractor=extractor, losses=Losses("skip", 1), cluster=cluster))


def test_what_is_wrong_with_the_data_is_told(tmp_path: Path, cluster: str) -> None:
    """A NaN and a file that has gone, by name, as one process tells it."""
    folder = write_parts(tmp_path / "data", rows(COUNT), 5)
    task = task_of(folder, cluster=cluster)
    broken = rows(50)
    broken[7, 2] = np.nan
    np.save(folder / "00005.npy", broken)
    with pytest.raises(InvalidInput, match=r"00005\.npy holds nan in row 7, column 2; finite numbers are needed"):
        fit(task_of(folder, cluster=cluster))
    (folder / "00003.npy").unlink()
    with pytest.raises(InvalidInput, match=r"00003\.npy cannot be read: .*No such file"):
        fit(task)


def test_what_needs_all_rows_is_fitted_here(parts: Path) -> None:
    """Cross-conformal calibration, where memory holds the rows: whatever the cluster is, nobody asks it."""
    recipe: dict[str, Any] = {"method": "cross-conformal", "memory": 2**24}
    alone, here = fit(task_of(parts, **recipe)), fit(task_of(parts, **recipe, cluster="tcp://127.0.0.1:1"))
    np.testing.assert_array_equal(here.judge.scores(rows(9, seed=3)), alone.judge.scores(rows(9, seed=3)))
    with pytest.raises(InvalidInput, match="needs all rows in the memory of one process"):
        fit(task_of(parts, **recipe | {"memory": 1}, cluster="tcp://127.0.0.1:1"))


def test_clusters_that_are_none(parts: Path) -> None:
    """Nobody at the address, no address, a number of processes that is none: one clear line, at once."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    for address, says in {
        f"tcp://127.0.0.1:{port}": f"no Dask scheduler answers at tcp://127.0.0.1:{port}",
        "nonsense": "no Dask scheduler answers at nonsense",
        "local:0": "or local:N for N processes here",
        "local:": "or local:N for N processes here",
    }.items():
        with pytest.raises((ClusterUnavailable, InvalidInput), match=says):
            fit(task_of(parts, cluster=address))


def test_a_scheduler_that_goes_away(parts: Path) -> None:
    """In the middle of a fit: one line, and nothing waits for ever."""
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address="127.0.0.1:0") as local:

        def progress(phase: str, done: int, total: int) -> None:
            if done:
                local.scheduler.loop.add_callback(local.scheduler.close)

        with pytest.raises(ClusterUnavailable, match="was lost in the middle of the fit"):
            fit(task_of(parts, cluster=local.scheduler_address), progress=progress)
