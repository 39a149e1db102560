"""Which of a prompt's stored answers a judge is shown: m distinct ones, drawn from all of them.

A teacher at temperature 0 gives nearly equal answers; where an index holds more than m, showing the
first m would show one of them over and over and leave the others unread. Which ones are drawn
follows from the seed and the prompt alone, so that a prompt has the same teachers whenever it comes
up. Equal texts count once, and are drawn with all their copies, which are their votes.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable

from algo.teacher.teacher_index import TeacherAnswer, TeacherIndex


class DrawnAnswers:
    """An index as training sees it."""

    def __init__(self, index: TeacherIndex, seed: int) -> None:
        self._index = index
        self._seed = seed

    def answers(self, fingerprint: str, m: int) -> tuple[TeacherAnswer, ...]:
        """Every usable answer whose text is one of the at most `m` drawn, in stored order.

        Raises `TeacherMissing` for a prompt with fewer than `m` usable answers, equal ones counted,
        `TeacherIndexError` when a record is damaged.
        """
        # The table's count may include another prompt's; the records have the last word.
        held = self._index.usable(fingerprint, at_least=m)
        return drawn(held, m, self._seed, fingerprint)


def drawn(
    stored: Iterable[TeacherAnswer], m: int, seed: int, fingerprint: str
) -> tuple[TeacherAnswer, ...]:
    """Those of the `stored` answers of a prompt that show one of `m` distinct texts."""
    stored = tuple(stored)
    texts = list(dict.fromkeys(answer.shown for answer in stored))
    if len(texts) > m:
        key = hashlib.sha256(f"{seed}\n{fingerprint}".encode()).digest()
        texts = random.Random(key).sample(texts, m)
    chosen = frozenset(texts)
    return tuple(answer for answer in stored if answer.shown in chosen)
