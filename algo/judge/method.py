"""The seam: what the engine knows of a method, and what a method is given.

A method turns a group's rollouts into `Panel`s: evidence that some judge gave, and the scores that
follow from it by arithmetic. Everything around that (waiting, retrying, journal, quality gate,
counters, replay) is the engine's and the same for every method.

    @dataclass(frozen=True)
    class Votes(Panel):
        students: tuple[int, ...]
        yes: tuple[bool, ...]

        def scores(self) -> tuple[float, ...]:
            return tuple(map(float, self.yes))

    class YesNo(Method[RopdSettings]):
        name = "yesno"
        panel = Votes
        ...

`docs/methods.md` has all of it, and what to add beside it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from statistics import fmean
from time import perf_counter
from typing import Any, ClassVar, Protocol, Self
from uuid import uuid4

from pydantic import TypeAdapter

from algo.asking.query import Judge, Transcript
from algo.asking.templates import PromptTemplate
from algo.errors import FailureKind, JudgeFailure, MethodError, TeacherMissing
from algo.judge.group import Group, Rule, Unfinished, rules_of
from algo.judge.signal import SettingsT, Signal
from algo.llm.scheduler import RequestScheduler
from algo.llm.settings import RoleSettings
from algo.openai_env import ResolvedRole
from algo.teacher.teacher_index import TeacherAnswer


class Panel(ABC):
    """The evidence under which some rollouts of a group were judged. A frozen value."""

    students: tuple[int, ...]
    """The rollouts judged here, as indices into the group."""

    @abstractmethod
    def scores(self) -> tuple[float, ...]:
        """One score in [0, 1] for each of `students`, from the evidence alone.

        Pure: the replay of a journal calls it too and must get the same bits.
        """

    def teacher_scores(self) -> tuple[float, ...]:
        """The same for each teacher answer that was judged beside them, if any was."""
        return ()

    def spelled(self) -> tuple[str, ...]:
        """How each of `scores` came about, for a reader: `7 of 10 = 0.700`."""
        return tuple(f"{score:.3f}" for score in self.scores())

    def record(self) -> dict[str, Any]:
        """What the journal keeps: JSON values from which `of` makes the panel anew.

        By default every field of the dataclass under its own name.
        """
        return _fields(type(self)).dump_python(self, mode="json")

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Self:
        """The panel that `record` gave `entry` for; needs no settings and no endpoint."""
        return _fields(cls).validate_python(entry)


@cache
def _fields(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


@dataclass
class Judgement:
    """One judgement in the making: what is known so far, for its record."""

    group: Group
    fingerprint: str
    question: str
    judgement_id: str = field(default_factory=lambda: uuid4().hex)
    started: float = field(default_factory=perf_counter)
    unfinished: Unfinished = "judge"
    """What becomes of rollouts that were cut off."""
    occurrence: int = 0
    """How often this prompt was judged before in this run (`occurrences.py`)."""
    teachers: tuple[str, ...] = ()
    """The distinct teacher answers, as shown to the judge."""
    votes: tuple[int, ...] = ()
    """How many of the stored answers each of `teachers` is, where the judge is told."""
    panels: tuple[Panel, ...] = ()
    transcript: Transcript = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long the judgement has taken so far."""
        return perf_counter() - self.started

    @cached_property
    def rules(self) -> tuple[Rule | None, ...]:
        """The rule that settles each rollout, None where a judge does."""
        return rules_of(self.group.rollouts, self.unfinished)

    @property
    def judged(self) -> list[int]:
        """The rollouts that hold an answer: no judge is shown one that a rule has scored."""
        return [index for index, rule in enumerate(self.rules) if rule is None]


@dataclass(frozen=True)
class ScoredGroup:
    """A judged group.

    `scores[i]` in [0, 1] belongs to rollout i; `rules[i]` names the rule that settled it, else one
    of `panels` holds the evidence. `teacher_scores` has one entry a teacher answer that was judged,
    averaged over the panels (empty where none was).
    """

    judgement_id: str
    scores: tuple[float, ...]
    rules: tuple[Rule | None, ...]
    panels: tuple[Any, ...]
    """The method's own kind of `Panel`; ROPD's is `algo.ropd.scoring.RubricPanel`."""
    teacher_scores: tuple[float, ...]

    @classmethod
    def of(cls, judgement: Judgement) -> ScoredGroup:
        """The scores that a judgement's panels amount to (s_i of Eq. 4 for ROPD).

        Raises `MethodError` when they do not score each judged rollout once, within [0, 1].
        """
        rollouts, panels = judgement.group.rollouts, judgement.panels
        seats = sorted(index for panel in panels for index in panel.students)
        if seats != judgement.judged:
            raise MethodError(
                f"the panels score the rollouts {seats}, but {judgement.judged} hold an answer"
            )
        scores = student_scores(panels, len(rollouts))
        teachers = teacher_scores(panels)
        for score in (*scores, *teachers):
            if not (math.isfinite(score) and 0.0 <= score <= 1.0):
                raise MethodError(f"a panel gave the score {score}, which is not in [0, 1]")
        return cls(judgement.judgement_id, scores, judgement.rules, panels, teachers)

    @property
    def kept(self) -> tuple[float, ...]:
        """The scores of the rollouts that are not left out, of which there is one at least."""
        pairs = zip(self.scores, self.rules, strict=True)
        return tuple(score for score, rule in pairs if rule is not Rule.DROPPED)


