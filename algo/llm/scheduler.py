"""The request engine: one retry loop over one limiter, for every LLM role of a process.

    async with RequestScheduler(LimitsSettings()) as scheduler:
        reply = await scheduler.complete(endpoint, Request([{"role": "user", "content": "Hello"}]))

`RequestScheduler.complete` returns one complete reply, or raises

- `JudgeFailure` when this request cannot be answered: its retries by kind are used up, its
  deadline passed, or the endpoint rejects the request as such (`RequestRejected`);
- `JudgeOutage` when the endpoint is down for longer than the allowed outage: then every request
  that waits, and every later one, gets it too.

An endpoint that is down makes requests wait, it does not fail them. What a reply says is not read
here: refusals, cut-off and garbled replies are `judge/asking.py`'s part.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, Self

from algo.errors import FailureKind, JudgeFailure, JudgeOutage, RequestRejected
from algo.llm.admission import Admission, Deadline, Permit
from algo.llm.breaker import backoff_s
from algo.llm.endpoint import Endpoint, Reply, Request
from algo.llm.settings import LimitsSettings
from algo.llm.transport import Transport
from algo.llm.wire import Fault

COUNTERS: Final[dict[str, str]] = {
    "retries": "Requests sent again, for whatever reason.",
    "retries/<kind>": "The same by kind of failure.",
    "down_s": "Seconds, over the whole run, in which a server was taken to be down.",
    "waiting": "Requests that wait for their turn now.",
    "in_flight": "Requests that were sent and not yet answered, now.",
    "peak_in_flight": "The most of these since the last reading.",
}
"""What `RequestScheduler.drain_counters` reports, and what it says."""


async def until_reply(
    send: Callable[[int], Awaitable[Reply]], pause_s: Callable[[int, Fault], float]
) -> Reply:
    """The project's retry loop: the reply of the first attempt that brings one.

    `send(n)` makes attempt n, counted from 1. After a `Fault` of it, `pause_s(n, fault)` gives the
    seconds until the next attempt, or raises what ends the loop.
    """
    for attempt in itertools.count(1):
        try:
            return await send(attempt)
        except Fault as failed:
            fault = failed
        await asyncio.sleep(pause_s(attempt, fault))
    raise AssertionError("the loop ends by a reply or by an exception")


class RequestScheduler:
    """Sends requests of any role within the limits; use `async with`, or `aclose` at the end.

    One event loop uses it: the one of the first request.
    """

    def __init__(self, limits: LimitsSettings | None = None) -> None:
        self.limits = limits or LimitsSettings()
        self._jitter = random.Random()
        self._admission = Admission(self.limits, self._jitter)
        self._transport = Transport()
        self._retries: Counter[FailureKind] = Counter()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        self._admission.close()
        await self._transport.aclose()

    def deadline(self, endpoint: Endpoint) -> Deadline:
        """`stage_deadline_s` of the time in which the endpoint is up.

        Several requests may share one: the turns of a conversation, the calls of a stage.
        """
        server = self._admission.server(endpoint)
        return Deadline(server, self.limits.stage_deadline_s)

    async def complete(
        self, endpoint: Endpoint, request: Request, shared: Deadline | None = None
    ) -> Reply:
        """One reply of `endpoint` to `request`, within `shared` or a deadline of its own."""
        server = self._admission.server(endpoint)
        deadline = shared or self.deadline(endpoint)
        tokens = _expected_tokens(endpoint, request)
        charged: Counter[FailureKind] = Counter()
        last = Fault(FailureKind.TIMEOUT, "no request could be sent")

        async def send(attempt: int) -> Reply:
            permit = await self._admission.acquire(server, request.priority, tokens, deadline)
            if permit is None:
                raise _failure(endpoint, attempt - 1, last, "the stage's deadline passed")
            return await self._attempt(endpoint, request, permit, deadline, attempt)

        def pause_s(attempt: int, fault: Fault) -> float:
            nonlocal last
            last = fault
            if not fault.retryable:
                raise RequestRejected(
                    fault.kind, endpoint.role, fault.message, endpoint.name, fault.about_schema
                )
            self._retries[fault.kind] += 1
            if fault.endpoint_down and server.breaker.is_open:
                return 0.0  # the server's failure, not the request's: wait for the server
            charged[fault.kind] += 1
            if charged[fault.kind] > self.allowed(fault.kind):
                raise _failure(endpoint, attempt, fault, "retries used up")
            return min(self.backoff_s(charged.total() - 1, fault), max(0.0, deadline.remaining()))

        with self._admission.user(server):
            return await until_reply(send, pause_s)

    def allowed(self, kind: FailureKind) -> int:
        """How many retries a request has for failures of `kind`."""
        return int(getattr(self.limits.retries, kind.value, 0))

    def backoff_s(self, failures: int, fault: Fault) -> float:
        """Seconds before the retry after `failures` earlier ones; the endpoint may ask for more."""
        return max(backoff_s(failures, self.limits, self._jitter), fault.retry_after_s or 0.0)

    def count_retry(self, kind: FailureKind) -> None:
        """Count a retry that the caller makes because of what a reply said."""
        self._retries[kind] += 1

    def stop(self, outage: JudgeOutage) -> None:
        """End every waiting and every later request with `outage` (the quality gate closed)."""
        self._admission.stop(outage)

    @property
    def stopped(self) -> JudgeOutage | None:
        return self._admission.stopped

    async def models(self, endpoint: Endpoint, timeout_s: float) -> tuple[int, bytes]:
        """Status and body of the endpoint's model list; raises `Fault` when nothing answers."""
        return await self._transport.models(endpoint, timeout_s)

    async def attempt(self, endpoint: Endpoint, request: Request, timeout_s: float) -> Reply:
        """One attempt outside of limits, breaker and counters; raises its `Fault`."""
        return await self._transport.send(endpoint, request, timeout_s, 1)

    def drain_counters(self) -> dict[str, float]:
        """Retries by kind since the last call; requests waiting and in flight, and the peak of
        these; `down_s` as a total of the run."""
        counters = {
            f"retries/{kind.value}": float(self._retries[kind])
            for kind in FailureKind
            if self.allowed(kind)
        }
        counters["retries"] = float(self._retries.total())
        counters["down_s"] = self._admission.down_s()
        counters["waiting"] = float(self._admission.waiting())
        counters["in_flight"] = float(self._admission.in_flight())
        counters["peak_in_flight"] = float(self._admission.peak_in_flight)
        self._retries.clear()
        self._admission.peak_in_flight = self._admission.in_flight()
        return counters

    async def _attempt(
        self,
        endpoint: Endpoint,
        request: Request,
        permit: Permit,
        deadline: Deadline,
        attempt: int,
    ) -> Reply:
        """Send once and give the permit back with the outcome; raises `Fault`."""
        allowed_s = request.timeout_s or endpoint.settings.timeout_s
        timeout_s = min(allowed_s, deadline.remaining())
        try:
            reply = await self._transport.send(endpoint, request, timeout_s, attempt)
        except Fault as fault:
            if fault.kind is FailureKind.TIMEOUT and timeout_s < allowed_s:
                self._admission.withdraw(permit)  # out of time, which says nothing of the server
            elif fault.endpoint_down:
                self._admission.failed(permit, fault.kind, fault.message, fault.retry_after_s)
            else:
                self._admission.replied(permit)
            raise
        except BaseException:
            self._admission.withdraw(permit)
            raise
        self._admission.replied(permit, _tokens_used(reply))
        return reply


def _expected_tokens(endpoint: Endpoint, request: Request) -> int:
    tokens = request.prompt_tokens
    if tokens is None:
        # Three characters a token is a high estimate for the languages and code that judges read.
        tokens = sum(len(str(message["content"])) for message in request.messages) // 3
    return tokens + int(request.sampling.get("max_tokens", endpoint.settings.max_tokens))


def _tokens_used(reply: Reply) -> int | None:
    if reply.prompt_tokens is None or reply.completion_tokens is None:
        return None
    return reply.prompt_tokens + reply.completion_tokens


def _failure(endpoint: Endpoint, attempts: int, fault: Fault, why: str) -> JudgeFailure:
    message = f"{why} after {attempts} attempts; last: {fault.message}"
    return JudgeFailure(fault.kind, endpoint.role, message, endpoint.name)
