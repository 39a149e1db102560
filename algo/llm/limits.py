"""The two limits on how fast requests go out: how many at once, and how much in a minute.

Pure bookkeeping on times that are passed in; `admission.py` does the waiting.
"""

from __future__ import annotations

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
# Refusals below what the server has just held are about something else (one prompt, a random
# fault) until they are more than a third of all outcomes.
_CONTRARY: Final = 4.0


class AdaptiveLimit:
    """How many requests one server gets at once.

    Until the first sign of overload it doubles in a round, and every `RAMP_S` while it is what
    holds requests back. A server that refuses tells how many it takes: those that are still out.
    From then on one more is tried now and then; what is taken is taken in doubling steps, and
    what is refused is tried the more rarely. A timeout takes a quarter off, once for all requests
    that were already out.
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
        self._held = 0
        self._contrary = 0.0

    @property
    def value(self) -> int:
        return max(1, int(self._limit))

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

    def kept_up(self, in_flight: int, others_wait: bool = False) -> None:
        """A reply came while `in_flight` requests, that one included, were out."""
        self._held = max(self._held, in_flight)
        self._contrary = max(0.0, self._contrary - 0.5)
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

    def refused(self, now: float, sent_at: float, left: int) -> None:
        """The server answered 429 to a request sent at `sent_at`; `left` others are out."""
        if left < self._held:
            self._contrary += 1.0
            if self._contrary < _CONTRARY:
                return
        if sent_at >= self._shrunk_at:
            taken = self._step > 2.0
            self._patience = 1 if taken else min(_MOST_ROUNDS, 2 * self._patience)
            self._rounds = self._patience
        self._settle(now, min(self._limit, float(left)))

    def slow(self, now: float, sent_at: float) -> None:
        """The server did not answer in time to a request sent at `sent_at`."""
        if sent_at >= self._shrunk_at:
            self._settle(now, self._limit * _SHRINK)

    def _settle(self, now: float, limit: float) -> None:
        self._limit = max(1.0, limit)
        self._held = min(self._held, self.value)
        self._ramping = False
        self._full_since = None
        self._shrunk_at = now
        self._step = 1.0
        self._replies = 0
        self._contrary = 0.0


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
