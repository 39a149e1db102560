"""The circuit breaker of one server: closed, open, or half open with a single probe.

It only says when a request may be sent. Requests that may not are kept waiting by `admission.py`;
none of them fails because the breaker is open. Times are seconds of one monotonic clock, passed in.
"""

from __future__ import annotations

import random

from algo.errors import FailureKind
from algo.llm.settings import LimitsSettings


class Breaker:
    """Opens after `breaker_failures` failures in a row, of requests sent since it last closed.

    While open, `probe_at` is when the next probe may go. The first reply closes it, whichever
    request it answers: the server lives.
    """

    def __init__(self, limits: LimitsSettings, rng: random.Random) -> None:
        self._limits = limits
        self._rng = rng
        self._failures_in_a_row = 0
        self._failed_probes = 0
        self._probing = False
        self._down_before = 0.0
        self.epoch = 0
        self.down_since: float | None = None
        self.probe_at = 0.0
        self.last_kind = FailureKind.TRANSPORT
        self.last_message = ""

    @property
    def is_open(self) -> bool:
        return self.down_since is not None

    def admits(self, now: float) -> bool:
        return not self.is_open or (not self._probing and now >= self.probe_at)

    def down_total(self, now: float) -> float:
        """All seconds so far during which the server was taken to be down."""
        current = 0.0 if self.down_since is None else now - self.down_since
        return self._down_before + current

    def sent(self) -> int:
        """Note a request that goes out; returns the epoch to report its outcome with."""
        if self.is_open:
            self._probing = True
            self.epoch += 1
        return self.epoch

    def replied(self, now: float) -> None:
        if self.down_since is not None:
            self._down_before += now - self.down_since
            self.down_since = None
            self.epoch += 1
        self._probing = False
        self._failures_in_a_row = self._failed_probes = 0

    def failed(
        self,
        now: float,
        epoch: int,
        kind: FailureKind,
        message: str,
        retry_after_s: float | None = None,
    ) -> None:
        self.last_kind, self.last_message = kind, message
        if epoch != self.epoch:
            return  # sent before the present state began: says nothing about it
        if self.is_open:
            if self._probing:
                self._probing = False
                self._failed_probes += 1
                self._set_probe(now, retry_after_s)
            return
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= self._limits.breaker_failures:
            self.down_since = now
            self._set_probe(now, retry_after_s)

    def withdrawn(self, epoch: int) -> None:
        """A request that was sent was given up by its caller: no outcome, and no longer a probe."""
        if epoch == self.epoch:
            self._probing = False

    def restart_outage(self, now: float) -> None:
        """Nobody asked for a while: count the outage from `now`, when somebody asks again."""
        if self.down_since is not None:
            self._down_before += now - self.down_since
            self.down_since = now

    def _set_probe(self, now: float, retry_after_s: float | None) -> None:
        wait = backoff_s(self._failed_probes, self._limits, self._rng)
        self.probe_at = now + max(wait, retry_after_s or 0.0)


def backoff_s(failures: int, limits: LimitsSettings, rng: random.Random) -> float:
    """Seconds before trying again after `failures` earlier ones: doubling, with jitter."""
    longest = min(limits.max_backoff_s, limits.backoff_s * 2.0 ** min(failures, 30))
    return longest * rng.uniform(0.5, 1.0)
