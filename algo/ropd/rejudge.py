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

from algo.ropd.client import Verifier
from algo.ropd.errors import FailureKind, JournalError, JudgeFailure
from algo.ropd.group import Rollout
from algo.ropd.record import sha256
from algo.ropd.replay import Comparison, Replayed
from algo.ropd.scoring import Panel, in_pool_order
from algo.ropd.teacher_index import TeacherIndex


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
    replayed: Replayed, panel: Panel, verifier: Verifier, teachers: TeacherIndex | None
) -> Comparison:
    record = replayed.record
    students = [Rollout(record["rollouts"][index]["text"], True).answer for index in panel.students]
    before = [*panel.teacher_verdicts, *panel.student_verdicts]
    texts: list[str] = []
    order = panel.order
    count = len(panel.teacher_verdicts)
    if teachers is not None and count:
        texts = _teacher_texts(replayed, teachers)
    elif count:
        order = tuple(place - count for place in order if place >= count)
        before = before[count:]
    sources = ["TEACHER"] * len(texts) + ["STUDENT"] * len(students)
    pool = texts + students
    mode = record["verification_mode"]
    shown = await verifier.judge(
        record["question"],
        panel.rubric,
        [pool[place] for place in order],
        [],
        sources=[sources[place] for place in order] if mode == "joint_named" else None,
        isolated=mode == "isolated",
    )
    return Comparison(panel.rubric, tuple(before), tuple(in_pool_order(shown, order)))


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
