"""The quality gate: how many of the last groups failed, and what follows when it is too many.

The gate closes once more than `max_failed_fraction` of a whole window has failed, so a few failures
at the start of a run do not close it, and it needs no full window to close. It neither counts for
metrics nor ends requests; `engine.py` acts on what it says.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from algo.errors import FailureKind, JudgeFailure, JudgeOutage
from algo.judge.settings import GateSettings

logger = logging.getLogger(__name__)

TRIAL_EVERY_S: Final = 5.0
"""Between two single groups that try a paused judge: 60 tries within the default `outage_s`."""


class QualityGate:
    """Open while groups are judged well enough; `outage_s` bounds a pause."""

    def __init__(self, settings: GateSettings, outage_s: float) -> None:
        self._settings = settings
        self._outage_s = outage_s
        self._outcomes: deque[FailureKind | None] = deque(maxlen=settings.window)
        self._last: JudgeFailure | None = None
        self._closed_at: float | None = None
        self._trial = asyncio.Lock()

    @property
    def failed(self) -> int:
        """How many groups of the window failed."""
        return sum(kind is not None for kind in self._outcomes)

    @property
    def is_closed(self) -> bool:
        return self._closed_at is not None

    def judged(self) -> None:
        """A group was judged: a paused gate opens again, with an empty window."""
        if self.is_closed:
            self._closed_at = None
            self._outcomes.clear()
        self._outcomes.append(None)

    def group_failed(self, failure: JudgeFailure) -> JudgeOutage | None:
        """Note a failed group; returns the outage to stop the run with, if it has come to that."""
        self._outcomes.append(failure.kind)
        self._last = failure
        if self.failed <= self._settings.max_failed_fraction * self._settings.window:
            return None
        now = asyncio.get_running_loop().time()
        if self._closed_at is None:
            self._closed_at = now
        seconds = now - self._closed_at
        if self._settings.action == "pause" and seconds < self._outage_s:
            logger.warning(
                "judging is paused after %d failed groups; single ones try again: %s",
                self.failed,
                failure,
            )
            return None
        return self._outage(failure, seconds)

    @asynccontextmanager
    async def passage(self) -> AsyncIterator[None]:
        """Around the judging of one group: immediate while the gate is open.

        While it is closed (paused) the groups wait and single ones try again, `TRIAL_EVERY_S`
        apart. Raises `JudgeOutage` when it stays closed for `outage_s`.
        """
        on_trial = self.is_closed and await self._wait_for_trial()
        try:
            yield
        finally:
            if on_trial:
                self._trial.release()

    async def _wait_for_trial(self) -> bool:
        """Return true as the one group on trial, false once the gate is open."""
        closed_at, last = self._closed_at, self._last
        if closed_at is None or last is None:
            return False
        try:
            async with asyncio.timeout_at(closed_at + self._outage_s):
                await self._trial.acquire()
        except TimeoutError:
            raise self._outage(last, self._outage_s) from None
        on_trial = False
        try:
            if self.is_closed:
                await asyncio.sleep(TRIAL_EVERY_S)
                on_trial = True
        finally:
            if not on_trial:  # the gate has opened, or the group was given up
                self._trial.release()
        return on_trial

    def _outage(self, last: JudgeFailure, seconds: float) -> JudgeOutage:
        kinds = Counter(kind for kind in self._outcomes if kind is not None)
        return JudgeOutage(
            last.endpoint or last.stage,
            kinds.most_common(1)[0][0],
            seconds,
            f"{self.failed} of the last {len(self._outcomes)} groups could not be judged, more "
            f"than ropd.gate.max_failed_fraction={self._settings.max_failed_fraction:g} of "
            f"ropd.gate.window={self._settings.window}; last: {last}",
        )
