"""Think blocks: what of a text is thinking, and what is the answer.

A model that thinks writes ``<think>...</think>answer``; where the chat template opens the block in
the prompt, its text begins within it. Of such a text the answer is what stands after the last
``</think>``. A model that does not think owns every word that it writes: there the tags are text
like any other, and hide nothing. `Thinking` says which, and `thinking_of` tells it from what the
chat template adds to a prompt. Replies of a judge, of which no template is known, are read by the
tags alone.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

CLOSING_TAG: Final = "</think>"
_OPENING_TAG: Final = "<think>"
SWITCH: Final = "enable_thinking"
"""What chat templates call the setting that turns thinking on or off."""


class Thinking(StrEnum):
    """Whether the tags in a model's text are thinking."""

    OFF = "off"
    """It does not think: whatever it writes is its answer, tags included."""
    ON = "on"
    """It may begin with a think block."""
    OPENED = "opened"
    """The prompt has opened the block, so that its text begins within it."""

    def rest(self, text: str) -> str:
        """What of `text` is no finished thinking.

        A thought that was begun and not ended is all there is, and is given as it stands.
        """
        return text if self is Thinking.OFF else after_thinking(text)

    def answer(self, text: str) -> str:
        """The same without white space around it."""
        return self.rest(text).strip()

    def is_open(self, text: str) -> bool:
        """Whether `text` ends within its thinking, so that no answer was begun."""
        if self is Thinking.OFF:
            return False
        return is_unclosed(text) or (self is Thinking.OPENED and CLOSING_TAG not in text)

    def says(self, text: str) -> str:
        """`answer(text)` without the tag that an open thought begins with: is there anything?"""
        answer = self.answer(text)
        return answer.removeprefix(_OPENING_TAG) if self.is_open(text) else answer


def thinking_of(template: str, opening: str, switch: object) -> Thinking:
    """What a student's text is, by its chat template.

    `opening` is what the template, under the run's settings, adds for the answer that follows;
    `switch` is the setting `enable_thinking`, `None` where it is not set.

    A block left open there is the beginning of a thought, a closed one says that there is none. A
    template that adds neither lets a student think if it knows of think blocks, unless it knows
    the switch too and that is off.
    """
    if _OPENING_TAG in opening or CLOSING_TAG in opening:
        closed = opening.rfind(CLOSING_TAG) > opening.rfind(_OPENING_TAG)
        return Thinking.OFF if closed else Thinking.OPENED
    if _OPENING_TAG not in template and CLOSING_TAG not in template:
        return Thinking.OFF
    switched_off = switch is not None and not switch and SWITCH in template
    return Thinking.OFF if switched_off else Thinking.ON


def after_thinking(text: str) -> str:
    """The part after the last ``</think>``: all of it when there is none."""
    return text.rpartition(CLOSING_TAG)[2]


def is_unclosed(text: str) -> bool:
    """Whether a think block was begun and never ended, so that there is no answer.

    A block begins a text, or what follows another block; a tag further on is a mention.
    """
    return after_thinking(text).lstrip().startswith(_OPENING_TAG)