def student_scores(panels: Sequence[Panel], count: int) -> tuple[float, ...]:
    """The score of each of `count` rollouts; 0 for those in no panel, which a rule has scored."""
    scores = [0.0] * count
    for panel in panels:
        for index, score in zip(panel.students, panel.scores(), strict=True):
            scores[index] = score
    return tuple(scores)


def teacher_scores(panels: Sequence[Panel]) -> tuple[float, ...]:
    """The score of each teacher answer that was judged, averaged over the panels."""
    by_panel = [panel.teacher_scores() for panel in panels]
    return tuple(fmean(scores) for scores in zip(*by_panel, strict=True))


class TeacherAnswers(Protocol):
    """Where Y_T comes from; `DrawnAnswers` and `TeacherIndex` are two."""

    def answers(self, fingerprint: str, m: int) -> Sequence[TeacherAnswer]:
        """Answers of at most `m` distinct texts; raises `TeacherMissing` where fewer than `m` are
        stored."""
        ...


class Note(Protocol):
    """Puts on record what was asked beside the groups; raises `JournalError`."""

    async def __call__(
        self, kind: str, transcript: Transcript, evidence: Mapping[str, Any] | None = None
    ) -> None: ...


@dataclass(frozen=True)
class Resources:
    """What the engine opens for a method: the endpoints of its roles, and teacher answers."""

    roles: Mapping[str, ResolvedRole]
    scheduler: RequestScheduler
    teachers: TeacherAnswers | None
    """`None` for a method that needs none."""
    teacher_answers: int
    """m of Eq. 1."""

    def judge(self, role: str, priority: int = 0) -> Judge:
        """The model that answers for `role`; requests of higher `priority` go first."""
        return Judge(self.roles[role].endpoint, self.scheduler, priority)

    def teacher_texts(self, fingerprint: str) -> tuple[str, ...]:
        """Y_T: a prompt's distinct answers that are shown, at most m, without their thinking.

        Raises `JudgeFailure`.
        """
        return tuple(self.teacher_votes(fingerprint))

    def teacher_votes(self, fingerprint: str) -> Mapping[str, int]:
        """The same with how many of the stored answers each of them is. Raises `JudgeFailure`."""
        if self.teachers is None:
            raise MethodError("a method that shows teacher answers must say so: needs_teachers")
        try:
            stored = self.teachers.answers(fingerprint, self.teacher_answers)
        except TeacherMissing as missing:
            raise JudgeFailure(FailureKind.TEACHER_MISSING, "teacher", str(missing)) from None
        return Counter(answer.shown for answer in stored)


class Method(Signal[SettingsT]):
    """How a group is judged: the base class of every judged method.

    A subclass is made once a run, as `cls(settings, resources)`. B prompts a step, n rollouts a
    prompt, m teacher answers and K criteria are what the letters stand for throughout. Its
    `metrics` are what `figures` and `drain_metrics` report.
    """

    panel: ClassVar[type[Panel]]
    """What `panels` gives; its `of` reads a record's panels back."""
    note: Note
    """The engine's; it is there once the method is made."""

    @abstractmethod
    def __init__(self, settings: SettingsT, resources: Resources) -> None: ...

    @classmethod
    @abstractmethod
    def roles(cls, settings: SettingsT) -> Mapping[str, RoleSettings]:
        """The models that are asked, by role: nothing else is resolved, tried or required."""

    @classmethod
    def needs_teachers(cls, settings: SettingsT) -> bool:
        """Whether the teacher index is opened; `True` unless a method says otherwise."""
        return True

    @abstractmethod
    async def panels(self, judgement: Judgement) -> Sequence[Panel]:
        """Judge the rollouts `judgement.judged`, each in exactly one panel.

        What is shown of the teacher is noted in `judgement.teachers`, each exchange with a model
        in `judgement.transcript`. Raises `JudgeFailure` (the group leaves the batch) or
        `JudgeOutage` (the run must stop).
        """

    def setup(self) -> Mapping[str, Any]:
        """What every record of the run holds of the method's settings, as JSON values."""
        return {}

    def templates(self) -> Sequence[PromptTemplate]:
        """The templates of its prompts, which the journal keeps beside its records."""
        return ()

    async def begin_group(self, step: int) -> None:
        """Called before each group is judged; may raise as `panels` does.

        Whatever it asks a model is given to `note`: it is paid, and no group's record holds it.
        """

    def figures(self, scored: ScoredGroup) -> Mapping[str, Sequence[float]]:
        """A judged group's own figures, under `ropd/`; the mean of all values since the last
        reading is the metric."""
        return {}

    def drain_metrics(self) -> dict[str, float]:
        """Metrics that belong to no group, under their full names, since the last call."""
        return {}
