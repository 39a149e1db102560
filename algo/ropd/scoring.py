"""From verdicts to scores: who is verified together, in which order they are shown, and the sums.

Pure functions on values, shared by the live pipeline and by the replay of its journal, so that both
give the same bits.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, Self

from algo.judge.method import Panel
from algo.ropd.rubric import Criterion, Rubric, Verdict, weighted_pass_rate

VerificationMode = Literal["joint_blind", "joint_named", "isolated", "students_only"]


@dataclass(frozen=True)
class Pool:
    """The answers verified under one rubric: the teachers', then those of some students.

    `order[k]` is the place in the pool of what is shown as ANSWER k+1.
    """

    teachers: tuple[str, ...]
    students: tuple[str, ...]
    order: tuple[int, ...]
    mode: VerificationMode = "joint_blind"

    @classmethod
    def shuffled(
        cls,
        teachers: Sequence[str],
        students: Sequence[str],
        mode: VerificationMode,
        key: str,
    ) -> Pool:
        """A pool in an order fixed by `key`; without the teachers in students_only mode."""
        teachers = () if mode == "students_only" else tuple(teachers)
        size = len(teachers) + len(students)
        return cls(teachers, tuple(students), shuffle_order(key, size), mode)

    @property
    def shown(self) -> list[str]:
        """The answers in the order in which the Verifier sees them."""
        answers = self.teachers + self.students
        return [answers[place] for place in self.order]

    @property
    def sources(self) -> list[str] | None:
        """Whose each shown answer is, in joint_named mode; `None` where the Verifier is blind."""
        if self.mode != "joint_named":
            return None
        return ["TEACHER" if place < len(self.teachers) else "STUDENT" for place in self.order]

    def in_pool_order(self, shown: Sequence[Verdict]) -> tuple[Verdict, ...]:
        """The verdicts on the answers as shown, put back into the order of the pool."""
        by_place = dict(zip(self.order, shown, strict=True))
        return tuple(by_place[place] for place in range(len(shown)))


def shuffle_key(seed: int, uid: str, students: Sequence[int]) -> str:
    """What fixes the order of a panel: the run's seed, the group's uid and the panel's students."""
    return f"{seed}\n{uid}\n{','.join(map(str, students))}"


def shuffle_order(key: str, size: int) -> tuple[int, ...]:
    """A permutation of `range(size)`, the same for the same key on every machine."""
    order = list(range(size))
    random.Random(hashlib.sha256(key.encode()).digest()).shuffle(order)
    return tuple(order)


@dataclass(frozen=True)
class RubricPanel(Panel):
    """The verdicts under one rubric, on the teacher answers and on those of some students.

    `order` is that of the pool they were shown in; verdicts are in pool order again, so
    `student_verdicts[k]` (v_ik of Eq. 3, K booleans) belongs to the rollout `students[k]`.
    """

    rubric: Rubric
    students: tuple[int, ...]
    order: tuple[int, ...]
    teacher_verdicts: tuple[Verdict, ...]
    student_verdicts: tuple[Verdict, ...]

    def scores(self) -> tuple[float, ...]:
        """s_i, the weighted pass rate of each student (Eq. 4)."""
        return tuple(weighted_pass_rate(self.rubric, verdict) for verdict in self.student_verdicts)

    def teacher_scores(self) -> tuple[float, ...]:
        return tuple(weighted_pass_rate(self.rubric, verdict) for verdict in self.teacher_verdicts)

    def record(self) -> dict[str, Any]:
        return {
            "rubric": [criterion.model_dump() for criterion in self.rubric.criteria],
            "students": list(self.students),
            "order": list(self.order),
            "teacher_verdicts": [list(verdict) for verdict in self.teacher_verdicts],
            "student_verdicts": [list(verdict) for verdict in self.student_verdicts],
        }

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        """The panel that `record` gave `entry` for."""
        return cls(
            rubric=Rubric(criteria=tuple(Criterion(**criterion) for criterion in entry["rubric"])),
            students=tuple(entry["students"]),
            order=tuple(entry["order"]),
            teacher_verdicts=tuple(tuple(verdict) for verdict in entry["teacher_verdicts"]),
            student_verdicts=tuple(tuple(verdict) for verdict in entry["student_verdicts"]),
        )


def panel_figures(panels: Iterable[RubricPanel]) -> dict[str, list[float]]:
    """What a group's panels add to the metrics: criteria a rubric, and every decision by category.

    See `METRICS`.
    """
    figures: defaultdict[str, list[float]] = defaultdict(list)
    for panel in panels:
        figures["criteria"].append(float(len(panel.rubric.criteria)))
        for verdict in panel.student_verdicts:
            for criterion, passed in zip(panel.rubric.criteria, verdict, strict=True):
                figures[f"pass_rate/{_slug(criterion.category)}"].append(float(passed))
    return dict(figures)


METRICS: Final[dict[str, str]] = {
    "criteria": "Criteria of a rubric (K), on average.",
    "pass_rate/<category>": "Share of the criteria of a category that rollouts satisfied; the "
    "eight categories with the most decisions.",
}


@lru_cache(maxsize=1024)
def _slug(category: str) -> str:
    return re.sub(r"\W+", "_", category.lower()).strip("_") or "none"
