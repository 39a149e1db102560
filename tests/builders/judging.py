"""What the contract tests of the judge share: settings, teachers, groups, and the right scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from algo.judge.method import TeacherAnswers
from algo.methods.registry import build_engine
from algo.ropd.pipeline import Engine, Group, Rollout
from algo.ropd.rubric import weighted_pass_rate
from algo.ropd.settings import RopdSettings
from algo.teacher.teacher_index import TeacherAnswer
from tests.fakes.judge import expected_grade, expected_rubric, expected_verdict


class FourTeachers:
    """Teacher answers for any prompt."""

    def answers(self, fingerprint: str, m: int) -> Sequence[TeacherAnswer]:
        return [
            TeacherAnswer(fingerprint, f"teacher answer {k} to {fingerprint[:8]}", "teacher")
            for k in range(m)
        ]


def pipeline_for(
    url: str,
    folder: Path,
    *,
    environ: Mapping[str, str] | None = None,
    teachers: TeacherAnswers | None = None,
    **node: Any,
) -> Engine:
    """An engine, ROPD's unless `node` names a method, whose roles are the fake judge at `url`, in a
    hurry."""
    role = {"model": "fake", "base_url": url, "api_key_env": None, "timeout_s": 2.0}
    judge = {
        "rubricator": {**role, **node.pop("rubricator", {})},
        "verifier": {**role, **node.pop("verifier", {})},
        "limits": {"backoff_s": 0.01, "max_backoff_s": 0.1, **node.pop("limits", {})},
    }
    settings = RopdSettings.from_node({"journal_dir": folder, "judge": judge, **node})
    return build_engine(settings, environ or {}, teachers or FourTeachers())


def group(number: int, size: int = 8, **changes: Any) -> Group:
    question = f"What is {number} + {number}?"
    rollouts = [Rollout(f"student answer {k} to question {number}", True) for k in range(size)]
    fields: dict[str, Any] = {
        "uid": f"uid-{number}",
        "messages": [{"role": "user", "content": question}],
        "rollouts": rollouts,
        "step": 1,
    }
    return Group(**{**fields, **changes})


def right_scores(of: Group) -> tuple[float, ...]:
    """The scores that the fake judge's verdicts amount to."""
    rubric = expected_rubric(of.messages[0]["content"])
    criteria = [criterion.criterion for criterion in rubric.criteria]
    return tuple(
        0.0
        if rollout.rule("judge") is not None
        else weighted_pass_rate(rubric, tuple(expected_verdict(criteria, rollout.answer)))
        for rollout in of.rollouts
    )


def graded_scores(of: Group, top: int) -> tuple[float, ...]:
    """The scores that the fake judge's grades amount to."""
    question = of.messages[0]["content"]
    return tuple(
        0.0
        if rollout.rule("judge") is not None
        else expected_grade(question, rollout.answer, top) / top
        for rollout in of.rollouts
    )
