"""The circuit breaker of one server: closed, in doubt, or down.

Failures of requests open it only as far as a doubt: a prompt may be what the server fails at. The
doubt is settled by the trial request (`trial.py`), which is known to be good. Any usable reply
closes the breaker, a failed trial confirms that the server is down. It says when a request may be
sent and whose a failure was; asking is the part of `scheduler.py`, holding requests back that of
`admission.py`. Times are seconds of one monotonic clock, passed in.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Final

from algo.errors import FailureKind
from algo.llm.settings import LimitsSettings

TRIAL_EVERY_S: Final = 1.0
"""The longest pause between two trials while requests wait, so that they go on at once when the
server is back; a trial is one tiny request. The server may ask for more by `Retry-After`."""
_DOUBTFUL_IN_A_ROW: Final = 2
"""One rejection speaks of its request. Two in a row may be a gateway whose server is away."""
_REMEMBERED: Final = 1000
"""Spells of being down, for failures that are still to be judged."""


class Breaker:
    """Opens after `breaker_failures` failures in a row, or when a caller has a reason to ask.

    Open, it holds every request back until a reply comes: to the trial request, or to a request
    that was sent before. `down_since` is when it opened, `confirmed` whether a trial failed too.
    """

    def __init__(self, limits: LimitsSettings, rng: random.Random) -> None:
        self._limits = limits
        self._rng = rng
        self._failures_in_a_row = 0
        self._doubtful_in_a_row = 0
        self._failing_since: float | None = None
        self._replied_at = self._closed_at = float("-inf")
        self._failed_trials = 0
        self._down_before = 0.0
        self._spells: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)
        self.down_since: float | None = None
        self.confirmed = False
        self.trial_at = 0.0
        self.last_kind = FailureKind.TRANSPORT
        self.last_message = ""

    @property
    def is_open(self) -> bool:
        return self.down_since is not None

    def down_total(self, now: float) -> float:
        """All seconds so far in which requests were held back."""
        current = 0.0 if self.down_since is None else now - self.down_since
        return self._down_before + current

    def silent_since(self, sent_at: float) -> bool:
        """Whether no request was answered after that moment."""
        return self._replied_at < sent_at

    def was_down(self, sent_at: float, ended_at: float) -> bool:
        """Whether the server is known to have been down during an attempt, if only for a part."""
        since = self._failing_since
        if self.confirmed and since is not None and ended_at >= since:
            return True
        for start, end in reversed(self._spells):
            if end < sent_at:
                return False
            if start <= ended_at:
                return True
        return False

    def replied(self, now: float, trial_lost: bool = False) -> None:
        """A usable reply; `trial_lost`: an earlier trial is still unanswered, so it got lost."""
        if self.down_since is not None:
            if self.confirmed or trial_lost:
                self._spells.append((self._failing_since or self.down_since, now))
            self._down_before += now - self.down_since
            self.down_since = None
            self.confirmed = False
            self._closed_at = now
        self._replied_at = now
        self._failing_since = None
        self._failures_in_a_row = self._doubtful_in_a_row = self._failed_trials = 0

    def failed(self, now: float, sent_at: float, kind: FailureKind, message: str) -> None:
        """A request met a fault that speaks of the server."""
        self._note(now, kind, message)
        if not self.is_open and sent_at >= self._closed_at:
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= self._limits.breaker_failures:
                self._open(now)

    def doubted(self, now: float, sent_at: float, kind: FailureKind, message: str) -> None:
        """A request got what a server says of a request, or a gateway for a server that is away."""
        self._note(now, kind, message)
        if not self.is_open and sent_at >= self._closed_at:
            self._doubtful_in_a_row += 1
            if self._doubtful_in_a_row >= _DOUBTFUL_IN_A_ROW:
                self._open(now)

    def suspect(self, now: float) -> None:
        """Open in doubt: a request is about to be given up, and nothing shows that others fare
        better."""
        if not self.is_open:
            self._open(now)

    def trial_failed(
        self, now: float, kind: FailureKind, message: str, retry_after_s: float | None
    ) -> None:
        if not self.is_open:
            return
        self._note(now, kind, message)
        self.confirmed = True
        self.trial_at = now + max(
            min(TRIAL_EVERY_S, backoff_s(self._failed_trials, self._limits, self._rng)),
            min(retry_after_s or 0.0, self._limits.max_backoff_s),
        )
        self._failed_trials += 1

    def restart_outage(self, now: float) -> None:
        """Nobody asked for a while: count the outage from `now`, when somebody asks again."""
        if self.down_since is not None:
            self._down_before += now - self.down_since
            self.down_since = self.trial_at = now
            self._failed_trials = 0

    def _open(self, now: float) -> None:
        self.down_since = self.trial_at = now

    def _note(self, now: float, kind: FailureKind, message: str) -> None:
        self.last_kind, self.last_message = kind, message
        if self._failing_since is None:
            self._failing_since = now


def backoff_s(failures: int, limits: LimitsSettings, rng: random.Random) -> float:
    """Seconds before trying again after `failures` earlier ones: doubling, with jitter."""
    longest = min(limits.max_backoff_s, limits.backoff_s * 2.0 ** min(failures, 30))
    return longest * rng.uniform(0.5, 1.0)
