"""What waiting costs, in virtual time: where a server refuses, and where one asks for patience."""

from __future__ import annotations

import asyncio
import random
from typing import Any, NamedTuple

import pytest

from algo.errors import FailureKind, JudgeFailure, JudgeOutage
from algo.llm.endpoint import Endpoint, Reply, Request
from algo.llm.http.wire import Fault
from algo.llm.scheduler import RequestScheduler
from algo.llm.settings import LimitsSettings, RoleSettings
from tests.builders.virtual_time import run
from tests.fakes.simulated_server import SimulatedServer, lognormal

ENDPOINT = Endpoint("judge", "m", "http://h/v1", RoleSettings())


class Step(NamedTuple):
    wall_s: float
    refused: float
    """Refused requests a good one."""


def steps_of(server: SimulatedServer, requests: int, steps: int = 4, **limits: Any) -> list[Step]:
    async def main() -> list[Step]:
        now = asyncio.get_running_loop().time
        settings = LimitsSettings.model_validate(limits)
        done: list[Step] = []
        async with RequestScheduler(settings, server, random.Random(0)) as scheduler:
            for _ in range(steps):
                began, server.refused = now(), 0
                await asyncio.gather(
                    *(scheduler.complete(ENDPOINT, ask(f"{n}")) for n in range(requests))
                )
                done.append(Step(now() - began, server.refused / requests))
        return done

    return run(main())


def ask(prompt: str) -> Request:
    return Request([{"role": "user", "content": prompt}])


@pytest.mark.parametrize("retry_after_s", [None, 0.5])
@pytest.mark.parametrize("capacity", [4, 6, 8, 16, 32, 64, 100])
def test_a_server_that_refuses_costs_little_more_than_its_bound(
    capacity: int, retry_after_s: float | None
) -> None:
    requests = 16 * capacity
    server = SimulatedServer(
        capacity=capacity, latency_s=lognormal(1.0, seed=1), retry_after_s=retry_after_s
    )
    mean_s = 1.063  # of the log-normal
    first, *later = steps_of(server, requests)
    assert first.wall_s < 1.2 * requests * mean_s / capacity
    assert first.refused <= 1.0
    for step in later:
        assert step.wall_s < 1.2 * requests * mean_s / capacity
        assert step.refused < 0.05


def test_256_at_once_cost_little_more_than_the_slowest() -> None:
    draw = lognormal(1.3, seed=1)
    seconds = [draw() for _ in range(256)]
    server = SimulatedServer(latency_s=iter(seconds).__next__)
    (first,) = steps_of(server, 256, steps=1)
    assert first.wall_s < 1.15 * max(seconds)
    assert server.peak <= 256


def test_a_server_that_grows_is_found_to_have_grown() -> None:
    server = SimulatedServer(capacity=8)
    before = steps_of(server, 64, steps=2)[-1]

    async def main() -> tuple[float, float]:
        now = asyncio.get_running_loop().time
        async with RequestScheduler(None, server, random.Random(0)) as scheduler:
            walls: list[float] = []
            for capacity in (8, 64):
                server.capacity, began = capacity, now()
                await asyncio.gather(
                    *(scheduler.complete(ENDPOINT, ask(f"{n}")) for n in range(512))
                )
                walls.append(now() - began)
        return walls[0], walls[1]

    small, large = run(main())
    assert before.wall_s >= 8.0
    assert large < small / 2


class Patient(SimulatedServer):
    """Asks for `asks_s` of patience, `times` times for each prompt but the trial's."""

    def __init__(self, asks_s: float, times: int) -> None:
        super().__init__(latency_s=lambda: 0.1)
        self.asks_s, self.times = asks_s, times
        self.asked_at: list[float] = []

    async def send(
        self, endpoint: Endpoint, request: Request, timeout_s: float, attempt: int
    ) -> Reply:
        if not request.messages[0]["content"].startswith("Answer with"):
            self.asked_at.append(asyncio.get_running_loop().time())
            if len(self.asked_at) <= self.times:
                raise Fault(FailureKind.RATE_LIMIT, "HTTP 429", retry_after_s=self.asks_s)
        return await super().send(endpoint, request, timeout_s, attempt)


def complete(server: SimulatedServer, **limits: Any) -> tuple[Reply | JudgeFailure, float, float]:
    """The outcome, when it came, and how many waits were cut."""

    async def main() -> tuple[Reply | JudgeFailure, float, float]:
        settings = LimitsSettings.model_validate(limits)
        async with RequestScheduler(settings, server, random.Random(0)) as scheduler:
            try:
                outcome: Reply | JudgeFailure = await scheduler.complete(ENDPOINT, ask("x"))
            except JudgeFailure as failure:
                outcome = failure
            cut = scheduler.drain_counters()["retry_after_capped"]
            return outcome, asyncio.get_running_loop().time(), cut

    return run(main())


@pytest.mark.parametrize("asks_s", [600.0, 3.6e8, float("inf")])
def test_a_server_that_asks_for_too_much_patience_gets_max_backoff(asks_s: float) -> None:
    outcome, ended_at, cut = complete(Patient(asks_s, 1), max_backoff_s=2.0)
    assert isinstance(outcome, Reply)
    assert ended_at < 3.0
    assert cut == 1.0


def test_what_it_asks_for_within_reason_is_given() -> None:
    outcome, ended_at, cut = complete(Patient(20.0, 1))
    assert isinstance(outcome, Reply)
    assert 20.0 <= ended_at < 21.0
    assert cut == 0.0


def test_it_is_asked_once_more_before_the_deadline() -> None:
    server = Patient(600.0, 1)
    outcome, _, _ = complete(server, stage_deadline_s=20.0)
    assert isinstance(outcome, Reply)
    assert len(server.asked_at) == 2
    assert server.asked_at[1] < 20.0


def test_a_wait_that_was_cut_is_said_in_the_failure() -> None:
    outcome, _, _ = complete(Patient(600.0, 99), stage_deadline_s=20.0)
    assert isinstance(outcome, JudgeFailure)
    assert "(Retry-After of 600 s, cut to max_backoff_s=30)" in str(outcome)


def test_closing_ends_what_is_in_flight_and_what_waits() -> None:
    server = SimulatedServer(latency_s=lambda: 1000.0)

    async def main() -> tuple[list[Any], float, int]:
        scheduler = RequestScheduler(LimitsSettings(concurrency=2, max_concurrency=2), server)
        asking = [asyncio.create_task(scheduler.complete(ENDPOINT, ask(f"{n}"))) for n in range(5)]
        await asyncio.sleep(1.0)
        await scheduler.aclose()
        outcomes: list[Any] = await asyncio.gather(*asking, return_exceptions=True)
        ended_at, at_work = asyncio.get_running_loop().time(), server.at_work
        with pytest.raises(JudgeOutage, match="closed"):
            await scheduler.complete(ENDPOINT, ask("late"))
        return outcomes, ended_at, at_work

    outcomes, ended_at, at_work = run(main())
    assert all(isinstance(outcome, JudgeOutage) for outcome in outcomes), outcomes
    assert ended_at < 1.001
    assert at_work == 0


def test_closing_leaves_a_task_cancelled_that_others_cancelled() -> None:
    server = SimulatedServer(latency_s=lambda: 1000.0)

    async def main() -> bool:
        scheduler = RequestScheduler(None, server)
        asking = asyncio.create_task(scheduler.complete(ENDPOINT, ask("x")))
        await asyncio.sleep(1.0)
        asking.cancel()
        await scheduler.aclose()
        await asyncio.gather(asking, return_exceptions=True)
        return asking.cancelled()

    assert run(main())
