"""The connection to the store: one Redis or Valkey server, a Sentinel's master, a cluster, or the embedded server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import redis
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.retry import Retry

from service import errors
from service.embedded import EmbeddedServer

RETRIES = 3
PATIENCE_SECONDS = 60.0  # with a store that is away
AWAY_SECONDS = 0.5
RETRIED = (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError, redis.ReadOnlyError)

T = TypeVar("T")

_LUA = {path.name: path.read_text() for path in files("service").joinpath("lua").iterdir()}


class Connection:
    """A client of the server, and the membership in it where it is the embedded one."""

    def __init__(self, client: Any, server: EmbeddedServer | None = None) -> None:
        self.client = client
        self._server = server

    @classmethod
    def open(cls, url: str, timeout: float) -> Self:
        """Nothing is connected yet but an embedded server, which is started or joined, and a cluster, which is asked for its nodes."""
        server = None
        if url.startswith("embedded:"):
            server = EmbeddedServer.join(Path(url.removeprefix("embedded:")))
            url = f"unix://{quote(str(server.socket))}"
        return cls(connect(url, timeout), server)

    @property
    def embedded(self) -> bool:
        """Whether the server is one that we start ourselves."""
        return self._server is not None

    def close(self) -> None:
        self.client.close()
        if self._server:
            self._server.leave()

    def ping(self) -> str:
        """Name and version of the server; starts an embedded one again that has died."""
        with reached():
            try:
                info = self.client.info("server")
            except redis.ConnectionError:
                if self._server is None:
                    raise
                self._server.ensure_running()
                info = self.client.info("server")
        if "redis_version" not in info:  # a cluster answers once per node
            info = next(iter(info.values()))
        if "valkey_version" in info:
            return f"Valkey {info['valkey_version']}"
        return f"Redis {info['redis_version']}"

    def run(self, script: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """What a script returns. Raises Declined where the script replies with an error of ours."""
        with reached():
            try:
                return self.client.eval(_LUA[script], len(keys), *keys, *arguments)
            except redis.ResponseError as error:
                word, _, rest = str(error).partition(" ")
                if word != "FARFIELD":
                    raise
                raise Declined(*rest.partition(" ")[::2]) from None


class Declined(Exception):
    """A script of ours changed nothing, for a reason of its own."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind, self.detail = kind, detail


def connect(url: str, timeout: float) -> Any:
    """A redis-py client for ``url``: one server, a Sentinel's master, or a cluster.

    The client's own defaults wait for a minute on a server that hangs; these give up after a few
    short tries.
    """
    common = {"socket_timeout": timeout, "socket_connect_timeout": timeout}
    retry = Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.25), RETRIES, supported_errors=RETRIED)
    parts = urlsplit(url)
    try:
        if parts.scheme in ("redis+cluster", "rediss+cluster"):
            with reached():
                return redis.RedisCluster.from_url(url.replace("+cluster", "", 1), retry=retry, **common)
        if parts.scheme == "redis+sentinel":
            return _sentinel_master(url, retry, common)
        if parts.scheme not in ("redis", "rediss", "unix"):
            raise ValueError("the scheme must be embedded, redis, rediss, redis+sentinel, redis+cluster or rediss+cluster")
        return redis.Redis.from_url(url, retry=retry, **common)
    except (ValueError, TypeError) as error:
        raise errors.StartupError(f"the store {without_password(url)} cannot be used: {error}") from None


def _sentinel_master(url: str, retry: Retry, common: dict[str, float]) -> Any:
    """Client of the master that ``redis+sentinel://[user:password@]host:port[,host:port]/MASTER[/DB]`` names."""
    parts = urlsplit(url)
    hosts = [host.rpartition(":") for host in parts.netloc.rpartition("@")[2].split(",")]
    path = parts.path.strip("/").split("/")
    if not path[0] or not all(host and port.isdigit() for host, _, port in hosts):
        raise ValueError("it must read redis+sentinel://host:port[,host:port]/MASTER[/DB]")
    addresses = [(host, int(port)) for host, _, port in hosts]
    asking = {**common, "retry": Retry(NoBackoff(), 0)}  # the master's client asks again by itself
    sentinel: Any = redis.Sentinel(addresses, sentinel_kwargs=asking, **common)  # type: ignore[no-untyped-call]
    credentials = {"username": unquote(parts.username or ""), "password": unquote(parts.password or ""), **dict(parse_qsl(parts.query))}
    database = int(path[1]) if len(path) > 1 else 0
    given = {key: value for key, value in credentials.items() if value}
    return sentinel.master_for(path[0], retry=retry, db=database, **given)


@contextmanager
def reached() -> Iterator[None]:
    try:
        yield
    except redis.OutOfMemoryError as error:
        raise errors.StoreFull(f"the store is full: {error}") from error
    except redis.ResponseError as error:
        raise errors.StoreUnavailable(f"the store refused: {error}") from error
    except (redis.RedisError, redis.RedisClusterException) as error:
        raise errors.StoreUnavailable(f"the store did not answer: {error}") from error


def patiently(call: Callable[[], T], progress: Callable[[str, int, int], None], seconds: float = PATIENCE_SECONDS) -> T:
    """What ``call`` returns, once the store answers; ``progress`` is told that it is waited for.

    Raises StoreUnavailable where it does not for so many ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except errors.StoreUnavailable:
            if time.monotonic() > deadline:
                raise
            progress("wait for the store", 0, 0)
            time.sleep(AWAY_SECONDS)


def without_password(url: str) -> str:
    password = urlsplit(url).password
    return url.replace(f":{password}@", ":***@") if password else url
