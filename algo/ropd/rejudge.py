"""Has another Verifier decide the recorded criteria on the recorded answers of a journal.

The rubric, the answers, their order, the mode, the template, the cutting and the sampling are the
recorded ones (`as_judged.py`), so that the judges differ in nothing else. Where the teachers' words
are lost, the students are judged alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from algo.asking.query import Judge
from algo.errors import ConfigurationError, FailureKind, JudgeFailure
from algo.judge.preflight import check_roles
from algo.judge.record import recorded_rollout
from algo.judge.replay import Replayed, method_of
from algo.llm.scheduler import RequestScheduler
from algo.llm.tasks import all_of
from algo.openai_env import ResolvedRole
from algo.ropd.as_judged import AsJudged
from algo.ropd.client import Verifier, nonce_key
from algo.ropd.rubric import Rubric, Verdict
from algo.ropd.scoring import Pool, RubricPanel, without_teachers
from algo.ropd.settings import RopdSettings


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


OtherJudge = Callable[[Mapping[str, Any]], ResolvedRole]
"""The other judge, asked under the sampling settings of a record's Verifier."""


class Verifiers:
    """The other judge in the recorded one's place: one Verifier for each way of showing answers."""

    def __init__(self, shown: AsJudged, other: OtherJudge, scheduler: RequestScheduler) -> None:
        self._shown = shown
        self._other = other
        self._scheduler = scheduler
        self._by_setup: dict[bytes, Verifier] = {}
        self.roles: list[ResolvedRole] = []

    def of(self, record: Mapping[str, Any]) -> Verifier:
        """Raises `ConfigurationError` or `JournalError`."""
        settings: RopdSettings = self._shown.settings(record)
        key = orjson.dumps(settings.model_dump(mode="json"))
        if key not in self._by_setup:
            role = self._other(self._shown.sampling(record))
            self.roles.append(role)
            judge = Judge(role.endpoint, self._scheduler, priority=0)
            self._by_setup[key] = Verifier(judge, settings)
        return self._by_setup[key]


async def rejudge(
    judgements: Sequence[Replayed], shown: AsJudged, other: OtherJudge, width: int
) -> Rejudged:
    """Judge every panel of `judgements` anew, `width` groups at a time.

    Raises `JudgeOutage`, and before anything is judged `ConfigurationError` or `JournalError`.
    """
    comparisons: list[Comparison] = []
    failures: Counter[FailureKind] = Counter()
    for replayed in judgements:
        _check_has_rubrics(replayed)
    async with RequestScheduler() as scheduler:
        verifiers = Verifiers(shown, other, scheduler)
        waiting = iter([(replayed, verifiers.of(replayed.record)) for replayed in judgements])
        await check_roles(verifiers.roles, scheduler)

        async def work() -> None:
            for replayed, verifier in waiting:
                for panel in replayed.panels:
                    try:
                        comparisons.append(await _compare(replayed, panel, verifier, shown))
                    except JudgeFailure as failure:
                        failures[failure.kind] += 1

        await all_of(work() for _ in range(width))
    return Rejudged(tuple(comparisons), failures)


def _check_has_rubrics(replayed: Replayed) -> None:
    if not all(isinstance(panel, RubricPanel) for panel in replayed.panels):
        raise ConfigurationError(
            f"--rejudge compares verdicts under rubrics, and judgement {replayed.judgement_id} was "
            f"made by {method_of(replayed.record)}, which writes none: replay it without --rejudge"
        )


async def _compare(
    replayed: Replayed, panel: Any, verifier: Verifier, shown: AsJudged
) -> Comparison:
    record = replayed.record
    students = [recorded_rollout(record["rollouts"][index]).answer for index in panel.students]
    before = panel.teacher_verdicts + panel.student_verdicts
    order, same_as = panel.order, panel.same_as
    texts: list[str] | None = []
    if count := len(panel.teacher_verdicts):
        texts = shown.teacher_texts(record)
        if texts is None:
            order, same_as = without_teachers(order, same_as, count)
            before = before[count:]
    pool = Pool(tuple(texts or ()), tuple(students), order, record["verification_mode"], same_as)
    after = await verifier.judge(
        record["question"],
        panel.rubric,
        pool,
        [],
        nonce_key(replayed.judgement_id, panel.students),
    )
    return Comparison(panel.rubric, before, after.teachers + after.students)
