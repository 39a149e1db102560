"""How many requests may be in flight, and how much a minute may hold."""

from __future__ import annotations

from algo.llm.limits import RAMP_S, AdaptiveLimit, RateWindow


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

    def test_doubles_ten_times_a_second_while_nothing_is_refused(self) -> None:
        limit = AdaptiveLimit(64, 256)
        for now, wanted in ((0.1, 128), (0.25, 256), (0.5, 256)):
            limit.full(now - RAMP_S)
            limit.ramp(now - 0.01)
            limit.ramp(now)
            assert limit.value == wanted
        limit.full(1.0)
        assert limit.ramp_at is None

    def test_timeouts_take_a_quarter_off_once_for_all_requests_of_one_wave(self) -> None:
        limit = AdaptiveLimit(64, 64)
        for _ in range(64):
            limit.slow(now=10.0, sent_at=9.0)
        assert limit.value == 48
        limit.slow(now=12.0, sent_at=11.0)
        assert limit.value == 36

    def test_settles_at_what_a_wave_of_refusals_leaves(self) -> None:
        limit = AdaptiveLimit(64, 64)
        for left in range(63, 7, -1):
            limit.refused(10.0, 9.0, left)
        assert limit.value == 8

    def test_tries_one_more_the_more_rarely_the_oftener_it_is_refused(self) -> None:
        limit = AdaptiveLimit(8, 64)
        limit.refused(0.0, 0.0, 4)
        waits = []
        for _ in range(6):
            replies = 0
            while limit.value == 4:
                limit.kept_up(4)
                replies += 1
            assert limit.value == 5
            waits.append(replies // 4)
            limit.refused(float(len(waits)), float(len(waits)), 4)
        assert waits == [2, 4, 8, 8, 8, 8]

    def test_climbs_in_doubling_steps_where_more_is_taken(self) -> None:
        limit = AdaptiveLimit(64, 64)
        limit.refused(0.0, 0.0, 4)
        seen = []
        for _ in range(200):
            limit.kept_up(limit.value)
            seen.append(limit.value)
        assert sorted(set(seen) - {4}) == [5, 7, 11, 19, 35, 64]

    def test_a_refusal_below_what_the_server_holds_is_about_something_else(self) -> None:
        limit = AdaptiveLimit(64, 64)
        for _ in range(50):
            for _ in range(4):
                limit.kept_up(40)
            limit.refused(1.0, 0.5, 39)
        assert limit.value == 64
        for _ in range(10):
            limit.refused(2.0, 1.5, 20)
        assert limit.value == 20

    def test_never_falls_below_one(self) -> None:
        limit = AdaptiveLimit(2, 2)
        for now in range(50):
            limit.slow(float(now), float(now))
            limit.refused(float(now), float(now), 0)
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
