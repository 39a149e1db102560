"""How often a prompt was judged before in a run, whatever the order in which groups arrive.

A method may draw from it, as ROPD draws the order of the answers: seed, prompt and occurrence are
the same in every run with that seed, a uid is not. A judgement has the lowest number that no other
one of its prompt has; it keeps it by its record, failed ones included, and gives it back where it
leaves none. So a run that was killed and resumed hands out the numbers that it would have.

Of two groups of one prompt that are judged at the same time the first to arrive has the lower
number: nothing else tells them apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


class Occurrences:
    """The numbers in use by prompt fingerprint; begins with those of a journal."""

    def __init__(self, recorded: Iterable[tuple[str, int | None]] = ()) -> None:
        """`recorded` are fingerprint and number of each record; an older one has no number."""
        self._next: Counter[str] = Counter()
        self._free: dict[str, set[int]] = {}
        numbered: dict[str, set[int]] = {}
        older: Counter[str] = Counter()
        for fingerprint, number in recorded:
            if number is None:
                older[fingerprint] += 1
            else:
                numbered.setdefault(fingerprint, set()).add(number)
        self._next.update(older)
        for fingerprint, used in numbered.items():
            first = older[fingerprint]
            self._next[fingerprint] = max(first, max(used) + 1)
            if free := set(range(first, self._next[fingerprint])) - used:
                self._free[fingerprint] = free

    def take(self, fingerprint: str) -> int:
        """The lowest number that is not in use."""
        free = self._free.get(fingerprint)
        if not free:
            number = self._next[fingerprint]
            self._next[fingerprint] += 1
            return number
        number = min(free)
        free.remove(number)
        if not free:
            del self._free[fingerprint]
        return number

    def give_back(self, fingerprint: str, number: int) -> None:
        """A judgement left no record: its number is free again."""
        self._free.setdefault(fingerprint, set()).add(number)
