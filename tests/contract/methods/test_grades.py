"""T-Judge and OVD through the whole engine, against a judge over real HTTP."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from algo.cli import app
from algo.errors import ConfigurationError, FailureKind, JudgeFailure, TeacherIndexError
from algo.judge.journal import read_records
from algo.judge.method import ScoredGroup
from algo.judge.replay import replay
from algo.methods.registry import METHODS, build_engine, load_settings
from algo.report import write_report
from algo.ropd.pipeline import Rollout
from algo.testing import Reply, Request
from tests.builders.judging import graded_scores, group, pipeline_for
from tests.builders.odd_replies import ODD, Raw, written
from tests.fakes.judge import FAULTS, FakeJudge, blocks

TOPS = {"tjudge": 10, "ovd": 9}
WAYS = [
    {"name": "tjudge"},
    {"name": "tjudge", "reference": "teacher"},
    {"name": "ovd"},
]
# What a model may write in place of a whole number on the scale; each of it is invalid.
WRONG: list[Any] = [
    *(-1, 11, 12, 100, 2**62, 0.5, 7.0, -0.0, 1e2, True, False, None, "7", "7/10", "", "ten"),
    *([], [7], {}, {"score": 7}, Raw("NaN"), Raw("1e400"), Raw("7.0e0"), Raw("07"), Raw("7")),
]
LIMITS = {"retries": {"invalid": 2, "unparseable": 2}}


def is_grade(value: Any, top: int) -> bool:
    number = json.loads(value.text) if isinstance(value, Raw) and value.text == "7" else value
    return type(number) is int and 0 <= number <= top


class OddGrader(FakeJudge):
    """Writes something else in a grade's place now and then; `odd` says what, or nothing."""

    def __init__(self, odd: Any) -> None:
        super().__init__()
        self.odd = odd

    def _said(self, request: Request) -> Reply:
        right = super()._said(request)
        if request.role == "trial" or (replaced := self.odd(request)) is None:
            return right
        return Reply(f'{{"schema_version": "ropd.grade.v1", "score": {written(replaced)}}}')


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(way.values()))
async def test_scores_are_the_grades_and_equal_answers_are_graded_once(
    way: dict[str, str], tmp_path: Path
) -> None:
    judge, top = FakeJudge(), TOPS[way["name"]]
    drawn = random.Random(0)
    texts = [
        "",
        "<think>4",
        "right 4",
        "<think>so</think>right 4",
        "4",
        "four",
        "5",
        "a {question} {{answer}}",
    ]
    groups = [
        group(k, rollouts=[Rollout(drawn.choice(texts), drawn.random() < 0.9) for _ in range(8)])
        for k in range(12)
    ]
    async with judge.serve() as url, pipeline_for(url, tmp_path / "journal", method=way) as engine:
        scored = await asyncio.gather(*(engine.score_group(each) for each in groups))
        metrics = engine.metrics()
    assert [each.scores for each in scored] == [graded_scores(each, top) for each in groups]
    distinct = [
        len({r.answer for r in each.rollouts if r.rule("judge") is None}) for each in groups
    ]
    assert judge.requests == {"verifier": sum(distinct)}
    judged = sum(rollout.rule("judge") is None for each in groups for rollout in each.rollouts)
    assert metrics["ropd/shared_grade"] == pytest.approx(1 - sum(distinct) / judged)
    assert metrics["ropd/reward_mean"] == pytest.approx(
        sum(sum(each.scores) / 8 for each in scored) / 12
    )
    records = list(read_records(tmp_path / "journal"))
    assert {record["method"] for record in records} == {way["name"]}
    assert all(replayed.exact for replayed in replay(tmp_path / "journal", METHODS))
    said = CliRunner().invoke(app, ["replay", str(tmp_path / "journal")]).output
    assert "12 judged groups replayed, 0 differ; 0 failed groups" in said
    page = tmp_path / "report.html"
    write_report(tmp_path, page)
    text = page.read_text(encoding="utf-8")
    panel = next(panel for record in records for panel in record["panels"])
    assert f"{panel['grade']} of {top} = {panel['grade'] / top:.3f}" in text


@pytest.mark.parametrize("name", TOPS)
@pytest.mark.parametrize("seed", range(2))
async def test_an_odd_grade_changes_no_score_and_is_never_a_number(
    name: str, seed: int, tmp_path: Path
) -> None:
    drawn, top = random.Random(seed), TOPS[name]
    values = [value for value in (*WRONG, *ODD) if not is_grade(value, top)]
    judge = OddGrader(lambda request: drawn.choice(values) if drawn.random() < 0.3 else None)
    async with (
        judge.serve() as url,
        pipeline_for(url, tmp_path, method={"name": name}, limits=LIMITS) as engine,
    ):
        judged = await asyncio.gather(
            *(engine.score_group(group(number, 4)) for number in range(120)),
            return_exceptions=True,
        )
        metrics = engine.metrics()
    failed = [each for each in judged if isinstance(each, JudgeFailure)]
    assert len(failed) < 40
    for number, each in enumerate(judged):
        if isinstance(each, ScoredGroup):
            assert each.scores == graded_scores(group(number, 4), top)
        else:
            assert isinstance(each, JudgeFailure)
    assert metrics["ropd/groups_failed"] == len(failed)
    assert metrics["ropd/judge/retries/invalid"] > 30
    records = list(read_records(tmp_path))
    assert len(records) == 120
    assert all("scores" not in record for record in records if record["status"] == "failed")
    assert all(replayed.exact for replayed in replay(tmp_path, METHODS))


