"""The progress bars of an evaluation, and what ends one early."""

from __future__ import annotations

from time import monotonic
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from algo.evaluation.ask import AskReport
from algo.llm.settings import PricesSettings
from algo.teacher.cost import cost

# A person reads no faster, and a terminal may be slow.
_REFRESH_S = 0.2


class EvaluationProgress:
    """Shows rate, tokens and cost on stderr; ends the run at its budget, or when told to."""

    def __init__(self, wanted: int, prices: PricesSettings, budget_tokens: int | None) -> None:
        self.stopped = ""
        self._prices = prices
        self._budget = budget_tokens
        self._bar = Progress(
            TextColumn("answers"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("eval", total=wanted, note="")
        self._report: AskReport | None = None
        self._due = 0.0

    def stop(self, reason: str) -> None:
        """Send no further request; those in flight are waited for and stored."""
        self.stopped = reason

    def update(self, report: AskReport) -> None:
        self._report = report
        if monotonic() >= self._due:
            self._due = monotonic() + _REFRESH_S
            self._show(report)

    def may_ask(self, report: AskReport, in_flight: int) -> bool:
        if not self.stopped and not self._affordable(report, in_flight):
            self.stop(f"budget_tokens={self._budget} is used up")
        return not self.stopped

    def _affordable(self, report: AskReport, in_flight: int) -> bool:
        if self._budget is None:
            return True
        if report.without_usage:
            self.stop("the endpoint does not report tokens, so that no budget can be kept")
            return True
        each = report.largest_prompt + report.largest_completion
        used = report.prompt_tokens + report.completion_tokens
        return used + (in_flight + 1) * each <= self._budget

    def _show(self, report: AskReport) -> None:
        notes = [f"{report.completion_tokens:,} tokens"]
        if speed := self._bar.tasks[0].speed:
            notes.insert(0, f"{speed:.1f}/s")
        if spent := cost(self._prices, report.prompt_tokens, report.completion_tokens):
            notes.append(f"cost {spent:,.2f}")
        if report.failed:
            notes.append(f"{report.failed} failed")
        done = report.answered + report.failed
        self._bar.update(self._task, completed=done, note=", ".join(notes))

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


class DecisionProgress:
    """Shows how many of a grader's decisions are there; ends when told to."""

    def __init__(self, wanted: int) -> None:
        self.stopped = ""
        self._failed = 0
        self._bar = Progress(
            TextColumn("decisions"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("judge", total=wanted, note="")

    def stop(self, reason: str) -> None:
        """Ask for no further decision; those in flight are waited for and stored."""
        self.stopped = reason

    def decided(self, failed: bool) -> None:
        self._failed += failed
        note = f"{self._failed} failed" if self._failed else ""
        self._bar.update(self._task, advance=1, note=note)

    def may_go_on(self) -> bool:
        return not self.stopped

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
