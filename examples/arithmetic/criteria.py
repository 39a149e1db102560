"""The criteria that the embedded judge can write and decide, each one English sentence.

A criterion travels between the two roles as its sentence and nothing else: the Rubricator writes
`str(criterion)`, the Verifier reads it back with `parse_criterion` and decides it on one answer
with `holds`. Every kind counts *all* equations or answers it speaks of, so that an answer that
lists every possibility satisfies none of them. No kind knows the question or the right sum.

This module does not choose criteria or weigh them (`contrast`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, Self

from examples.arithmetic.statements import Equation, Statement

TASK = "Task Completion"
QUALITY = "Observable Quality"
REASONING = "General Reasoning"


class ArithmeticCriterion(Protocol):
    """One yes/no question about one answer."""

    @property
    def category(self) -> str: ...

    def __str__(self) -> str: ...

    def holds(self, statement: Statement) -> bool: ...

    @classmethod
    def parse(cls, sentence: str) -> Self | None: ...


@dataclass(frozen=True)
class FinalAnswer:
    value: str
    category = TASK
    _form = re.compile(r"States exactly one final answer, and it is ([0-9]+)\.")

    def __str__(self) -> str:
        return f"States exactly one final answer, and it is {self.value}."

    def holds(self, statement: Statement) -> bool:
        return statement.final_answers == (self.value,)

    @classmethod
    def parse(cls, sentence: str) -> Self | None:
        found = cls._form.fullmatch(sentence)
        return cls(found[1]) if found else None


@dataclass(frozen=True)
class ColumnEquation:
    """`times` of the `count` equations for one pair of digits are `equation`, and no more."""

    equation: Equation
    times: int
    count: int
    category = TASK
    _form = re.compile(
        r"Adds the digits [0-9] and [0-9] in exactly ([0-9]+) column equations?, "
        r"(?:and it is|([0-9]+) of them) ([0-9])\+([0-9])\+([0-9])=([0-9]{1,2})\."
    )

    def __str__(self) -> str:
        low, high = self.equation.digits
        if (self.count, self.times) == (1, 1):
            counted = "1 column equation, and it is"
        else:
            counted = f"{self.count} column equations, {self.times} of them"
        return f"Adds the digits {low} and {high} in exactly {counted} {self.equation}."

    def holds(self, statement: Statement) -> bool:
        alike = [e for e in statement.equations if e.digits == self.equation.digits]
        return len(alike) == self.count and alike.count(self.equation) == self.times

    @classmethod
    def parse(cls, sentence: str) -> Self | None:
        found = cls._form.fullmatch(sentence)
        if found is None:
            return None
        low, high, carry, total = (int(group) for group in found.groups()[2:])
        return cls(Equation(low, high, carry, total), int(found[2] or 1), int(found[1]))


@dataclass(frozen=True)
class CarriesTaken:
    columns: int
    category = REASONING
    _form = re.compile(r"A carry of 1 comes into exactly ([0-9]+) of the columns it writes\.")

    def __str__(self) -> str:
        return f"A carry of 1 comes into exactly {self.columns} of the columns it writes."

    def holds(self, statement: Statement) -> bool:
        return sum(e.carry == 1 for e in statement.equations) == self.columns

    @classmethod
    def parse(cls, sentence: str) -> Self | None:
        found = cls._form.fullmatch(sentence)
        return cls(int(found[1])) if found else None


@dataclass(frozen=True)
class EquationCount:
    count: int
    category = QUALITY
    _form = re.compile(r"Writes exactly ([0-9]+) column equations, one for each column\.")

    def __str__(self) -> str:
        return f"Writes exactly {self.count} column equations, one for each column."

    def holds(self, statement: Statement) -> bool:
        return len(statement.equations) == self.count

    @classmethod
    def parse(cls, sentence: str) -> Self | None:
        found = cls._form.fullmatch(sentence)
        return cls(int(found[1])) if found else None


class _FixedSentence:
    """A criterion without values: its sentence is its whole content."""

    _sentence: str

    def __str__(self) -> str:
        return self._sentence

    @classmethod
    def parse(cls, sentence: str) -> Self | None:
        return cls() if sentence == cls._sentence else None


@dataclass(frozen=True)
class CarriesPassOn(_FixedSentence):
    category = REASONING
    _sentence = (
        "Passes every carry on: in the order of the columns the first carry is 0, and each later "
        "carry is the tens digit of the sum before it."
    )

    __str__ = _FixedSentence.__str__

    def holds(self, statement: Statement) -> bool:
        return any(_carries_pass_on(read) for read in _readings(statement.equations))


@dataclass(frozen=True)
class TrueEquations(_FixedSentence):
    category = REASONING
    _sentence = "Writes at least one column equation, and every one it writes is true as a sum."

    __str__ = _FixedSentence.__str__

    def holds(self, statement: Statement) -> bool:
        equations = statement.equations
        return bool(equations) and all(e.is_true for e in equations)


@dataclass(frozen=True)
class AnswerFromColumns(_FixedSentence):
    category = REASONING
    _sentence = (
        "The one final answer is spelled by the units digits of the column sums, with a leading 1 "
        "where the last column carries."
    )

    __str__ = _FixedSentence.__str__

    def holds(self, statement: Statement) -> bool:
        spelled = {_spell(read) for read in _readings(statement.equations)}
        return len(statement.final_answers) == 1 and statement.final_answers[0] in spelled


@dataclass(frozen=True)
class ClosesWithAnswer(_FixedSentence):
    category = QUALITY
    _sentence = "Closes with its only final answer, in the form 'answer' and the number."

    __str__ = _FixedSentence.__str__

    def holds(self, statement: Statement) -> bool:
        return statement.closes_with_answer and len(statement.final_answers) == 1


KINDS: tuple[type[ArithmeticCriterion], ...] = (
    FinalAnswer,
    ColumnEquation,
    CarriesPassOn,
    CarriesTaken,
    AnswerFromColumns,
    TrueEquations,
    EquationCount,
    ClosesWithAnswer,
)


def parse_criterion(sentence: str) -> ArithmeticCriterion | None:
    """The criterion that `sentence` states; None when it is none of the known kinds."""
    for kind in KINDS:
        if (criterion := kind.parse(sentence.strip())) is not None:
            return criterion
    return None


def criteria_of(statement: Statement) -> list[ArithmeticCriterion]:
    """Every criterion that takes a value from `statement`, and those that need none."""
    alike = Counter(e.digits for e in statement.equations)
    same = Counter(statement.equations)
    found: list[ArithmeticCriterion] = [
        FinalAnswer(value) for value in dict.fromkeys(statement.final_answers)
    ]
    found += [ColumnEquation(e, same[e], alike[e.digits]) for e in same]
    found += [CarriesTaken(sum(e.carry == 1 for e in statement.equations))]
    found += [EquationCount(len(statement.equations))]
    return [*found, CarriesPassOn(), AnswerFromColumns(), TrueEquations(), ClosesWithAnswer()]


def _readings(equations: Sequence[Equation]) -> list[Sequence[Equation]]:
    """The columns from the ones upward; an answer may list them from either end."""
    return [equations, equations[::-1]] if equations else []


def _carries_pass_on(equations: Sequence[Equation]) -> bool:
    return equations[0].carry == 0 and all(
        after.carry == before.total // 10 for before, after in pairwise(equations)
    )


def _spell(equations: Sequence[Equation]) -> str:
    units = "".join(str(e.total % 10) for e in reversed(equations))
    return ("1" if equations[-1].total >= 10 else "") + units
