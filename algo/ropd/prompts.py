"""The Rubricator's and the Verifier's prompts, rendered from their templates.

How data is fenced and made inert is `asking/templates.py`'s part; which answers are shown, and in
which order, is `pipeline.py`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from algo.asking.context import ContextWindow
from algo.asking.form import Form
from algo.asking.templates import (
    Block,
    Inert,
    PromptTemplate,
    draw_nonce,
    fenced,
    inert,
    numbered,
)
from algo.ropd.rubric import RUBRIC_SCHEMA, Rubric, parse_rubric, rubric_properties
from algo.ropd.settings import RopdSettings


def load_rubricator_template(path: Path | None) -> PromptTemplate:
    return PromptTemplate.load(
        "rubricator",
        ("nonce", "min_criteria", "max_criteria", "question", "teacher_answers", "student_answers"),
        path,
        setting="ropd.prompts.rubricator",
    )


def load_verifier_template(path: Path | None) -> PromptTemplate:
    return PromptTemplate.load(
        "verifier",
        ("nonce", "question", "rubric", "answers"),
        path,
        setting="ropd.prompts.verifier",
    )


def rubricator_form(settings: RopdSettings) -> Form[Rubric]:
    """How the Rubricator is asked for a rubric of the allowed number of criteria (paper App. D)."""
    least, most = criteria = (settings.rubric.min_criteria, settings.rubric.max_criteria)
    # One rubric is for all answers, so what does not fit is never split over several calls.
    overflow = "fail" if settings.verification.overflow == "fail" else "cut"
    template = load_rubricator_template(settings.prompts.rubricator)
    window = ContextWindow("rubricator", settings.judge.rubricator, overflow)
    window.check_frame(template.text)
    return Form(
        template,
        window,
        RUBRIC_SCHEMA,
        rubric_properties(criteria),
        lambda payload: parse_rubric(payload, criteria),
        {"min_criteria": str(least), "max_criteria": str(most)},
    )


def rubricator_answers(
    teachers: Sequence[str], students: Sequence[str], votes: Sequence[int] | None = None
) -> dict[str, list[Block]]:
    """The answers that a rubric contrasts, by placeholder of the Rubricator's template.

    `votes` says how often each of the `teachers` was sampled; where it is more than once, a line
    above the block does.
    """
    given = votes or [1] * len(teachers)
    return {
        "teacher_answers": [
            replace(
                block,
                note=f"{block.label} was given {number} times, word for word:" * (number > 1),
            )
            for block, number in zip(numbered("TEACHER ANSWER", teachers), given, strict=True)
        ],
        "student_answers": numbered("STUDENT ANSWER", students),
    }


@dataclass(frozen=True)
class VerifierPrompts:
    """Renders the verifier calls of one rubric, all under one nonce.

    Template, question and rubric come before the answers and are the same bytes in every call, so
    that a server's prefix cache serves them when a pool is split over several calls.
    """

    template: PromptTemplate
    question: str
    rubric: str
    nonce: str
    inert: Inert = inert

    @classmethod
    def begin(
        cls,
        template: PromptTemplate,
        question: str,
        rubric: Rubric,
        answers: Iterable[str],
        inert: Inert = inert,
        key: str | None = None,
    ) -> VerifierPrompts:
        """`answers` are all that any call of this rubric will show: the nonce is in none.

        `key` fixes the nonce (`draw_nonce`).
        """
        question, shown = inert(question), shown_rubric(rubric, inert)
        nonce = draw_nonce((question, shown, *answers), key)
        return cls(template, question, shown, nonce, inert)

    def render(self, answers: Sequence[str], sources: Sequence[str] | None = None) -> str:
        """The user message that shows `answers` as ANSWER 1..N.

        `sources` (`TEACHER` or `STUDENT`, one an answer) is given in joint_named mode alone and
        stands in the label: `ANSWER 3 BY TEACHER`.
        """
        blocks = numbered("ANSWER", answers)
        if sources is not None:
            blocks = [
                Block(f"{block.label} BY {source}", block.text)
                for block, source in zip(blocks, sources, strict=True)
            ]
        return self.template.fill(
            {
                "nonce": self.nonce,
                "question": self._fenced([Block("QUESTION", self.question)]),
                "rubric": self._fenced([Block("RUBRIC", self.rubric)]),
                "answers": self._fenced(blocks),
            }
        )

    def _fenced(self, blocks: Sequence[Block]) -> str:
        return fenced(blocks, self.nonce, self.inert)


def shown_rubric(rubric: Rubric, inert: Inert = inert) -> str:
    """The rubric as the Verifier sees it: a JSON list without points.

    A control token that a criterion names is escaped as JSON allows (`\\u003c/think>`), so that
    the list still reads as the very words of the rubric.
    """
    written = orjson.dumps(
        [
            {
                "criterion_id": criterion.criterion_id,
                "category": criterion.category,
                "criterion": criterion.criterion,
            }
            for criterion in rubric.criteria
        ],
        option=orjson.OPT_INDENT_2,
    ).decode()
    lines = [line if inert(line) == line else _escaped(line) for line in written.split("\n")]
    return inert("\n".join(lines))


def _escaped(line: str) -> str:
    """A line that holds one string, with the signs that open control tokens escaped in it."""
    return re.sub(r"[<\[\uff5c]", lambda sign: f"\\u{ord(sign.group()):04x}", line)
