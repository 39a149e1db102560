"""What one request has met so far, and which of it is charged to it.

Whose a failure is, is known once the breaker has its verdict: a failure while the server was down
is the server's, every other one the request's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from algo.errors import FailureKind
from algo.llm.breaker import Breaker
from algo.llm.limits import InFlight


@dataclass(frozen=True)
class _Failed:
    """One attempt that brought no reply."""

    kind: FailureKind
    sent: InFlight
    ended_at: float


class Failures:
    """The failed attempts of one request, in order."""

    def __init__(self, breaker: Breaker, allowed: Callable[[FailureKind], int]) -> None:
        self._breaker = breaker
        self._allowed = allowed
        self._all: list[_Failed] = []

    def add(self, kind: FailureKind, sent: InFlight, ended_at: float) -> None:
        self._all.append(_Failed(kind, sent, ended_at))

    def own(self) -> list[_Failed]:
        """The failures that the server is not known to have been down at."""
        return [each for each in self._all if self._is_own(each)]

    @property
    def last_is_own(self) -> bool:
        return self._is_own(self._all[-1])

    @property
    def last_by_chance(self) -> bool:
        """Whether the last one was a refusal of what the server is known to take."""
        return self._all[-1].sent.by_chance

    def used_up(self, kind: FailureKind) -> bool:
        """Whether the retries for failures of `kind` are."""
        return sum(each.kind is kind for each in self.own()) > self._allowed(kind)

    def _is_own(self, failed: _Failed) -> bool:
        return not self._breaker.was_down(failed.sent.at, failed.ended_at)
