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
from dataclasses import dataclass, field
from functools import lru_cache
from operator import ne
from typing import Any, Final, Literal, NamedTuple, Self

from algo.judge.method import Panel
from algo.ropd.rubric import Criterion, Rubric, Verdict, spelled_sum, weighted_pass_rate


class Repeats(NamedTuple):
    """Decisions asked for again on the same text under the same rubric, and those that differed."""

    decisions: int
    differing: int


_NEVER: Final = Repeats(0, 0)

VerificationMode = Literal["joint_blind", "joint_named", "isolated", "students_only"]


@dataclass(frozen=True)
class Pool:
    """The answers verified under one rubric: the teachers', then those of some students.

    `order[k]` is the place in the pool of what is shown as ANSWER k+1. Equal texts are shown once:
    `same_as` has the place of each that is not shown, and that of its equal, whose verdict it
    shares.
    """

    teachers: tuple[str, ...]
    students: tuple[str, ...]
    order: tuple[int, ...]
    mode: VerificationMode = "joint_blind"
    same_as: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def shuffled(
        cls,
        teachers: Sequence[str],
        students: Sequence[str],
        mode: VerificationMode,
        key: str,
    ) -> Pool:
        """A pool in an order fixed by `key`; without the teachers in students_only mode.

        A student that wrote a teacher's very words shares its verdict, but where the Verifier is
        told whose an answer is.
        """
        teachers = () if mode == "students_only" else tuple(teachers)
        first: dict[tuple[str, bool], int] = {}
        same_as: dict[int, int] = {}
        for place, text in enumerate((*teachers, *students)):
            named = mode == "joint_named" and place < len(teachers)
            equal = first.setdefault((text, named), place)
            if equal != place:
                same_as[place] = equal
        order = shuffle_order(key, len(teachers) + len(students))
        shown = tuple(place for place in order if place not in same_as)
        return cls(teachers, tuple(students), shown, mode, same_as)

    def answer(self, place: int) -> str:
        """The text at a place of the pool."""
        m = len(self.teachers)
        return self.teachers[place] if place < m else self.students[place - m]

    @property
    def shown(self) -> list[str]:
        """The answers in the order in which the Verifier sees them."""
        return [self.answer(place) for place in self.order]

    def sources(self, places: Sequence[int]) -> list[str] | None:
        """Whose the answers at `places` are, in joint_named mode; `None` where the Verifier is
        blind."""
        if self.mode != "joint_named":
            return None
        return ["TEACHER" if place < len(self.teachers) else "STUDENT" for place in places]

    def gathered(
        self, calls: Sequence[Sequence[int]], judged: Sequence[Sequence[Verdict]]
    ) -> PoolVerdicts:
        """The verdicts of several calls put together; `calls` has the places that each judged.

        The first verdict on an answer stands; later ones on the same words are compared with the
        first on them: another call's on the same answer, and where the Verifier is told whose an
        answer is, that on the teacher's answer which a student wrote too.
        """
        first: dict[int, Verdict] = {}
        on_text: dict[str, Verdict] = {}
        asked = differing = 0
        for places, verdicts in zip(calls, judged, strict=True):
            for place, verdict in zip(places, verdicts, strict=True):
                first.setdefault(place, verdict)
                text = self.answer(place)
                if text in on_text:
                    asked += len(verdict)
                    differing += sum(map(ne, on_text[text], verdict))
                else:
                    on_text[text] = verdict
        m, size = len(self.teachers), len(self.teachers) + len(self.students)
        each = tuple(first[self.same_as.get(place, place)] for place in range(size))
        return PoolVerdicts(each[:m], each[m:], Repeats(asked, differing))


def without_teachers(
    order: Sequence[int], same_as: Mapping[int, int], count: int
) -> tuple[tuple[int, ...], dict[int, int]]:
    """The `order` and `same_as` of a pool of which the `count` teachers are taken out.

    The first student that shared a teacher's verdict is shown in that teacher's place.
    """
    heirs: dict[int, int] = {}
    for place, equal in same_as.items():
        if place >= count > equal:
            heirs.setdefault(equal, place)
    shown = [heirs.get(place, place) for place in order if place >= count or place in heirs]
    sharing = {
        place - count: heirs.get(equal, equal) - count
        for place, equal in same_as.items()
        if place >= count and heirs.get(equal) != place
    }
    return tuple(place - count for place in shown), sharing


def shuffle_key(seed: int, fingerprint: str, occurrence: int, students: Sequence[int]) -> str:
    """What fixes the order of a panel: the run's seed, the prompt's fingerprint, how often it was
    judged before, and the panel's students. A uid is drawn anew in each run and is none of it."""
    return f"{seed}\n{fingerprint}\n{occurrence}\n{','.join(map(str, students))}"


def shuffle_order(key: str, size: int) -> tuple[int, ...]:
    """A permutation of `range(size)`, the same for the same key on every machine."""
    order = list(range(size))
    random.Random(hashlib.sha256(key.encode()).digest()).shuffle(order)
    return tuple(order)


