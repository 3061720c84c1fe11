"""The life of the embedded Valkey: who starts it, who stops it, and what is left when somebody is killed."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import redis

from service.embedded import EmbeddedServer, socket_path
from service.errors import StartupError
from service.store import Store
from tests.servers import PATIENCE, Process, ServiceProcess, eventually, running
from tests.service.samples import publish, read_whole

MEMBER = """
import sys
from pathlib import Path
from service.embedded import EmbeddedServer
sys.stdin.readline()
server = EmbeddedServer.join(Path(sys.argv[1]))
print("joined", flush=True)
sys.stdin.read()
server.leave()
"""


class Member:
    """A process that joins the server of a folder when told to, and leaves it when told to."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", MEMBER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def start_joining(self) -> None:
        assert self.process.stdin
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def join(self) -> Member:
        self.start_joining()
        return self.joined()

    def joined(self) -> Member:
        assert self.process.stdout
        assert self.process.stdout.readline() == b"joined\n"
        return self

    def start_leaving(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()

    def leave(self) -> None:
        self.start_leaving()
        assert self.process.wait(PATIENCE) == 0

    def close(self) -> None:
        self.process.kill()
        with self.process:
            pass


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A data folder; a server that a test leaves behind there is killed."""
    data = tmp_path / "data"
    yield data
    if (data / "valkey.pid").exists() and serves(server_pid(data), data):
        os.kill(server_pid(data), signal.SIGKILL)


@pytest.fixture
def member(folder: Path) -> Iterator[Callable[[], Member]]:
    """``member()`` is a new process that can join ``folder``; what still runs after the test is killed."""
    with ExitStack() as stack:

        def make() -> Member:
            made = Member(folder)
            stack.callback(made.close)
            return made

        yield make


def client(folder: Path) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(socket_path(folder)), socket_timeout=5)


def run_id(folder: Path) -> str:
    """What tells one start of the server from the next."""
    with client(folder) as connection:
        return str(connection.info("server")["run_id"])


def server_pid(folder: Path) -> int:
    return int((folder / "valkey.pid").read_text())


def serves(pid: int, folder: Path) -> bool:
    """Whether process ``pid`` is the server of ``folder``, and not another one that got its number since."""
    return running(pid) and os.path.realpath(f"/proc/{pid}/cwd") == str(folder)


def starts(folder: Path) -> int:
    return (folder / "valkey.log").read_text().count("Ready to accept connections")


def kill_server(folder: Path) -> None:
    pid = server_pid(folder)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not running(pid), "the server is dead")
    (folder / "valkey.pid").unlink()


# Joining and leaving


def test_the_last_one_out_stops_the_server(folder: Path, member: Callable[[], Member]) -> None:
    """The first starts it, the second joins it, the first leaves and it lives on, the second leaves and it is gone, data on disk."""
    first, second = member().join(), member().join()
    began, pid = run_id(folder), server_pid(folder)
    with client(folder) as connection:
        connection.set("kept", "yes")
    first.leave()
    assert run_id(folder) == began
    second.leave()
    assert not running(pid)
    assert not socket_path(folder).exists()
    member().join()
    assert run_id(folder) != began
    with client(folder) as connection:
        assert connection.get("kept") == b"yes"


def test_who_started_the_server_may_live_on_without_it(folder: Path, member: Callable[[], Member]) -> None:
    """A process that started the server and has left it goes on, and the last member stops the server without delay all the same."""
    with Store.open(f"embedded:{folder}") as store:
        second = member().join()
        pid = server_pid(folder)
        assert store.ping().startswith("Valkey")
    assert running(pid)
    second.start_leaving()
    assert second.process.wait(5) == 0
    assert not running(pid)


def test_two_stores_in_one_process_are_two_members(folder: Path) -> None:
    """Closing one store of a process leaves the other one working; closing twice does no harm."""
    with Store.open(f"embedded:{folder}") as outer:
        with Store.open(f"embedded:{folder}") as inner:
            publish(inner, "screws")
        inner.close()
        assert outer.numbers("screws") == [1]


def test_many_at_the_same_instant_share_one_server(folder: Path, member: Callable[[], Member]) -> None:
    """However many start and leave at once, there is one server, and in the end none."""
    members = [member() for _ in range(4)]
    for each in members:
        each.start_joining()
    for each in members:
        each.joined()
    pid = server_pid(folder)
    assert starts(folder) == 1
    for each in members:
        each.start_leaving()
    assert [each.process.wait(PATIENCE) for each in members] == [0, 0, 0, 0]
    assert not running(pid)


# Whoever is killed


def test_the_server_of_a_killed_member_is_joined_by_the_next(folder: Path, member: Callable[[], Member]) -> None:
    """A member killed at once leaves the server running; the next one joins that very server, and stops it on leaving."""
    first = member().join()
    began, pid = run_id(folder), server_pid(folder)
    first.close()
    assert running(pid)
    second = member().join()
    assert run_id(folder) == began
    second.leave()
    assert not running(pid)


def test_a_killed_server_starts_again_with_all_data(folder: Path, member: Callable[[], Member]) -> None:
    """After kill -9 of the server itself the next start has every version, and so has a store that was open all the time."""
    with Store.open(f"embedded:{folder}") as store:
        for i in range(3):
            publish(store, "screws", {"state": b"%d" % i * 3000}, note=str(i))
        kill_server(folder)
        member().join()
        assert starts(folder) == 2
        assert [read_whole(store, "screws", n)["state"] for n in store.numbers("screws")] == [b"%d" % i * 3000 for i in range(3)]


def test_an_open_store_starts_its_killed_server_again(folder: Path) -> None:
    """``ping``, which the service calls while its store is away, brings a killed server back."""
    with Store.open(f"embedded:{folder}") as store:
        publish(store, "screws")
        kill_server(folder)
        assert store.ping().startswith("Valkey")
        assert read_whole(store, "screws", 1) == {"state": b"state of made up"}


@pytest.mark.parametrize("lost", [1, 40, 400])
def test_a_torn_end_of_the_data_costs_no_more_than_that(folder: Path, lost: int) -> None:
    """When the last bytes of the append-only file were never written, the server starts, and every version it has is whole."""
    with Store.open(f"embedded:{folder}") as store:
        for i in range(3):
            publish(store, "screws", {"state": bytes([i]) * 3000}, note=str(i))
        kill_server(folder)
        written = next((folder / "appendonlydir").glob("*.incr.aof"))
        os.truncate(written, written.stat().st_size - lost)
    with Store.open(f"embedded:{folder}") as store:
        numbers = store.numbers("screws")
        assert numbers[:2] == [1, 2]
        for number in numbers:
            assert read_whole(store, "screws", number) == {"state": bytes([number - 1]) * 3000}


def test_data_damaged_in_the_middle_is_refused_in_the_servers_words(folder: Path) -> None:
    """An append-only file with rubbish inside stops the start at once, with what the server says about it, and stays as it is."""
    with Store.open(f"embedded:{folder}") as store:
        publish(store, "screws")
    written = next((folder / "appendonlydir").glob("*.incr.aof"))
    damaged = b"rubbish" + written.read_bytes()[7:]
    written.write_bytes(damaged)
    with pytest.raises(StartupError, match=r"did not start on .*Bad file format"):
        Store.open(f"embedded:{folder}")
    assert written.read_bytes() == damaged
    assert not (folder / "valkey.pid").exists() or not serves(server_pid(folder), folder)


def test_a_server_that_does_not_answer_yet_gets_no_second_one(folder: Path, member: Callable[[], Member]) -> None:
    """A running server that gives no answer is waited for: two servers on one folder would spoil each other's data."""
    member().join().close()
    began = run_id(folder)
    away = socket_path(folder).rename(folder / "away.sock")
    second = member()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.settimeout(PATIENCE)
        silent.bind(str(socket_path(folder)))
        silent.listen()
        second.start_joining()
        for _ in range(3):  # it asks again and again
            silent.accept()[0].close()
        away.rename(socket_path(folder))
    second.joined()
    assert run_id(folder) == began
    assert starts(folder) == 1


def has_open(member: Member, file: Path) -> bool:
    links = Path(f"/proc/{member.process.pid}/fd").iterdir()
    return any(os.path.realpath(link) == str(file) for link in links)


@pytest.mark.parametrize("kind", ["socket", "file"])
def test_a_stale_socket_is_no_obstacle(folder: Path, kind: str) -> None:
    """What a crash of the machine left in the place of the socket is replaced."""
    folder.mkdir()
    if kind == "file":
        (folder / "valkey.sock").write_text("")
    else:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(folder / "valkey.sock"))
    with Store.open(f"embedded:{folder}") as store:
        assert publish(store, "screws") == 1


