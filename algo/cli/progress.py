"""The progress bar of a teacher build."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from algo.ropd.teacher_builder import BuildReport
from algo.ropd.teacher_index import AnswerStatus


class BuildProgress:
    """Shows answers stored, rate, tokens and failures on stderr; a `Watch` that never says stop."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("answers"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]} {task.fields[note]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("build", total=None, rate="", note="")

    def update(self, report: BuildReport) -> None:
        speed = self._bar.tasks[0].speed
        failed = report.failures.total()
        self._bar.update(
            self._task,
            total=report.wanted,
            completed=report.stored[AnswerStatus.USABLE],
            rate=f"{speed:.1f}/s" if speed else "",
            note=f"{report.completion_tokens:,} tokens" + (f", {failed} failed" if failed else ""),
        )

    def may_ask(self, report: BuildReport, in_flight: int) -> bool:
        return True

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
