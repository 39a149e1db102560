"""How a solution is worded: the student's one layout, and the teacher's several.

Every style states the same facts (each column's equation with its incoming carry, then the closing
`answer N`) in printable ASCII and newlines. This module does not decide which facts are right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from examples.arithmetic.problems import DigitColumn, Problem, columns

Style = Callable[[Sequence[DigitColumn], str], str]

_PLACES = ("ones", "tens", "hundreds", "thousands")


def canonical(steps: Sequence[DigitColumn], answer: str) -> str:
    """`1+7+0=8;2+3+0=5;8+9+0=17;4+0+1=5;answer 5758`: the student's layout."""
    return ";".join([step.equation for step in steps] + [f"answer {answer}"])


def with_carries(steps: Sequence[DigitColumn], answer: str) -> str:
    noted = [f"{step.equation} carry {step.carry_out}" for step in steps]
    return "; ".join([*noted, f"answer {answer}"])


def with_places(steps: Sequence[DigitColumn], answer: str) -> str:
    named = [f"{_place(i)}: {step.equation}" for i, step in enumerate(steps)]
    return ", ".join([*named, f"answer {answer}"])


def one_per_line(steps: Sequence[DigitColumn], answer: str) -> str:
    return "\n".join([step.equation for step in steps] + [f"answer {answer}"])


def left_to_right(steps: Sequence[DigitColumn], answer: str) -> str:
    listed = " | ".join(step.equation for step in reversed(steps))
    return f"From the left: {listed}\nanswer {answer}"


def spaced(steps: Sequence[DigitColumn], answer: str) -> str:
    written = [f"{s.upper} + {s.lower} + {s.carry_in} = {s.total}" for s in steps]
    return ". ".join(written) + f". The sum is written digit by digit.\nanswer {answer}"


STYLES: Mapping[str, Style] = {
    style.__name__: style
    for style in (canonical, with_carries, with_places, one_per_line, left_to_right, spaced)
}


def solve(problem: Problem, style: Style = canonical) -> str:
    """The correct solution in one style."""
    return style(columns(problem), problem.answer)


def _place(index: int) -> str:
    return _PLACES[index] if index < len(_PLACES) else f"column {index + 1}"
