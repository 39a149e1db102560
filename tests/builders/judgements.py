"""Judgements, scored groups and failures made up for tests of what surrounds the judging."""

from __future__ import annotations

from algo.errors import FailureKind, JudgeFailure
from algo.judge.group import Group, Rollout
from algo.judge.method import Judgement, ScoredGroup
from algo.llm.endpoint import Reply
from algo.ropd.scoring import RubricPanel
from tests.builders.rubrics import rubric_of


def failure(kind: FailureKind = FailureKind.INVALID) -> JudgeFailure:
    return JudgeFailure(kind, "verifier", "garbled", "verifier m at u")


def judged(*scores: float, teachers: tuple[float, ...] = ()) -> tuple[Judgement, ScoredGroup]:
    """A judgement of rollouts that satisfied the first of two criteria."""
    panel = RubricPanel(
        rubric_of(1, 1), tuple(range(len(scores))), (), (), ((True, False),) * len(scores)
    )
    judgement = Judgement(group_of(len(scores)), "fp", "q", teachers=("t",) * 4)
    return judgement, ScoredGroup("j", scores, (None,) * len(scores), (panel,), teachers)


def group_of(size: int) -> Group:
    return Group("u", [{"role": "user", "content": "q"}], [Rollout("abc", True)] * size, 3)


REPLY = Reply("t", "stop", "m", 1000, 100, 400, 0.5, 1)
