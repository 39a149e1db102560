"""The embedded judge as a grader: one whole number for one answer, as a scalar judge would give it.

The grade is the share of what a right solution states that the answer states too, on the scale that
the prompt names, off by one at times as scalar grades are: by a digest of question and answer, so
one answer to one question always gets one grade. What a right solution states is the program's own
solution, or, where teacher answers are shown, what most of them state.

This module does not read prompts or speak HTTP (`rendered_prompt`, `judge`).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence

from examples.arithmetic.contrast import induce_rubric
from examples.arithmetic.criteria import ArithmeticCriterion, criteria_of
from examples.arithmetic.problems import parse_question
from examples.arithmetic.rendered_prompt import GRADE_SCHEMA, RenderedPrompt
from examples.arithmetic.solutions import STYLES, solve
from examples.arithmetic.statements import read_statement


def give_grade(prompt: RenderedPrompt) -> str:
    """The reply on the prompt's one answer."""
    wanted = _wanted(prompt.question, prompt.teachers)
    if not wanted or prompt.top is None or len(prompt.answers) != 1:
        return "I cannot grade: I see no sum that I know, no scale, or not one answer."
    score = grade(wanted, prompt.question, prompt.answers[0], prompt.top)
    return json.dumps({"schema_version": GRADE_SCHEMA, "score": score})


def grade(wanted: Sequence[ArithmeticCriterion], question: str, answer: str, top: int) -> int:
    """Of 0 to `top`; the highest one only where everything `wanted` holds."""
    statement = read_statement(answer)
    held = sum(criterion.holds(statement) for criterion in wanted)
    if held in (0, len(wanted)):
        return top if held else 0
    off = zlib.crc32(f"{question}\n{answer}".encode()) % 4  # 0, 1: as it is; 2: lower; 3: higher
    near = round(top * held / len(wanted)) + {2: -1, 3: 1}.get(off, 0)
    return min(max(near, 0), top - 1)


def _wanted(question: str, teachers: Sequence[str]) -> list[ArithmeticCriterion]:
    if teachers:
        return [weighted.criterion for weighted in induce_rubric(teachers, ())]
    problem = parse_question(question)
    if problem is None:
        return []
    return criteria_of(read_statement(solve(problem, STYLES["canonical"])))
