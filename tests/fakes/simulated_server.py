"""A server in virtual time: what it takes at once, how long it takes, and when it is away.

It stands in for `Transport`, so that everything above it is the real engine.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from algo.errors import FailureKind
from algo.llm.endpoint import Endpoint, Reply, Request
from algo.llm.http.transport import Transport
from algo.llm.http.wire import Fault

Away = Literal["refuses", "hangs", "page", "html", "empty"]
"""Down: connections are refused, nothing ever comes, or a gateway answers: 404, 200 with a page, or
a reply without a word."""


@dataclass
class SimulatedServer(Transport):
    """Refuses above `capacity` in flight; a prompt that `poison` names meets its fault."""

    capacity: int = 10**9
    latency_s: Callable[[], float] = lambda: 1.0
    down: Sequence[tuple[float, float]] = ()
    away: Away = "refuses"
    poison: Callable[[str], FailureKind | None] = lambda prompt: None
    admits: Callable[[float], bool] = lambda now: True
    """Whether a request at that moment is let in, however few are at work: chance, or a quota."""
    transit_s: Callable[[], float] = lambda: 0.0
    """One way: what is done already is still in flight for the client, and the other way round."""
    refusal_s: float = 0.005
    retry_after_s: float | None = None
    at_work: int = 0
    peak: int = 0
    served: int = 0
    refused: int = 0
    trials: int = 0
    trials_answered_at: list[float] = field(default_factory=list[float])

    async def send(
        self, endpoint: Endpoint, request: Request, timeout_s: float, attempt: int
    ) -> Reply:
        prompt = request.messages[0]["content"]
        self.trials += prompt.startswith("Answer with")
        try:
            async with asyncio.timeout(timeout_s):
                await self._travel()
                try:
                    return await self._answer(prompt, attempt)
                finally:
                    await self._travel()
        except TimeoutError:
            raise Fault(FailureKind.TIMEOUT, f"nothing within {timeout_s:g} s") from None

    async def _travel(self) -> None:
        if seconds := self.transit_s():
            await asyncio.sleep(seconds)

    async def aclose(self) -> None:
        pass

    def is_down(self) -> bool:
        now = asyncio.get_running_loop().time()
        return any(start <= now < end for start, end in self.down)

    async def _answer(self, prompt: str, attempt: int) -> Reply:
        if self.is_down():
            return await self._absence()
        now = asyncio.get_running_loop().time()
        if not self.admits(now) or self.at_work >= self.capacity:
            self.refused += 1
            await asyncio.sleep(self.refusal_s)
            raise Fault(FailureKind.RATE_LIMIT, "HTTP 429", retry_after_s=self.retry_after_s)
        self.at_work += 1
        self.peak = max(self.peak, self.at_work)
        try:
            return await self._work(prompt, attempt)
        finally:
            self.at_work -= 1

    async def _work(self, prompt: str, attempt: int) -> Reply:
        fault = self.poison(prompt)
        if fault is FailureKind.TIMEOUT:
            await asyncio.sleep(10**6)
        if fault is not None:
            await asyncio.sleep(0.01)
            raise Fault(fault, f"planted {fault}")
        latency_s = self.latency_s()
        await asyncio.sleep(latency_s)
        if self.is_down():
            return await self._absence()
        self.served += 1
        return Reply(f"reply to {prompt}", "stop", "m", 1, 1, None, latency_s, attempt)

    async def _absence(self) -> Reply:
        if self.away == "hangs":
            await asyncio.sleep(10**6)
        await asyncio.sleep(0.005)
        if self.away == "empty":
            return Reply("", "stop", "m", None, None, None, 0.0, 1)
        if self.away == "html":
            raise Fault(FailureKind.TRANSPORT, "HTTP 200: not a reply", endpoint_down=False)
        if self.away == "page":
            raise Fault(
                FailureKind.TRANSPORT, "HTTP 404: page", endpoint_down=False, retryable=False
            )
        raise Fault(FailureKind.TRANSPORT, "refused")


def lognormal(median_s: float, seed: int, sigma: float = 0.35) -> Callable[[], float]:
    rng = random.Random(seed)
    return lambda: median_s * rng.lognormvariate(0.0, sigma)


def by_chance(share: float, seed: int) -> Callable[[float], bool]:
    """Refuses that share of all requests, for no reason."""
    rng = random.Random(seed)
    return lambda _: rng.random() >= share


def by_the_minute(most: int) -> Callable[[float], bool]:
    """Takes so many requests in each minute of the clock and refuses all others."""
    came: Counter[int] = Counter()

    def admits(now: float) -> bool:
        came[int(now // 60)] += 1
        return came[int(now // 60)] <= most

    return admits