# Folders


@pytest.mark.parametrize("folder_name", ["a" * 120 + "/" + "b" * 120, "Meßwerte für Ärger", "100%25 #1?x=y&z", 'it\'s "quoted"'])
def test_any_folder_will_do(tmp_path: Path, folder_name: str) -> None:
    """Longer than a socket's path may be, with blanks, umlauts, and signs that mean something in URLs and in server settings."""
    folder = tmp_path / folder_name
    with Store.open(f"embedded:{folder}") as store:
        publish(store, "screws", {"state": b"kept"})
    assert not socket_path(folder).exists()
    with Store.open(f"embedded:{folder}") as store:
        assert read_whole(store, "screws", 1) == {"state": b"kept"}
    assert (folder / "appendonlydir").is_dir()


def test_a_relative_folder_is_one_folder_wherever_it_is_named_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder and a relative path to it have one server."""
    monkeypatch.chdir(tmp_path)
    with Store.open("embedded:./data") as here, Store.open(f"embedded:{tmp_path}/other/../data") as there:
        publish(here, "screws")
        assert there.numbers("screws") == [1]


def test_a_folder_that_cannot_be_made_is_refused_in_words(tmp_path: Path) -> None:
    """A path below a file gives the path and the reason, and nothing is started."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match=r"data folder .*/file/data cannot be used: .*Not a directory"):
        Store.open(f"embedded:{tmp_path / 'file' / 'data'}")


