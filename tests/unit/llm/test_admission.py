"""Which request goes next, and until when it waits."""

from __future__ import annotations

import asyncio
import random

import pytest

from algo.errors import ConfigurationError, FailureKind, JudgeOutage
from algo.llm.admission import Admission, Deadline, Permit
from algo.llm.endpoint import Endpoint
from algo.llm.settings import LimitsSettings, RoleSettings

FAST = LimitsSettings(backoff_s=0.01, max_backoff_s=0.02, outage_s=0.2, breaker_failures=3)
ENDPOINT = Endpoint("verifier", "m", "http://h/v1", RoleSettings())
OTHER = Endpoint("rubricator", "other", "http://h/v1", RoleSettings())


def admission(**limits: object) -> Admission:
    return Admission(FAST.model_copy(update=limits), random.Random(0))


async def take(of: Admission, endpoint: Endpoint = ENDPOINT, priority: int = 0) -> Permit:
    server = of.server(endpoint)
    permit = await of.acquire(server, priority, 1, Deadline(server, 5.0))
    assert permit is not None
    return permit


async def test_higher_priority_goes_first_then_first_come() -> None:
    gate = admission(concurrency=1, max_concurrency=1)
    held = await take(gate)
    order: list[str] = []

    async def wait(name: str, priority: int) -> None:
        permit = await take(gate, priority=priority)
        order.append(name)
        gate.replied(permit)

    async with asyncio.TaskGroup() as group:
        for name, priority in (("r1", 0), ("r2", 0), ("v1", 1), ("v2", 1)):
            group.create_task(wait(name, priority))
        await asyncio.sleep(0)
        gate.replied(held)
    assert order == ["v1", "v2", "r1", "r2"]


async def test_a_request_that_gives_up_while_waiting_leaves_no_trace() -> None:
    gate = admission(concurrency=1, max_concurrency=1)
    held = await take(gate)
    waiting = asyncio.create_task(take(gate))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    gate.replied(held)
    gate.replied(await take(gate))
    assert gate.in_flight() == 0


async def test_the_deadline_ends_a_wait() -> None:
    gate = admission(concurrency=1, max_concurrency=1)
    await take(gate)
    server = gate.server(ENDPOINT)
    assert await gate.acquire(server, 0, 1, Deadline(server, 0.05)) is None


async def test_a_server_that_is_down_holds_its_own_requests_back_alone() -> None:
    gate = admission(outage_s=30.0, backoff_s=20.0, max_backoff_s=20.0)
    for _ in range(3):
        gate.failed(await take(gate), FailureKind.TRANSPORT, "x", None)
    waiting = asyncio.create_task(take(gate))
    gate.replied(await take(gate, OTHER))
    assert not waiting.done()
    waiting.cancel()
    gate.close()


async def test_waiting_for_a_server_that_is_down_does_not_use_up_the_deadline() -> None:
    gate = admission(outage_s=30.0, backoff_s=0.2, max_backoff_s=0.2)
    for _ in range(3):
        gate.failed(await take(gate), FailureKind.TRANSPORT, "x", None)
    server = gate.server(ENDPOINT)
    permit = await gate.acquire(server, 0, 1, Deadline(server, 0.02))
    assert permit is not None


async def test_an_outage_ends_every_wait_and_names_the_endpoint() -> None:
    gate = admission()
    with gate.user(gate.server(ENDPOINT)):
        for _ in range(3):
            gate.failed(await take(gate), FailureKind.TIMEOUT, "silent", None)
        probe = await take(gate)
        waiting = [asyncio.create_task(take(gate)) for _ in range(5)]
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    for outcome in outcomes:
        assert isinstance(outcome, JudgeOutage)
        assert outcome.endpoint == "m at http://h/v1"
        assert outcome.kind is FailureKind.TIMEOUT
    gate.withdraw(probe)
    with pytest.raises(JudgeOutage):
        await take(gate)


async def test_an_outage_is_not_counted_while_nobody_asks() -> None:
    gate = admission()
    with gate.user(gate.server(ENDPOINT)):
        for _ in range(3):
            gate.failed(await take(gate), FailureKind.TRANSPORT, "x", None)
    await asyncio.sleep(0.25)
    with gate.user(gate.server(ENDPOINT)):
        gate.replied(await take(gate))


async def test_the_queue_is_bounded_by_name() -> None:
    gate = admission(concurrency=1, max_concurrency=1, queue=1)
    await take(gate)
    waiting = asyncio.create_task(take(gate))
    await asyncio.sleep(0)
    with pytest.raises(ConfigurationError, match=r"ropd\.judge\.limits\.queue=1"):
        await take(gate)
    waiting.cancel()


async def test_requests_a_minute_hold_for_all_servers_together() -> None:
    gate = admission(requests_per_minute=2)
    gate.replied(await take(gate))
    gate.replied(await take(gate, OTHER))
    server = gate.server(ENDPOINT)
    assert await gate.acquire(server, 0, 1, Deadline(server, 0.05)) is None
    gate.close()