@dataclass(frozen=True)
class PoolVerdicts:
    """One verdict an answer of a pool, and how the Verifier kept to what it had said."""

    teachers: tuple[Verdict, ...]
    students: tuple[Verdict, ...]
    asked_again: Repeats = _NEVER


@dataclass(frozen=True)
class RubricPanel(Panel):
    """The verdicts under one rubric, on the teacher answers and on those of some students.

    `order` and `same_as` are those of the pool they were shown in; verdicts are in pool order
    again, so `student_verdicts[k]` (v_ik of Eq. 3, K booleans) belongs to the rollout
    `students[k]`. `asked_again` counts the decisions that were asked for more than once, on the
    same text under the same rubric, and those of them that came out otherwise.
    """

    rubric: Rubric
    students: tuple[int, ...]
    order: tuple[int, ...]
    teacher_verdicts: tuple[Verdict, ...]
    student_verdicts: tuple[Verdict, ...]
    same_as: Mapping[int, int] = field(default_factory=dict)
    asked_again: Repeats = _NEVER

    @classmethod
    def of_pool(
        cls, rubric: Rubric, students: Sequence[int], pool: Pool, verdicts: PoolVerdicts
    ) -> Self:
        """The panel of a pool whose students are the rollouts `students`."""
        return cls(
            rubric,
            tuple(students),
            pool.order,
            verdicts.teachers,
            verdicts.students,
            pool.same_as,
            verdicts.asked_again,
        )

    def scores(self) -> tuple[float, ...]:
        """s_i, the weighted pass rate of each student (Eq. 4)."""
        return tuple(weighted_pass_rate(self.rubric, verdict) for verdict in self.student_verdicts)

    def teacher_scores(self) -> tuple[float, ...]:
        return tuple(weighted_pass_rate(self.rubric, verdict) for verdict in self.teacher_verdicts)

    def spelled(self) -> tuple[str, ...]:
        return tuple(spelled_sum(self.rubric, verdict) for verdict in self.student_verdicts)

    def record(self) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "rubric": [criterion.model_dump() for criterion in self.rubric.criteria],
            "students": list(self.students),
            "order": list(self.order),
            "teacher_verdicts": [list(verdict) for verdict in self.teacher_verdicts],
            "student_verdicts": [list(verdict) for verdict in self.student_verdicts],
        }
        if self.same_as:
            entry["same_as"] = [list(pair) for pair in self.same_as.items()]
        if self.asked_again.decisions:
            entry["asked_again"] = list(self.asked_again)
        return entry

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        """The panel that `record` gave `entry` for; older ones show every answer by itself."""
        return cls(
            rubric=Rubric(criteria=tuple(Criterion(**criterion) for criterion in entry["rubric"])),
            students=tuple(entry["students"]),
            order=tuple(entry["order"]),
            teacher_verdicts=tuple(tuple(verdict) for verdict in entry["teacher_verdicts"]),
            student_verdicts=tuple(tuple(verdict) for verdict in entry["student_verdicts"]),
            same_as=dict(entry.get("same_as", ())),
            asked_again=Repeats(*entry.get("asked_again", _NEVER)),
        )

    def shown_as(self, place: int) -> int:
        """The number of the ANSWER that stood for the place `place` of the pool."""
        return self.order.index(self.same_as.get(place, place)) + 1


def panel_figures(panels: Iterable[RubricPanel]) -> dict[str, list[float]]:
    """What a group's panels add to the metrics: criteria a rubric, and every decision by category.

    See `METRICS`.
    """
    figures: defaultdict[str, list[float]] = defaultdict(list)
    for panel in panels:
        figures["criteria"].append(float(len(panel.rubric.criteria)))
        figures["shared_verdict"] += [
            float(len(panel.teacher_verdicts) + k in panel.same_as)
            for k in range(len(panel.students))
        ]
        if asked := panel.asked_again.decisions:
            figures["contradiction"] += [
                float(k < panel.asked_again.differing) for k in range(asked)
            ]
        for verdict in panel.student_verdicts:
            for criterion, passed in zip(panel.rubric.criteria, verdict, strict=True):
                figures[f"pass_rate/{_slug(criterion.category)}"].append(float(passed))
    return dict(figures)


METRICS: Final[dict[str, str]] = {
    "criteria": "Criteria of a rubric (K), on average.",
    "shared_verdict": "Share of the rollouts whose answer equals another one beside them, so that "
    "it was not shown again and shares its verdict.",
    "contradiction": "Share of the decisions that came out otherwise when the same rubric was "
    "asked about again on the same words: a teacher's answer in another call (`overflow=split`), "
    "or a student's beside an equal one of a teacher's, each under its name (`joint_named`).",
    "pass_rate/<category>": "Share of the criteria of a category that rollouts satisfied; the "
    "eight categories with the most decisions.",
}


@lru_cache(maxsize=1024)
def _slug(category: str) -> str:
    return re.sub(r"\W+", "_", category.lower()).strip("_") or "none"
