"""The method: a group's rollouts and the stored teacher answers in, one score a rollout out.

`Pipeline.score_group` follows the paper's Algorithm 1 for one question x: teacher answers Y_T,
Rubricator, blind Verifier, weighted pass rate. A judgement is on disk before its scores are
returned. A group that cannot be judged raises `JudgeFailure` and has no score; a judge that cannot
be used any more raises `JudgeOutage`. Advantages and updates are the trainer's part.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol, Self

from algo.openai_env import ResolvedRole, resolve_role
from algo.ropd.budget import Budget
from algo.ropd.client import Judge, Rubricator, Verifier, all_of
from algo.ropd.errors import (
    ConfigurationError,
    FailureKind,
    JudgeFailure,
    JudgeOutage,
    TeacherMissing,
)
from algo.ropd.gate import QualityGate
from algo.ropd.group import Group, Rollout, Rule, ScoredGroup
from algo.ropd.journal import Journal
from algo.ropd.judge_metrics import group_metrics
from algo.ropd.ledger import Ledger
from algo.ropd.preflight import check_roles
from algo.ropd.probes import Prober
from algo.ropd.prompts import load_rubricator_template, load_verifier_template, question_text
from algo.ropd.record import Judgement, Setup
from algo.ropd.scheduler import RequestScheduler
from algo.ropd.scoring import Panel, in_pool_order, shuffle_order, student_scores, teacher_scores
from algo.ropd.settings import RopdSettings
from algo.ropd.teacher_index import TeacherAnswer, TeacherIndex, prompt_fingerprint

__all__ = ["Group", "Pipeline", "Rollout", "Rule", "ScoredGroup", "build_pipeline"]

logger = logging.getLogger(__name__)


class TeacherAnswers(Protocol):
    """Where Y_T comes from; `TeacherIndex` is one."""

    def answers(self, fingerprint: str, m: int) -> Sequence[TeacherAnswer]: ...


class Pipeline:
    """Judges groups, any number at a time. Use `async with`, or `aclose` at the end."""

    def __init__(
        self,
        settings: RopdSettings,
        teachers: TeacherAnswers,
        rubricator: Rubricator,
        verifier: Verifier,
        ledger: Ledger,
        scheduler: RequestScheduler,
        roles: Sequence[ResolvedRole],
    ) -> None:
        self._settings = settings
        self._teachers = teachers
        self._rubricator = rubricator
        self._verifier = verifier
        self._ledger = ledger
        self._scheduler = scheduler
        self._roles = roles
        self._gate = QualityGate(settings.gate, settings.judge.limits.outage_s)
        self._prober = Prober(settings.probes, verifier, settings.verification.seed)

    async def score_group(self, group: Group) -> ScoredGroup:
        """Judge one group: `scores[i]` in [0, 1] for each of its n rollouts, in their order.

        Raises `JudgeFailure` (the group leaves the batch), `JudgeOutage` or `JournalError` (the
        run must stop).
        """
        async with self._gate.passage():
            judgement = Judgement(
                group, prompt_fingerprint(group.messages), question_text(group.messages)
            )
            try:
                await self._prober.visit(group.step)
                scored = await self._judge(judgement)
            except (JudgeFailure, JudgeOutage) as failure:
                logger.warning("group %s could not be judged: %s", group.uid, failure)
                await self._ledger.failed(judgement, failure)
                raise self._what_now(failure) from None
            await self._ledger.judged(judgement, scored)
            if scored.rubrics:
                self._gate.judged()
            return scored

    async def _judge(self, judgement: Judgement) -> ScoredGroup:
        """Algorithm 1 for one question, from Y_T and Y_S to the scores."""
        rollouts = judgement.group.rollouts
        # Neither judge is shown a rollout that a rule has scored: it holds no answer.
        judged = [index for index, rollout in enumerate(rollouts) if rollout.rule is None]
        judgement.teachers = self._teacher_answers(judgement.fingerprint)  # Y_T (Eq. 1)
        shared = self._settings.rubric.mode == "shared"
        sharing = [judged] if shared and judged else [[index] for index in judged]
        panels = await all_of(self._panel(judgement, students) for students in sharing)
        judgement.panels = tuple(panels)
        return _scored(judgement)  # s_i (Eq. 4)

    async def _panel(self, judgement: Judgement, students: Sequence[int]) -> Panel:
        """One rubric for these students (Eq. 2) and the verdicts under it (Eq. 3)."""
        question, teachers = judgement.question, list(judgement.teachers)
        answers = [judgement.group.rollouts[index].answer for index in students]
        rubric = await self._rubricator.write(question, teachers, answers, judgement.transcript)

        mode = self._settings.verification.mode
        if mode == "students_only":
            teachers = []
        pool = teachers + answers
        sources = ["TEACHER"] * len(teachers) + ["STUDENT"] * len(answers)
        order = shuffle_order(
            self._settings.verification.seed, judgement.group.uid, students, len(pool)
        )
        shown = await self._verifier.judge(
            question,
            rubric,
            [pool[place] for place in order],
            judgement.transcript,
            sources=[sources[place] for place in order] if mode == "joint_named" else None,
            isolated=mode == "isolated",
        )
        verdicts = in_pool_order(shown, order)
        m = len(teachers)
        return Panel(rubric, tuple(students), order, tuple(verdicts[:m]), tuple(verdicts[m:]))

    def _teacher_answers(self, fingerprint: str) -> tuple[str, ...]:
        """The distinct ones among the first m answers, without their thinking."""
        try:
            stored = self._teachers.answers(fingerprint, self._settings.teacher_answers)
        except TeacherMissing as missing:
            raise JudgeFailure(FailureKind.TEACHER_MISSING, "teacher", str(missing)) from None
        return tuple(dict.fromkeys(Rollout(answer.text, True).answer for answer in stored))

    def _what_now(self, failure: JudgeFailure | JudgeOutage) -> JudgeFailure | JudgeOutage:
        """The failure itself, or the outage it adds up to with those before it."""
        outage = failure if isinstance(failure, JudgeOutage) else self._gate.group_failed(failure)
        if outage is None:
            return failure
        self._scheduler.stop(outage)
        return outage

    async def check(self) -> None:
        """Try each role's endpoint as the run will use it; raises `ConfigurationError` within about
        a minute if it cannot be used. Logs one line a role: where its settings came from."""
        for role in self._roles:
            logger.info(role.line())
        await check_roles(self._roles, self._scheduler)

    def metrics(self) -> dict[str, float]:
        """What happened since the last call, under names that begin with `ropd/`."""
        figures = self._ledger.drain_metrics(self._scheduler.drain_counters())
        return figures | self._prober.drain_metrics()

    async def aclose(self) -> None:
        await self._scheduler.aclose()
        await self._ledger.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _scored(judgement: Judgement) -> ScoredGroup:
    rollouts, panels = judgement.group.rollouts, judgement.panels
    seat = {
        index: (number, verdict)
        for number, panel in enumerate(panels)
        for index, verdict in zip(panel.students, panel.student_verdicts, strict=True)
    }
    places = [seat.get(index, (None, None)) for index in range(len(rollouts))]
    scored = ScoredGroup(
        judgement_id=judgement.judgement_id,
        scores=student_scores(panels, len(rollouts)),
        rules=tuple(rollout.rule for rollout in rollouts),
        rubrics=tuple(panel.rubric for panel in panels),
        rubric_of=tuple(number for number, _ in places),
        verdicts=tuple(verdict for _, verdict in places),
        teacher_scores=teacher_scores(panels),
    )
    return replace(scored, metrics=group_metrics(judgement.group, scored, len(judgement.teachers)))


def build_pipeline(
    settings: RopdSettings,
    environ: Mapping[str, str],
    teachers: TeacherAnswers | None = None,
) -> Pipeline:
    """Everything that `settings` names, opened and checked, short of reaching the endpoints.

    `teachers` replaces the index at `settings.teacher_index`. Raises `ConfigurationError`,
    `TeacherIndexError` or `JournalError`.
    """
    if teachers is None:
        if settings.teacher_index is None:
            raise ConfigurationError(
                "ropd.teacher_index is not set: name the file made by `ropd teacher build`"
            )
        teachers = TeacherIndex.open(settings.teacher_index)
    if settings.journal_dir is None:
        raise ConfigurationError("ropd.journal_dir is not set: name a folder for the judgements")
    judge = settings.judge
    roles = [
        resolve_role("rubricator", judge.rubricator, environ),
        resolve_role("verifier", judge.verifier, environ),
    ]
    scheduler = RequestScheduler(judge.limits)
    overflow = settings.verification.overflow
    rubricator = Rubricator(
        Judge(roles[0].endpoint, scheduler, priority=0),
        load_rubricator_template(settings.prompts.rubricator),
        (settings.rubric.min_criteria, settings.rubric.max_criteria),
        Budget("rubricator", judge.rubricator, "fail" if overflow == "fail" else "cut"),
    )
    verifier = Verifier(
        Judge(roles[1].endpoint, scheduler, priority=1),
        load_verifier_template(settings.prompts.verifier),
        Budget("verifier", judge.verifier, overflow),
    )
    setup = Setup(
        rubric_mode=settings.rubric.mode,
        verification_mode=settings.verification.mode,
        shuffle_seed=settings.verification.seed,
        templates={
            "rubricator": rubricator.template.sha256,
            "verifier": verifier.template.sha256,
        },
        endpoints=[role.endpoint for role in roles],
    )
    ledger = Ledger(Journal(settings.journal_dir, settings.journal_rotate_mb << 20), setup)
    return Pipeline(settings, teachers, rubricator, verifier, ledger, scheduler, roles)
