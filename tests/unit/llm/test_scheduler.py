"""The parts of the request engine: breaker, limits, admission."""

from __future__ import annotations

import asyncio
import random

import pytest

from algo.errors import ConfigurationError, FailureKind, JudgeOutage
from algo.llm.admission import Admission, Deadline, Permit
from algo.llm.breaker import Breaker, backoff_s
from algo.llm.endpoint import Endpoint
from algo.llm.limits import AdaptiveLimit, RateWindow
from algo.llm.settings import LimitsSettings, RoleSettings

DOWN = FailureKind.TRANSPORT
FAST = LimitsSettings(backoff_s=0.01, max_backoff_s=0.02, outage_s=0.2, breaker_failures=3)


def breaker(**limits: float) -> Breaker:
    settings = {"backoff_s": 1.0, "max_backoff_s": 8.0, "breaker_failures": 3, **limits}
    return Breaker(LimitsSettings.model_validate(settings), random.Random(0))


def open_one() -> Breaker:
    one = breaker()
    for _ in range(3):
        one.failed(10.0, one.sent(), DOWN, "x")
    return one


class TestBreaker:
    def test_opens_on_failures_in_a_row_alone(self) -> None:
        one = breaker()
        for now in range(20):
            one.failed(now, one.sent(), DOWN, "x")
            one.failed(now, one.sent(), DOWN, "x")
            one.replied(now)
        assert not one.is_open

    def test_lets_one_probe_through_at_a_time(self) -> None:
        one = open_one()
        assert one.is_open
        assert not one.admits(10.1)
        assert one.admits(11.0)
        one.sent()
        assert not one.admits(11.0)

    def test_failures_of_requests_sent_before_it_opened_change_nothing(self) -> None:
        one = breaker()
        early = [one.sent() for _ in range(10)]
        for epoch in early[:3]:
            one.failed(10.0, epoch, DOWN, "x")
        probe = one.sent()
        for epoch in early[3:]:
            one.failed(10.5, epoch, DOWN, "x")
        assert not one.admits(100.0)  # the probe is still out
        one.failed(11.0, probe, DOWN, "x")
        assert one.admits(100.0)

    def test_waits_longer_after_each_failed_probe_and_as_long_as_it_is_told(self) -> None:
        one = open_one()
        waits = []
        now = 10.0
        for _ in range(5):
            now = one.probe_at
            one.failed(now, one.sent(), DOWN, "x")
            waits.append(one.probe_at - now)
        assert waits[0] <= 2.0 < waits[2]
        assert max(waits) <= 8.0
        now = one.probe_at
        one.failed(now, one.sent(), FailureKind.RATE_LIMIT, "x", retry_after_s=60.0)
        assert one.probe_at == now + 60.0

    def test_any_reply_closes_it(self) -> None:
        one = open_one()
        one.replied(15.0)
        assert not one.is_open
        assert one.admits(15.0)
        assert one.down_total(99.0) == 5.0

    def test_a_probe_given_up_makes_room_for_another(self) -> None:
        one = open_one()
        one.withdrawn(one.sent())
        assert one.admits(20.0)

    def test_old_failures_do_not_count_after_it_closed(self) -> None:
        one = breaker()
        early = [one.sent() for _ in range(5)]
        for epoch in early[:3]:
            one.failed(10.0, epoch, DOWN, "x")
        one.replied(11.0)
        for epoch in early[3:]:
            one.failed(12.0, epoch, DOWN, "x")
        one.failed(12.0, one.sent(), DOWN, "x")
        assert not one.is_open


def test_backoff_doubles_to_its_bound_with_jitter() -> None:
    limits = LimitsSettings(backoff_s=1.0, max_backoff_s=10.0)
    for failures, longest in enumerate([1.0, 2.0, 4.0, 8.0, 10.0, 10.0]):
        waits = [backoff_s(failures, limits, random.Random(seed)) for seed in range(50)]
        assert all(longest / 2 <= wait <= longest for wait in waits)
        assert max(waits) - min(waits) > longest / 4
    assert backoff_s(10_000, limits, random.Random(0)) <= 10.0


class TestAdaptiveLimit:
    def test_doubles_a_round_while_it_is_what_holds_requests_back(self) -> None:
        limit = AdaptiveLimit(4, 64)
        for wanted in (8, 16, 32, 64, 64):
            for _ in range(limit.value):
                limit.kept_up(limit.value)
            assert limit.value == wanted

    def test_stays_when_there_are_fewer_requests_than_it_allows(self) -> None:
        limit = AdaptiveLimit(8, 64)
        for _ in range(100):
            limit.kept_up(7)
        assert limit.value == 8

    def test_shrinks_once_for_all_requests_of_one_wave(self) -> None:
        limit = AdaptiveLimit(64, 64)
        for _ in range(64):
            limit.overloaded(now=10.0, sent_at=9.0)
        assert limit.value == 48
        limit.overloaded(now=12.0, sent_at=11.0)
        assert limit.value == 36

    def test_grows_by_one_a_round_after_an_overload(self) -> None:
        limit = AdaptiveLimit(64, 256)
        limit.overloaded(now=10.0, sent_at=9.0)
        for _ in range(50):
            limit.kept_up(limit.value)
        assert limit.value == 49

    def test_never_falls_below_one(self) -> None:
        limit = AdaptiveLimit(2, 2)
        for now in range(50):
            limit.overloaded(float(now), float(now))
        assert limit.value == 1


