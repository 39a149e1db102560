"""What the page needs to know of every record of a journal, taken in one pass.

Each judged record is replayed here: its rewards are recomputed from its booleans, its texts are
held against their hashes. Memory grows with the number of groups, not with their texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any

from algo.judge.journal import journal_folder, read_expenses
from algo.judge.replay import read_judgements, replay_record
from algo.methods.registry import METHODS


@dataclass(frozen=True)
class Entry:
    """One record in brief; `scores` is None and `failure` a kind where judging failed."""

    position: int
    """Its place in the journal, from 0."""
    step: int
    scores: tuple[float, ...] | None
    failure: str | None
    latency_s: float
    exact: bool

    @property
    def spread(self) -> float:
        """Highest minus lowest reward of the group; 0 for one without rewards."""
        return max(self.scores) - min(self.scores) if self.scores else 0.0

    @property
    def tie(self) -> bool:
        """All of two or more rewards are equal, so the group teaches nothing."""
        return self.scores is not None and len(self.scores) > 1 and self.spread == 0.0


@dataclass
class Stage:
    """The calls of one stage, summed over the run."""

    calls: int = 0
    attempts: int = 0
    unusable: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    latencies_s: list[float] = field(default_factory=list)

    def add(self, call: Mapping[str, Any]) -> None:
        self.calls += 1
        self.unusable += call["fault"] is not None
        if "latency_s" in call:
            self.attempts += call["attempts"]
            self.tokens_in += call["prompt_tokens"] or 0
            self.tokens_out += call["completion_tokens"] or 0
            self.latencies_s.append(call["latency_s"])


@dataclass(frozen=True)
class Census:
    """All entries in the order of writing, and the calls behind them by stage.

    What was asked beside the groups has stages of its own and no entry: it rewarded nobody.
    """

    entries: tuple[Entry, ...]
    stages: Mapping[str, Stage]

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(sorted({entry.step for entry in self.entries}))

    @property
    def judged_steps(self) -> tuple[int, ...]:
        return tuple(sorted({entry.step for entry in self.judged}))

    @property
    def judged(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.failure is None)

    @property
    def failures(self) -> Counter[str]:
        """Failed groups by kind."""
        return Counter(entry.failure for entry in self.entries if entry.failure is not None)

    @property
    def inexact(self) -> tuple[Entry, ...]:
        """The judged groups whose record contradicts itself."""
        return tuple(entry for entry in self.judged if not entry.exact)

    def mean_rewards(self) -> dict[int, float]:
        """The mean reward of each step's judged rollouts."""
        by_step = sorted(self.judged, key=lambda entry: entry.step)
        scores = {
            step: [score for entry in entries for score in entry.scores or ()]
            for step, entries in groupby(by_step, key=lambda entry: entry.step)
        }
        return {step: fmean(values) for step, values in scores.items() if values}


def take_census(journal: Path) -> Census:
    """Raises `JournalError` where the journal is missing, damaged or of another version."""
    stages: dict[str, Stage] = {}
    entries: list[Entry] = []
    for position, record in enumerate(read_judgements(journal)):
        entries.append(_entry(position, record))
        for call in record["calls"]:
            stages.setdefault(call["stage"], Stage()).add(call)
    for expense in read_expenses(journal_folder(journal)):
        for call in expense["calls"]:
            stages.setdefault(f"{call['stage']} ({expense['kind']})", Stage()).add(call)
    return Census(tuple(entries), stages)


def records_at(journal: Path, positions: Iterable[int]) -> dict[int, dict[str, Any]]:
    """The records at these places of the journal, by place."""
    wanted = set(positions)
    found: dict[int, dict[str, Any]] = {}
    if not wanted:
        return found
    for position, record in enumerate(read_judgements(journal)):
        if position in wanted:
            found[position] = record
            if len(found) == len(wanted):
                break
    return found


def percentile(values: list[float], share: int) -> float | None:
    """The `share`-th percentile, interpolated between measured values; None when there is none."""
    if len(values) < 2:
        return values[0] if values else None
    return quantiles(values, n=100, method="inclusive")[share - 1]


def _entry(position: int, record: Mapping[str, Any]) -> Entry:
    judged = record["status"] == "judged"
    return Entry(
        position=position,
        step=record["step"],
        scores=tuple(record["scores"]) if judged else None,
        failure=None if judged else record["failure"]["kind"],
        latency_s=record["latency_s"],
        exact=not judged or replay_record(record, METHODS).exact,
    )
