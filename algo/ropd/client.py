"""The Rubricator and the Verifier: one typed call each.

What comes back is a `Rubric` or verdicts, never a number; what cannot be had is a `JudgeFailure`.
How a model is asked until its reply can be used is `judge/asking.py`'s part.
"""

from __future__ import annotations

from collections.abc import Sequence

from algo.judge.asking import Judge, Query, Transcript
from algo.judge.context import Call, ContextWindow
from algo.judge.templates import PromptTemplate
from algo.llm.endpoint import Endpoint
from algo.llm.tasks import all_of
from algo.ropd.prompts import (
    VerifierPrompts,
    load_verifier_template,
    rubricator_answers,
    rubricator_form,
)
from algo.ropd.rubric import (
    VERIFIER_SCHEMA,
    Rubric,
    Verdict,
    parse_verdicts,
    verifier_json_schema,
)
from algo.ropd.scoring import Pool
from algo.ropd.settings import RopdSettings


class Rubricator:
    """Writes the rubric of a group (Eq. 2)."""

    def __init__(self, judge: Judge, settings: RopdSettings) -> None:
        self._judge = judge
        self._form = rubricator_form(settings)

    @property
    def template(self) -> PromptTemplate:
        return self._form.template

    async def write(
        self,
        question: str,
        teachers: Sequence[str],
        students: Sequence[str],
        transcript: Transcript,
    ) -> Rubric:
        """C_x = Rubricator(x, Y_T, Y_S): one rubric for all `students` given."""
        query = self._form.query(question, rubricator_answers(teachers, students))
        return await self._judge.ask(query, self._judge.deadline(), transcript)


class Verifier:
    """Decides every criterion for every answer (Eq. 3)."""

    def __init__(self, judge: Judge, settings: RopdSettings) -> None:
        self._judge = judge
        self.template = load_verifier_template(settings.prompts.verifier)
        self._window = ContextWindow(
            "verifier", settings.judge.verifier, settings.verification.overflow
        )

    @property
    def endpoint(self) -> Endpoint:
        return self._judge.endpoint

    async def judge(
        self,
        question: str,
        rubric: Rubric,
        pool: Pool,
        transcript: Transcript,
    ) -> tuple[Verdict, ...]:
        """One verdict an answer, in the order of the pool: teachers, then students.

        In isolated mode one answer is shown a call; the first call then goes ahead, so that the
        others find its prefix in a cache.
        """
        answers, sources = pool.shown, pool.sources
        prompts = VerifierPrompts.begin(self.template, question, rubric, answers)
        deadline = self._judge.deadline()
        frame = [self.template.text, question, prompts.rubric]

        async def verdicts(call: Call) -> tuple[Verdict, ...]:
            named = None if sources is None else [sources[place] for place in call.places]
            count = len(call.texts)
            return await self._judge.ask(
                Query(
                    prompts.render(call.texts, named),
                    VERIFIER_SCHEMA,
                    verifier_json_schema(count, len(rubric.criteria)),
                    lambda payload: parse_verdicts(payload, count, rubric),
                    call,
                ),
                deadline,
                transcript,
            )

        if pool.mode == "isolated":
            calls = [call for answer in answers for call in self._window.plan(frame, [answer])]
            ahead = [await verdicts(calls[0])]
            judged = ahead + await all_of(verdicts(call) for call in calls[1:])
        else:
            judged = await all_of(verdicts(call) for call in self._window.plan(frame, answers))
        return pool.in_pool_order([verdict for part in judged for verdict in part])
