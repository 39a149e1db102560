r"""Grades finished answers against ground truth: validation, statistics, the reward of RLVR alone.

`grade` looks at the text after the last ``</think>`` only, and gives 1.0 for a right final answer
and 0.0 for anything else: a wrong one, none, thinking that never ended, an expression that cannot
be compared within `math_equivalence.LIMIT_S`. Which rule applies follows from the prefix of the
row's ``data_source``:

- ``arithmetic``: the text ends in ``answer N``, digits compared exactly;
- ``math``, ``dapo_math``, ``aime``, ``hmmt``: mathematical equality (`math_equivalence`) of the
  last answer that is marked, as their template asks: ``\boxed{34}``, or ``Answer: 34``;
- ``number``: the same, and where nothing is marked the last number: for a template of your own
  that asks for the number alone;
- ``gpqa``: the letter of the last stated choice, such as ``Answer: C`` or ``\boxed{C}``.

What counts as stated is `stated.py`'s part.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

from algo.errors import ConfigurationError
from algo.grading.math_equivalence import equivalent
from algo.grading.stated import last_number, stated_choice, stated_value, states_any
from algo.thinking import after_thinking, is_unclosed

_TAIL = 2000
"""Characters of the end that a final answer is looked for in: bounds the time of every rule."""


class Reading(NamedTuple):
    """What a text states as its final answer, and whether that is right.

    `stated` is equal for answers that count as the same; None where nothing is stated.
    """

    right: bool
    stated: str | None


def grade(data_source: str, solution_text: str, ground_truth: object) -> float:
    """1.0 if `solution_text` ends in the right answer, else 0.0; blocks and raises as
    `read_answer`."""
    return float(read_answer(data_source, solution_text, ground_truth).right)


def read_answer(data_source: str, solution_text: str, ground_truth: object) -> Reading:
    """The final answer of `solution_text`, compared with `ground_truth`.

    Blocks: a mathematical comparison takes milliseconds, at worst `math_equivalence.LIMIT_S`. Safe
    to call from any thread. Raises `ConfigurationError` for an unknown `data_source` and for a row
    without ground truth.
    """
    rule = _rule(data_source)
    truth = "" if ground_truth is None else str(ground_truth).strip()
    if not truth:
        raise ConfigurationError(
            f"column reward_model.ground_truth is empty in a {data_source!r} row, which cannot be "
            "graded: `ropd data check --validation FILE` lists all such rows"
        )
    if is_unclosed(solution_text):
        return Reading(False, None)
    return Reading(*rule(after_thinking(solution_text)[-_TAIL:], truth))


def known_sources() -> tuple[str, ...]:
    """The prefixes of ``data_source`` for which there is a rule."""
    return tuple(_RULES)


def can_grade(data_source: str) -> bool:
    """Whether `grade` knows a rule for rows of this data source."""
    return any(data_source.startswith(prefix) for prefix in _RULES)


def needs_math_verify(data_source: str) -> bool:
    """Whether the rule for rows of this data source compares mathematically."""
    return _rule(data_source) in (_mathematics, _number)


_Rule = Callable[[str, str], tuple[bool, str | None]]


def _rule(data_source: str) -> _Rule:
    for prefix, rule in _RULES.items():
        if data_source.startswith(prefix):
            return rule
    raise ConfigurationError(
        f"column data_source holds {data_source!r}, which no grading rule covers: begin it with "
        f"one of {', '.join(_RULES)}, or leave these rows out of data.val_files"
    )


def _arithmetic(final: str, truth: str) -> tuple[bool, str | None]:
    found = re.search(r"\banswer[ :]*(\d+)\s*$", final, re.IGNORECASE | re.ASCII)
    stated = None if found is None else found.group(1)
    return stated == truth, stated


def _mathematics(final: str, truth: str) -> tuple[bool, str | None]:
    return _compared(stated_value(final), truth)


def _number(final: str, truth: str) -> tuple[bool, str | None]:
    return _compared(stated_value(final) if states_any(final) else last_number(final), truth)


def _compared(stated: str | None, truth: str) -> tuple[bool, str | None]:
    if stated is None:
        return False, None
    right, said = equivalent(f"\\boxed{{{stated}}}", truth)
    return right, said or stated


def _choice(final: str, truth: str) -> tuple[bool, str | None]:
    stated = stated_choice(final)
    return stated == truth.upper(), stated


_RULES: MappingProxyType[str, _Rule] = MappingProxyType(
    {
        "arithmetic": _arithmetic,
        "math": _mathematics,
        "dapo_math": _mathematics,
        "aime": _mathematics,
        "hmmt": _mathematics,
        "number": _number,
        "gpqa": _choice,
    }
)
