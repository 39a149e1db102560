"""The breaker of an endpoint, and the wait between attempts."""

from __future__ import annotations

import random

from algo.errors import FailureKind
from algo.llm.breaker import Breaker, backoff_s
from algo.llm.settings import LimitsSettings

DOWN = FailureKind.TRANSPORT


def breaker(**limits: float) -> Breaker:
    settings = {"backoff_s": 1.0, "max_backoff_s": 8.0, "breaker_failures": 3, **limits}
    return Breaker(LimitsSettings.model_validate(settings), random.Random(0))


def open_one() -> Breaker:
    one = breaker()
    for _ in range(3):
        one.failed(10.0, one.sent(), DOWN, "x")
    return one


def test_opens_on_failures_in_a_row_alone() -> None:
    one = breaker()
    for now in range(20):
        one.failed(now, one.sent(), DOWN, "x")
        one.failed(now, one.sent(), DOWN, "x")
        one.replied(now)
    assert not one.is_open


def test_lets_one_probe_through_at_a_time() -> None:
    one = open_one()
    assert one.is_open
    assert not one.admits(10.1)
    assert one.admits(11.0)
    one.sent()
    assert not one.admits(11.0)


def test_failures_of_requests_sent_before_it_opened_change_nothing() -> None:
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


def test_waits_longer_after_each_failed_probe_and_as_long_as_it_is_told() -> None:
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


def test_any_reply_closes_it() -> None:
    one = open_one()
    one.replied(15.0)
    assert not one.is_open
    assert one.admits(15.0)
    assert one.down_total(99.0) == 5.0


def test_a_probe_given_up_makes_room_for_another() -> None:
    one = open_one()
    one.withdrawn(one.sent())
    assert one.admits(20.0)


def test_old_failures_do_not_count_after_it_closed() -> None:
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
