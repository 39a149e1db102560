"""Enters every judgement, good or failed, in the journal and in the metrics' tally."""

from __future__ import annotations

from collections.abc import Mapping

from algo.ropd.errors import JudgeFailure, JudgeOutage
from algo.ropd.group import ScoredGroup
from algo.ropd.journal import Journal
from algo.ropd.judge_metrics import Tally
from algo.ropd.record import Judgement, Setup, failed_record, judged_record


class Ledger:
    """`judged` and `failed` return once the record is on disk; they raise `JournalError`."""

    def __init__(self, journal: Journal, setup: Setup) -> None:
        self._journal = journal
        self._setup = setup
        self._tally = Tally(setup.endpoints)

    async def judged(self, judgement: Judgement, scored: ScoredGroup) -> None:
        await self._journal.append(judged_record(judgement, scored, self._setup))
        self._tally.judged(scored, judgement.transcript, judgement.seconds)

    async def failed(self, judgement: Judgement, failure: JudgeFailure | JudgeOutage) -> None:
        await self._journal.append(failed_record(judgement, failure, self._setup))
        self._tally.failed(failure.kind, judgement.transcript)

    def drain_metrics(self, engine: Mapping[str, float]) -> dict[str, float]:
        """The figures since the last call, with the request engine's; see `judge_metrics.py`."""
        return self._tally.drain(engine)

    async def aclose(self) -> None:
        await self._journal.aclose()