@pytest.mark.parametrize("name", TOPS)
@pytest.mark.parametrize("odd", [11, -1, 7.0, True, "7"])
async def test_a_grade_that_stays_wrong_fails_the_group_and_the_model_was_told_why(
    name: str, odd: Any, tmp_path: Path
) -> None:
    judge = OddGrader(lambda request: odd)
    async with (
        judge.serve() as url,
        pipeline_for(url, tmp_path, method={"name": name}, limits=LIMITS) as engine,
    ):
        with pytest.raises(JudgeFailure) as failed:
            await engine.score_group(group(1, 1))
    assert failed.value.kind is FailureKind.INVALID
    (record,) = read_records(tmp_path)
    assert "scores" not in record
    assert len(record["calls"]) == 3
    repair = judge.bodies[-1]["messages"][-1]["content"]
    assert "score" in repair
    if type(odd) is int:
        assert f"give one whole number from 0 to {TOPS[name]}" in repair


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(way.values()))
async def test_passing_faults_change_no_score(way: dict[str, str], tmp_path: Path) -> None:
    top, drawn = TOPS[way["name"]], random.Random(3)

    def fault(role: str, number: int) -> Any:
        return drawn.choice(FAULTS) if role == "verifier" and drawn.random() < 0.2 else ""

    judge = FakeJudge(fault=fault)
    limits = {"outage_s": 60.0, "stage_deadline_s": 30.0}
    async with (
        judge.serve() as url,
        pipeline_for(url, tmp_path, method=way, limits=limits) as engine,
    ):
        judged = await asyncio.gather(
            *(engine.score_group(group(number, 4)) for number in range(30)),
            return_exceptions=True,
        )
    scored = {k: each for k, each in enumerate(judged) if isinstance(each, ScoredGroup)}
    assert len(scored) > 20
    assert all(each.scores == graded_scores(group(k, 4), top) for k, each in scored.items())
    assert all(isinstance(each, ScoredGroup | JudgeFailure) for each in judged)


async def test_references_stand_before_the_answer_and_share_one_prefix(tmp_path: Path) -> None:
    judge = FakeJudge()
    way = {"name": "tjudge", "reference": "teacher"}
    async with judge.serve() as url, pipeline_for(url, tmp_path, method=way) as engine:
        await engine.score_group(group(1))
    prompts = [body["messages"][0]["content"] for body in judge.bodies]
    assert len(prompts) == 8
    assert len({prompt.partition("<<<BEGIN ANSWER ")[0] for prompt in prompts}) == 1
    labels = [label for label, _ in blocks(prompts[0])]
    assert labels == ["QUESTION", *(f"TEACHER ANSWER {k}" for k in range(1, 5)), "ANSWER"]
    (record,) = read_records(tmp_path)
    assert len(record["teachers"]) == 4


@pytest.mark.parametrize("name", TOPS)
async def test_one_answer_a_call_and_nothing_of_the_teacher(name: str, tmp_path: Path) -> None:
    judge = FakeJudge()
    settings = load_settings(
        {
            "method": {"name": name},
            "journal_dir": tmp_path / "journal",
            "teacher_index": tmp_path / "is not there",
            "judge": {"verifier": {"model": "fake", "base_url": "set below", "api_key_env": None}},
        }
    )
    async with judge.serve() as url:
        verifier = settings.judge.verifier.model_copy(update={"base_url": url})
        roles = settings.judge.model_copy(update={"verifier": verifier})
        chosen = settings.model_copy(update={"judge": roles})
        async with build_engine(chosen, {}) as engine:  # neither index nor Rubricator is asked for
            await engine.check()
            await engine.score_group(group(1))
    shown = [blocks(body["messages"][0]["content"]) for body in judge.bodies]
    graded = [[label for label, _ in each] for each in shown if each]
    assert graded == [["QUESTION", "ANSWER"]] * 8
    assert judge.requests == {"trial": 1, "verifier": 8}


def test_references_without_an_index_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    node: dict[str, Any] = {
        "method": {"name": "tjudge", "reference": "teacher"},
        "journal_dir": tmp_path / "journal",
        "judge": {"verifier": {"model": "fake", "api_key_env": None}},
    }
    with pytest.raises(ConfigurationError, match=r"ropd\.teacher_index is not set"):
        build_engine(load_settings(node), {})
    with pytest.raises(TeacherIndexError):
        build_engine(load_settings({**node, "teacher_index": tmp_path / "none"}), {})


def test_a_template_of_ones_own_holds_the_placeholders(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("{{nonce}} {{top}} {{question}}")
    node = {
        "method": {"name": "ovd", "prompt": str(own)},
        "journal_dir": tmp_path / "journal",
        "judge": {"verifier": {"model": "fake", "api_key_env": None}},
    }
    with pytest.raises(ConfigurationError, match=r"ropd\.method\.prompt: .*missing: answer"):
        build_engine(load_settings(node), {})
