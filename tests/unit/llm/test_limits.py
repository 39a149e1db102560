"""How many requests may be in flight, and how much a minute may hold."""

from __future__ import annotations

import pytest

from algo.llm.limits import RAMP_S, AdaptiveLimit, InFlight, RateWindow


def fill(limit: AdaptiveLimit, now: float, count: int | None = None) -> list[InFlight]:
    """As many requests as the limit allows, or `count` in all."""
    most = limit.value if count is None else count
    return [limit.send(now) for _ in range(most - limit.in_flight)]


def answer_all(limit: AdaptiveLimit, out: list[InFlight], now: float) -> None:
    """Each is answered, and the next one sent in its place."""
    for number, sent in enumerate(out):
        limit.replied(now, sent)
        out[number] = limit.send(now)


def settled_at(level: int, most: int = 64) -> tuple[AdaptiveLimit, list[InFlight]]:
    """A limit that has met a server of `level`, with as many in flight."""
    limit = AdaptiveLimit(most, most)
    out = fill(limit, 0.0)
    for sent in out[level:]:
        limit.refused(0.01, sent)
    assert limit.value == limit.in_flight == level
    out = out[:level]
    answer_all(limit, out, 1.0)
    return limit, out


class TestAdaptiveLimit:
    def test_doubles_a_round_while_it_is_what_holds_requests_back(self) -> None:
        limit = AdaptiveLimit(4, 64)
        out = fill(limit, 0.0)
        for now, wanted in enumerate((8, 16, 32, 64, 64), start=1):
            sent: list[InFlight] = []
            for each in out:
                limit.replied(float(now), each)
                sent += fill(limit, float(now))
            assert limit.value == wanted
            out = sent

    def test_stays_when_there_are_fewer_requests_than_it_allows(self) -> None:
        limit = AdaptiveLimit(8, 64)
        out = fill(limit, 0.0, 7)
        for now in range(20):
            answer_all(limit, out, float(now))
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
        for sent in fill(limit, 9.0):
            limit.slow(10.0, sent)
        assert limit.value == 48
        limit.slow(12.0, limit.send(11.0))
        assert limit.value == 36

    @pytest.mark.parametrize("level", [1, 8, 40, 63])
    def test_settles_at_what_a_wave_of_refusals_leaves(self, level: int) -> None:
        settled_at(level)

    def test_tries_one_more_the_more_rarely_the_oftener_it_is_refused(self) -> None:
        limit, out = settled_at(4)
        waits: list[int] = []
        for now in range(2, 8):
            replies = 0
            while limit.value == 4:
                limit.replied(float(now), out.pop(0))
                out.append(limit.send(float(now)))
                replies += 1
            assert limit.value == 5
            waits.append((replies + 4) // 4)
            limit.refused(now + 0.01, limit.send(float(now)))
            assert limit.value == 4
        assert waits == sorted(waits)
        assert waits[-1] >= 8

    def test_climbs_in_doubling_steps_where_more_is_taken(self) -> None:
        limit, out = settled_at(4)
        seen: set[int] = set()
        for now in range(2, 40):
            out += fill(limit, float(now))
            answer_all(limit, out, float(now))
            seen.add(limit.value)
        assert limit.value == 64
        assert len(seen) < 20

    def test_refusals_below_what_the_server_takes_leave_the_limit(self) -> None:
        limit, out = settled_at(40)
        for step in range(400):
            now = 2.0 + step / 10
            limit.replied(float(now), out.pop(0))
            chance = limit.send(now)
            limit.refused(now + 0.005, chance)
            assert chance.by_chance
            out.append(limit.send(now + 0.006))
        assert limit.value >= 40

    def test_a_server_that_takes_fewer_than_before_is_found_out(self) -> None:
        limit, out = settled_at(40)
        refused, now = 0, 2.0
        while limit.value > 20:
            now += 0.1
            limit.replied(float(now), out.pop(0))
            while limit.in_flight < limit.value:
                sent = limit.send(now)
                if limit.in_flight > 20:
                    limit.refused(now + 0.005, sent)
                    refused += 1
                else:
                    out.append(sent)
        assert limit.value == 20
        assert refused < 40

    def test_never_falls_below_one(self) -> None:
        limit = AdaptiveLimit(2, 2)
        for now in range(50):
            limit.slow(now + 0.5, limit.send(float(now)))
            limit.refused(now + 0.5, limit.send(float(now)))
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
