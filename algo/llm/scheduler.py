"""The request engine: one retry loop over one limiter, for every LLM role of a process.

    async with RequestScheduler(LimitsSettings()) as scheduler:
        reply = await scheduler.complete(endpoint, Request([{"role": "user", "content": "Hello"}]))

`RequestScheduler.complete` returns one complete reply, or raises

- `JudgeFailure` when this request cannot be answered: its retries by kind are used up, its
  deadline passed, or the endpoint rejects the request as such (`RequestRejected`);
- `JudgeOutage` when the endpoint is down for longer than the allowed outage: then every request
  that waits, and every later one, gets it too.

Whose a failure is, the request's or the endpoint's, is decided by the trial request (`trial.py`). A
request fails only by failures that the endpoint is not known to have been down at; an endpoint
is down only while it cannot answer the trial request either. Down, it makes requests wait and does
not fail them. What a reply says is not read here: refusals, cut-off and garbled replies are
`asking/query.py`'s part.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final, Self

from algo.errors import FailureKind, JudgeFailure, JudgeOutage, RequestRejected
from algo.llm.admission import Admission, Deadline
from algo.llm.breaker import backoff_s
from algo.llm.endpoint import Endpoint, Reply, Request
from algo.llm.failures import Failures
from algo.llm.http.transport import Transport
from algo.llm.http.wire import Fault
from algo.llm.sending import Bookkeeper, Sender
from algo.llm.server import Server
from algo.llm.settings import LimitsSettings
from algo.llm.trial import says_nothing
from algo.llm.trials import Trials

# A server that takes as many others as before is not full: a longer pause is for one that is, or
# whose allowance is used up.
_BY_CHANCE_S: Final = 8.0

COUNTERS: Final[dict[str, str]] = {
    "retries": "Requests sent again, for whatever reason.",
    "retries/<kind>": "The same by kind of failure.",
    "retry_after_capped": "Waits shorter than a server asked for, which was above `max_backoff_s`.",
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

    One event loop uses it: the one of the first request. A simulation brings its own transport
    and jitter.
    """

    def __init__(
        self,
        limits: LimitsSettings | None = None,
        transport: Transport | None = None,
        jitter: random.Random | None = None,
    ) -> None:
        self.limits = limits or LimitsSettings()
        self._jitter = jitter or random.Random()
        self._admission = Admission(self.limits, self._jitter)
        self._transport = transport or Transport()
        self._sender = Sender(self._admission, self._transport)
        self._trials = Trials(self._admission, self.attempt)
        self._retries: Counter[FailureKind] = Counter()
        self._capped = 0
        self._at_work: set[asyncio.Task[object]] = set()
        self._closing = False

    @property
    def books(self) -> Bookkeeper | None:
        return self._sender.books

    @books.setter
    def books(self, books: Bookkeeper) -> None:
        self._sender.books = books

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End every request, those in flight too, with `JudgeOutage`; later ones get it at once."""
        if not self._closing:
            self._closing = True
            if self._admission.stopped is None:
                self._admission.stop(closed_outage())
            for task in self._at_work:
                task.cancel()
        await self._trials.aclose()
        await self._transport.aclose()
        self._admission.close()

    def deadline(self, endpoint: Endpoint) -> Deadline:
        """The stage's seconds (`LimitsSettings.stage_s`), of the time in which the endpoint is up.

        Several requests may share one: the turns of a conversation, the calls of a stage.
        """
        server = self._admission.server(endpoint)
        return Deadline(server, self.limits.stage_s(endpoint.settings))

    async def complete(
        self, endpoint: Endpoint, request: Request, shared: Deadline | None = None
    ) -> Reply:
        """One reply of `endpoint` to `request`, within `shared` or a deadline of its own."""
        server = self._admission.server(endpoint)
        deadline = shared or self.deadline(endpoint)
        way = _Completion(self, server, endpoint, request, deadline)
        with self._admission.user(server), self._ended_by_close():
            return await until_reply(way.send, way.pause_s)

    @contextmanager
    def _ended_by_close(self) -> Iterator[None]:
        """Around a request: `aclose` ends it, as an outage rather than a cancelled task."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a request is made in a task")
        self._at_work.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if self._closing and task.uncancel() == 0:
                raise closed_outage() from None
            raise
        finally:
            self._at_work.discard(task)

    def allowed(self, kind: FailureKind) -> int:
        """How many retries a request has for failures of `kind`."""
        return int(getattr(self.limits.retries, kind.value, 0))

    def backoff_s(self, failures: int, fault: Fault) -> float:
        """Seconds before the retry after `failures` earlier ones; the endpoint may ask for more,
        up to `max_backoff_s`."""
        asked, most = fault.retry_after_s or 0.0, self.limits.max_backoff_s
        if asked > most:
            self._capped += 1
            fault.message += f" (Retry-After of {asked:.0f} s, cut to max_backoff_s={most:g})"
        return max(backoff_s(failures, self.limits, self._jitter), min(asked, most))

    def count_retry(self, kind: FailureKind) -> None:
        """Count a retry that the caller makes because of what a reply said."""
        self._retries[kind] += 1

    def stop(self, outage: JudgeOutage) -> None:
        """End every waiting and every later request with `outage` (the quality gate closed)."""
        self._admission.stop(outage)

    def drain(self, outage: JudgeOutage) -> None:
        """Send nothing any more; once what is in flight has ended, `stop` with `outage`."""
        self._admission.drain(outage)

    @property
    def stopped(self) -> JudgeOutage | None:
        return self._admission.stopped

    async def models(self, endpoint: Endpoint, timeout_s: float) -> tuple[int, bytes]:
        """Status and body of the endpoint's model list; raises `Fault` when nothing answers."""
        return await self._transport.models(endpoint, timeout_s)

    async def attempt(self, endpoint: Endpoint, request: Request, timeout_s: float) -> Reply:
        """A trial: one attempt outside of limits, breaker and counters; raises its `Fault`."""
        reply = await self._transport.send(endpoint, request, timeout_s, 1)
        if (books := self.books) is not None:
            books.paid(endpoint, request, reply)
            books.aside("trial", endpoint, request, reply)
        return reply

    def drain_counters(self) -> dict[str, float]:
        """Retries by kind since the last call; requests waiting and in flight, and the peak of
        these; `down_s` as a total of the run."""
        counters = {
            f"retries/{kind.value}": float(self._retries[kind])
            for kind in FailureKind
            if self.allowed(kind)
        }
        counters["retries"] = float(self._retries.total())
        counters["retry_after_capped"] = float(self._capped)
        counters["down_s"] = self._admission.down_s()
        counters["waiting"] = float(self._admission.waiting())
        counters["in_flight"] = float(self._admission.in_flight())
        counters["peak_in_flight"] = float(self._admission.peak_in_flight)
        self._retries.clear()
        self._capped = 0
        self._admission.peak_in_flight = self._admission.in_flight()
        return counters


