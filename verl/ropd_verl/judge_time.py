"""How long the judge worked in a step, and how long the trainer had nothing but it to wait for.

The difference is what is hidden: judging beside generation and, in the asynchronous modes, beside
training. Pure; times are seconds since the epoch, taken by the trainer and by the reward worker.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from algo.ropd.reward_manager import Stay

BUSY = "ropd/judge/busy_s"
WAITED = "ropd/judge/waited_s"


@dataclass(frozen=True)
class Look:
    """What the trainer saw in flight from ``start`` to ``end``, while it waited for its batch."""

    start: float
    end: float
    in_flight: frozenset[str]
    """Uids of the groups that generate or are judged."""


def judge_time(
    looks: Sequence[Look], stays: Mapping[str, Stay], start: float, end: float
) -> dict[str, float]:
    """Seconds of the step from ``start`` to ``end``, as trainer metrics.

    `BUSY`: at least one group was at the judge. `WAITED`: the same, while the trainer waited for
    its batch and every group in flight had finished generating, so that it waited for the judge
    alone. In turns (``sync``) that is the judge's tail.
    """
    return {BUSY: busy_s(stays.values(), start, end), WAITED: waited_s(looks, stays)}


def busy_s(stays: Iterable[Stay], start: float, end: float) -> float:
    """Length of the union of ``stays`` within [``start``, ``end``]."""
    total, covered = 0.0, start
    for stay in sorted(stays, key=lambda stay: stay.arrived):
        left = end if stay.left is None else min(stay.left, end)
        total += max(0.0, left - max(stay.arrived, covered))
        covered = max(covered, left)
    return total


def waited_s(looks: Iterable[Look], stays: Mapping[str, Stay]) -> float:
    """Length of the parts of ``looks`` in which all that was in flight had reached the judge, and
    not all had left it."""
    return sum(_waited(look, stays) for look in looks)


def _waited(look: Look, stays: Mapping[str, Stay]) -> float:
    if not look.in_flight or not look.in_flight <= stays.keys():
        return 0.0
    there = [stays[uid] for uid in look.in_flight]
    all_there = max(stay.arrived for stay in there)
    all_gone = max(look.end if stay.left is None else stay.left for stay in there)
    return max(0.0, min(look.end, all_gone) - max(look.start, all_there))
