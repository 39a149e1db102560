"""Think blocks: what stands after the last of them is the answer, and nothing else is.

That holds for a model that thinks. One that does not owns every word that it writes: there the tags
are text like any other, and hide nothing. `Thinking` says which a student does, told from its chat
template. Replies of a judge, of which no template is known, are read by the tags alone.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

OPENING_TAG: Final = "<think>"
CLOSING_TAG: Final = "</think>"
SWITCH: Final = "enable_thinking"
"""What chat templates call the setting that turns thinking on or off."""


class Thinking(StrEnum):
    """What a chat template has a model do."""

    OFF = "off"
    """Answer at once: tags in its text are words."""
    ON = "on"
    """Begin with a think block, if it likes."""
    OPENED = "opened"
    """Go on within a block that the prompt has opened."""


def thinking_of(template: str, opening: str, switch: object) -> Thinking:
    """What `template` has a model do.

    `opening` is what the template, under the run's settings, adds for the answer that follows;
    `switch` is the setting `enable_thinking`, `None` where it is not set.

    A block left open there is the beginning of a thought, a closed one says that there is none. A
    template that adds neither lets a model think if it knows of think blocks, unless it knows the
    switch too and that is off.
    """
    if OPENING_TAG in opening or CLOSING_TAG in opening:
        closed = opening.rfind(CLOSING_TAG) > opening.rfind(OPENING_TAG)
        return Thinking.OFF if closed else Thinking.OPENED
    if OPENING_TAG not in template and CLOSING_TAG not in template:
        return Thinking.OFF
    switched_off = switch is not None and not switch and SWITCH in template
    return Thinking.OFF if switched_off else Thinking.ON


def without_thinking(text: str, thinks: bool) -> str:
    """What of a model's text is its answer: all of it where it does not think."""
    return after_thinking(text) if thinks else text


def holds_answer(text: str, thinks: bool) -> bool:
    """Whether an answer follows thinking that was ended."""
    return bool(without_thinking(text, thinks).strip()) and not (thinks and is_unclosed(text))


def after_thinking(text: str) -> str:
    """The part after the last ``</think>``: all of it when there is none."""
    return text.rpartition(CLOSING_TAG)[2]


def is_unclosed(text: str) -> bool:
    """Whether thinking was begun and never ended, so that there is no answer.

    A block begins a text, or what follows another block; a tag further on is a mention.
    """
    return after_thinking(text).lstrip().startswith(OPENING_TAG)
