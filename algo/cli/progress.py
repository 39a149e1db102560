"""The progress bar of a teacher build, and what ends one early."""

from __future__ import annotations

from time import monotonic
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from algo.teacher.build import BuildReport, Permission
from algo.teacher.cost import Budget, cost
from algo.teacher.teacher_index import AnswerStatus

# A person reads no faster, and a terminal may be slow.
_REFRESH_S = 0.2


class BuildProgress:
    """Shows rate, tokens and cost on stderr; ends the build at its budget, or when told to."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._stopped = ""
        self._bar = Progress(
            TextColumn("answers"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("build", total=None, note="")
        self._report: BuildReport | None = None
        self._due = 0.0

    def stop(self, reason: str) -> None:
        """Send no further request; those in flight are waited for and stored."""
        self._stopped = reason
        self.note(reason)

    def note(self, line: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(line, markup=False, highlight=False)

    def update(self, report: BuildReport) -> None:
        self._report = report
        if monotonic() >= self._due:
            self._due = monotonic() + _REFRESH_S
            self._show(report)

    def _show(self, report: BuildReport) -> None:
        self._bar.update(
            self._task,
            total=report.wanted,
            completed=report.stored[AnswerStatus.USABLE],
            note=", ".join(self._notes(report)),
        )

    def may_ask(self, report: BuildReport, in_flight: int) -> Permission:
        allowed = not self._stopped and self._budget.allows(report, in_flight)
        if not allowed and not self._stopped:
            if in_flight:
                return Permission.WAIT
            self.stop("the budget is used up")
        report.stopped = self._stopped
        return Permission.GO if allowed else Permission.STOP

    def _notes(self, report: BuildReport) -> list[str]:
        notes = [f"{report.completion_tokens:,} tokens"]
        if speed := self._bar.tasks[0].speed:
            notes.insert(0, f"{speed:.1f}/s")
        prices = self._budget.prices
        spent = cost(prices, report.prompt_tokens, report.completion_tokens)
        usable = report.stored[AnswerStatus.USABLE]
        if spent and usable:
            notes.append(f"cost {spent:,.2f} of about {spent * report.wanted / usable:,.2f}")
        if failed := report.failures.total():
            notes.append(f"{failed} failed")
        return notes

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._report is not None:
            self._show(self._report)
        self._bar.stop()
