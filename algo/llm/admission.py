"""Who may send next: a queue by priority in front of each server, under one set of limits.

Every request waits in its server's queue and gets a `Permit` when the server's breaker admits it,
the server's concurrency limit has room and the minute's allowance of requests and tokens covers it;
higher priority first, then first come. Nothing polls: the queue moves when a request arrives, when
one ends, and at the moment that a breaker, an allowance or an outage is due. It sends nothing
itself; `scheduler.py` does.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from algo.errors import ConfigurationError, FailureKind, JudgeOutage
from algo.llm.breaker import Breaker
from algo.llm.endpoint import Endpoint
from algo.llm.limits import AdaptiveLimit, Charge, RateWindow
from algo.llm.settings import LimitsSettings

logger = logging.getLogger(__name__)

# While a server is down its deadlines stand still, however close, so each is looked at again this
# often: rarely enough to cost nothing with thousands waiting.
_SHORTEST_WAIT_S: Final = 0.05


@dataclass(eq=False)
class Permit:
    """The right to send one request, given back by `Admission.replied`, `failed` or `withdraw`."""

    server: Server
    epoch: int
    sent_at: float
    tokens: Charge


@dataclass(order=True)
class _Entry:
    """A request in the queue; the lowest `rank` goes first, then the lowest `number`."""

    rank: int
    number: int
    tokens: int = field(compare=False)
    granted: asyncio.Future[Permit] = field(compare=False)


class Server:
    """One server: its queue, its breaker and its concurrency limit."""

    def __init__(self, endpoint: Endpoint, limits: LimitsSettings, rng: random.Random) -> None:
        self.name = f"{endpoint.model} at {endpoint.base_url}"
        self.breaker = Breaker(limits, rng)
        self.limit = AdaptiveLimit(limits.concurrency, limits.max_concurrency)
        self.queue: list[_Entry] = []
        self.in_flight = 0
        self.users = 0

    def head(self) -> _Entry | None:
        """The next entry whose request still waits."""
        while self.queue and self.queue[0].granted.done():
            heapq.heappop(self.queue)
        return self.queue[0] if self.queue else None


class Deadline:
    """`seconds` from now on one server's clock, which stands still while its server is down.

    Waiting for a server that is down is bounded by `outage_s` instead.
    """

    def __init__(self, server: Server, seconds: float) -> None:
        now = monotonic()
        self._server = server
        self._ends_at = now + seconds
        self._down_before = server.breaker.down_total(now)

    def remaining(self) -> float:
        now = monotonic()
        return self._ends_at - now + self._server.breaker.down_total(now) - self._down_before


class Admission:
    """All servers of a process and the limits they share."""

    def __init__(self, limits: LimitsSettings, rng: random.Random) -> None:
        self._limits = limits
        self._rng = rng
        self._servers: dict[tuple[str, str], Server] = {}
        self._requests = RateWindow(limits.requests_per_minute)
        self._tokens = RateWindow(limits.tokens_per_minute)
        self._numbers = itertools.count()
        self._waiting = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._stopped: JudgeOutage | None = None
        self.peak_in_flight = 0

    def server(self, endpoint: Endpoint) -> Server:
        server = self._servers.get(endpoint.server)
        if server is None:
            server = self._servers[endpoint.server] = Server(endpoint, self._limits, self._rng)
        return server

    @contextmanager
    def user(self, server: Server) -> Iterator[None]:
        """Marks a request as wanting this server, from its first attempt to its end.

        An outage is time during which somebody wanted the server, so it begins anew with the first
        user after a pause.
        """
        if server.users == 0:
            server.breaker.restart_outage(monotonic())
        server.users += 1
        try:
            yield
        finally:
            server.users -= 1

    async def acquire(
        self, server: Server, priority: int, tokens: int, deadline: Deadline
    ) -> Permit | None:
        """Wait for a permit; `None` when the deadline passed first. Raises `JudgeOutage`."""
        if self._stopped is not None:
            raise JudgeOutage(*self._stopped.args)
        if deadline.remaining() <= 0.0:
            return None
        if self._waiting >= self._limits.queue:
            raise ConfigurationError(
                f"more than ropd.judge.limits.queue={self._limits.queue} requests are waiting: "
                "raise it, or judge fewer groups at once"
            )
        granted: asyncio.Future[Permit] = asyncio.get_running_loop().create_future()
        entry = _Entry(-priority, next(self._numbers), tokens, granted)
        heapq.heappush(server.queue, entry)
        self._waiting += 1
        try:
            self._move()
            return await self._granted(entry, deadline)
        finally:
            self._waiting -= 1

    async def _granted(self, entry: _Entry, deadline: Deadline) -> Permit | None:
        try:
            while not entry.granted.done():
                remaining = deadline.remaining()
                if remaining <= 0.0:
                    entry.granted.cancel()
                    return None
                await asyncio.wait((entry.granted,), timeout=max(remaining, _SHORTEST_WAIT_S))
            return entry.granted.result()
        except asyncio.CancelledError:
            if not entry.granted.cancel() and entry.granted.exception() is None:
                self.withdraw(entry.granted.result())
            raise

    def replied(self, permit: Permit, tokens_used: int | None = None) -> None:
        """The server answered: with a reply, or with a fault that is about the request alone."""
        server, now = permit.server, monotonic()
        if server.breaker.down_since is not None:
            logger.warning(
                "%s answers again after %.1f s", server.name, now - server.breaker.down_since
            )
        server.breaker.replied(now)
        server.limit.kept_up(server.in_flight)
        self._release(permit, tokens_used)

    def failed(
        self, permit: Permit, kind: FailureKind, message: str, retry_after_s: float | None
    ) -> None:
        """The server failed."""
        server, now = permit.server, monotonic()
        was_open = server.breaker.is_open
        server.breaker.failed(now, permit.epoch, kind, message, retry_after_s)
        if server.breaker.is_open and not was_open:
            logger.warning(
                "%s is down (%s: %s): its requests wait, for %g s at most",
                server.name,
                kind.value,
                message,
                self._limits.outage_s,
            )
        if kind in (FailureKind.RATE_LIMIT, FailureKind.TIMEOUT):
            server.limit.overloaded(now, permit.sent_at)
        self._release(permit, None if kind is FailureKind.TIMEOUT else 0)

    def withdraw(self, permit: Permit) -> None:
        """The request was given up before an outcome was known."""
        permit.server.breaker.withdrawn(permit.epoch)
        self._release(permit, None)

    def stop(self, outage: JudgeOutage) -> None:
        """End every wait, now and from now on, with `outage`."""
        self._stopped = outage
        for server in self._servers.values():
            for entry in server.queue:
                if not entry.granted.done():
                    entry.granted.set_exception(JudgeOutage(*outage.args))
            server.queue.clear()

    def close(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    @property
    def stopped(self) -> JudgeOutage | None:
        return self._stopped

    def down_servers(self) -> list[Server]:
        return [server for server in self._servers.values() if server.breaker.is_open]

    def down_s(self) -> float:
        """Seconds, over the whole run, during which a server was taken to be down."""
        return sum(server.breaker.down_total(monotonic()) for server in self._servers.values())

    def waiting(self) -> int:
        return self._waiting

    def in_flight(self) -> int:
        return sum(server.in_flight for server in self._servers.values())

    def _release(self, permit: Permit, tokens_used: int | None) -> None:
        permit.server.in_flight -= 1
        if tokens_used is not None:
            self._tokens.settle(permit.tokens, tokens_used)
        # Not at once: the caller may be about to ask for its next, more urgent request.
        asyncio.get_running_loop().call_soon(self._move)

    def _move(self) -> None:
        """Grant every permit that is due, and set the alarm for the next moment one may be."""
        now = monotonic()
        self._declare_outages(now)
        while (server := self._next_server(now)) is not None:
            entry = server.queue[0]
            wait = self._rate_wait_s(now, entry.tokens)
            if wait > 0.0:
                self._set_alarm(now, now + wait)
                return
            heapq.heappop(server.queue)
            entry.granted.set_result(self._grant(server, now, entry.tokens))
        self._set_alarm(now, None)

    def _grant(self, server: Server, now: float, tokens: int) -> Permit:
        server.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight())
        self._requests.charge(now, 1)
        return Permit(server, server.breaker.sent(), now, self._tokens.charge(now, tokens))

    def _rate_wait_s(self, now: float, tokens: int) -> float:
        return max(self._requests.wait_s(now, 1), self._tokens.wait_s(now, tokens))

    def _next_server(self, now: float) -> Server | None:
        """The server whose head may go and ranks first."""
        ready = [
            (head, server)
            for server in self._servers.values()
            if (head := server.head()) is not None
            and server.breaker.admits(now)
            and (server.breaker.is_open or server.in_flight < server.limit.value)
        ]
        return min(ready, key=lambda entry: entry[0])[1] if ready else None

    def _declare_outages(self, now: float) -> None:
        for server in self.down_servers():
            breaker = server.breaker
            seconds = now - (breaker.down_since or now)
            if seconds >= self._limits.outage_s and server.head() is not None:
                self.stop(
                    JudgeOutage(
                        server.name,
                        breaker.last_kind,
                        seconds,
                        f"no usable reply for longer than ropd.judge.limits.outage_s="
                        f"{self._limits.outage_s:g}; last: {breaker.last_message}",
                    )
                )

    def _set_alarm(self, now: float, moment: float | None) -> None:
        moments = [] if moment is None else [moment]
        for server in self.down_servers():
            if server.head() is not None:
                moments.append((server.breaker.down_since or now) + self._limits.outage_s)
                if server.breaker.probe_at > now:
                    moments.append(server.breaker.probe_at)
        self.close()
        if moments:
            delay = min(moments) - now + 1e-3
            self._alarm = asyncio.get_running_loop().call_later(delay, self._move)
