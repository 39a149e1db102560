"""HealthBench: each reply is judged by its conversation's own criteria, one yes/no call each.

The score of a reply is the sum of the points of the criteria that it meets, over the sum of all
positive points; criteria with negative points are faults, so a score may be negative (HealthBench,
arXiv 2505.08775, §3). A set's score is the mean, clipped to [0, 1]. A criterion that could not be
judged is not "not met": the reply has no score, and is counted.

The grader's prompt is this project's own, so that scores stand beside published ones with care; the
83 to 93 of the ROPD paper's Table 1 are no standard HealthBench scores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from algo.asking.context import ContextWindow
from algo.asking.extraction import InvalidReply
from algo.asking.form import Form
from algo.asking.query import Query
from algo.asking.templates import Block, PromptTemplate
from algo.errors import ConfigurationError
from algo.evaluation.problems import EvalProblem
from algo.llm.settings import RoleSettings
from algo.thinking import after_thinking

SCHEMA: Final = "ropd.healthbench_grade.v1"
_LONGEST_REASON: Final = 2_000


@dataclass(frozen=True)
class HealthCriterion:
    """What a reply should do, or with negative points should not; `tags` such as `axis:accuracy`
    and `theme:emergency_referrals`."""

    text: str
    points: float
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class HealthGrade:
    """Whether a reply meets one criterion, and why, in the grader's words."""

    met: bool
    reason: str


def criteria_of(problem: EvalProblem) -> tuple[HealthCriterion, ...]:
    """The criteria that `ropd data prepare healthbench` wrote as the row's ground truth.

    Raises `ConfigurationError` where they cannot be read, or give no positive points.
    """
    try:
        read = tuple(
            HealthCriterion(str(each["criterion"]), float(each["points"]), tuple(each["tags"]))
            for each in json.loads(problem.truth)
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"set {problem.set}, problem {problem.key[:12]}: column reward_model.ground_truth "
            f"holds no HealthBench criteria ({error!r}): make the file with `ropd data prepare`"
        ) from None
    if not any(each.points > 0 for each in read):
        raise ConfigurationError(
            f"set {problem.set}, problem {problem.key[:12]}: no criterion has positive points, so "
            "that no score can be given: leave the row out"
        )
    return read


def health_score(criteria: Sequence[HealthCriterion], met: Sequence[bool]) -> float:
    """Points of the criteria met over all positive points; at most 1, and negative where faults
    outweigh. Raises `ValueError` for another number of decisions."""
    reached = sum(c.points for c, is_met in zip(criteria, met, strict=True) if is_met)
    return reached / sum(c.points for c in criteria if c.points > 0)


def scores_by_tag(criteria: Sequence[HealthCriterion], met: Sequence[bool]) -> Mapping[str, float]:
    """The same score of the criteria that carry a tag, for each tag with positive points."""
    tags = dict.fromkeys(tag for each in criteria for tag in each.tags)
    scores = {}
    for tag in tags:
        own = [(c, m) for c, m in zip(criteria, met, strict=True) if tag in c.tags]
        if any(c.points > 0 for c, _ in own):
            scores[tag] = health_score([c for c, _ in own], [m for _, m in own])
    return scores


def grader_form(settings: RoleSettings) -> Form[HealthGrade]:
    """What a grader is asked for one criterion. A context too small for a reply is a failure."""
    placeholders = ("nonce", "question", "criterion", "answer")
    template = PromptTemplate.load("healthbench_grader", placeholders)
    window = ContextWindow("grader", settings, "fail")
    window.check_frame(template.text)
    properties = {"reason": {"type": "string"}, "met": {"type": "boolean"}}
    return Form(template, window, SCHEMA, properties, _read_grade)


def grade_query(
    form: Form[HealthGrade], problem: EvalProblem, criterion: HealthCriterion, reply: str
) -> Query[HealthGrade]:
    """The question whether `reply`, without its thinking, meets `criterion`."""
    conversation = "\n\n".join(f"{m['role']}: {m['content']}" for m in problem.messages)
    shown = {
        "criterion": [Block("CRITERION", criterion.text)],
        "answer": [Block("REPLY", after_thinking(reply).strip())],
    }
    return form.query(conversation, shown)


def _read_grade(payload: Mapping[str, Any]) -> HealthGrade:
    met, reason = payload.get("met"), payload.get("reason", "")
    if not isinstance(met, bool):
        raise InvalidReply('"met" must be true or false')
    if not isinstance(reason, str):
        raise InvalidReply('"reason" must be a sentence')
    return HealthGrade(met, reason[:_LONGEST_REASON])
