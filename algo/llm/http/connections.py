"""Connections on which a reply belongs to its request, or which are not used again.

HTTP/1.1 ties a reply to its request by order alone. aiohttp reads whatever arrives on a connection
that waits in its pool, and hands it to the next request as the reply. Here a connection is closed
instead of used again when anything arrived on it that no request had asked for, or lies unread in
its socket; and a reply that comes before its request was sent whole is an error.

Once a server has sent a whole second reply, no connection is used twice from then on: one that
comes later yet, when the next request is on its way, cannot be told from the reply to that request.

aiohttp has no public door for this: the connector's `_factory` is the one private name used, and
`tests/contract/llm/test_connections.py` tells when it moves.
"""

from __future__ import annotations

import asyncio
import logging
import select
from functools import partial
from typing import Any, Final

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage, StreamWriter
from aiohttp.payload import BytesPayload
from aiohttp.streams import StreamReader

logger = logging.getLogger(__name__)

_CONNECTIONS_OF_A_RUN: Final = 0  # no limit: the scheduler bounds what is in flight


class Reuse:
    """Whether connections may be used again; once stopped, it stays so."""

    allowed = True

    def stop(self, why: str) -> None:
        if self.allowed:
            self.allowed = False
            logger.warning("%s: from now on every request has a connection of its own", why)


class OneReplyConnector(aiohttp.TCPConnector):
    """A pool of connections each of which has brought exactly what was asked for."""

    def __init__(self) -> None:
        super().__init__(limit=_CONNECTIONS_OF_A_RUN)
        self.reuse = Reuse()
        self._factory = partial(_OneReply, asyncio.get_running_loop(), self.reuse)


class OneReplyBody(BytesPayload):
    """A request's body. aiohttp writes it a turn of the event loop after it took the connection
    from the pool: what arrived in between is looked for at the last moment."""

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        if isinstance(writer, StreamWriter) and has_unread(writer.transport):
            raise aiohttp.ClientConnectionError("something came before the request was sent")
        await super().write_with_length(writer, content_length)


class _OneReply(ResponseHandler):
    """One connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop, reuse: Reuse) -> None:
        super().__init__(loop)
        self._reuse = reuse
        self._idle = False
        self._sent = False
        self._replied = False

    def set_response_params(self, **params: Any) -> None:
        """aiohttp calls this when a request is about to be sent."""
        self._idle = self._sent = self._replied = False
        super().set_response_params(**params)

    def start_timeout(self) -> None:
        """aiohttp calls this when a request is sent whole."""
        self._sent = True
        super().start_timeout()

    def data_received(self, data: bytes) -> None:
        if self._idle and data:
            self.force_close()
        super().data_received(data)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """aiohttp calls this with the head of each response."""
        message, payload = data
        if message.code == 200 and not (self._sent or self._replied):
            self._reuse.stop("a server sent a reply to a request that was not sent yet")
            early = aiohttp.ClientConnectionError("a reply came before its request was sent")
            self.set_exception(early)
            return
        if self._replied:
            self.force_close()
            if message.code == 200:  # not a 408 or the like, with which a server says goodbye
                self._reuse.stop("a server sent a second reply to one request, which was dropped")
        elif message.code >= 200:
            self._replied = True
            payload.on_eof(self._ended)
        super().feed_data(data, size)

    def _ended(self) -> None:
        self._idle = True

    @property
    def should_close(self) -> bool:
        """aiohttp asks before a connection goes to the pool."""
        return super().should_close or not self._reuse.allowed

    def is_connected(self) -> bool:
        """aiohttp asks when it looks for a connection in the pool."""
        return super().is_connected() and not self.should_close and not has_unread(self.transport)


def has_unread(transport: asyncio.BaseTransport | None) -> bool:
    """Whether bytes, or the end, have arrived that the event loop has not read yet."""
    socket = None if transport is None else transport.get_extra_info("socket")
    if socket is None or socket.fileno() < 0:
        return True
    poll = select.poll()  # `select` knows no file above 1,023
    poll.register(socket.fileno(), select.POLLIN)
    return bool(poll.poll(0))
