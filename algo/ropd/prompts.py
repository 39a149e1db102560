"""The Rubricator's and the Verifier's prompts, rendered from their templates.

How data is fenced and made inert is `judge/templates.py`'s part; which answers are shown, and in
which order, is `pipeline.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from algo.judge.templates import (
    Block,
    PromptTemplate,
    draw_nonce,
    fence,
    fenced,
    inert,
    numbered,
)
from algo.ropd.rubric import Rubric


def load_rubricator_template(path: Path | None) -> PromptTemplate:
    return PromptTemplate.load(
        "rubricator",
        path,
        ("nonce", "min_criteria", "max_criteria", "question", "teacher_answers", "student_answers"),
        setting="ropd.prompts.rubricator",
    )


def load_verifier_template(path: Path | None) -> PromptTemplate:
    return PromptTemplate.load(
        "verifier",
        path,
        ("nonce", "question", "rubric", "answers"),
        setting="ropd.prompts.verifier",
    )


def rubricator_prompt(
    template: PromptTemplate,
    question: str,
    teachers: Sequence[str],
    students: Sequence[str],
    criteria: tuple[int, int],
) -> str:
    """The Rubricator's user message; `criteria` is the allowed range of K (paper App. D)."""
    question = inert(question)
    teacher_blocks = numbered("TEACHER ANSWER", teachers)
    student_blocks = numbered("STUDENT ANSWER", students)
    nonce = draw_nonce((question, *(block.text for block in teacher_blocks + student_blocks)))
    return template.fill(
        {
            "nonce": nonce,
            "min_criteria": str(criteria[0]),
            "max_criteria": str(criteria[1]),
            "question": fence(Block("QUESTION", question), nonce),
            "teacher_answers": fenced(teacher_blocks, nonce),
            "student_answers": fenced(student_blocks, nonce),
        }
    )


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

    @classmethod
    def begin(
        cls, template: PromptTemplate, question: str, rubric: Rubric, answers: Iterable[str]
    ) -> VerifierPrompts:
        """`answers` are all that any call of this rubric will show: the nonce is in none."""
        question, shown = inert(question), inert(shown_rubric(rubric))
        nonce = draw_nonce((question, shown, *answers))
        return cls(template, question, shown, nonce)

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
                "question": fence(Block("QUESTION", self.question), self.nonce),
                "rubric": fence(Block("RUBRIC", self.rubric), self.nonce),
                "answers": fenced(blocks, self.nonce),
            }
        )


def shown_rubric(rubric: Rubric) -> str:
    """The rubric as the Verifier sees it: a JSON list without points."""
    return orjson.dumps(
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
