"""ROPD: Algorithm 1 of arXiv 2605.07396, for one question x at a time.

What surrounds it (the quality gate, the journal, the counters) is the engine's, in `algo/judge/`;
advantages and updates are the trainer's. `build_pipeline` at the end opens all that it takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from algo.asking.context import estimated_tokens
from algo.asking.templates import PromptTemplate
from algo.judge.engine import Engine, open_engine
from algo.judge.group import Group, Rollout, Rule
from algo.judge.method import Judgement, Method, Resources, ScoredGroup, TeacherAnswers
from algo.judge.plan import StageCalls, Workload
from algo.llm.settings import RoleSettings
from algo.llm.tasks import all_of
from algo.ropd.client import Rubricator, Verifier, nonce_key
from algo.ropd.probes import PROBE_METRICS, Prober
from algo.ropd.prompts import load_rubricator_template, load_verifier_template
from algo.ropd.scoring import METRICS, Pool, RubricPanel, panel_figures, shuffle_key
from algo.ropd.settings import RopdSettings

__all__ = ["Engine", "Group", "Rollout", "Ropd", "Rule", "ScoredGroup", "build_pipeline"]


class Ropd(Method[RopdSettings]):
    """For a question x with rollouts Y_S, of which the students' scores are wanted:

        Y_T  <- m stored teacher answers                       (Eq. 1; here: the distinct ones)
        C_x  <- Rubricator(x, Y_T, Y_S), K weighted criteria   (Eq. 2)
        v_ik <- Verifier(x, Y_T and Y_S shuffled, C_x)         (Eq. 3)
        s_i  =  sum_k w_k v_ik / sum_k w_k                     (Eq. 4, without epsilon: App. D)

    The paper's Algorithm 1 verifies one answer at a time, its Eq. 3 and section 4.3 all of them
    together and blind: the latter is the default, `ropd.verification.mode` has both.
    """

    name = "ropd"
    about = (
        "Rubric-based on-policy distillation ([arXiv 2605.07396](https://arxiv.org/abs/2605.07396))"
        ": a Rubricator contrasts the student's rollouts with stored teacher answers, a Verifier "
        "judges every answer against the rubric, and the weighted pass rate is the reward of GRPO."
    )
    panel = RubricPanel
    metrics = METRICS | PROBE_METRICS

    async def panels(self, judgement: Judgement) -> Sequence[RubricPanel]:
        """One panel for all students, or one for each of them in per_student mode."""
        votes = self._resources.teacher_votes(judgement.fingerprint)  # Y_T (Eq. 1)
        judgement.teachers, judgement.votes = tuple(votes), tuple(votes.values())
        students = judgement.judged  # Y_S, but for those that a rule has scored
        shared = self._rubric.mode == "shared" and students
        sharing = [students] if shared else [[student] for student in students]
        return await all_of(self._panel(judgement, sharers) for sharers in sharing)

    async def _panel(self, judgement: Judgement, students: Sequence[int]) -> RubricPanel:
        """One rubric for these students, and the verdicts under it: s_i is their arithmetic."""
        x, teachers, said = judgement.question, judgement.teachers, judgement.transcript
        answers = [judgement.group.rollouts[index].answer for index in students]
        rubric = await self._rubricator.write(
            x, teachers, answers, said, judgement.votes
        )  # C_x (Eq. 2)
        if self._rubric.weights == "equal":
            rubric = rubric.unweighted()

        seed, occurrence = self._verification.seed, judgement.occurrence
        key = shuffle_key(seed, judgement.fingerprint, occurrence, students)
        pool = Pool.shuffled(teachers, answers, self._verification.mode, key)
        verdicts = await self._verifier.judge(
            x, rubric, pool, said, nonce_key(judgement.judgement_id, students)
        )  # v_ik (Eq. 3)

        return RubricPanel.of_pool(rubric, students, pool, verdicts)

    def __init__(self, settings: RopdSettings, resources: Resources) -> None:
        self._resources = resources
        self._rubric = settings.rubric
        self._verification = settings.verification
        # A verdict ends a group and frees its memory; a rubric only begins its verification.
        self._rubricator = Rubricator(resources.judge("rubricator", priority=0), settings)
        self._verifier = Verifier(resources.judge("verifier", priority=1), settings)
        self._prober = Prober(settings, self._verifier)

    @classmethod
    def roles(cls, settings: RopdSettings) -> Mapping[str, RoleSettings]:
        return {"rubricator": settings.judge.rubricator, "verifier": settings.judge.verifier}

    @classmethod
    def summary(cls, settings: RopdSettings) -> str:
        rubric, mode = settings.rubric, settings.verification.mode
        return (
            f"m={settings.teacher_answers} teacher answers, rubric {rubric.mode} of "
            f"{rubric.min_criteria} to {rubric.max_criteria} criteria"
            + (" of equal weight" if rubric.weights == "equal" else "")
            + f", verification {mode}"
        )

    @classmethod
    def stages(cls, settings: RopdSettings, load: Workload) -> Sequence[StageCalls]:
        """A rubric for the group (or for each student), then one verification of its pool (or one
        for each answer)."""
        shared, mode = settings.rubric.mode == "shared", settings.verification.mode
        panels, students = (1, load.rollouts) if shared else (load.rollouts, 1)
        contrasted = students + load.teacher_answers
        judged = students if mode == "students_only" else contrasted
        calls, shown = (judged, 1) if mode == "isolated" else (1, judged)
        rubricator = load_rubricator_template(settings.prompts.rubricator)
        verifier = load_verifier_template(settings.prompts.verifier)
        asked = estimated_tokens(rubricator.text) + load.question + contrasted * load.answer
        frame = estimated_tokens(verifier.text) + load.question + load.rubric
        return (
            StageCalls("rubricator", panels, contrasted, panels * asked, panels * load.rubric),
            StageCalls(
                "verifier",
                panels * calls,
                shown,
                panels * (calls * frame + judged * load.answer),
                panels * judged * load.verdict,
                in_turn=min(calls, 2),
            ),
        )

    def setup(self) -> dict[str, Any]:
        return {
            "rubric_mode": self._rubric.mode,
            "rubric_weights": self._rubric.weights,
            "verification_mode": self._verification.mode,
            "shuffle_seed": self._verification.seed,
            "overflow": self._verification.overflow,
            "criteria": [self._rubric.min_criteria, self._rubric.max_criteria],
            "templates": {
                "rubricator": self._rubricator.template.sha256,
                "verifier": self._verifier.template.sha256,
            },
        }

    def templates(self) -> Sequence[PromptTemplate]:
        return self._rubricator.template, self._verifier.template

    async def begin_group(self, step: int) -> None:
        await self._prober.visit(step, self.note)

    def drain_metrics(self) -> dict[str, float]:
        return self._prober.drain_metrics()

    def figures(self, scored: ScoredGroup) -> Mapping[str, Sequence[float]]:
        return panel_figures(scored.panels)


def build_pipeline(
    settings: RopdSettings,
    environ: Mapping[str, str],
    teachers: TeacherAnswers | None = None,
) -> Engine:
    """An engine that judges by ROPD, everything opened and checked short of reaching the endpoints.

    `teachers` replaces the index at `settings.teacher_index`. Raises `ConfigurationError`,
    `TeacherIndexError` or `JournalError`.
    """
    return open_engine(Ropd, settings, environ, teachers)
