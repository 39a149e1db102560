"""The two limits on how fast requests go out: how many at once, and how much in a minute.

Pure bookkeeping on times that are passed in; `admission.py` does the waiting.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass
from typing import Final

# Endpoints count their allowances by the minute.
WINDOW_S = 60.0
# A server that refuses does so in much less; one that has refused nothing for so long takes more.
RAMP_S: Final = 0.1
# A quarter off for a server that is slow: halving, as TCP does, leaves a judge idle that was only
# a little too busy.
_SHRINK: Final = 0.75
# Rounds between two tries of one more where the last tries were refused: at 4 in flight a try in
# 8 rounds is one refused request for 32 good ones.
_MOST_ROUNDS: Final = 8
# Refusals of what the server is known to take are about something else (one prompt, a random
# fault) until so many have come and nothing sent since the first of them was taken: where four in
# ten are refused at random, that is once in some 2,500 requests.
_CONTRARY: Final = 8


@dataclass(eq=False)
class InFlight:
    """A request that is out."""

    number: int
    """In the order of sending."""
    at: float
    level: int
    """How many the server may have held with it, itself included: some servers hold a request that
    they refuse for as long as one that they answer."""
    proven: int
    """How many it surely held, if it took the request: those before it are not counted that were
    refused, or answered so soon after that they may have been done before."""
    by_chance: bool = False
    """It was refused, and not for how many there were."""


@dataclass
class _Contrary:
    """Refusals at levels that the server is known to take."""

    first: int
    """The number of the first request refused."""
    lowest: int
    """The lowest of their levels."""
    count: int = 0


class AdaptiveLimit:
    """How many requests one server gets at once.

    Until the first sign of overload it doubles in a round, and every `RAMP_S` while it is what
    holds requests back. A server that refuses tells how many it takes: those that are still out.
    From then on one more is tried now and then; what is taken is taken in doubling steps, and
    what is refused is tried the more rarely. A timeout takes a quarter off, once for all requests
    that were already out.

    A full server refuses by the number of those that it holds; a refusal by chance, or of one
    prompt, comes at any number. So a refusal says nothing of the limit where a request that found
    as many before it was taken: answered, or left unanswered for twice the time of the refusal.
    """

    def __init__(self, start: int, most: int) -> None:
        self._limit = float(start)
        self._most = float(most)
        self._ramping = True
        self._full_since: float | None = None
        self._shrunk_at = float("-inf")
        self._step = 1.0
        self._rounds = self._patience = 1
        self._replies = 0
        self._out: dict[InFlight, None] = {}
        self._numbers = itertools.count()
        self._held = 0
        self._held_since = -1
        self._round_trip_s = 0.0
        self._contrary: _Contrary | None = None

    @property
    def value(self) -> int:
        return max(1, int(self._limit))

    @property
    def in_flight(self) -> int:
        return len(self._out)

    @property
    def is_full(self) -> bool:
        return self.in_flight >= self.value

    @property
    def ramp_at(self) -> float | None:
        """When it is worth another look, because the limit holds requests back until then."""
        return None if self._full_since is None else self._full_since + RAMP_S

    def full(self, now: float) -> None:
        """Requests wait because of the limit alone."""
        if self._ramping and self._limit < self._most and self._full_since is None:
            self._full_since = now

    def ramp(self, now: float) -> None:
        if self.ramp_at is not None and now >= self.ramp_at:
            self._limit = min(self._most, 2.0 * self._limit)
            self._full_since = None

    def send(self, now: float) -> InFlight:
        """A request goes out; it is given back by `replied`, `refused`, `slow` or `forget`."""
        level = len(self._out) + 1
        sent = InFlight(next(self._numbers), now, level, level)
        self._out[sent] = None
        return sent

    def forget(self, sent: InFlight) -> None:
        """The request ended in a way that says nothing of how many the server takes."""
        self._out.pop(sent, None)

    def replied(self, now: float, sent: InFlight, others_wait: bool = False) -> None:
        """The server took the request and answered it."""
        in_flight = len(self._out)
        self.forget(sent)
        for later in reversed(self._out):
            if later.at <= max(sent.at, now - self._round_trip_s):
                break
            later.proven -= 1
        if sent.number > self._held_since:
            self._held = max(self._held, sent.proven)
        contrary = self._contrary
        if contrary and sent.number > contrary.first and sent.proven >= contrary.lowest:
            self._contrary = None
        # Of a round whose replies come all at once, only the first finds the others still out.
        if in_flight < (self.value / 2 if others_wait else self.value):
            return
        if self._ramping:
            self._limit = min(self._most, self._limit + 1.0)
            return
        self._replies += 1
        if self._replies >= self._rounds * self._limit:
            self._limit = min(self._most, self._limit + self._step)
            self._step *= 2.0
            self._rounds = 1
            self._replies = 0

    def refused(self, now: float, sent: InFlight) -> None:
        """The server answered 429."""
        self.forget(sent)
        self._round_trip_s = max(0.9 * self._round_trip_s, now - sent.at)
        for later in reversed(self._out):
            if later.number < sent.number:
                break
            later.proven -= 1
        if self._takes(sent.level, now, now - sent.at):
            sent.by_chance = not self._is_beyond_chance(sent)
            if sent.by_chance:
                return
            self._held = 0
            self._held_since = next(self._numbers)
        if sent.at >= self._shrunk_at:
            taken = self._step > 2.0
            self._patience = 1 if taken else min(_MOST_ROUNDS, 2 * self._patience)
            self._rounds = self._patience
        self._settle(now, min(self._limit, float(len(self._out))))

    def slow(self, now: float, sent: InFlight) -> None:
        """The server did not answer in time."""
        self.forget(sent)
        if sent.at >= self._shrunk_at:
            self._settle(now, self._limit * _SHRINK)

    def _takes(self, level: int, now: float, refusal_s: float) -> bool:
        """Whether the server is known to hold `level` at once."""
        return level <= self._held or any(
            out.proven >= level and out.number > self._held_since and now - out.at > 2.0 * refusal_s
            for out in self._out
        )

    def _is_beyond_chance(self, sent: InFlight) -> bool:
        """Whether the server takes fewer than it did, after one more refusal to the contrary."""
        contrary = self._contrary = self._contrary or _Contrary(sent.number, sent.level)
        contrary.count += 1
        contrary.lowest = min(contrary.lowest, sent.level)
        return contrary.count >= _CONTRARY and not any(
            out.number > contrary.first and out.level >= contrary.lowest for out in self._out
        )

    def _settle(self, now: float, limit: float) -> None:
        self._limit = max(1.0, limit)
        self._ramping = False
        self._full_since = None
        self._shrunk_at = now
        self._step = 1.0
        self._replies = 0
        self._contrary = None


@dataclass
class Charge:
    """What one request takes out of a minute's allowance; `amount` is corrected once known."""

    at: float
    amount: int
    expired: bool = False


class RateWindow:
    """At most `limit` units in any 60 seconds; `None` is no limit."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._charges: deque[Charge] = deque()
        self._used = 0

    def wait_s(self, now: float, amount: int) -> float:
        """Seconds until `amount` fits; 0 when it does now.

        An amount above the whole limit fits when nothing else is in the window.
        """
        if self._limit is None:
            return 0.0
        self._expire(now)
        surplus = self._used + amount - self._limit
        for charge in self._charges:
            if surplus <= 0:
                return 0.0
            surplus -= charge.amount
            if surplus <= 0 or charge is self._charges[-1]:
                return charge.at + WINDOW_S - now
        return 0.0

    def charge(self, now: float, amount: int) -> Charge:
        entry = Charge(now, amount)
        if self._limit is not None:
            self._charges.append(entry)
            self._used += amount
        return entry

    def settle(self, charge: Charge, amount: int) -> None:
        """Replace what was charged by what the request really used."""
        if self._limit is not None and not charge.expired:
            self._used += amount - charge.amount
            charge.amount = amount

    def _expire(self, now: float) -> None:
        while self._charges and self._charges[0].at + WINDOW_S <= now:
            oldest = self._charges.popleft()
            oldest.expired = True
            self._used -= oldest.amount
