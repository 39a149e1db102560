"""Has a grader decide the criteria of stored HealthBench replies, and keeps each decision.

Decisions lie in `grades/` beside the answers, one sealed line each, written as it arrives; a
decision that is on disk is never asked for again. One that cannot be had is stored as a failure,
which the next run tries again, and the reply has no score until then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from algo.asking.form import Form
from algo.asking.query import Judge, Transcript
from algo.errors import ConfigurationError, JournalError, JudgeFailure, RopdError
from algo.evaluation.ask import FAILURES_IN_A_ROW, first_error
from algo.evaluation.healthbench import (
    HealthGrade,
    criteria_of,
    grade_query,
)
from algo.evaluation.log import Held, Sample
from algo.evaluation.problems import JUDGED
from algo.evaluation.results import is_cut_off
from algo.judge.journal import Journal, journal_files, read_records
from algo.sealed_lines import seal

SCHEMA: Final = "ropd.eval_grades.v1"
_FOLDER: Final = "grades"
_STEM: Final = "grades"


class Decision(NamedTuple):
    """Which criterion of which reply: `criterion` counts from 0."""

    sample: Sample
    criterion: int


@dataclass(frozen=True)
class Grader:
    """Who decides: what all decisions of a folder share."""

    model: str
    template: str
    """sha256 of the prompt template."""
    temperature: float | None
    reasoning_effort: str | None = None


@dataclass
class Grades:
    """The decisions on disk, and why others are not."""

    grader: Grader | None = None
    met: dict[Decision, bool] = field(default_factory=dict)
    failures: dict[Decision, str] = field(default_factory=dict)

    def of(self, sample: Sample, criteria: int) -> tuple[bool, ...] | None:
        """Every decision on a reply, or None while one is missing."""
        own = [self.met.get(Decision(sample, k)) for k in range(criteria)]
        return None if any(each is None for each in own) else tuple(map(bool, own))


class GradeLog:
    """The one writer of a folder's decisions."""

    def __init__(self, journal: Journal, grades: Grades) -> None:
        self._journal = journal
        self.grades = grades

    @classmethod
    def open(cls, folder: Path, grader: Grader) -> GradeLog:
        """Continue the decisions beside the answers in `folder`, or begin them.

        Raises `ConfigurationError` where another grader decided before: one score is one grader's.
        """
        below = folder / _FOLDER
        journal = Journal(below, stem=_STEM, setting="DIR")
        grades = read_grades(folder)
        if grades.grader is None:
            grades.grader = grader
            first = {"kind": "grader", "schema_version": SCHEMA, "grader": asdict(grader)}
            journal.write([seal(first)])
        elif grades.grader != grader:
            raise ConfigurationError(
                f"{below} holds the decisions of another grader ({grades.grader}): move that "
                "folder away to decide anew"
            )
        return cls(journal, grades)

    async def store(self, decision: Decision, result: HealthGrade | JudgeFailure) -> None:
        """Return once `result` is on disk."""
        place = {**decision.sample._asdict(), "criterion": decision.criterion}
        if isinstance(result, HealthGrade):
            await self._journal.append({"kind": "grade", **place, **asdict(result)})
            self.grades.met[decision] = result.met
            self.grades.failures.pop(decision, None)
        else:
            failed = {"failure": result.kind.value, "message": result.message}
            await self._journal.append({"kind": "grade_failure", **place, **failed})
            self.grades.failures[decision] = result.kind.value

    async def aclose(self) -> None:
        await self._journal.aclose()


def read_grades(folder: Path) -> Grades:
    """The decisions beside the answers in `folder`; none where nobody decided yet.

    Raises `JournalError` for a damaged line or another version's.
    """
    grades = Grades()
    below = folder / _FOLDER
    if not journal_files(below, _STEM):
        return grades
    for record in read_records(below, _STEM):
        if record["kind"] == "grader":
            if record["schema_version"] != SCHEMA:
                raise JournalError(f"{below}: {record['schema_version']} is not {SCHEMA}")
            grades.grader = Grader(**record["grader"])
            continue
        sample = Sample(record["set"], record["key"], record["number"])
        decision = Decision(sample, record["criterion"])
        if record["kind"] == "grade":
            grades.met[decision] = record["met"]
            grades.failures.pop(decision, None)
        elif decision not in grades.met:
            grades.failures[decision] = record["failure"]
    return grades


def undecided(held: Held, grades: Grades, samples: int) -> list[Decision]:
    """What is left to decide of the stored replies; a reply that was cut off scores 0 undecided."""
    return [
        decision
        for sample, answer in held.answers.items()
        if sample.number < samples and not is_cut_off(answer)
        for problem in [held.problems[sample.set][sample.key]]
        if problem.data_source in JUDGED
        for k in range(len(criteria_of(problem)))
        if (decision := Decision(sample, k)) not in grades.met
    ]


class JudgeMonitor(Protocol):
    """Looks on, and says when to stop."""

    def decided(self, failed: bool) -> None:
        """A decision was stored, or could not be had."""
        ...

    def may_go_on(self) -> bool:
        """Whether one more may be asked for. Once not, none is."""
        ...


async def decide(
    wanted: Sequence[Decision],
    held: Held,
    judge: Judge,
    form: Form[HealthGrade],
    log: GradeLog,
    monitor: JudgeMonitor,
    concurrency: int,
) -> None:
    """Ask for `wanted`, `concurrency` at a time.

    Raises `JudgeOutage` when the grader is down for too long, `JudgeFailure` when decision after
    decision fails, `JournalError` when decisions can no longer be stored.
    """
    run = _Run(held, judge, form, log, monitor, iter(wanted))
    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(concurrency, len(wanted))):
                tasks.create_task(run.work())
    except* RopdError as failures:
        raise first_error(failures) from None


@dataclass
class _Run:
    held: Held
    judge: Judge
    form: Form[HealthGrade]
    log: GradeLog
    monitor: JudgeMonitor
    decisions: Iterator[Decision]
    failures_in_a_row: int = 0

    async def work(self) -> None:
        while self.monitor.may_go_on():
            decision = next(self.decisions, None)
            if decision is None:
                return
            await self._decide(decision)

    async def _decide(self, decision: Decision) -> None:
        sample = decision.sample
        problem = self.held.problems[sample.set][sample.key]
        criterion = criteria_of(problem)[decision.criterion]
        said: Transcript = []
        try:
            query = grade_query(self.form, problem, criterion, self.held.answers[sample].text)
            grade = await self.judge.ask(query, self.judge.deadline(), said)
        except JudgeFailure as failure:
            await self.log.store(decision, failure)
            self.monitor.decided(failed=True)
            self.failures_in_a_row += 1
            if self.failures_in_a_row >= FAILURES_IN_A_ROW:
                raise
            return
        self.failures_in_a_row = 0
        await self.log.store(decision, grade)
        self.monitor.decided(failed=False)


def decided_samples(held: Held, grades: Grades) -> Mapping[Sample, tuple[bool, ...] | None]:
    """Every stored reply of a HealthBench set with its decisions, None while some are missing."""
    return {
        sample: grades.of(sample, len(criteria_of(problem)))
        for sample in held.answers
        for problem in [held.problems[sample.set][sample.key]]
        if problem.data_source in JUDGED
    }
