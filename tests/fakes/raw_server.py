"""An HTTP server that writes any bytes at any time: what no library's server can be made to do."""

from __future__ import annotations

import asyncio
import json
import select
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RawRequest:
    headers: Mapping[str, str]
    """Names in lower case."""
    body: dict[str, Any]


class Connection:
    """One client's connection, from the server's side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def wait_for_bytes(self) -> bytes:
        """The first byte of the next request, which `request` is to be given; b"" at the end."""
        return await self._reader.read(1)

    def is_quiet(self) -> bool:
        """Whether nothing of a next request has arrived, not even unread."""
        poll = select.poll()
        poll.register(self._writer.get_extra_info("socket").fileno(), select.POLLIN)
        return not self._reader._buffer and not poll.poll(0)  # type: ignore[attr-defined]

    async def request(self, begun: bytes = b"") -> RawRequest | None:
        """The next request; None when the client has closed the connection."""
        try:
            head = begun + await self._reader.readuntil(b"\r\n\r\n")
            lines = head.decode().split("\r\n")[1:]
            pairs = [line.partition(":") for line in lines if line]
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return RawRequest(headers, json.loads(body or b"{}"))

    def send(self, data: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(data)

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def serve_raw(behave: Callable[[Connection], Awaitable[None]]) -> AsyncIterator[str]:
    """Serve every connection by `behave`, which ends with it; gives the base URL."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await behave(Connection(reader, writer))
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client is gone, or the test is over
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=4096, limit=1 << 24)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def ok(body: bytes, *headers: str) -> bytes:
    """A whole response with status 200."""
    extra = "".join(f"{header}\r\n" for header in headers).encode()
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b"
        % (extra, len(body), body)
    )


def chat_body(text: str, code: str | None = None) -> bytes:
    """A chat reply; `code` makes its id, as in vLLM."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps({"id": f"chatcmpl-{code or 'fake'}", "choices": [choice]}).encode()