class TestRateWindow:
    def test_no_limit_never_waits(self) -> None:
        window = RateWindow(None)
        window.charge(0.0, 10**9)
        assert window.wait_s(0.0, 10**9) == 0.0

    def test_waits_until_enough_has_left_the_minute(self) -> None:
        window = RateWindow(100)
        window.charge(0.0, 60)
        window.charge(10.0, 40)
        assert window.wait_s(20.0, 30) == 40.0
        assert window.wait_s(20.0, 70) == 50.0
        assert window.wait_s(60.0, 60) == 0.0

    def test_charges_what_a_reply_really_used(self) -> None:
        window = RateWindow(100)
        charge = window.charge(0.0, 100)
        assert window.wait_s(1.0, 50) > 0.0
        window.settle(charge, 30)
        assert window.wait_s(1.0, 50) == 0.0
        assert window.wait_s(1.0, 71) > 0.0

    def test_settling_after_the_minute_changes_nothing(self) -> None:
        window = RateWindow(100)
        charge = window.charge(0.0, 100)
        assert window.wait_s(60.0, 100) == 0.0
        window.settle(charge, 10)
        window.charge(60.0, 100)
        assert window.wait_s(61.0, 1) == 59.0

    def test_more_than_the_limit_goes_alone(self) -> None:
        window = RateWindow(100)
        assert window.wait_s(0.0, 500) == 0.0
        window.charge(0.0, 10)
        assert window.wait_s(1.0, 500) == 59.0


ENDPOINT = Endpoint("verifier", "m", "http://h/v1", RoleSettings())
OTHER = Endpoint("rubricator", "other", "http://h/v1", RoleSettings())


def admission(**limits: object) -> Admission:
    return Admission(FAST.model_copy(update=limits), random.Random(0))


async def take(of: Admission, endpoint: Endpoint = ENDPOINT, priority: int = 0) -> Permit:
    server = of.server(endpoint)
    permit = await of.acquire(server, priority, 1, Deadline(server, 5.0))
    assert permit is not None
    return permit


class TestAdmission:
    async def test_higher_priority_goes_first_then_first_come(self) -> None:
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

    async def test_a_request_that_gives_up_while_waiting_leaves_no_trace(self) -> None:
        gate = admission(concurrency=1, max_concurrency=1)
        held = await take(gate)
        waiting = asyncio.create_task(take(gate))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        gate.replied(held)
        gate.replied(await take(gate))
        assert gate.in_flight() == 0

    async def test_the_deadline_ends_a_wait(self) -> None:
        gate = admission(concurrency=1, max_concurrency=1)
        await take(gate)
        server = gate.server(ENDPOINT)
        assert await gate.acquire(server, 0, 1, Deadline(server, 0.05)) is None

    async def test_a_server_that_is_down_holds_its_own_requests_back_alone(self) -> None:
        gate = admission(outage_s=30.0, backoff_s=20.0, max_backoff_s=20.0)
        for _ in range(3):
            gate.failed(await take(gate), DOWN, "x", None)
        waiting = asyncio.create_task(take(gate))
        gate.replied(await take(gate, OTHER))
        assert not waiting.done()
        waiting.cancel()
        gate.close()

    async def test_waiting_for_a_server_that_is_down_does_not_use_up_the_deadline(self) -> None:
        gate = admission(outage_s=30.0, backoff_s=0.2, max_backoff_s=0.2)
        for _ in range(3):
            gate.failed(await take(gate), DOWN, "x", None)
        server = gate.server(ENDPOINT)
        permit = await gate.acquire(server, 0, 1, Deadline(server, 0.02))
        assert permit is not None

    async def test_an_outage_ends_every_wait_and_names_the_endpoint(self) -> None:
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

    async def test_an_outage_is_not_counted_while_nobody_asks(self) -> None:
        gate = admission()
        with gate.user(gate.server(ENDPOINT)):
            for _ in range(3):
                gate.failed(await take(gate), DOWN, "x", None)
        await asyncio.sleep(0.25)
        with gate.user(gate.server(ENDPOINT)):
            gate.replied(await take(gate))

    async def test_the_queue_is_bounded_by_name(self) -> None:
        gate = admission(concurrency=1, max_concurrency=1, queue=1)
        await take(gate)
        waiting = asyncio.create_task(take(gate))
        await asyncio.sleep(0)
        with pytest.raises(ConfigurationError, match=r"ropd\.judge\.limits\.queue=1"):
            await take(gate)
        waiting.cancel()

    async def test_requests_a_minute_hold_for_all_servers_together(self) -> None:
        gate = admission(requests_per_minute=2)
        gate.replied(await take(gate))
        gate.replied(await take(gate, OTHER))
        server = gate.server(ENDPOINT)
        assert await gate.acquire(server, 0, 1, Deadline(server, 0.05)) is None
        gate.close()
