"""What an answer states, read off its text: column equations and final answers.

Works on any text and never fails: what is not a column equation or a final answer is not seen.
This module does not judge whether a statement is right for a question (`criteria`).
"""

from __future__ import annotations

import re
from typing import NamedTuple

_EQUATION = re.compile(
    r"(?<![0-9+.])([0-9])[ \t]?\+[ \t]?([0-9])[ \t]?\+[ \t]?([0-9])"
    r"[ \t]?=[ \t]?([0-9]{1,2})(?![0-9])"
)
_FINAL = re.compile(r"\banswer[: \t]{0,3}([0-9]{1,40})", re.IGNORECASE)
_CLOSING = re.compile(r"answer [0-9]{1,40}\s*\Z")


class Equation(NamedTuple):
    """A column equation. The two digits are ordered by size: `8+9+0` and `9+8+0` are one column."""

    low: int
    high: int
    carry: int
    total: int

    def __str__(self) -> str:
        return f"{self.low}+{self.high}+{self.carry}={self.total}"

    @property
    def digits(self) -> tuple[int, int]:
        return (self.low, self.high)

    @property
    def is_true(self) -> bool:
        return self.low + self.high + self.carry == self.total


class Statement(NamedTuple):
    """All that one answer states, in the order of the text."""

    equations: tuple[Equation, ...]
    final_answers: tuple[str, ...]
    closes_with_answer: bool


def read_statement(text: str) -> Statement:
    return Statement(
        equations=tuple(_equation(found) for found in _EQUATION.finditer(text)),
        final_answers=tuple(_FINAL.findall(text)),
        closes_with_answer=_CLOSING.search(text) is not None,
    )


def _equation(found: re.Match[str]) -> Equation:
    upper, lower, carry, total = (int(group) for group in found.groups())
    return Equation(min(upper, lower), max(upper, lower), carry, total)
