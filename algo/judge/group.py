"""A group of rollouts, and the rules that settle one without a judge.

A rollout that gives no answer scores 0 by a rule about the answer; that is a judgement by code, not
a failed judgement, and it is recorded under the rule's name. What becomes of a rollout that was cut
off is `ropd.rollouts.unfinished`'s to say.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal

from algo.thinking import Thinking

Unfinished = Literal["judge", "zero", "drop"]
"""What becomes of a rollout that was cut off (`ropd.rollouts.unfinished`)."""


class Rule(StrEnum):
    """Why a rollout is settled without being shown to a judge."""

    UNFINISHED = "unfinished"
    """It was cut off, and scores 0."""
    UNCLOSED_THINK = "unclosed_think"
    """Its thinking was begun and never ended, so there is no answer after it; it scores 0."""
    EMPTY = "empty"
    """There is nothing but white space and punctuation in its answer; it scores 0."""
    DROPPED = "dropped"
    """It was cut off and is left out: no score of its own, no part in its group's mean or in the
    loss. It stands with a 0 where every rollout must have a number."""


@dataclass(frozen=True)
class Rollout:
    """One sampled answer: its whole text, thinking included.

    `finished` is false when generation was cut off. `thinking` says what think tags in the text
    are (`algo/thinking.py`).
    """

    text: str
    finished: bool
    thinking: Thinking = Thinking.ON

    @cached_property
    def answer(self) -> str:
        """What is judged: the text without finished thinking. An open thought is shown whole."""
        return self.thinking.answer(self.text)

    @cached_property
    def rule(self) -> Rule | None:
        """The rule that scores this rollout 0 whatever becomes of unfinished ones."""
        return None if _has_content(self.thinking.says(self.text)) else Rule.EMPTY

    @property
    def ends_in_thinking(self) -> bool:
        return self.thinking.is_open(self.text)


def rules_of(rollouts: Sequence[Rollout], unfinished: Unfinished) -> tuple[Rule | None, ...]:
    """The rule that settles each rollout of a group; `None` for those that are judged.

    `drop` leaves out what was cut off, but for a group of nothing else: that one is a tie of zeros,
    which teaches nothing either and leaves no batch without a token to average over.
    """
    if unfinished == "judge":
        return tuple(rollout.rule for rollout in rollouts)
    drops = unfinished == "drop" and any(rollout.finished for rollout in rollouts)
    return tuple(
        _strict(rollout, Rule.DROPPED if drops else Rule.UNFINISHED) for rollout in rollouts
    )


def _strict(rollout: Rollout, cut_off: Rule) -> Rule | None:
    if not rollout.finished:
        return cut_off
    return rollout.rule or (Rule.UNCLOSED_THINK if rollout.ends_in_thinking else None)


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
