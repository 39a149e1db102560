"""One HTTP attempt over aiohttp: a reply, or a `Fault` that says what went wrong.

Sessions are opened in the event loop that first uses them. The scheduler bounds how many
attempts are in flight, so the connection pool has no limit of its own; nothing is retried here.
Which connections are used again is `connections.py`'s part, and what ties a reply to its request
`ties.py`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from ipaddress import ip_address
from time import perf_counter
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from algo.errors import FailureKind
from algo.llm.endpoint import Endpoint, Reply, Request
from algo.llm.http.connections import OneReplyBody, OneReplyConnector
from algo.llm.http.ties import CODE_HEADER, RequestCodes
from algo.llm.http.wire import Fault, excerpt, parse_reply, request_body, status_fault

MAX_REPLY_BYTES: Final = 4 * 1024 * 1024
"""A longer body is an endpoint that never stops, not an answer: 128,000 tokens with every character
\\u-escaped are less."""


class Transport:
    """Sends requests to any number of endpoints over one connection pool."""

    def __init__(self) -> None:
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._connectors: dict[bool, OneReplyConnector] = {}
        self._proxied: dict[str, bool] = {}
        self._codes = RequestCodes()

    async def send(
        self, endpoint: Endpoint, request: Request, timeout_s: float, attempt: int
    ) -> Reply:
        """Attempt number `attempt`, from connecting to the last byte within `timeout_s`.

        Raises `Fault`.
        """
        path, body = request_body(endpoint, request)
        code = self._codes.new()
        started = perf_counter()
        status, headers, received = await self._exchange(
            "POST", endpoint, path, body=body, code=code, timeout_s=timeout_s
        )
        if status != 200:
            raise status_fault(status, headers, received)
        if not self._codes.belongs(code, headers, received):
            raise self._misplaced(endpoint)
        return parse_reply(endpoint, received, perf_counter() - started, attempt)

    async def models(self, endpoint: Endpoint, timeout_s: float) -> tuple[int, bytes]:
        """Status and body of `GET {base_url}/models`; raises `Fault` when nothing answers.

        The body of an error comes without the key.
        """
        status, _, body = await self._exchange("GET", endpoint, "/models", timeout_s=timeout_s)
        return status, body

    async def _exchange(
        self,
        method: str,
        endpoint: Endpoint,
        path: str,
        *,
        body: bytes | None = None,
        code: str | None = None,
        timeout_s: float,
    ) -> tuple[int, Mapping[str, str], bytes]:
        headers = {"Content-Type": "application/json"}
        if endpoint.api_key is not None:
            headers["Authorization"] = f"Bearer {endpoint.api_key.get_secret_value()}"
        if code is not None:
            headers[CODE_HEADER] = code
        url = endpoint.base_url + path
        sent = None if body is None else OneReplyBody(body)
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session(endpoint).request(
                    method, url, data=sent, headers=headers, allow_redirects=False
                ) as response,
            ):
                received = await _bounded_body(response)
                if response.status != 200:
                    received = endpoint.without_key(received)
                return response.status, response.headers, received
        except TimeoutError:
            raise Fault(
                FailureKind.TIMEOUT, f"no complete reply within {timeout_s:.1f} s"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            # It may quote a header of the response, which may quote the key.
            detail = excerpt(endpoint.without_key((str(error) or "connection closed").encode()))
            raise Fault(FailureKind.TRANSPORT, f"{type(error).__name__}: {detail}") from None

    def _misplaced(self, endpoint: Endpoint) -> Fault:
        """For a reply to another request: the reply to this one may still come where it came."""
        message = "the reply carries the code of another request"
        self._connectors[self._is_proxied(endpoint)].reuse.stop(f"{endpoint.name}: {message}")
        return Fault(FailureKind.TRANSPORT, message, endpoint_down=False)

    def _session(self, endpoint: Endpoint) -> aiohttp.ClientSession:
        """The session that heeds *_PROXY, or the one for endpoints that no proxy stands before.

        aiohttp reads the environment and `.netrc` anew for each request, in two threads, where it
        is to heed them.
        """
        proxied = self._is_proxied(endpoint)
        if proxied not in self._sessions:
            self._connectors[proxied] = OneReplyConnector()
            self._sessions[proxied] = aiohttp.ClientSession(
                connector=self._connectors[proxied],
                timeout=aiohttp.ClientTimeout(total=None),
                trust_env=proxied,
            )
        return self._sessions[proxied]

    def _is_proxied(self, endpoint: Endpoint) -> bool:
        url = endpoint.base_url
        if url not in self._proxied:
            self._proxied[url] = _has_proxy(url)
        return self._proxied[url]

    async def aclose(self) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()


def _has_proxy(url: str) -> bool:
    """Whether the environment names a proxy for `url`, which an address of this machine has not."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return parts.scheme in getproxies() and not _is_loopback(host) and not proxy_bypass(host)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _bounded_body(response: aiohttp.ClientResponse) -> bytes:
    received = bytearray()
    async for chunk in response.content.iter_any():
        received += chunk
        if len(received) > MAX_REPLY_BYTES:
            raise Fault(
                FailureKind.TRUNCATED,
                f"the reply did not end within {MAX_REPLY_BYTES} bytes",
                endpoint_down=False,
            )
    return bytes(received)
