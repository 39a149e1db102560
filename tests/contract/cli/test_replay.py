"""`ropd replay` on a journal that a pipeline wrote, with and without another judge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from algo.cli import app
from algo.judge.journal import journal_files
from tests.builders.judging import group, pipeline_for
from tests.fakes.judge import FakeJudge, blocks

RUNNER = CliRunner()


async def run(*arguments: str) -> Result:
    """The command in a thread of its own, so that the fake judge goes on serving."""
    return await asyncio.to_thread(RUNNER.invoke, app, ["replay", *arguments])


@asynccontextmanager
async def judged_journal(folder: Path) -> AsyncIterator[str]:
    """A journal of six judged groups and a failed one; gives the URL of a judge that serves on."""
    judge = FakeJudge()
    async with judge.serve() as url:
        async with pipeline_for(url, folder, limits={"retries": {"refusal": 0}}) as pipeline:
            for number in range(6):
                await pipeline.score_group(group(number, size=4))
            judge.fault = lambda role, number: "refusal_in_prose"
            with pytest.raises(Exception, match="declined"):
                await pipeline.score_group(group(6))
        judge.fault = lambda role, number: ""
        yield url


async def test_a_journal_replays_to_the_very_rewards(tmp_path: Path) -> None:
    async with judged_journal(tmp_path):
        result = await run(str(tmp_path))
    assert result.exit_code == 0, result.output
    assert "6 judged groups replayed, 0 differ; 1 failed groups" in result.output


async def test_another_judge_of_the_same_mind_agrees_fully(tmp_path: Path) -> None:
    async with judged_journal(tmp_path) as url:
        result = await run(
            str(tmp_path), "--rejudge", "--model", "fake", "--base-url", url, "--limit", "4"
        )
    assert result.exit_code == 0, result.output
    assert "rejudged 4 groups, 32 answers" in result.output
    assert "agreement per criterion" in result.output
    assert result.output.count("1.000") >= 4


async def test_another_judge_that_denies_everything_is_told_apart(tmp_path: Path) -> None:
    judge = FakeJudge()
    right = judge.verdicts

    def none(prompt: str) -> dict[str, Any]:
        payload = right(prompt)
        for entry in payload["answers"]:
            entry["judgement"] = [False] * len(entry["judgement"])
        return payload

    judge.verdicts = none  # type: ignore[method-assign]
    async with judged_journal(tmp_path), judge.serve() as url:
        result = await run(str(tmp_path), "--rejudge", "--model", "fake", "--base-url", url)
    assert result.exit_code == 0, result.output
    assert "mean score after                         0.000" in result.output
    shown = [label for label, _ in blocks(judge.bodies[-1]["messages"][0]["content"])]
    assert sum(label.startswith("ANSWER") for label in shown) == 8


async def test_a_tampered_journal_is_reported(tmp_path: Path) -> None:
    async with judged_journal(tmp_path):
        file = journal_files(tmp_path)[0]
        file.write_bytes(file.read_bytes().replace(b"true", b"false", 1))
        result = await run(str(tmp_path))
    assert result.exit_code == 1
    assert "damaged" in str(result.exception)


async def test_rejudging_without_a_model_names_the_option(tmp_path: Path) -> None:
    async with judged_journal(tmp_path):
        result = await run(str(tmp_path), "--rejudge")
    assert result.exit_code == 2
    assert "ROPD_VERIFIER_MODEL" in result.output