def test_a_folder_in_which_nothing_can_be_written_is_refused_in_words(tmp_path: Path) -> None:
    """A folder whose files cannot be opened gives the path and the reason."""
    (tmp_path / "data" / "members.lock").mkdir(parents=True)
    with pytest.raises(StartupError, match=r"cannot be used: .*Is a directory"):
        EmbeddedServer.join(tmp_path / "data")


# Signals

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.mark.parametrize("number", CODES)
def test_a_service_that_is_told_to_stop_leaves_properly(folder: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C in the terminal, and SIGTERM: the service ends soon, the server with it, and all data is on disk."""
    with Store.open(f"embedded:{folder}") as store:
        publish(store, "screws")
        service = ServiceProcess(tmp_path / "service", f"embedded:{folder}", {}).start(ready=False)
        pid = server_pid(folder)
    os.killpg(service.process.pid, number)  # as a terminal does: the whole group
    assert service.process.wait(PATIENCE) == CODES[number], service.log()
    assert "Traceback" not in service.log()
    assert not running(pid)
    with Store.open(f"embedded:{folder}") as store:
        assert store.numbers("screws") == [1]


@pytest.mark.parametrize("number", CODES)
def test_a_fit_that_is_told_to_stop_leaves_properly(
    folder: Path, tmp_path: Path, member: Callable[[], Member], number: signal.Signals
) -> None:
    """A fit that is stopped in the midst of publishing publishes nothing, and takes the server with it as the last one out."""
    rows = tmp_path / "rows.npy"
    np.save(rows, np.random.default_rng(0).standard_normal((600, 3)))
    member().join().close()  # a server without members
    pid = server_pid(folder)
    with client(folder) as connection:
        connection.client_pause(60_000, all=False)  # whoever writes has to wait
        fit = Process(
            [sys.executable, "-m", "service.cli", "fit", "screws", "--data", str(rows), "--store", f"embedded:{folder}"], tmp_path / "fit"
        )
        fit.spawn()
        eventually(lambda: any(each["cmd"] in ("sadd", "eval") for each in connection.client_list()), "the fit writes")
    os.killpg(fit.process.pid, number)
    assert fit.process.wait(PATIENCE) == CODES[number], fit.log()
    assert "Traceback" not in fit.log()
    assert not running(pid)
    with Store.open(f"embedded:{folder}") as store:
        assert store.names() == []


def test_joining_that_is_interrupted_leaves_no_server_behind(folder: Path, member: Callable[[], Member]) -> None:
    """Ctrl-C while waiting for a server that another one has left: it goes with the one that was interrupted."""
    member().join().close()
    pid = server_pid(folder)
    folder.mkdir(exist_ok=True)
    with (folder / "start.lock").open("ab") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        second = member()
        second.start_joining()
        eventually(lambda: has_open(second, folder / "start.lock"), "the new member waits for its turn")
        second.process.send_signal(signal.SIGINT)
    second.process.wait(PATIENCE)
    assert not running(pid)
