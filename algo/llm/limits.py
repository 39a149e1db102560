"""The two limits on how fast requests go out: how many at once, and how much in a minute.

Pure bookkeeping on times that are passed in; `admission.py` does the waiting.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

# Endpoints count their allowances by the minute.
WINDOW_S = 60.0
# A quarter off at a sign of overload: halving, as TCP does, leaves a judge idle that was only a
# little too busy, since the way back up is one request a round.
_SHRINK = 0.75


class AdaptiveLimit:
    """How many requests one server gets at once.

    Doubles in a round while the server keeps up and the limit is what holds requests back, until
    the first sign of overload; from then on it grows by one a round, and each further sign takes a
    quarter off, once for all requests that were already out.
    """

    def __init__(self, start: int, most: int) -> None:
        self._limit = float(start)
        self._most = float(most)
        self._doubling = True
        self._shrunk_at = float("-inf")

    @property
    def value(self) -> int:
        return max(1, int(self._limit))

    def kept_up(self, in_flight: int) -> None:
        """A reply came while `in_flight` requests, that one included, were out."""
        if in_flight >= self.value:
            grow = 1.0 if self._doubling else 1.0 / self._limit
            self._limit = min(self._most, self._limit + grow)

    def overloaded(self, now: float, sent_at: float) -> None:
        """The server answered 429, or not in time, to a request sent at `sent_at`."""
        if sent_at < self._shrunk_at:
            return
        self._doubling = False
        self._shrunk_at = now
        self._limit = max(1.0, self._limit * _SHRINK)


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
