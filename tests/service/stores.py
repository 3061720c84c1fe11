"""Every kind of server that a store runs on, each with its ``url``, an administrator's ``client``, and ways to hurt it."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import redis

from service.embedded import EmbeddedServer
from tests.servers import RedisServer, eventually, free_port, program

TIMEOUT = 0.5  # as the service has it by default, see Settings.store_timeout

# The least that the user of farfield needs on a Redis server; the documentation quotes it.
ACL_RULE = (
    "~farfield:* -@all "
    "+info +eval "
    "+smembers +sadd +hkeys +hget +hgetall +lrange +mget "
    "+hdel +hexists +hset +hvals +lpush +lpop +ltrim +get +set +incr +exists +persist +ttl +unlink "
    "+time +hmget +hincrby +expire +rpush +zadd +zcard +zrange +zrevrange +zrem +zremrangebyscore +zscore "
    "+hlen +scan +strlen "
    "+xadd +xtrim +xrevrange +xpending +xclaim +xreadgroup +xack +xgroup|create +xgroup|setid "
    "+xinfo|groups +xinfo|consumers +xlen +zremrangebyrank"
)


class Embedded:
    """The embedded Valkey of a folder."""

    def __init__(self, folder: Path) -> None:
        self.url = f"embedded:{folder / 'data'}"
        self.member = EmbeddedServer.join(folder / "data")

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.member.socket))

    def send(self, number: int) -> None:
        os.kill(int((self.member.folder / "valkey.pid").read_text()), number)

    def freeze(self) -> None:
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        self.send(signal.SIGKILL)

    def start(self) -> None:
        self.member.ensure_running()

    def close(self) -> None:
        self.member.leave()


class Alone:
    """One redis-server."""

    def __init__(self, folder: Path) -> None:
        self.servers = self.make(folder)
        self.start()
        self.url = self.servers[0].url

    def make(self, folder: Path) -> list[RedisServer]:
        return [RedisServer(folder)]

    def client(self) -> Any:
        return self.servers[0].client()

    def freeze(self) -> None:
        for server in self.servers:
            server.freeze()

    def thaw(self) -> None:
        for server in self.servers:
            server.thaw()

    def kill(self) -> None:
        for server in self.servers:
            server.kill()

    def start(self) -> None:
        for server in self.servers:
            server.start()

    def close(self) -> None:
        self.kill()


class Tls(Alone):
    """One redis-server that takes TLS connections only, and a user who may do no more than farfield needs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.url = f"rediss://farfield:p%40ss@127.0.0.1:{self.servers[0].port}/0?ssl_ca_certs={folder / 'ca.pem'}"

    def make(self, folder: Path) -> list[RedisServer]:
        folder.mkdir(parents=True)
        certificate(folder)
        port = free_port()
        options = {
            "--tls-port": str(port),
            "--port": "0",
            "--tls-cert-file": str(folder / "server.pem"),
            "--tls-key-file": str(folder / "server.key"),
            "--tls-ca-cert-file": str(folder / "ca.pem"),
            "--tls-auth-clients": "no",
        }
        words = [word for pair in options.items() for word in pair]
        users = [
            "--user",
            *f"farfield on >p@ss {ACL_RULE}".split(),
            "--user",
            *["admin", "on", ">admin", "~*", "&*", "+@all"],
            "--user",
            "default",
            "off",
        ]
        login = {"username": "admin", "password": "admin", "ssl": True, "ssl_ca_certs": str(folder / "ca.pem")}
        return [RedisServer(folder, *words, *users, port=port, **login)]


class Cluster(Alone):
    """Three masters that share the slots."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        nodes = [f"127.0.0.1:{server.port}" for server in self.servers]
        subprocess.run([program("redis-cli"), "--cluster", "create", *nodes, "--cluster-yes"], check=True, capture_output=True)
        self.url = f"redis+cluster://{nodes[0]}"
        self.wait_until_whole()

    def make(self, folder: Path) -> list[RedisServer]:
        return [self.node(folder / str(index)) for index in range(3)]

    def node(self, folder: Path) -> RedisServer:
        return RedisServer(folder, "--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--cluster-node-timeout", "5000")

    def wait_until_whole(self) -> None:
        def whole() -> bool:
            return all(server.client().cluster("info")["cluster_state"] == "ok" for server in self.servers)

        eventually(whole, "every node sees the whole cluster")

    def client(self) -> Any:
        return redis.RedisCluster(host="127.0.0.1", port=self.servers[0].port)

    def start(self) -> None:
        super().start()
        if hasattr(self, "url"):
            self.wait_until_whole()


def certificate(folder: Path) -> None:
    """A CA in ``ca.pem``, and ``server.pem`` with ``server.key`` signed by it for 127.0.0.1."""

    def openssl(*words: str) -> None:
        subprocess.run([program("openssl"), *words], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1")
    openssl("req", "-x509", *key, "-subj", "/CN=test CA", "-keyout", "ca.key", "-out", "ca.pem")
    openssl(
        *("req", "-x509", *key, "-subj", "/CN=test server", "-addext", "subjectAltName=IP:127.0.0.1"),
        *(
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-keyout",
            "server.key",
            "-out",
            "server.pem",
        ),
    )


KINDS = {"embedded": Embedded, "redis": Alone, "tls": Tls, "cluster": Cluster}


def chunk_keys(raw: Any, name: str) -> list[bytes]:
    return sorted(raw.scan_iter(match=f"farfield:{{{name}}}:blob:*", count=10_000))


def flip_bit(data: bytes, index: int) -> bytes:
    return data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]


def versions_key(name: str) -> str:
    return f"farfield:{{{name}}}:versions"
