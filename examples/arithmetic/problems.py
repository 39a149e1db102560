"""Column addition: the problems of the embedded example, and what counts as solved.

A problem is a sum of two operands of three or four digits. Its worked solution adds the digits of
one column at a time, right to left, as `upper+lower+carry=sum`, and closes with `answer N`.

This module does not know how a solution is worded (`solutions`), how problems are stored
(`dataset`), or who solves them (`student`, `judge`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from algo.grading.ground_truth import grade

SMALLEST_OPERAND = 100
LARGEST_OPERAND = 9999
DATA_SOURCE = "arithmetic"
GREEDY_DATA_SOURCE = "arithmetic_greedy"

_QUESTION = re.compile(r"(?<![0-9+])([0-9]{1,9})\s*\+\s*([0-9]{1,9})\s*=\s*\?")


@dataclass(frozen=True, order=True)
class Problem:
    """The sum `a` + `b` as it is asked of a student."""

    a: int
    b: int

    @property
    def question(self) -> str:
        return f"{self.a}+{self.b}=?"

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.question}]

    @property
    def answer(self) -> str:
        return str(self.a + self.b)

    @property
    def unordered(self) -> tuple[int, int]:
        """The operands without their order: `a+b` and `b+a` are one problem for a held-out set."""
        return (min(self.a, self.b), max(self.a, self.b))


class DigitColumn(NamedTuple):
    """One written step: two digits and the carry that comes in from the right."""

    upper: int
    lower: int
    carry_in: int

    @property
    def total(self) -> int:
        return self.upper + self.lower + self.carry_in

    @property
    def carry_out(self) -> int:
        return self.total // 10

    @property
    def equation(self) -> str:
        return f"{self.upper}+{self.lower}+{self.carry_in}={self.total}"


def digit_pairs(problem: Problem) -> list[tuple[int, int]]:
    """The digits of each column, right to left; the shorter operand is padded with zeros."""
    width = max(len(str(problem.a)), len(str(problem.b)))
    upper, lower = (str(n).zfill(width)[::-1] for n in (problem.a, problem.b))
    return [(int(u), int(v)) for u, v in zip(upper, lower, strict=True)]


def columns(problem: Problem) -> tuple[DigitColumn, ...]:
    """The correct steps, right to left."""
    steps: list[DigitColumn] = []
    carry = 0
    for upper, lower in digit_pairs(problem):
        steps.append(DigitColumn(upper, lower, carry))
        carry = steps[-1].carry_out
    return tuple(steps)


def parse_question(text: str) -> Problem | None:
    """The first `a+b=?` in `text`, or None."""
    found = _QUESTION.search(text)
    return Problem(int(found[1]), int(found[2])) if found else None


def is_correct(text: str, problem: Problem) -> bool:
    """Whether `text` ends in the right `answer N`: the rule that validation grades by."""
    return grade(DATA_SOURCE, text, problem.answer) == 1.0


class ProblemSets(NamedTuple):
    """Training and held-out problems; no sum is in both, in either order of its operands."""

    train: tuple[Problem, ...]
    held_out: tuple[Problem, ...]


def draw_problem(rng: random.Random) -> Problem:
    return Problem(
        rng.randint(SMALLEST_OPERAND, LARGEST_OPERAND),
        rng.randint(SMALLEST_OPERAND, LARGEST_OPERAND),
    )


def draw_problem_sets(seed: int, train: int, held_out: int) -> ProblemSets:
    """Draw `train` and `held_out` problems, all distinct as unordered pairs.

    The held-out problems come first from their own stream, so they depend on the seed and on their
    number only, not on how many training problems there are.
    """
    taken: set[tuple[int, int]] = set()
    kept_out = _distinct(random.Random(f"held-out {seed}"), held_out, taken)
    return ProblemSets(
        train=_distinct(random.Random(f"train {seed}"), train, taken), held_out=kept_out
    )


def problems_outside(rng: random.Random, excluded: frozenset[tuple[int, int]]) -> Iterator[Problem]:
    """Endless problems none of which, in either order, is in `excluded`."""
    while True:
        problem = draw_problem(rng)
        if problem.unordered not in excluded:
            yield problem


def _distinct(rng: random.Random, count: int, taken: set[tuple[int, int]]) -> tuple[Problem, ...]:
    chosen: list[Problem] = []
    while len(chosen) < count:
        problem = draw_problem(rng)
        if problem.unordered not in taken:
            taken.add(problem.unordered)
            chosen.append(problem)
    return tuple(chosen)
