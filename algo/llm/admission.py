"""Who may send next: a queue by priority in front of each server, under one set of limits.

Every request waits in its server's queue and gets a `Permit` when the server's breaker is closed,
the concurrency limit of its URL has room and the minute's allowance of requests and tokens covers
it; higher priority first, then first come. Nothing polls: the queue moves when a request arrives,
when one ends, and at the moment that a limit, an allowance or an outage is due. It sends nothing
itself; `scheduler.py` does, the trial request of an open breaker included.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Final

from algo.errors import ConfigurationError, FailureKind, JudgeOutage
from algo.llm.endpoint import Endpoint
from algo.llm.limits import RateWindow
from algo.llm.server import Permit, Server, Site, Waiting
from algo.llm.settings import LimitsSettings

logger = logging.getLogger(__name__)

# While a server is down its deadlines stand still, however close, so each is looked at again this
# often: rarely enough to cost nothing with thousands waiting.
_SHORTEST_WAIT_S: Final = 0.05


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
        self._sites: dict[str, Site] = {}
        self._requests = RateWindow(limits.requests_per_minute)
        self._tokens = RateWindow(limits.tokens_per_minute)
        self._numbers = itertools.count()
        self._waiting = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._stopped: JudgeOutage | None = None
        self._last_word: JudgeOutage | None = None
        self.peak_in_flight = 0

    def server(self, endpoint: Endpoint) -> Server:
        server = self._servers.get(endpoint.server)
        if server is None:
            site = self._sites.setdefault(endpoint.base_url, Site(self._limits))
            server = Server(endpoint, site, self._limits, self._rng)
            self._servers[endpoint.server] = server
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
            raise _again(self._stopped)
        if server.trial_error is not None:
            raise _broken_trial(server)
        if deadline.remaining() <= 0.0:
            return None
        if self._waiting >= self._limits.queue:
            raise ConfigurationError(
                f"more than ropd.judge.limits.queue={self._limits.queue} requests are waiting: "
                "raise it, or judge fewer groups at once"
            )
        granted: asyncio.Future[Permit] = asyncio.get_running_loop().create_future()
        entry = Waiting(-priority, next(self._numbers), tokens, granted)
        heapq.heappush(server.queue, entry)
        self._waiting += 1
        try:
            self._move()
            return await self._granted(entry, deadline)
        finally:
            self._waiting -= 1

    async def _granted(self, entry: Waiting, deadline: Deadline) -> Permit | None:
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

    async def verdict(self, server: Server) -> None:
        """Wait until it is known whether the server is down. Raises `JudgeOutage`."""
        await server.settled.wait()
        if server.trial_error is not None:
            raise _broken_trial(server)
        if self._stopped is not None and server.breaker.is_open:
            raise _again(self._stopped)

    def replied(self, permit: Permit, tokens_used: int | None = None) -> None:
        """The server answered: with a reply, or with a fault that is about the request alone."""
        server = permit.server
        self._lives(server, trial_lost=False)
        server.site.limit.replied(monotonic(), permit.sent, server.head() is not None)
        self._release(permit, tokens_used)

    def failed(self, permit: Permit, kind: FailureKind, message: str) -> None:
        """The server failed, or the request has it fail."""
        server, now = permit.server, monotonic()
        if kind is FailureKind.RATE_LIMIT:
            server.site.limit.refused(now, permit.sent)
        elif kind is FailureKind.TIMEOUT:
            server.site.limit.slow(now, permit.sent)
        self._release(permit, None if kind is FailureKind.TIMEOUT else 0)
        # A server that refuses while it works on others is full, not down.
        if kind is not FailureKind.RATE_LIMIT or not server.site.in_flight:
            server.breaker.failed(now, permit.sent_at, kind, message)
            self._unsettle(server)

    def doubted(self, permit: Permit, kind: FailureKind, message: str) -> None:
        """The answer is about the request, or a gateway's for a server that is away."""
        permit.server.breaker.doubted(monotonic(), permit.sent_at, kind, message)
        self._unsettle(permit.server)
        self._release(permit, None)

    def withdraw(self, permit: Permit) -> None:
        """The request was given up before an outcome was known."""
        self._release(permit, None)

    def suspect(self, server: Server) -> None:
        """A request is about to be given up: find out first whether the server is down."""
        server.breaker.suspect(monotonic())
        self._unsettle(server)

    def trial_sent(self) -> None:
        self._requests.charge(monotonic(), 1)

    def trial_replied(self, server: Server, earlier_one_lost: bool) -> None:
        self._lives(server, earlier_one_lost)
        self._move()

    def trial_broke(self, server: Server, error: BaseException) -> None:
        """Finding out about the server ended by a fault of this code: whoever waits for it gets to
        know that, since it would look like an outage otherwise."""
        server.trial_error = error
        server.settled.set()
        for entry in server.queue:
            if not entry.granted.done():
                entry.granted.set_exception(_broken_trial(server))
        server.queue.clear()

    def trial_failed(
        self, server: Server, kind: FailureKind, message: str, retry_after_s: float | None
    ) -> None:
        breaker = server.breaker
        was_confirmed = breaker.confirmed
        breaker.trial_failed(monotonic(), kind, message, retry_after_s)
        if breaker.confirmed and not was_confirmed:
            server.settled.set()
            logger.warning(
                "%s is down (%s: %s): its requests wait, for %g s at most",
                server.name,
                kind.value,
                message,
                self._limits.outage_s,
            )

    def _lives(self, server: Server, trial_lost: bool) -> None:
        breaker, now = server.breaker, monotonic()
        if breaker.confirmed and breaker.down_since is not None:
            logger.warning("%s answers again after %.1f s", server.name, now - breaker.down_since)
        breaker.replied(now, trial_lost)
        server.settled.set()

    def _unsettle(self, server: Server) -> None:
        if server.breaker.is_open and not server.breaker.confirmed:
            server.settled.clear()

    def stop(self, outage: JudgeOutage) -> None:
        """End every wait, now and from now on, with `outage`."""
        self._stopped = outage
        for server in self._servers.values():
            for entry in server.queue:
                if not entry.granted.done():
                    entry.granted.set_exception(_again(outage))
            server.queue.clear()
            server.settled.set()

    def drain(self, outage: JudgeOutage) -> None:
        """Grant nothing any more; `stop` with `outage` once nothing is in flight.

        So whoever is in flight ends as usual, before anybody learns of the end: what fails would
        otherwise cancel requests of its group that are paid already.
        """
        self._last_word = outage
        self._move()

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
        return sum(site.in_flight for site in self._sites.values())

    def _release(self, permit: Permit, tokens_used: int | None) -> None:
        permit.server.site.limit.forget(permit.sent)
        if tokens_used is not None:
            self._tokens.settle(permit.tokens, tokens_used)
        # Not at once: the caller may be about to ask for its next, more urgent request.
        asyncio.get_running_loop().call_soon(self._move)

    def _move(self) -> None:
        """Grant every permit that is due, and set the alarm for the next moment one may be."""
        now = monotonic()
        self._declare_outages(now)
        if self._last_word is not None:
            if self._stopped is None and not self.in_flight():
                self.stop(self._last_word)
            self._set_alarm(now, None)
            return
        for site in self._sites.values():
            site.limit.ramp(now)
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
        sent = server.site.limit.send(now)
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight())
        self._requests.charge(now, 1)
        return Permit(server, sent, self._tokens.charge(now, tokens))

    def _rate_wait_s(self, now: float, tokens: int) -> float:
        return max(self._requests.wait_s(now, 1), self._tokens.wait_s(now, tokens))

    def _next_server(self, now: float) -> Server | None:
        """The server whose head may go and ranks first."""
        ready: list[tuple[Waiting, Server]] = []
        for server in self._servers.values():
            head = server.head()
            if head is None or server.breaker.is_open:
                continue
            if server.site.is_full:
                server.site.limit.full(now)
            else:
                ready.append((head, server))
        return min(ready, key=lambda entry: entry[0])[1] if ready else None

    def _declare_outages(self, now: float) -> None:
        for server in self.down_servers():
            breaker = server.breaker
            seconds = now - (breaker.down_since or now)
            if seconds >= self._limits.outage_s and server.users:
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
        moments += [
            (server.breaker.down_since or now) + self._limits.outage_s
            for server in self.down_servers()
            if server.users
        ]
        ramps = (site.limit.ramp_at for site in self._sites.values())
        moments += [ramp_at for ramp_at in ramps if ramp_at is not None]
        self.close()
        if moments:
            delay = min(moments) - now + 1e-3
            self._alarm = asyncio.get_running_loop().call_later(delay, self._move)


def _broken_trial(server: Server) -> RuntimeError:
    """An error of its own for each that waits: one raised in several tasks mixes tracebacks."""
    error = RuntimeError(f"the trial request to {server.name} ended: {server.trial_error!r}")
    error.__cause__ = server.trial_error
    return error


def _again(outage: JudgeOutage) -> JudgeOutage:
    """The same error anew: one raised in several tasks would mix their tracebacks."""
    return type(outage)(*outage.args)
