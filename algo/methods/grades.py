"""One whole number an answer: what the methods share that ask a judge for a grade.

The judge is shown the question and one answer a call, beside the teacher's answers where a method
shows them, and gives an integer g in [0, top]; s_i = g_i / top. Anything else in its place (a
float, a boolean, a text, a number out of range) is an invalid reply: it is asked for again with
what was wrong, and never clipped or read as a number. Equal answers are graded once.

What is asked, and on which scale, is a method's own: `teacher_judge.py`, `ovd.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from pydantic import StrictInt

from algo.asking.context import ContextWindow, estimated_tokens
from algo.asking.extraction import InvalidReply, Value, check_schema, validated
from algo.asking.form import Form
from algo.asking.templates import Block, PromptTemplate, draw_nonce, numbered
from algo.judge.method import Judgement, Method, Panel, Resources, ScoredGroup
from algo.judge.plan import StageCalls, Workload
from algo.llm.settings import RoleSettings, Settings
from algo.llm.tasks import all_of
from algo.ropd.settings import RopdSettings

GRADE_SCHEMA: Final = "ropd.grade.v1"
ROLE: Final = "verifier"
"""The model that decides ROPD's criteria gives the grades: two runs differ in the signal alone."""


class GradeOptions(Settings):
    """The keys beside `ropd.method.name`."""

    prompt: Path | None = None
    """A template of your own, with the shipped one's placeholders; `null`: the shipped one."""


@dataclass(frozen=True)
class Grade(Panel):
    """The grade of one answer, in [0, top]; `students` are the rollouts that gave it, more than one
    where they are equal."""

    students: tuple[int, ...]
    grade: StrictInt
    top: StrictInt

    def scores(self) -> tuple[float, ...]:
        """s_i = grade / top."""
        return (self.grade / self.top,) * len(self.students)

    def spelled(self) -> tuple[str, ...]:
        written = f"{self.grade} of {self.top} = {self.grade / self.top:.3f}"
        return (written,) * len(self.students)


class _Reply(Value):
    schema_version: str
    score: StrictInt


def parse_grade(payload: Mapping[str, Any], top: int) -> int:
    """The grade in a decoded `ropd.grade.v1` object; raises `InvalidReply`."""
    reply = validated(_Reply, payload)
    check_schema(reply.schema_version, GRADE_SCHEMA)
    if not 0 <= reply.score <= top:
        raise InvalidReply(f'"score" is {reply.score}; give one whole number from 0 to {top}')
    return reply.score


def grade_properties(top: int) -> dict[str, Any]:
    """The keys of a reply and their JSON schemas, in OpenAI's strict subset."""
    return {"score": {"type": "integer", "enum": list(range(top + 1))}}


class GradeMethod(Method[RopdSettings]):
    """A judged method whose panels are grades."""

    panel = Grade
    options = GradeOptions
    metrics: ClassVar[Mapping[str, str]] = {
        "shared_grade": "Share of the rollouts whose answer equals another one of their group, so "
        "that it was not shown again and shares its grade.",
        "distinct_grades": "Different grades given in a group, on average.",
    }
    top: ClassVar[int]
    """The highest grade."""

    def __init__(self, settings: RopdSettings, resources: Resources) -> None:
        self._resources = resources
        self._shows_teachers = self.needs_teachers(settings)
        self._judge = resources.judge(ROLE)
        template = self._template(settings)
        # One answer a call is all that a grade is about: what does not fit is never split.
        overflow = "fail" if settings.verification.overflow == "fail" else "cut"
        window = ContextWindow(ROLE, settings.judge.verifier, overflow)
        window.check_frame(template.text)
        self._form = Form(
            template,
            window,
            GRADE_SCHEMA,
            grade_properties(self.top),
            lambda payload: parse_grade(payload, self.top),
            {"top": str(self.top)},
        )

    @classmethod
    def template_name(cls, settings: RopdSettings) -> str:
        """The shipped template, in `prompts/`; with a placeholder for the teacher's answers where
        they are shown."""
        return cls.name

    @classmethod
    def roles(cls, settings: RopdSettings) -> Mapping[str, RoleSettings]:
        return {ROLE: settings.judge.verifier}

    @classmethod
    def needs_teachers(cls, settings: RopdSettings) -> bool:
        return False

    @classmethod
    def summary(cls, settings: RopdSettings) -> str:
        beside = f", beside m={settings.teacher_answers} teacher answers"
        return f"the verifier grades each answer from 0 to {cls.top}" + (
            beside if cls.needs_teachers(settings) else ""
        )

    @classmethod
    def stages(cls, settings: RopdSettings, load: Workload) -> Sequence[StageCalls]:
        shows = cls.needs_teachers(settings)
        shown = 1 + (load.teacher_answers if shows else 0)
        frame = estimated_tokens(cls._template(settings).text) + load.question
        n = load.rollouts
        tokens_in, tokens_out = n * (frame + shown * load.answer), n * load.verdict
        return (
            StageCalls(ROLE, n, shown, tokens_in, tokens_out, in_turn=min(n, 2) if shows else 1),
        )

    def setup(self) -> dict[str, Any]:
        return {"top_grade": self.top, "templates": {ROLE: self._form.template.sha256}}

    def templates(self) -> Sequence[PromptTemplate]:
        return (self._form.template,)

    async def panels(self, judgement: Judgement) -> Sequence[Grade]:
        """One panel a distinct answer, in the order in which they first occur."""
        if self._shows_teachers:
            judgement.teachers = self._resources.teacher_texts(judgement.fingerprint)
        same: dict[str, list[int]] = {}
        for index in judgement.judged:
            same.setdefault(judgement.group.rollouts[index].answer, []).append(index)
        shown_to_all = (judgement.question, *judgement.teachers)
        nonce = draw_nonce((*shown_to_all, *same), judgement.judgement_id)
        references = numbered("TEACHER ANSWER", judgement.teachers)
        beside = {"teacher_answers": references} if self._shows_teachers else {}
        deadline = self._judge.deadline()

        async def graded(answer: str) -> Grade:
            shown = {**beside, "answer": [Block("ANSWER", answer)]}
            query = self._form.query(judgement.question, shown, nonce)
            grade = await self._judge.ask(query, deadline, judgement.transcript)
            return Grade(tuple(same[answer]), grade, self.top)

        # All prompts begin with the teacher's answers: the first one puts them into a cache.
        answers = list(same)
        ahead = answers[: int(self._shows_teachers)]
        first = [await graded(answer) for answer in ahead]
        return first + await all_of(graded(answer) for answer in answers[len(ahead) :])

    def figures(self, scored: ScoredGroup) -> Mapping[str, Sequence[float]]:
        panels: Sequence[Grade] = scored.panels
        if not panels:
            return {}
        return {
            "shared_grade": [float(k > 0) for panel in panels for k in range(len(panel.students))],
            "distinct_grades": [float(len({panel.grade for panel in panels}))],
        }

    @classmethod
    def _template(cls, settings: RopdSettings) -> PromptTemplate:
        placeholders = ["nonce", "top", "question", "answer"]
        if cls.needs_teachers(settings):
            placeholders.append("teacher_answers")
        own = settings.method.read(cls.options)
        assert isinstance(own, GradeOptions)
        name = cls.template_name(settings)
        return PromptTemplate.load(name, placeholders, own.prompt, setting="ropd.method.prompt")
