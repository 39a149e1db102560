"""Who may send next: a queue by priority in front of each server, under one set of limits.

Every waiting request holds a place in its server's queue. A place turns into a `Permit` when the
server's breaker admits it, the server's concurrency limit has room and the minute's allowance of
requests and tokens covers it; higher priority first, then first come. Nothing polls: the queue
moves when a request arrives, when one ends, and at the moment that a breaker, an allowance or an
outage is due. It sends nothing itself; `scheduler.py` does.
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

from algo.ropd.breaker import Breaker
from algo.ropd.endpoint import Endpoint
from algo.ropd.errors import ConfigurationError, FailureKind, JudgeOutage
from algo.ropd.limiter import AdaptiveLimit, Charge, RateWindow
from algo.ropd.settings import LimitsSettings

logger = logging.getLogger(__name__)

_SHORTEST_WAIT_S: Final = 0.05
"""While a server is down its deadlines stand still, however close; they are looked at this often.
"""


@dataclass(eq=False)
class Permit:
    """The right to send one request; given back through `Admission.release`."""

    lane: Lane
    epoch: int
    sent_at: float
    tokens: Charge


@dataclass(order=True)
class _Place:
    rank: int
    number: int
    tokens: int = field(compare=False)
    granted: asyncio.Future[Permit] = field(compare=False)


class Lane:
    """One server: its queue, its breaker and its concurrency limit."""

    def __init__(self, endpoint: Endpoint, limits: LimitsSettings, rng: random.Random) -> None:
        self.name = f"{endpoint.model} at {endpoint.base_url}"
        self.breaker = Breaker(limits, rng)
        self.limit = AdaptiveLimit(limits.concurrency, limits.max_concurrency)
        self.queue: list[_Place] = []
        self.in_flight = 0
        self.users = 0

    def head(self) -> _Place | None:
        """The next place whose request still waits."""
        while self.queue and self.queue[0].granted.done():
            heapq.heappop(self.queue)
        return self.queue[0] if self.queue else None


class Deadline:
    """`seconds` from now on one lane's clock, which stands still while its server is down.

    Waiting for a server that is down is bounded by `outage_s` instead.
    """

    def __init__(self, lane: Lane, seconds: float) -> None:
        now = monotonic()
        self._lane = lane
        self._ends_at = now + seconds
        self._down_before = lane.breaker.down_total(now)

    def remaining(self) -> float:
        now = monotonic()
        return self._ends_at - now + self._lane.breaker.down_total(now) - self._down_before


class Admission:
    """All lanes of a process and the limits they share."""

    def __init__(self, limits: LimitsSettings, rng: random.Random) -> None:
        self._limits = limits
        self._rng = rng
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._requests = RateWindow(limits.requests_per_minute)
        self._tokens = RateWindow(limits.tokens_per_minute)
        self._numbers = itertools.count()
        self._waiting = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._stopped: JudgeOutage | None = None
        self.peak_in_flight = 0

    def lane(self, endpoint: Endpoint) -> Lane:
        lane = self._lanes.get(endpoint.server)
        if lane is None:
            lane = self._lanes[endpoint.server] = Lane(endpoint, self._limits, self._rng)
        return lane

    @contextmanager
    def user(self, lane: Lane) -> Iterator[None]:
        """Marks a request as wanting this lane, from its first attempt to its end.

        An outage is time during which somebody wanted the server, so it begins anew with the first
        user after a pause.
        """
        if lane.users == 0:
            lane.breaker.restart_outage(monotonic())
        lane.users += 1
        try:
            yield
        finally:
            lane.users -= 1

    async def acquire(
        self, lane: Lane, priority: int, tokens: int, deadline: Deadline
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
        place = _Place(-priority, next(self._numbers), tokens, granted)
        heapq.heappush(lane.queue, place)
        self._waiting += 1
        try:
            self._move()
            return await self._granted(place, deadline)
        finally:
            self._waiting -= 1

    def acquire_now(self, lane: Lane, tokens: int) -> Permit | None:
        """A permit without waiting, if nobody waits for one and the limits have room."""
        now = monotonic()
        busy = lane.head() is not None or lane.in_flight >= lane.limit.value
        if busy or lane.breaker.is_open or self._rate_wait_s(now, tokens) > 0.0:
            return None
        return self._grant(lane, now, tokens)

    async def _granted(self, place: _Place, deadline: Deadline) -> Permit | None:
        try:
            while not place.granted.done():
                remaining = deadline.remaining()
                if remaining <= 0.0:
                    place.granted.cancel()
                    return None
                await asyncio.wait((place.granted,), timeout=max(remaining, _SHORTEST_WAIT_S))
            return place.granted.result()
        except asyncio.CancelledError:
            if not place.granted.cancel() and place.granted.exception() is None:
                self.withdraw(place.granted.result())
            raise

    def replied(self, permit: Permit, tokens_used: int | None = None) -> None:
        """The server answered: with a reply, or with a fault that is about the request alone."""
        lane, now = permit.lane, monotonic()
        if lane.breaker.down_since is not None:
            logger.warning(
                "%s answers again after %.1f s", lane.name, now - lane.breaker.down_since
            )
        lane.breaker.replied(now)
        lane.limit.kept_up(lane.in_flight)
        self._release(permit, tokens_used)

    def failed(
        self, permit: Permit, kind: FailureKind, message: str, retry_after_s: float | None
    ) -> None:
        """The server failed."""
        lane, now = permit.lane, monotonic()
        was_open = lane.breaker.is_open
        lane.breaker.failed(now, permit.epoch, kind, message, retry_after_s)
        if lane.breaker.is_open and not was_open:
            logger.warning(
                "%s is down (%s: %s): its requests wait, for %g s at most",
                lane.name,
                kind.value,
                message,
                self._limits.outage_s,
            )
        if kind in (FailureKind.RATE_LIMIT, FailureKind.TIMEOUT):
            lane.limit.overloaded(now, permit.sent_at)
        self._release(permit, None if kind is FailureKind.TIMEOUT else 0)

    def withdraw(self, permit: Permit) -> None:
        """The request was given up before an outcome was known."""
        permit.lane.breaker.withdrawn(permit.epoch)
        self._release(permit, None)

    def stop(self, outage: JudgeOutage) -> None:
        """End every wait, now and from now on, with `outage`."""
        self._stopped = outage
        for lane in self._lanes.values():
            for place in lane.queue:
                if not place.granted.done():
                    place.granted.set_exception(JudgeOutage(*outage.args))
            lane.queue.clear()

    def close(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    @property
    def stopped(self) -> JudgeOutage | None:
        return self._stopped

    def down_lanes(self) -> list[Lane]:
        return [lane for lane in self._lanes.values() if lane.breaker.is_open]

    def down_s(self) -> float:
        """Seconds, over the whole run, during which a server was taken to be down."""
        return sum(lane.breaker.down_total(monotonic()) for lane in self._lanes.values())

    def waiting(self) -> int:
        return self._waiting

    def in_flight(self) -> int:
        return sum(lane.in_flight for lane in self._lanes.values())

    def _release(self, permit: Permit, tokens_used: int | None) -> None:
        permit.lane.in_flight -= 1
        if tokens_used is not None:
            self._tokens.settle(permit.tokens, tokens_used)
        # Not at once: the caller may be about to ask for its next, more urgent request.
        asyncio.get_running_loop().call_soon(self._move)

    def _move(self) -> None:
        """Grant every permit that is due, and set the alarm for the next moment one may be."""
        now = monotonic()
        self._declare_outages(now)
        while (lane := self._next_lane(now)) is not None:
            place = lane.queue[0]
            wait = self._rate_wait_s(now, place.tokens)
            if wait > 0.0:
                self._set_alarm(now, now + wait)
                return
            heapq.heappop(lane.queue)
            place.granted.set_result(self._grant(lane, now, place.tokens))
        self._set_alarm(now, None)

    def _grant(self, lane: Lane, now: float, tokens: int) -> Permit:
        lane.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight())
        self._requests.charge(now, 1)
        return Permit(lane, lane.breaker.sent(), now, self._tokens.charge(now, tokens))

    def _rate_wait_s(self, now: float, tokens: int) -> float:
        return max(self._requests.wait_s(now, 1), self._tokens.wait_s(now, tokens))

    def _next_lane(self, now: float) -> Lane | None:
        """The lane whose head may go and ranks first."""
        ready = [
            (head, lane)
            for lane in self._lanes.values()
            if (head := lane.head()) is not None
            and lane.breaker.admits(now)
            and (lane.breaker.is_open or lane.in_flight < lane.limit.value)
        ]
        return min(ready, key=lambda entry: entry[0])[1] if ready else None

    def _declare_outages(self, now: float) -> None:
        for lane in self.down_lanes():
            breaker = lane.breaker
            seconds = now - (breaker.down_since or now)
            if seconds >= self._limits.outage_s and lane.head() is not None:
                self.stop(
                    JudgeOutage(
                        lane.name,
                        breaker.last_kind,
                        seconds,
                        f"no usable reply for longer than ropd.judge.limits.outage_s="
                        f"{self._limits.outage_s:g}; last: {breaker.last_message}",
                    )
                )

    def _set_alarm(self, now: float, moment: float | None) -> None:
        moments = [] if moment is None else [moment]
        for lane in self.down_lanes():
            if lane.head() is not None:
                moments.append((lane.breaker.down_since or now) + self._limits.outage_s)
                if lane.breaker.probe_at > now:
                    moments.append(lane.breaker.probe_at)
        self.close()
        if moments:
            delay = min(moments) - now + 1e-3
            self._alarm = asyncio.get_running_loop().call_later(delay, self._move)