class _Completion:
    """One request on its way to a reply: what each attempt costs it, and what comes next."""

    def __init__(
        self,
        scheduler: RequestScheduler,
        server: Server,
        endpoint: Endpoint,
        request: Request,
        deadline: Deadline,
    ) -> None:
        self._scheduler = scheduler
        self._server = server
        self._endpoint = endpoint
        self._request = request
        self._deadline = deadline
        self._tokens = _expected_tokens(endpoint, request)
        self._failures = Failures(server.breaker, scheduler.allowed)
        self._last = Fault(FailureKind.TIMEOUT, "no request could be sent")
        self._hurried = False
        self._in_turn = False

    async def send(self, attempt: int) -> Reply:
        """One attempt, and the verdict on whose a failure of it was; raises its `Fault`."""
        scheduler, server = self._scheduler, self._server
        scheduler._trials.begin(server, self._endpoint)
        permit = await scheduler._admission.acquire(
            server, self._request.priority, self._tokens, self._deadline
        )
        if permit is None:
            raise self._failure(attempt - 1, self._last, "the stage's deadline passed")
        try:
            reply = await scheduler._sender.send(
                self._endpoint, self._request, permit, self._deadline, attempt
            )
            if not says_nothing(reply):
                return reply
            fault = Fault(FailureKind.UNPARSEABLE, "a reply without a word")
        except Fault as raised:
            reply, fault = None, raised
        self._failures.add(fault.kind, permit.sent, monotonic())
        if reply is None and self._is_given_up(fault, permit.sent_at):
            scheduler._admission.suspect(server)
        scheduler._trials.begin(server, self._endpoint)
        await scheduler._admission.verdict(server)
        if reply is not None and self._failures.last_is_own:
            return reply  # what it lacks is not the server's fault
        if reply is not None and scheduler.books is not None:
            scheduler.books.aside("empty", self._endpoint, self._request, reply)
        raise fault

    def pause_s(self, attempt: int, fault: Fault) -> float:
        """Seconds until the next attempt; raises `JudgeFailure` where there is none."""
        self._last = fault
        if not self._failures.last_is_own:
            self._scheduler.count_retry(fault.kind)
            return 0.0  # the server's failure, not the request's: wait for the server
        if not fault.retryable:
            endpoint = self._endpoint
            raise RequestRejected(
                fault.kind, endpoint.role, fault.message, endpoint.name, fault.about_schema
            )
        self._scheduler.count_retry(fault.kind)
        if self._failures.used_up(fault.kind):
            raise self._failure(attempt, fault, "retries used up")
        return self._within_deadline(self._backoff_s(fault))

    def _is_given_up(self, fault: Fault, sent_at: float) -> bool:
        """Whether the request ends by this failure, with nothing to show that others fare
        better."""
        if not (fault.endpoint_down and self._server.breaker.silent_since(sent_at)):
            return False
        is_timeout = fault.kind is FailureKind.TIMEOUT and self._deadline.remaining() > 0.0
        return is_timeout or self._failures.used_up(fault.kind)

    def _backoff_s(self, fault: Fault) -> float:
        refused = fault.kind is FailureKind.RATE_LIMIT and not fault.retry_after_s
        by_chance, site = self._failures.last_by_chance, self._server.site
        if refused and not by_chance and site.in_flight and site.is_full and not self._in_turn:
            self._in_turn = True
            return 0.0  # its turn comes when one of those ends that the server has taken
        self._in_turn = False  # a server that refuses it then too is not full of those
        wait = self._scheduler.backoff_s(len(self._failures.own()) - 1, fault)
        return min(wait, _BY_CHANCE_S) if refused and by_chance else wait

    def _within_deadline(self, wait: float) -> float:
        remaining = self._deadline.remaining()
        if wait >= remaining > 0.0 and not self._hurried:
            self._hurried = True  # once more before the deadline, too near for a full pause
            return remaining / 2
        return min(wait, max(0.0, remaining))

    def _failure(self, attempts: int, fault: Fault, why: str) -> JudgeFailure:
        message = f"{why} after {attempts} attempts; last: {fault.message}"
        return JudgeFailure(fault.kind, self._endpoint.role, message, self._endpoint.name)


def closed_outage() -> JudgeOutage:
    """What whoever asks a closed engine gets, and whoever was at work when it closed."""
    return JudgeOutage("every endpoint", FailureKind.TRANSPORT, 0.0, "the engine was closed")


def _expected_tokens(endpoint: Endpoint, request: Request) -> int:
    tokens = request.prompt_tokens
    if tokens is None:
        # Three characters a token is a high estimate for the languages and code that judges read.
        tokens = sum(len(str(message["content"])) for message in request.messages) // 3
    return tokens + int(request.sampling.get("max_tokens", endpoint.settings.max_tokens))
