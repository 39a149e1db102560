"""Every `ropd/*` figure that a run reports is described, and every described one is reported."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from algo.errors import JudgeFailure
from algo.judge.metrics import METRICS
from algo.methods.registry import METHODS
from algo.ropd.pipeline import Ropd
from algo.runs import judge_time
from tests.builders.judging import group, pipeline_for
from tests.fakes.judge import FakeJudge


def undescribed(found: Mapping[str, float], described: Mapping[str, str]) -> set[str]:
    patterns = [re.sub(r"<\w+>", r"[^/]+", name) for name in described]
    names = {name.removeprefix("ropd/") for name in found}
    return {name for name in names if not any(re.fullmatch(each, name) for each in patterns)}


def unreported(found: Mapping[str, float], described: Mapping[str, str]) -> set[str]:
    names = [name.removeprefix("ropd/") for name in found]
    return {
        name
        for name in described
        if not any(re.fullmatch(re.sub(r"<\w+>", r"[^/]+", name), each) for each in names)
    }


@pytest.mark.parametrize("rubric", ["shared", "per_student"])
@pytest.mark.parametrize(
    "verification", ["joint_blind", "joint_named", "isolated", "students_only"]
)
async def test_what_the_judge_reports_is_what_is_described(
    rubric: str, verification: str, tmp_path: Path
) -> None:
    judge = FakeJudge()
    node = {
        "rubric": {"mode": rubric},
        "verification": {"mode": verification},
        "probes": {"every_steps": 1},
        "limits": {"retries": {"refusal": 0}},
    }
    described = {**METRICS, **Ropd.metrics}
    async with judge.serve() as url, pipeline_for(url, tmp_path, **node) as pipeline:
        for number in range(3):
            await pipeline.score_group(group(number, size=3))
        judge.fault = lambda role, number: "refusal"
        with pytest.raises(JudgeFailure):
            await pipeline.score_group(group(3, size=3))
        found = pipeline.metrics()
    assert undescribed(found, described) == set()
    of_teachers = {"teacher_mean", "margin", "teacher_beaten_rate"}
    asked_again = {"contradiction"}  # only where a pool is split over calls
    assert unreported(found, described) == asked_again | (
        of_teachers if verification == "students_only" else set()
    )


def test_what_the_trainer_adds_is_what_is_described() -> None:
    found = judge_time.judge_time([], {}, 0.0, 1.0)
    assert undescribed(found, judge_time.METRICS) == unreported(found, judge_time.METRICS) == set()


def test_no_method_describes_a_figure_of_the_engine_anew() -> None:
    for name, method in METHODS.items():
        assert METRICS.keys() & method.metrics.keys() == set(), name
