"""verl's door into the pipeline: a group that is judged, one that fails, one that ends the run."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from verl import DataProto

from algo.errors import ConfigurationError, FailureKind, JudgeFailure, JudgeOutage
from algo.judge.group import Group, Rollout
from algo.judge.method import ScoredGroup
from ropd_verl import reward_manager
from ropd_verl.config import compose_config
from ropd_verl.reward_manager import GROUP_KEY, RopdRewardManager, on_grid

OUTAGE = JudgeOutage("verifier", FailureKind.TRANSPORT, 600.0, "gone")


class Judge:
    """Stands in for the pipeline: each group meets what was planned for its uid."""

    def __init__(self) -> None:
        self.planned: dict[str, Any] = {}
        self.gate = asyncio.Event()

    async def score_group(self, group: Group) -> ScoredGroup:
        outcome = self.planned[group.uid]
        if outcome == "wait":
            await self.gate.wait()
            outcome = (0.1, 0.9)
        if isinstance(outcome, Exception):
            raise outcome
        return ScoredGroup("j1", outcome, (None,) * 2, (), ())


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Judge:
    made = Judge()
    monkeypatch.setattr(reward_manager, "build_engine", lambda settings, environ: made)
    return made


@pytest.fixture
def manager(judge: Judge) -> RopdRewardManager:
    return RopdRewardManager(compose_config("ropd_cpu", []), tokenizer=None)


def request(uid: str) -> DataProto:
    rollouts = (Rollout("5", finished=True),) * 2
    group = Group(uid, [{"role": "user", "content": "2+3=?"}], rollouts, step=1)
    return DataProto(batch=None, non_tensor_batch={}, meta_info={GROUP_KEY: group})


def test_scores_come_in_rollout_order_and_on_the_grid(
    judge: Judge, manager: RopdRewardManager
) -> None:
    judge.planned["g"] = (0.1, 0.9)
    scores = asyncio.run(manager.run_single(request("g")))
    assert [score.reward for score in scores] == [on_grid(0.1), on_grid(0.9)]
    assert [score.extra_info for score in scores] == [
        {"acc": None, "judgement_id": "j1", "rule": ""}
    ] * 2
    manager.raise_if_ended()


def test_a_failed_group_raises_and_the_run_goes_on(
    judge: Judge, manager: RopdRewardManager
) -> None:
    judge.planned["g"] = JudgeFailure(FailureKind.REFUSAL, "rubricator", "no")
    with pytest.raises(JudgeFailure):
        asyncio.run(manager.run_single(request("g")))
    manager.raise_if_ended()


@pytest.mark.parametrize("error", [OUTAGE, OSError("disk full"), KeyError("bug")])
def test_whatever_else_is_raised_ends_the_run(
    judge: Judge, manager: RopdRewardManager, error: Exception
) -> None:
    judge.planned["g"] = error
    with pytest.raises(type(error)):
        asyncio.run(manager.run_single(request("g")))
    with pytest.raises(type(error)):
        manager.raise_if_ended()


def test_each_groups_stay_at_the_judge_is_told_until_it_has_left(
    judge: Judge, manager: RopdRewardManager
) -> None:
    judge.planned |= {"quick": (0.1, 0.9), "slow": "wait", "bad": OUTAGE}

    async def judging() -> None:
        slow = asyncio.create_task(manager.run_single(request("slow")))
        await asyncio.sleep(0)
        before = time.time()
        await manager.run_single(request("quick"))
        with pytest.raises(JudgeOutage):
            await manager.run_single(request("bad"))
        first = manager.judging_spans()
        assert first.keys() == {"slow", "quick", "bad"}
        assert first["slow"].ended is None
        assert first["slow"].started <= before
        for uid in ("quick", "bad"):
            left = first[uid].ended
            assert left is not None
            assert before <= first[uid].started <= left

        judge.gate.set()
        await slow
        [(uid, span)] = manager.judging_spans().items()
        assert uid == "slow"
        assert span.started == first["slow"].started
        assert span.ended is not None
        assert manager.judging_spans() == {}

    asyncio.run(judging())


def test_more_than_one_reward_worker_is_refused(judge: Judge) -> None:
    config = compose_config("ropd_cpu", ["reward.num_workers=2"])
    with pytest.raises(ConfigurationError, match=r"reward\.num_workers=2: set it to 1"):
        RopdRewardManager(config, tokenizer=None)
