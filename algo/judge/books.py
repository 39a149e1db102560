"""The books of one engine: every reply is paid, counted and on record, whoever asked for it.

A group's replies stand in its judgement. What is asked beside the groups (probes, trial requests, a
reply without a word) stands in the journal's expenses, and never among the judgements: no reader of
rewards meets it. Both count for metrics and budget.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Literal

from algo.asking.query import Exchange, Transcript
from algo.errors import JournalError
from algo.judge.journal import EXPENSES, Journal, read_expenses, read_records
from algo.judge.ledger import Spending, Usage
from algo.judge.metrics import Tally
from algo.judge.occurrences import Occurrences
from algo.judge.record import Setup, expense_record
from algo.llm.endpoint import Endpoint, Reply, Request
from algo.llm.scheduler import RequestScheduler

logger = logging.getLogger(__name__)


class Books:
    """Begins with what the journal holds of earlier starts."""

    def __init__(
        self,
        journal: Journal,
        setup: Setup,
        tally: Tally,
        ledger: Spending,
        scheduler: RequestScheduler,
    ) -> None:
        self._journal = journal
        self._setup = setup
        self._tally = tally
        self._ledger = ledger
        self._scheduler = scheduler
        self._at_work: set[asyncio.Task[None]] = set()
        self.broken: JournalError | None = None
        """Why an expense could not be written; the run must stop."""
        self.occurrences = self._read_journal()
        self._stop_if_spent()
        scheduler.books = self

    def _read_journal(self) -> Occurrences:
        used: list[tuple[str, int | None]] = []
        for record in read_records(self._journal.folder):
            self._ledger.add_record(record)
            if record["status"] == "judged":
                used.append((record["fingerprint"], record.get("occurrence")))
        for expense in read_expenses(self._journal.folder):
            self._ledger.add_record(expense)
        return Occurrences(used)

    def paid(self, endpoint: Endpoint, request: Request, reply: Reply) -> None:
        """Count a reply at the moment it comes."""
        self._ledger.add(endpoint.role, Usage.of_reply(request, reply))
        self._stop_if_spent()

    def aside(
        self, kind: Literal["trial", "empty"], endpoint: Endpoint, request: Request, reply: Reply
    ) -> None:
        """Have a reply written that no judgement holds."""
        exchange = Exchange(endpoint.role, reply, None, 0, request.characters)
        task = asyncio.create_task(self._write_aside(kind, [exchange]))
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)

    async def note(
        self, kind: str, transcript: Transcript, evidence: Mapping[str, Any] | None = None
    ) -> None:
        """Put what was asked beside the groups on disk, and count it; raises `JournalError`."""
        self._tally.aside(transcript)
        record = expense_record(kind, transcript, self._setup, evidence or {})
        await self._journal.append(record, stem=EXPENSES)

    async def aclose(self) -> None:
        """Wait for what is being written."""
        if self._at_work:
            await asyncio.wait(self._at_work)

    async def _write_aside(self, kind: str, transcript: Transcript) -> None:
        try:
            await self.note(kind, transcript)
        except JournalError as error:
            self.broken = error

    def _stop_if_spent(self) -> None:
        if self._ledger.is_over or (spent := self._ledger.spent()) is None:
            return
        self._ledger.is_over = True
        logger.warning(spent.message)
        self._scheduler.drain(spent)
