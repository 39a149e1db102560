"""How long the judge worked in a step, and how long the trainer had nothing but it to wait for.

The difference is what is hidden: judging beside generation and, in the asynchronous modes, beside
training. Pure; times are seconds since the epoch, taken by the trainer and by the reward worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

BUSY = "ropd/judge/busy_s"
WAITED = "ropd/judge/waited_s"
METRICS: Final[dict[str, str]] = {
    BUSY.removeprefix("ropd/"): "Seconds of a step in which at least one group was at the judge.",
    WAITED.removeprefix("ropd/"): "Seconds of these in which the trainer waited for its batch and "
    "every group in flight had been generated: it waited for the judge alone.",
}
"""What a training step adds: name under `ropd/`, and what it says."""


class JudgingSpan(NamedTuple):
    """When a group came to the judge and when it left, in seconds since the epoch."""

    started: float
    ended: float | None
    """None: it is still being judged."""


@dataclass(frozen=True)
class BatchWait:
    """What the trainer saw in flight from ``start`` to ``end``, while it waited for its batch."""

    start: float
    end: float
    in_flight: frozenset[str]
    """Uids of the groups that generate or are judged."""


def judge_time(
    waits: Sequence[BatchWait], spans: Mapping[str, JudgingSpan], start: float, end: float
) -> dict[str, float]:
    """Seconds of the step from ``start`` to ``end``, as trainer metrics.

    `BUSY`: at least one group was at the judge. `WAITED`: the same, while the trainer waited for
    its batch and every group in flight had finished generating, so that it waited for the judge
    alone. In turns (``sync``) that is the judge's tail.
    """
    return {BUSY: busy_s(spans.values(), start, end), WAITED: waited_s(waits, spans)}


def busy_s(spans: Iterable[JudgingSpan], start: float, end: float) -> float:
    """Length of the union of ``spans`` within [``start``, ``end``]."""
    total, covered = 0.0, start
    for span in sorted(spans, key=lambda span: span.started):
        left = end if span.ended is None else min(span.ended, end)
        total += max(0.0, left - max(span.started, covered))
        covered = max(covered, left)
    return total


def waited_s(waits: Iterable[BatchWait], spans: Mapping[str, JudgingSpan]) -> float:
    """Length of the parts of ``waits`` in which all that was in flight had reached the judge, and
    not all had left it."""
    return sum(_waited(wait, spans) for wait in waits)


def _waited(wait: BatchWait, spans: Mapping[str, JudgingSpan]) -> float:
    if not wait.in_flight or not wait.in_flight <= spans.keys():
        return 0.0
    there = [spans[uid] for uid in wait.in_flight]
    all_there = max(span.started for span in there)
    all_gone = max(wait.end if span.ended is None else span.ended for span in there)
    return max(0.0, min(wait.end, all_gone) - max(wait.start, all_there))
