"""What one group of ROPD asks of its two roles, by hand."""

from __future__ import annotations

from typing import Any

from algo.asking.context import estimated_tokens
from algo.judge.plan import StageCalls, Workload
from algo.ropd.pipeline import Ropd
from algo.ropd.prompts import load_rubricator_template, load_verifier_template
from algo.ropd.settings import RopdSettings

LOAD = Workload(10, 3, 2, 7, question=100, answer=1000, rubric=200, verdict=10)
RUBRICATOR = estimated_tokens(load_rubricator_template(None).text) + 100
VERIFIER = estimated_tokens(load_verifier_template(None).text) + 100 + 200


def stages(**node: Any) -> tuple[StageCalls, ...]:
    return tuple(Ropd.stages(RopdSettings.from_node(node), LOAD))


def test_a_group_is_two_requests_that_show_every_answer() -> None:
    rubricator, verifier = stages()
    assert rubricator == StageCalls("rubricator", 1, 5, RUBRICATOR + 5 * 1000, 200)
    assert verifier == StageCalls("verifier", 1, 5, VERIFIER + 5 * 1000, 5 * 10)


def test_students_only_shows_the_verifier_no_teacher() -> None:
    rubricator, verifier = stages(verification={"mode": "students_only"})
    assert rubricator.answers == 5
    assert verifier == StageCalls("verifier", 1, 3, VERIFIER + 3 * 1000, 3 * 10)


def test_isolated_sends_each_answer_alone_and_the_first_ahead() -> None:
    _, verifier = stages(verification={"mode": "isolated"})
    assert verifier == StageCalls("verifier", 5, 1, 5 * (VERIFIER + 1000), 5 * 10, in_turn=2)


def test_a_rubric_for_each_student_costs_a_panel_each() -> None:
    rubricator, verifier = stages(rubric={"mode": "per_student"})
    assert rubricator == StageCalls("rubricator", 3, 3, 3 * (RUBRICATOR + 3 * 1000), 3 * 200)
    assert verifier == StageCalls("verifier", 3, 3, 3 * (VERIFIER + 3 * 1000), 3 * 3 * 10)
