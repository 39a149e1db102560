"""How many requests may be in flight, and how much a minute may hold."""

from __future__ import annotations

from algo.llm.limits import AdaptiveLimit, RateWindow


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
