"""What requests wait for and what they get: a URL's site, a model's server there, a permit to send.

State alone; who goes next, and when, is `admission.py`'s part.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from dataclasses import dataclass, field

from algo.llm.breaker import Breaker
from algo.llm.endpoint import Endpoint
from algo.llm.limits import AdaptiveLimit, Charge, InFlight
from algo.llm.settings import LimitsSettings


class Site:
    """One URL: how many requests it gets at once, whatever model they ask."""

    def __init__(self, limits: LimitsSettings) -> None:
        self.limit = AdaptiveLimit(limits.concurrency, limits.max_concurrency)

    @property
    def in_flight(self) -> int:
        return self.limit.in_flight

    @property
    def is_full(self) -> bool:
        return self.limit.is_full


@dataclass(eq=False)
class Permit:
    """The right to send one request, given back by `Admission.replied`, `failed`, `doubted` or
    `withdraw`."""

    server: Server
    sent: InFlight
    tokens: Charge

    @property
    def sent_at(self) -> float:
        return self.sent.at


@dataclass(order=True)
class Waiting:
    """A request in the queue; the lowest `rank` goes first, then the lowest `number`."""

    rank: int
    number: int
    tokens: int = field(compare=False)
    granted: asyncio.Future[Permit] = field(compare=False)


class Server:
    """One model at one URL, which fails as a whole: its queue, its breaker, and its URL's site."""

    def __init__(
        self, endpoint: Endpoint, site: Site, limits: LimitsSettings, rng: random.Random
    ) -> None:
        self.name = f"{endpoint.model} at {endpoint.base_url}"
        self.site = site
        self.breaker = Breaker(limits, rng)
        self.queue: list[Waiting] = []
        self.users = 0
        self.settled = asyncio.Event()
        """Set while it is known whether the server is down, or why nobody will find out."""
        self.trial_error: BaseException | None = None
        self.settled.set()

    def head(self) -> Waiting | None:
        """The next entry whose request still waits."""
        while self.queue and self.queue[0].granted.done():
            heapq.heappop(self.queue)
        return self.queue[0] if self.queue else None
