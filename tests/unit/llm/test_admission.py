"""Which request goes next, and until when it waits."""

from __future__ import annotations

import asyncio
import random

import pytest

from algo.errors import ConfigurationError, FailureKind, JudgeOutage
from algo.llm.admission import Admission, Deadline
from algo.llm.endpoint import Endpoint
from algo.llm.server import Permit, Server
from algo.llm.settings import LimitsSettings, RoleSettings

FAST = LimitsSettings(backoff_s=0.01, max_backoff_s=0.02, outage_s=0.2, breaker_failures=3)
ENDPOINT = Endpoint("verifier", "m", "http://h/v1", RoleSettings())
ELSEWHERE = Endpoint("verifier", "m", "http://elsewhere/v1", RoleSettings())
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


async def go_down(gate: Admission, kind: FailureKind = FailureKind.TRANSPORT) -> Server:
    """Three requests fail, and so does the trial request."""
    for _ in range(3):
        gate.failed(await take(gate), kind, "x")
    server = gate.server(ENDPOINT)
    gate.trial_failed(server, kind, "silent", None)
    return server


async def test_a_server_that_is_down_holds_its_own_requests_back_alone() -> None:
    gate = admission(outage_s=30.0)
    server = await go_down(gate)
    waiting = asyncio.create_task(take(gate))
    gate.replied(await take(gate, OTHER))
    assert not waiting.done()
    gate.trial_replied(server, earlier_one_lost=False)
    gate.replied(await waiting)
    gate.close()


async def test_waiting_for_a_server_that_is_down_does_not_use_up_the_deadline() -> None:
    gate = admission(outage_s=30.0)
    server = await go_down(gate)
    asyncio.get_running_loop().call_later(0.2, gate.trial_replied, server, False)
    permit = await gate.acquire(server, 0, 1, Deadline(server, 0.02))
    assert permit is not None


async def test_a_verdict_is_waited_for() -> None:
    gate = admission(outage_s=30.0)
    server = gate.server(ENDPOINT)
    await gate.verdict(server)
    gate.suspect(server)
    waiting = asyncio.create_task(gate.verdict(server))
    await asyncio.sleep(0)
    assert not waiting.done()
    gate.trial_failed(server, FailureKind.TRANSPORT, "x", None)
    await waiting
    gate.close()


async def test_an_outage_ends_every_wait_and_names_the_endpoint() -> None:
    gate = admission()
    with gate.user(gate.server(ENDPOINT)):
        await go_down(gate, FailureKind.TIMEOUT)
        waiting = [asyncio.create_task(take(gate)) for _ in range(5)]
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    for outcome in outcomes:
        assert isinstance(outcome, JudgeOutage)
        assert outcome.endpoint == "m at http://h/v1"
        assert outcome.kind is FailureKind.TIMEOUT
    with pytest.raises(JudgeOutage):
        await take(gate)


async def test_an_outage_is_not_counted_while_nobody_asks() -> None:
    gate = admission()
    with gate.user(gate.server(ENDPOINT)):
        server = await go_down(gate)
    await asyncio.sleep(0.25)
    with gate.user(server):
        waiting = asyncio.create_task(take(gate))
        await asyncio.sleep(0.05)
        gate.trial_replied(server, earlier_one_lost=False)
        gate.replied(await waiting)


async def test_two_models_at_one_url_share_its_limit() -> None:
    gate = admission(concurrency=2, max_concurrency=2)
    held = [await take(gate), await take(gate, OTHER)]
    waiting = asyncio.create_task(take(gate, OTHER))
    await asyncio.sleep(0)
    assert not waiting.done()
    gate.replied(await take(gate, ELSEWHERE))
    gate.replied(held[0])
    gate.replied(await waiting)
    gate.close()


async def test_a_server_that_refuses_while_it_works_is_full_not_down() -> None:
    gate = admission()
    held = await take(gate)
    for permit in [await take(gate) for _ in range(20)]:
        gate.failed(permit, FailureKind.RATE_LIMIT, "HTTP 429")
    assert not gate.down_servers()
    gate.replied(held)


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
