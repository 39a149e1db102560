"""One attempt under a permit, which is given back with what the outcome says of the server."""

from __future__ import annotations

from typing import Literal, Protocol

from algo.errors import FailureKind
from algo.llm.admission import Admission, Deadline
from algo.llm.endpoint import Endpoint, Reply, Request
from algo.llm.http.transport import Transport
from algo.llm.http.wire import Fault
from algo.llm.server import Permit
from algo.llm.trial import says_nothing


class Bookkeeper(Protocol):
    """Who keeps account of what is paid."""

    def paid(self, endpoint: Endpoint, request: Request, reply: Reply) -> None:
        """A reply came, whoever gets it."""

    def aside(
        self, kind: Literal["trial", "empty"], endpoint: Endpoint, request: Request, reply: Reply
    ) -> None:
        """No caller gets this reply: it is a trial's, or one without a word."""


class Sender:
    """Sends for one scheduler."""

    def __init__(self, admission: Admission, transport: Transport) -> None:
        self.books: Bookkeeper | None = None
        self._admission = admission
        self._transport = transport

    async def send(
        self,
        endpoint: Endpoint,
        request: Request,
        permit: Permit,
        deadline: Deadline,
        attempt: int,
    ) -> Reply:
        """Send once and give the permit back with the outcome; raises `Fault`."""
        allowed_s = request.timeout_s or endpoint.settings.attempt_s
        timeout_s = min(allowed_s, deadline.remaining())
        try:
            reply = await self._transport.send(endpoint, request, timeout_s, attempt)
        except Fault as fault:
            if fault.kind is FailureKind.TIMEOUT and timeout_s < allowed_s:
                self._admission.withdraw(permit)  # out of time, which says nothing of the server
            elif fault.endpoint_down:
                self._admission.failed(permit, fault.kind, fault.message)
            elif _could_be_a_gateway(fault):
                self._admission.doubted(permit, fault.kind, fault.message)
            else:
                self._admission.replied(permit)
            raise
        except BaseException:
            self._admission.withdraw(permit)
            raise
        if self.books is not None:
            self.books.paid(endpoint, request, reply)
        if says_nothing(reply):
            self._admission.doubted(permit, FailureKind.UNPARSEABLE, "a reply without a word")
        else:
            self._admission.replied(permit, _tokens_used(reply))
        return reply


def _could_be_a_gateway(fault: Fault) -> bool:
    """Whether some gateways answer like this for a server that is away: a 400 or 404 that names no
    reason known here, a 200 that is no reply."""
    return fault.kind is FailureKind.TRANSPORT and not fault.about_schema


def _tokens_used(reply: Reply) -> int | None:
    if reply.prompt_tokens is None or reply.completion_tokens is None:
        return None
    return reply.prompt_tokens + reply.completion_tokens
