"""Has another Verifier decide the recorded criteria on the recorded answers of a journal.

The rubric, the answers, their order and the mode are the recorded ones, so that the judges differ
in nothing else. The journal keeps hashes of the teacher answers, not their texts: they come from
the teacher index; without one the students are judged alone.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from algo.errors import ConfigurationError, FailureKind, JournalError, JudgeFailure
from algo.judge.group import Rollout
from algo.judge.record import sha256
from algo.judge.replay import Replayed, method_of
from algo.ropd.client import Verifier
from algo.ropd.rubric import Rubric, Verdict
from algo.ropd.scoring import Pool, RubricPanel, without_teachers
from algo.teacher.teacher_index import TeacherIndex


@dataclass(frozen=True)
class Comparison:
    """Two judges' verdicts on the same answers under the same rubric."""

    rubric: Rubric
    before: tuple[Verdict, ...]
    after: tuple[Verdict, ...]


@dataclass(frozen=True)
class Rejudged:
    """The comparisons of all panels that could be judged, and why the others could not."""

    comparisons: tuple[Comparison, ...]
    failures: Counter[FailureKind]


async def rejudge(
    judgements: Iterable[Replayed], verifier: Verifier, teachers: TeacherIndex | None, width: int
) -> Rejudged:
    """Judge every panel of `judgements` anew, `width` groups at a time; raises `JudgeOutage`."""
    comparisons: list[Comparison] = []
    failures: Counter[FailureKind] = Counter()
    waiting = iter(judgements)

    async def work() -> None:
        for replayed in waiting:
            for panel in replayed.panels:
                if not isinstance(panel, RubricPanel):
                    raise ConfigurationError(
                        f"--rejudge compares verdicts under rubrics, and judgement "
                        f"{replayed.judgement_id} was made by {method_of(replayed.record)}, which "
                        "writes none: replay it without --rejudge"
                    )
                try:
                    comparisons.append(await _compare(replayed, panel, verifier, teachers))
                except JudgeFailure as failure:
                    failures[failure.kind] += 1

    try:
        async with asyncio.TaskGroup() as workers:
            for _ in range(width):
                workers.create_task(work())
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return Rejudged(tuple(comparisons), failures)


async def _compare(
    replayed: Replayed, panel: RubricPanel, verifier: Verifier, teachers: TeacherIndex | None
) -> Comparison:
    record = replayed.record
    students = [Rollout(record["rollouts"][index]["text"], True).answer for index in panel.students]
    before = panel.teacher_verdicts + panel.student_verdicts
    texts: list[str] = []
    order, same_as = panel.order, panel.same_as
    count = len(panel.teacher_verdicts)
    if teachers is not None and count:
        texts = _teacher_texts(replayed, teachers)
    elif count:
        order, same_as = without_teachers(order, same_as, count)
        before = before[count:]
    pool = Pool(tuple(texts), tuple(students), order, record["verification_mode"], same_as)
    after = await verifier.judge(record["question"], panel.rubric, pool, [])
    return Comparison(panel.rubric, before, after.teachers + after.students)


def _teacher_texts(replayed: Replayed, teachers: TeacherIndex) -> list[str]:
    stored = teachers.all_answers(replayed.record["fingerprint"])
    answers = [Rollout(answer.text, True).answer for answer in stored]
    by_hash = {sha256(answer): answer for answer in answers}
    try:
        return [by_hash[teacher["sha256"]] for teacher in replayed.record["teachers"]]
    except KeyError as missing:
        raise JournalError(
            f"the teacher index lacks the answer {missing.args[0][:12]} that judgement "
            f"{replayed.judgement_id} was made with: name the index of that run"
        ) from None
