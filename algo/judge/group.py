"""A group of rollouts, and the rules that score one without a judge.

A rollout that gives no answer scores 0 by a rule about the answer; that is a judgement by code, not
a failed judgement, and it is recorded under the rule's name.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal

from algo.thinking import is_unclosed, without_thinking

Unfinished = Literal["judge", "zero", "drop"]
"""What becomes of a rollout that the model did not end itself: shown as it is, scored 0, or left
out of its group."""


class Rule(StrEnum):
    """Why a rollout is settled without being shown to a judge: it scores 0, or counts nowhere."""

    UNFINISHED = "unfinished"
    """It was cut off, and `ropd.rollouts.unfinished` is `zero`."""
    UNCLOSED_THINK = "unclosed_think"
    """A think block was opened and never closed, so there is no answer after it."""
    EMPTY = "empty"
    """Nothing but white space and punctuation is in its answer."""
    DROPPED = "dropped"
    """It was cut off, and `ropd.rollouts.unfinished` is `drop`: no part of its group's mean or of
    the loss. The 0 that stands for it is no score."""


@dataclass(frozen=True)
class Rollout:
    """One sampled answer: its whole text, thinking included.

    `finished` is false where the model did not end it itself. `thinks` is false where the student's
    chat template has thinking switched off, or knows none: a `<think>` or `</think>` is then a word
    like any other, and hides nothing from the judge.
    """

    text: str
    finished: bool
    thinks: bool = True

    @cached_property
    def answer(self) -> str:
        """What is judged: of a student that thinks, only what stands after the last `</think>`."""
        return without_thinking(self.text, self.thinks).strip()

    def rule(self, unfinished: Unfinished) -> Rule | None:
        """The rule that settles this rollout, if one does.

        A thought that never ended holds no answer, cut off or not, and no judge is asked about it.
        """
        if not self.finished and unfinished != "judge":
            return Rule.UNFINISHED if unfinished == "zero" else Rule.DROPPED
        if self.thinks and is_unclosed(self.text):
            return Rule.UNCLOSED_THINK
        return None if _has_content(self.answer) else Rule.EMPTY


def rules_of(rollouts: Sequence[Rollout], unfinished: Unfinished) -> tuple[Rule | None, ...]:
    """The rule that settles each rollout of a group, None where a judge does.

    Of a group that was cut off as a whole nothing is left out: it is a tie of zeros, which teaches
    as little, and leaves no batch without a token to average over.
    """
    if unfinished == "drop" and not any(rollout.finished for rollout in rollouts):
        unfinished = "zero"
    return tuple(rollout.rule(unfinished) for rollout in rollouts)


@dataclass(frozen=True)
class Group:
    """The n rollouts of one prompt instance; `uid` is unique to the instance."""

    uid: str
    messages: Sequence[Mapping[str, Any]]
    rollouts: Sequence[Rollout]
    step: int


def _has_content(text: str) -> bool:
    return any(_says_something(character) for character in text)


def _says_something(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] in "LN" or category in ("Sm", "Sc", "So")
