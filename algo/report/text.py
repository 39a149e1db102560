"""Text of unknown origin, made fit to be shown: bounded in length, with nothing in it invisible.

Escaping for HTML is the template's part (autoescape); this module never makes markup.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

_JOINERS = "\u200c\u200d"  # some scripts and emoji are not readable without them


@dataclass(frozen=True)
class Excerpt:
    """A text with `cut` characters left out between `head` and `tail`."""

    head: str
    cut: int = 0
    tail: str = ""


def excerpt(text: str, limit: int) -> Excerpt:
    """At most `limit` characters of `text`: two thirds from its start, the rest from its end."""
    if len(text) <= limit:
        return Excerpt(text)
    tail = limit // 3
    return Excerpt(text[: limit - tail], len(text) - limit, text[len(text) - tail :])


def visible(text: str) -> str:
    """`text` with each character that shows nothing, or reorders others, spelled as its code point.

    A right-to-left override could make an answer read as another one, a lone surrogate could not be
    written as UTF-8. Line feeds, tabs and the joiners of words and emoji stay.
    """
    return text.translate(_SHOWN)


class _Shown(dict[int, str]):
    """What each code point is shown as, found out when it is first met."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        kept = not hidden or character in "\n\t" + _JOINERS
        shown = character if kept else f"<U+{code:04X}>"
        self[code] = shown
        return shown


_SHOWN = _Shown()
