"""Targets of webhooks: which there may be, at which addresses they are reached, and one signed request to them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import logging
import socket
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Self
from urllib.parse import urlsplit

import httpx2
from standardwebhooks import Webhook

logging.getLogger("httpx2").setLevel(logging.WARNING)  # below, it writes the URL of each request; the path of a webhook is often a secret

SECONDS = 5.0  # for one delivery, from the look-up of the name to the status of the answer
LEAST_KEY_BYTES = 24  # of a secret, as Standard Webhooks has it
# Networks whose addresses stand for others, which a translator on the way may take to be inside.
TRANSLATED = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")))

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Undelivered(Exception):
    """A target did not take an event; says why."""


def check_targets(urls: Sequence[str], secret: str | None, networks: Sequence[str], ca: str | None) -> None:
    """Raises ValueError for settings of webhooks that cannot work."""
    for network in networks:
        ipaddress.ip_network(network)
    if ca:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca)
        except OSError as error:  # as that of a file without certificates is too
            raise ValueError(f"{ca!r} is no file of certificates in PEM: {error}") from None
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.fragment:
            raise ValueError("a webhook is http:// or https://, a host, a port and a path, without user or fragment")
    if not urls:
        return
    try:
        key = base64.b64decode((secret or "").removeprefix("whsec_"), validate=True)
    except binascii.Error as error:
        raise ValueError(f"the secret of webhooks is not base64: {error}") from None
    if len(key) < LEAST_KEY_BYTES:
        raise ValueError(f"webhooks need a secret of at least {LEAST_KEY_BYTES} bytes: set FARFIELD_WEBHOOK_SECRET")


class Target:
    """One URL, which is asked at an address that was looked up and found to be allowed, and nowhere else. A context of one event loop."""

    def __init__(self, url: str, secret: str, networks: Sequence[str], ca: str | None = None, *, seconds: float = SECONDS) -> None:
        parts = urlsplit(url)
        assert parts.hostname  # noqa: S101  # see check_targets
        self.host = parts.hostname
        self._url, self._port = httpx2.URL(url), parts.port or {"http": 80, "https": 443}[parts.scheme]
        self._networks = [ipaddress.ip_network(network) for network in networks]
        self._ca, self._seconds = ca, seconds
        self._signer = Webhook(secret)
        self._client: httpx2.AsyncClient

    async def __aenter__(self) -> Self:
        # Reading the certificates of the system takes longer than a delivery: once for all of them.
        authorities = httpx2.create_ssl_context(trust_env=False)
        if self._ca:
            authorities.load_verify_locations(self._ca)
        self._client = await httpx2.AsyncClient(verify=authorities, trust_env=False, follow_redirects=False).__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def deliver(self, event: str, body: bytes) -> None:
        """Post ``body``, once. Raises Undelivered unless the target takes it within ``seconds``.

        No redirect is followed and no proxy of the environment is used. The name is looked up for each and the connection
        goes to the address that was checked; the certificate is still that of the name.
        """
        now = datetime.now(UTC)
        headers = {
            "content-type": "application/cloudevents+json",
            "host": self._url.netloc.decode(),
            "webhook-id": event,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._signer.sign(event, now, body.decode()),
        }
        try:
            async with asyncio.timeout(self._seconds):
                address = await self._address()
                url = self._url.copy_with(host=str(address))
                request = self._client.build_request("POST", url, content=body, headers=headers, extensions={"sni_hostname": self.host})
                answer = await self._client.send(request, stream=True)  # nobody reads what it says
                await answer.aclose()
        except TimeoutError:
            raise Undelivered(f"{self.host} did not answer within {self._seconds:g} s") from None
        except (httpx2.HTTPError, OSError) as error:
            raise Undelivered(self._why(error)) from None
        if not answer.is_success:
            redirect = ", which is not followed" if answer.has_redirect_location else ""
            raise Undelivered(f"{self.host} answered {answer.status_code}{redirect}")

    def _why(self, error: BaseException) -> str:
        """What a connection failed at, which may be the certificate."""
        cause: BaseException | None = error
        while cause:
            if isinstance(cause, ssl.SSLCertVerificationError):
                judges = "by the authorities of the system and those in FARFIELD_WEBHOOK_CA"
                return f"the certificate of {self.host} is not trusted, {judges}: {cause.verify_message}"
            cause = cause.__cause__ or cause.__context__
        return f"{self.host} cannot be reached: {error}"

    async def _address(self) -> Address:
        """The first address of the host that is allowed."""
        loop = asyncio.get_running_loop()
        found = [info[4][0] for info in await loop.getaddrinfo(self.host, self._port, type=socket.SOCK_STREAM)]
        for text in found:
            address = ipaddress.ip_address(str(text).partition("%")[0])
            if public(address) or any(address in network for network in self._networks):
                return address
        raise Undelivered(f"{self.host} is at {', '.join(map(str, found))}, which is no public address nor in FARFIELD_WEBHOOK_NETWORKS")


def public(address: Address) -> bool:
    """Whether an address is of the internet at large, whatever form it comes in."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    if mapped:
        return public(mapped)
    return address.is_global and not address.is_multicast and not any(address in network for network in TRANSLATED)
