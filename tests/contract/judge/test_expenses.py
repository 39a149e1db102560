"""What the judge is asked beside the groups is paid, on record, counted, and rewards nobody."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from algo.cli import app
from algo.errors import JournalError, JudgeFailure, JudgeOutage
from algo.judge.journal import read_expenses, read_records
from algo.judge.replay import replay
from algo.methods.registry import METHODS
from algo.report.census import take_census
from algo.ropd.probes import PROBES
from tests.builders.judging import group, pipeline_for, right_scores
from tests.fakes.judge import FakeJudge, blocks

PRICES = {"prices": {"input": 2.0, "cached": 2.0, "output": 10.0}}


def written(folder: Path) -> dict[str, int]:
    """Tokens of replies by the journal, of judgements and of all else."""
    records = [*read_records(folder), *read_expenses(folder)]
    calls = [call for record in records for call in record["calls"] if "raw" in call]
    return {
        "in": sum(call["prompt_tokens"] for call in calls),
        "out": sum(call["completion_tokens"] for call in calls),
    }


@pytest.mark.parametrize("rubric", ["shared", "per_student"])
@pytest.mark.parametrize("mode", ["joint_blind", "joint_named", "isolated", "students_only"])
async def test_probes_are_judged_in_the_runs_own_modes_and_are_on_record(
    mode: str, rubric: str, tmp_path: Path
) -> None:
    judge = FakeJudge()
    node: dict[str, Any] = {
        "probes": {"every_steps": 1, "max_score": 1.0},
        "rubric": {"mode": rubric},
        "verification": {"mode": mode},
    }
    async with judge.serve() as url, pipeline_for(url, tmp_path, **node) as pipeline:
        await pipeline.score_group(group(1))
    [expense] = read_expenses(tmp_path)
    assert (expense["kind"], expense["step"]) == ("probe", 1)
    assert (expense["rubric_mode"], expense["verification_mode"]) == (rubric, mode)
    prompts = [body["messages"][0]["content"] for body in judge.bodies]
    probing = [blocks(prompt) for prompt in prompts if "Ada buys 4 pens" in prompt]
    assert len(expense["calls"]) == len(probing)
    panels = 1 if rubric == "shared" else len(PROBES) + 1
    assert len(expense["panels"]) == panels
    answers = [[label for label, _ in shown if label.startswith("ANSWER")] for shown in probing]
    named = [label for shown in answers for label in shown if label.endswith("BY TEACHER")]
    assert len(named) == (panels if mode == "joint_named" else 0)
    if mode == "isolated":
        assert all(len(shown) == 1 for shown in answers)
    elif rubric == "shared":
        assert len(probing) == 1
    else:
        assert all(len(shown) <= 2 for shown in answers)
    record = next(read_records(tmp_path))
    stages = Counter(call["stage"] for call in record["calls"])
    assert judge.requests["verifier"] == stages["verifier"] + len(expense["calls"])


async def test_probes_count_in_tokens_and_cost_and_reward_nobody(tmp_path: Path) -> None:
    judge = FakeJudge()
    node: dict[str, Any] = {"probes": {"every_steps": 1, "max_score": 1.0}}
    async with (
        judge.serve() as url,
        pipeline_for(url, tmp_path, verifier=PRICES, rubricator=PRICES, **node) as pipeline,
    ):
        for step in (1, 2, 3):
            await pipeline.score_group(group(step, step=step))
        metrics = pipeline.metrics()
    assert len(list(read_expenses(tmp_path))) == 3
    tokens = written(tmp_path)
    assert metrics["ropd/judge/tokens_in"] == tokens["in"]
    assert metrics["ropd/judge/tokens_out"] == tokens["out"]
    assert metrics["ropd/judge/cost"] == pytest.approx(
        (tokens["in"] * 2 + tokens["out"] * 10) / 1e6
    )
    assert len(list(read_records(tmp_path))) == len(list(replay(tmp_path, METHODS))) == 3
    census = take_census(tmp_path)
    assert len(census.entries) == 3
    assert (census.stages["verifier"].calls, census.stages["verifier (probe)"].calls) == (3, 3)
    replayed = await asyncio.to_thread(CliRunner().invoke, app, ["replay", str(tmp_path)])
    assert "3 judged groups replayed, 0 differ; 0 failed groups" in replayed.output
    alone = str(tmp_path / "expenses-00000.jsonl")
    refused = await asyncio.to_thread(CliRunner().invoke, app, ["replay", alone])
    assert "ropd.expense.v1" in str(refused.exception)


async def test_probes_that_fail_are_on_record_with_what_was_paid(tmp_path: Path) -> None:
    judge = FakeJudge(fault=lambda role, number: "wrong_count" if role == "verifier" else "")
    node: dict[str, Any] = {"probes": {"every_steps": 1}}
    async with judge.serve() as url, pipeline_for(url, tmp_path, **node) as pipeline:
        with pytest.raises(JudgeFailure):
            await pipeline.score_group(group(1))
    [expense] = read_expenses(tmp_path)
    assert "invalid" in expense["failure"]
    assert len(expense["calls"]) == 3
    assert expense["panels"] == []


async def test_trial_requests_are_on_record_and_counted(tmp_path: Path) -> None:
    judge = FakeJudge()
    judge.fault = lambda role, number: (
        "http_500" if "What is 3 + 3?" in str(judge.bodies[-1]) else ""
    )
    async with judge.serve() as url, pipeline_for(url, tmp_path) as pipeline:
        with pytest.raises(JudgeFailure):
            await pipeline.score_group(group(3))
        scored = await pipeline.score_group(group(4))
        await pipeline.check()
        await asyncio.sleep(0.2)
        metrics = pipeline.metrics()
    assert scored.scores == right_scores(group(4))
    expenses = list(read_expenses(tmp_path))
    assert {expense["kind"] for expense in expenses} == {"trial"}
    assert len(expenses) == judge.requests["trial"] >= 2
    assert metrics["ropd/judge/tokens_in"] == written(tmp_path)["in"]


async def test_an_expense_that_cannot_be_written_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeJudge().serve() as url, pipeline_for(url, tmp_path) as pipeline:

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("algo.judge.sealed_log.os.fsync", full)
        await pipeline.check()
        await asyncio.sleep(0.2)
        monkeypatch.undo()
        with pytest.raises(JournalError, match="No space left"):
            await pipeline.score_group(group(1))


async def test_a_probe_that_meets_an_outage_is_on_record(tmp_path: Path) -> None:
    node: dict[str, Any] = {"probes": {"every_steps": 1}, "limits": {"outage_s": 0.3}}
    async with pipeline_for("http://127.0.0.1:9/v1", tmp_path, **node) as pipeline:
        with pytest.raises(JudgeOutage):
            await pipeline.score_group(group(1))
    [expense] = read_expenses(tmp_path)
    assert "outage" in expense["failure"]
