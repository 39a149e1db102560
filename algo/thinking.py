"""Think blocks: what stands after the last of them is the answer, and nothing else is."""

from __future__ import annotations

from typing import Final

CLOSING_TAG: Final = "</think>"
_OPENING_TAG: Final = "<think>"


def after_thinking(text: str) -> str:
    """The part after the last ``</think>``: all of it when there is none."""
    return text.rpartition(CLOSING_TAG)[2]


def is_unclosed(text: str) -> bool:
    """Whether thinking was begun and never ended, so that there is no answer."""
    return _OPENING_TAG in after_thinking(text)
