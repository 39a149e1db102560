"""The two roles of the embedded judge, as pure functions over texts.

The Rubricator contrasts: it keeps what most teacher answers satisfy, and weighs a criterion the
more the fewer student answers satisfy it. It never computes the sum, so teachers that agree on a
wrong answer get a rubric that asks for it. For the same reason it asks for the teachers' values,
the final answer's too, which the prompt tells a model not to do: a model can name what makes a
result right. The Verifier decides each sentence on each answer alone.

This module does not read prompts or speak HTTP (`rendered_prompt`, `judge`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from examples.arithmetic.criteria import (
    ArithmeticCriterion,
    FinalAnswer,
    criteria_of,
    parse_criterion,
)
from examples.arithmetic.statements import Statement, read_statement

MIN_CRITERIA = 4
MAX_CRITERIA = 12
MAX_POINTS = 5
# A rubric must put weight on the final target even when the students already reach it.
MIN_POINTS_FOR_FINAL_ANSWER = 3


class Weighted(NamedTuple):
    criterion: ArithmeticCriterion
    points: int


def induce_rubric(teachers: Sequence[str], students: Sequence[str]) -> list[Weighted]:
    """4 to 12 criteria in falling weight; [] when the teachers have too little in common.

    Points are 1 + 4 x (teacher pass rate - student pass rate), rounded, never below 1.
    """
    taught = [read_statement(text) for text in teachers]
    tried = [read_statement(text) for text in students]
    candidates = dict.fromkeys(c for statement in taught for c in criteria_of(statement))
    kept = [c for c in candidates if _pass_rate(c, taught) > 0.5]
    weighed = [Weighted(c, _points(c, taught, tried)) for c in kept]
    rubric = sorted(weighed, key=lambda w: -w.points)[:MAX_CRITERIA]
    return rubric if len(rubric) >= MIN_CRITERIA else []


def verify(sentences: Sequence[str], answer: str) -> list[bool]:
    """One verdict a sentence; a sentence that is not understood is not satisfied."""
    statement = read_statement(answer)
    criteria = [parse_criterion(sentence) for sentence in sentences]
    return [criterion is not None and criterion.holds(statement) for criterion in criteria]


def _points(
    criterion: ArithmeticCriterion, taught: Sequence[Statement], tried: Sequence[Statement]
) -> int:
    gap = _pass_rate(criterion, taught) - _pass_rate(criterion, tried)
    least = MIN_POINTS_FOR_FINAL_ANSWER if isinstance(criterion, FinalAnswer) else 1
    return max(least, 1 + round((MAX_POINTS - 1) * gap))


def _pass_rate(criterion: ArithmeticCriterion, statements: Sequence[Statement]) -> float:
    if not statements:
        return 0.0
    return sum(criterion.holds(s) for s in statements) / len(statements)
