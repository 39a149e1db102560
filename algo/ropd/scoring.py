"""From verdicts to scores: who is judged together, in which order they are shown, and the sums.

Pure functions on values, shared by the live pipeline and by the replay of its journal, so that both
give the same bits.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from algo.ropd.rubric import Rubric, Verdict, weighted_pass_rate


@dataclass(frozen=True)
class Panel:
    """The answers judged under one rubric: the teachers' and those of some students.

    `students` are indices of rollouts. The pool is the teacher answers (none in students_only
    mode) followed by these students; `order[k]` is the place in the pool of what was shown as
    ANSWER k+1. Verdicts are in pool order again.
    """

    rubric: Rubric
    students: tuple[int, ...]
    order: tuple[int, ...]
    teacher_verdicts: tuple[Verdict, ...]
    student_verdicts: tuple[Verdict, ...]


def shuffle_order(seed: int, uid: str, students: Sequence[int], size: int) -> tuple[int, ...]:
    """A permutation of `range(size)`, fixed by the run's seed, the group's uid and its panel."""
    key = f"{seed}\n{uid}\n{','.join(map(str, students))}".encode()
    order = list(range(size))
    random.Random(hashlib.sha256(key).digest()).shuffle(order)
    return tuple(order)


def in_pool_order(shown: Sequence[Verdict], order: Sequence[int]) -> list[Verdict]:
    """The verdicts on the answers as shown, put back into the order of the pool."""
    by_place = dict(zip(order, shown, strict=True))
    return [by_place[place] for place in range(len(shown))]


def student_scores(panels: Sequence[Panel], count: int) -> tuple[float, ...]:
    """The score of each of `count` rollouts; 0 for those in no panel, which a rule has scored."""
    scores = [0.0] * count
    for panel in panels:
        for index, verdict in zip(panel.students, panel.student_verdicts, strict=True):
            scores[index] = weighted_pass_rate(panel.rubric, verdict)
    return tuple(scores)


def teacher_scores(panels: Sequence[Panel]) -> tuple[float, ...]:
    """The score of each distinct teacher answer, averaged over the panels' rubrics."""
    by_panel = [
        [weighted_pass_rate(panel.rubric, verdict) for verdict in panel.teacher_verdicts]
        for panel in panels
    ]
    return tuple(fmean(scores) for scores in zip(*by_panel, strict=True))
