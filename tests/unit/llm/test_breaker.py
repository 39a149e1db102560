"""The breaker of a server, and the wait between attempts."""

from __future__ import annotations

import random

from algo.errors import FailureKind
from algo.llm.breaker import TRIAL_EVERY_S, Breaker, backoff_s
from algo.llm.settings import LimitsSettings

DOWN = FailureKind.TRANSPORT


def breaker(**limits: float) -> Breaker:
    settings = {"backoff_s": 1.0, "max_backoff_s": 8.0, "breaker_failures": 3, **limits}
    return Breaker(LimitsSettings.model_validate(settings), random.Random(0))


def doubted_at(now: float) -> Breaker:
    one = breaker()
    for ago in (2.0, 1.0, 0.0):
        one.failed(now - ago, now - 5.0, DOWN, "x")
    return one


def test_opens_on_failures_in_a_row_alone() -> None:
    one = breaker()
    for now in range(20):
        one.failed(now, now, DOWN, "x")
        one.failed(now, now, DOWN, "x")
        one.replied(now)
    assert not one.is_open
    assert doubted_at(10.0).is_open


def test_a_doubt_that_a_reply_settles_was_no_outage() -> None:
    one = doubted_at(10.0)
    assert not one.confirmed
    one.replied(12.0)
    assert not one.is_open
    assert not one.was_down(5.0, 11.0)
    assert one.down_total(99.0) == 2.0  # requests were held back for so long


def test_what_a_failed_trial_confirms_goes_back_to_the_first_failure() -> None:
    one = doubted_at(10.0)
    one.trial_failed(10.5, DOWN, "x", None)
    assert one.confirmed
    assert one.was_down(7.0, 8.0)
    assert not one.was_down(6.0, 7.9)
    one.replied(20.0)
    assert one.was_down(19.9, 30.0)  # sent while it was down
    assert not one.was_down(20.1, 30.0)
    assert not one.was_down(3.0, 7.9)


def test_a_trial_that_got_lost_confirms_it_too() -> None:
    one = doubted_at(10.0)
    one.replied(12.0, trial_lost=True)
    assert one.was_down(9.0, 11.0)


def test_two_rejections_in_a_row_are_a_doubt_and_one_is_none() -> None:
    one = breaker()
    one.doubted(1.0, 0.5, DOWN, "HTTP 404")
    assert not one.is_open
    one.doubted(2.0, 1.5, DOWN, "HTTP 404")
    assert one.is_open


def test_tries_again_after_a_second_at_most_unless_it_is_told_to_wait() -> None:
    one = doubted_at(10.0)
    assert one.trial_at == 10.0
    for now in range(11, 31):
        one.trial_failed(float(now), DOWN, "x", None)
        assert now < one.trial_at <= now + TRIAL_EVERY_S
    one.trial_failed(40.0, FailureKind.RATE_LIMIT, "x", 5.0)
    assert one.trial_at == 45.0
    one.trial_failed(50.0, FailureKind.RATE_LIMIT, "x", 3600.0)
    assert one.trial_at == 58.0  # max_backoff_s


def test_old_failures_do_not_count_after_it_closed() -> None:
    one = doubted_at(10.0)
    one.replied(11.0)
    for _ in range(5):
        one.failed(12.0, 9.0, DOWN, "x")
    one.failed(12.0, 12.0, DOWN, "x")
    assert not one.is_open


def test_a_trial_that_ends_late_changes_nothing() -> None:
    one = doubted_at(10.0)
    one.replied(11.0)
    one.trial_failed(12.0, DOWN, "x", None)
    assert not one.is_open
    assert not one.confirmed


def test_backoff_doubles_to_its_bound_with_jitter() -> None:
    limits = LimitsSettings(backoff_s=1.0, max_backoff_s=10.0)
    for failures, longest in enumerate([1.0, 2.0, 4.0, 8.0, 10.0, 10.0]):
        waits = [backoff_s(failures, limits, random.Random(seed)) for seed in range(50)]
        assert all(longest / 2 <= wait <= longest for wait in waits)
        assert max(waits) - min(waits) > longest / 4
    assert backoff_s(10_000, limits, random.Random(0)) <= 10.0
