"""`ropd.judge.budget`: nothing more is sent once it is spent, and no paid reply is lost."""

from __future__ import annotations

import asyncio
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from algo.errors import BudgetSpent, ConfigurationError, FailureKind, JudgeOutage
from algo.judge.journal import read_expenses, read_records
from algo.judge.ledger import read_ledger
from algo.judge.replay import replay
from algo.judge.settings import BudgetSettings
from algo.llm.settings import PricesSettings
from algo.methods.registry import METHODS
from algo.ropd.pipeline import Engine, build_pipeline
from algo.ropd.settings import RopdSettings
from tests.builders.judging import FourTeachers, group, right_scores
from tests.builders.patience import patience
from tests.fakes.judge import FakeJudge

PRICED = {"input": 1000.0, "cached": 1000.0, "output": 1000.0}


def engine(url: str, folder: Path, budget: dict[str, Any], **node: Any) -> Engine:
    role = {"model": "fake", "base_url": url, "api_key_env": None, "timeout_s": 5.0}
    judge = {
        "rubricator": {**role, "prices": node.pop("prices", {})},
        "verifier": dict(role),
        "limits": {"backoff_s": 0.01, "max_backoff_s": 0.1, **node.pop("limits", {})},
        "budget": budget,
    }
    settings = RopdSettings.from_node({"journal_dir": folder, "judge": judge, **node})
    return build_pipeline(settings, {}, FourTeachers())


async def judge_many(pipeline: Engine, numbers: range) -> list[Any]:
    return await asyncio.gather(
        *(pipeline.score_group(group(number, uid=f"{number}")) for number in numbers),
        return_exceptions=True,
    )


def replies(folder: Path) -> Counter[str]:
    """Replies on record, by role."""
    records = [*read_records(folder), *read_expenses(folder)]
    return Counter(call["stage"] for each in records for call in each["calls"] if "raw" in call)


def spent(folder: Path) -> int:
    return read_ledger(folder, BudgetSettings(), {}).tokens


@pytest.mark.parametrize("mode", ["joint_blind", "isolated"])
@pytest.mark.parametrize("rubric", ["shared", "per_student"])
async def test_what_is_in_flight_ends_and_is_on_record_and_nothing_is_sent_after(
    mode: str, rubric: str, tmp_path: Path
) -> None:
    judge = FakeJudge(delay_s=lambda role: 0.05)
    node: dict[str, Any] = {
        "verification": {"mode": mode},
        "rubric": {"mode": rubric},
        "limits": {"concurrency": 6, "max_concurrency": 6},
    }
    async with judge.serve() as url, engine(url, tmp_path, {"tokens": 3000}, **node) as pipeline:
        ends = await judge_many(pipeline, range(20))
        asked = judge.requests.total()
        with pytest.raises(BudgetSpent):
            await pipeline.score_group(group(99))
        assert judge.requests.total() == asked  # nothing after the end
        assert replies(tmp_path).total() == asked  # and every reply on record before it is told
    assert spent(tmp_path) >= 3000
    assert any(isinstance(end, BudgetSpent) for end in ends)
    for number, end in enumerate(ends):
        if not isinstance(end, BudgetSpent):
            assert end.scores == right_scores(group(number))
    kinds = {r["failure"]["kind"] for r in read_records(tmp_path) if r["status"] == "failed"}
    assert kinds == {FailureKind.BUDGET}
    assert all(each.exact for each in replay(tmp_path, METHODS))


async def test_the_line_names_the_setting_and_how_to_go_on(tmp_path: Path) -> None:
    async with FakeJudge().serve() as url, engine(url, tmp_path, {"tokens": 1}) as pipeline:
        with pytest.raises(BudgetSpent) as stopped:
            await pipeline.score_group(group(1))
    line = str(pickle.loads(pickle.dumps(stopped.value)))
    assert "\n" not in line
    assert "ropd.judge.budget.tokens is 1" in line
    assert "to go on, raise it or set it to null" in line
    assert isinstance(stopped.value, JudgeOutage)


async def test_a_resumed_run_counts_what_was_spent_before(tmp_path: Path) -> None:
    judge = FakeJudge()
    node: dict[str, Any] = {"probes": {"every_steps": 1, "max_score": 1.0}}
    async with judge.serve() as url:
        async with engine(url, tmp_path, {}, **node) as pipeline:
            await judge_many(pipeline, range(4))
            await pipeline.check()
        before = spent(tmp_path)
        assert {expense["kind"] for expense in read_expenses(tmp_path)} == {"probe", "trial"}
        asked = judge.requests.total()
        async with engine(url, tmp_path, {"tokens": before}) as pipeline:
            with pytest.raises(BudgetSpent, match=f"{before:,} tokens in all starts"):
                await pipeline.score_group(group(5))
        assert judge.requests.total() == asked
        async with engine(url, tmp_path, {"tokens": before + 1}) as pipeline:
            [end] = await judge_many(pipeline, range(6, 7))
            assert isinstance(end, BudgetSpent)  # after the rubric, which is paid
        assert judge.requests.total() == asked + 1
        async with engine(url, tmp_path, {"tokens": 10**9}) as pipeline:
            scored = await pipeline.score_group(group(7))
    assert scored.scores == right_scores(group(7))


async def test_money_is_counted_at_each_roles_prices(tmp_path: Path) -> None:
    judge = FakeJudge()
    async with (
        judge.serve() as url,
        engine(url, tmp_path, {"cost": 0.5}, prices=PRICED) as pipeline,
    ):
        ends = [end for k in range(40) for end in await judge_many(pipeline, range(k, k + 1))]
    prices = {"rubricator": PricesSettings(**PRICED)}
    ledger = read_ledger(tmp_path, BudgetSettings(), prices)
    assert isinstance(ends[-1], BudgetSpent)
    assert "ropd.judge.budget.cost is 0.5" in str(ends[-1])
    assert 0.5 <= ledger.cost < 0.7
    assert ledger.tokens > ledger.cost * 1000  # the Verifier's cost nothing


async def test_money_without_any_price_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"ropd\.judge\.rubricator\.prices or ") as refused:
        engine("http://127.0.0.1:9/v1", tmp_path, {"cost": 1.0})
    assert "ropd.judge.budget.tokens instead" in str(refused.value)


async def test_an_endpoint_that_tells_no_tokens_is_counted_high(tmp_path: Path) -> None:
    judge = FakeJudge()
    judge.usage = lambda request, replies: None
    async with judge.serve() as url, engine(url, tmp_path, {"tokens": 2000}) as pipeline:
        ends = [end for k in range(20) for end in await judge_many(pipeline, range(k, k + 1))]
    assert isinstance(ends[-1], BudgetSpent)
    assert spent(tmp_path) >= 2000
    calls = [call for record in read_records(tmp_path) for call in record["calls"]]
    assert {call.get("prompt_tokens") for call in calls} == {None}
    characters = sum(call["prompt_characters"] + call["length"] for call in calls)
    assert characters / 3 - 2 * len(calls) <= spent(tmp_path) <= characters / 3


async def test_an_unreachable_endpoint_does_not_hold_up_the_end(tmp_path: Path) -> None:
    judge = FakeJudge()
    async with judge.serve() as url:
        limits = {"outage_s": 30.0}
        async with engine(url, tmp_path, {"tokens": 100}, limits=limits) as pipeline:
            judge.fault = lambda role, number: "http_503" if role == "verifier" else ""
            async with asyncio.timeout(patience(10)):
                ends = await judge_many(pipeline, range(4))
    assert all(isinstance(end, BudgetSpent) for end in ends)
