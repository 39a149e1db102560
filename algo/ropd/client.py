"""The Rubricator and the Verifier: one typed call each.

What comes back is a `Rubric` or verdicts, never a number; what cannot be had is a `JudgeFailure`.
How a model is asked until its reply can be used is `asking/query.py`'s part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from algo.asking.context import Call, ContextWindow
from algo.asking.query import Judge, Query, Transcript
from algo.asking.templates import PromptTemplate
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
from algo.ropd.scoring import Pool, PoolVerdicts
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
        votes: Sequence[int] | None = None,
    ) -> Rubric:
        """C_x = Rubricator(x, Y_T, Y_S): one rubric for all `students` given.

        `votes` says how often each of the distinct `teachers` was sampled; once, by default.
        """
        query = self._form.query(question, rubricator_answers(teachers, students, votes))
        return await self._judge.ask(query, self._judge.deadline(), transcript)


class Verifier:
    """Decides every criterion for every answer (Eq. 3)."""

    def __init__(self, judge: Judge, settings: RopdSettings) -> None:
        self._judge = judge
        self.template = load_verifier_template(settings.prompts.verifier)
        self._window = ContextWindow(
            "verifier", settings.judge.verifier, settings.verification.overflow
        )
        self._window.check_frame(self.template.text)

    @property
    def endpoint(self) -> Endpoint:
        return self._judge.endpoint

    async def judge(
        self,
        question: str,
        rubric: Rubric,
        pool: Pool,
        transcript: Transcript,
        key: str | None = None,
    ) -> PoolVerdicts:
        """One verdict an answer of the pool, those included that are not shown for themselves.

        `key` fixes the prompts' nonce, so that they can be made anew to the letter (`nonce_key`).

        In isolated mode one answer is shown a call; the first call then goes ahead, so that the
        others find its prefix in a cache. Where the pool is split over several calls, each shows
        the teachers beside its students, as every student's call would unsplit: what the first
        call says of them stands.
        """
        inert = self._window.inert
        places = sorted(pool.order)
        answers = [inert(pool.answer(place)) for place in places]
        prompts = VerifierPrompts.begin(self.template, question, rubric, answers, inert, key)
        deadline = self._judge.deadline()
        frame = [self.template.text, prompts.question, prompts.rubric]

        def plan(first: int, last: int, always: int = 0) -> list[Call]:
            """Calls that show the answers from `first` to `last`, in the order of the pool's
            shuffle; which ones stand together does not follow from it."""
            shown = answers[first:last]
            calls = self._window.plan(frame, shown, prompts.nonce, range(always))
            return [_shuffled(call, places[first:last], pool.order) for call in calls]

        async def verdicts(call: Call) -> tuple[Verdict, ...]:
            count = len(call.texts)
            return await self._judge.ask(
                Query(
                    prompts.render(call.texts, pool.sources(call.places)),
                    VERIFIER_SCHEMA,
                    verifier_json_schema(count, len(rubric.criteria)),
                    lambda payload: parse_verdicts(payload, count, rubric),
                    call,
                ),
                deadline,
                transcript,
            )

        if pool.mode == "isolated":
            alone = map(places.index, pool.order)
            calls = [call for k in alone for call in plan(k, k + 1)]
            judged = [await verdicts(calls[0])]
            judged += await all_of(verdicts(call) for call in calls[1:])
        else:
            teachers = sum(place < len(pool.teachers) for place in places)
            calls = plan(0, len(places), always=teachers)
            judged = await all_of(verdicts(call) for call in calls)
        return pool.gathered([call.places for call in calls], judged)


def nonce_key(judgement_id: str, students: Sequence[int]) -> str:
    """The key of a panel's nonce. Ids are random and drawn after the answers were written, so no
    answer can know it."""
    return f"{judgement_id}\n{','.join(map(str, students))}"


def _shuffled(call: Call, places: Sequence[int], order: Sequence[int]) -> Call:
    """A call on the answers at `places` of a pool, put into that pool's order."""
    seats = sorted(
        ((places[k], text) for k, text in zip(call.places, call.texts, strict=True)),
        key=lambda seat: order.index(seat[0]),
    )
    return replace(
        call, places=tuple(place for place, _ in seats), texts=tuple(text for _, text in seats)
    )
