"""Which groups of a run a page shows: pure functions on the census.

Of each chosen step: the group whose rewards lie furthest apart, one tie, then the others by falling
spread. Beside them failed groups and records that contradict themselves, both up to a bound.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from algo.errors import ConfigurationError
from algo.report.census import Census, Entry

GROUPS_A_STEP: Final = 2
"""The group that tells most apart, and a tie."""
SPECIAL_SHOWN: Final = 10
"""Failed groups shown at most unless more groups a step are asked for; the same for mismatches."""


@dataclass(frozen=True)
class Selection:
    """What is shown; `judged`, `inexact` and `failed` share no entry."""

    steps: tuple[int, ...]
    judged: tuple[Entry, ...]
    inexact: tuple[Entry, ...]
    failed: tuple[Entry, ...]

    @property
    def entries(self) -> tuple[Entry, ...]:
        """In the order of importance, the first to be shown when not all fit."""
        return self.inexact + self.failed + self.judged

    def first(self, count: int) -> Selection:
        """The `count` most important entries of this selection."""
        kept = set(self.entries[:count])

        def of(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
            return tuple(entry for entry in entries if entry in kept)

        return Selection(self.steps, of(self.judged), of(self.inexact), of(self.failed))


def select(census: Census, steps: str | None, groups: int | None) -> Selection:
    """The groups to show.

    `steps` is as for `parse_steps`; without it the judged groups are of the first, the middle and
    the last step and the failed ones of the whole run. `groups` is how many a step (2).
    """
    chosen = _spread_out(census.judged_steps) if steps is None else parse_steps(steps, census.steps)
    wanted = GROUPS_A_STEP if groups is None else groups
    special = max(SPECIAL_SHOWN, groups or 0)
    within = census.entries if steps is None else _of_steps(census.entries, chosen)
    inexact = [entry for entry in within if not entry.exact][:special]
    failed = [entry for entry in within if entry.failure is not None]
    judged = [
        entry
        for step in chosen
        for entry in _of_one_step(
            [each for each in census.judged if each.step == step and each not in inexact], wanted
        )
    ]
    return Selection(chosen, tuple(judged), tuple(inexact), _every_kind(failed, special))


def parse_steps(text: str, known: Sequence[int]) -> tuple[int, ...]:
    """The steps in `1,10,40` or `last:3`; raises `ConfigurationError`."""
    head, colon, tail = text.partition(":")
    try:
        if colon:
            if head.strip() != "last" or int(tail) < 1:
                raise ValueError(text)
            return tuple(known[-int(tail) :])
        steps = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise ConfigurationError(
            f"--steps {text!r}: give numbers, as in 1,10,40, or the last so many, as in last:3"
        ) from None
    missing = sorted(set(steps) - set(known))
    if missing:
        has = f"steps {known[0]} to {known[-1]}" if known else "no step"
        raise ConfigurationError(
            f"--steps: the journal has no group of step {missing[0]}; it has {has}"
        )
    return steps


def _spread_out(steps: Sequence[int]) -> tuple[int, ...]:
    if not steps:
        return ()
    return tuple(sorted({steps[0], steps[(len(steps) - 1) // 2], steps[-1]}))


def _of_steps(entries: Sequence[Entry], steps: Sequence[int]) -> list[Entry]:
    return [entry for entry in entries if entry.step in steps]


def _of_one_step(entries: Sequence[Entry], wanted: int) -> list[Entry]:
    by_spread = sorted(entries, key=lambda entry: -entry.spread)
    ties = [entry for entry in entries if entry.tie]
    return list(dict.fromkeys(by_spread[:1] + ties[:1] + by_spread))[:wanted]


def _every_kind(failed: Sequence[Entry], count: int) -> tuple[Entry, ...]:
    """At most `count` of them, each kind represented before any has a second."""
    seen: defaultdict[str | None, int] = defaultdict(int)
    rounds: list[tuple[int, Entry]] = []
    for entry in failed:
        rounds.append((seen[entry.failure], entry))
        seen[entry.failure] += 1
    chosen = sorted(rounds, key=lambda pair: (pair[0], pair[1].position))[:count]
    return tuple(sorted((entry for _, entry in chosen), key=lambda entry: entry.position))
