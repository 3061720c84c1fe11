"""A web server that webhooks are posted to, which hangs, fails and redirects as it is told; and a deliverer to be killed."""

from __future__ import annotations

import asyncio
import base64
import sys
import threading
from collections import deque
from pathlib import Path
from typing import Any

import uvicorn

from service.outliers.webhooks import Webhooks
from service.settings import Settings
from service.store import Store
from tests.servers import eventually, free_port

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
LOOPBACK = ["127.0.0.0/8"]


class Receiver:
    """Keeps what is posted to it. ``answers`` are the next statuses, then 204; 0 hangs until the sender has gone, 307 leads to /inside.

    With ``certificates``, a folder as ``stores.certificate`` fills it, it speaks TLS.
    """

    def __init__(self, *answers: int, certificates: Path | None = None) -> None:
        self.answers = deque(answers)
        self.posted: list[tuple[str, dict[str, str], bytes]] = []  # path, headers, body
        self.port = free_port()
        files = {"ssl_certfile": certificates / "server.pem", "ssl_keyfile": certificates / "server.key"} if certificates else {}
        self._scheme = "https" if certificates else "http"
        config = uvicorn.Config(self._answer, port=self.port, log_level="error", lifespan="off", interface="asgi3", **files)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        eventually(lambda: self._server.started, "the receiver listens")

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}/hook"

    def ids(self) -> list[str]:
        return [headers["webhook-id"] for _, headers, _ in self.posted]

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        status = self.answers.popleft() if self.answers else 204
        self.posted.append((scope["path"], {name.decode(): value.decode() for name, value in scope["headers"]}, body))
        if status == 0:
            await asyncio.wait_for(receive(), 20)  # what comes next is that the sender has gone
            return
        location = [(b"location", f"http://127.0.0.1:{self.port}/inside".encode())] if status == 307 else []
        await send({"type": "http.response.start", "status": status, "headers": location})
        await send({"type": "http.response.body"})

    def close(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()


def sending(*urls: str, **settings: Any) -> Settings:
    """Settings of webhooks to loopback."""
    return Settings(webhooks=list(urls), webhook_secret=SECRET, **{"webhook_networks": LOOPBACK, "webhook_rate": 1000, **settings})


def main() -> None:
    """Deliver until killed: the store and the target are the arguments."""
    with Store.open(sys.argv[1]) as store, Webhooks(sending(sys.argv[2]), store):
        threading.Event().wait()


if __name__ == "__main__":
    main()
