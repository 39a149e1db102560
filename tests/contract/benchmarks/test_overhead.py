"""The overhead's two runs are ones that the trainer takes, and its judge is one that it can ask."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from algo.ropd.pipeline import Group, Rollout, build_pipeline
from algo.ropd.settings import RopdSettings
from benchmarks import overhead
from benchmarks.judge import Teachers

pytest.importorskip("verl")
from verl.experimental.reward_loop.reward_manager.naive import NaiveRewardManager
from verl.trainer.ppo.reward import get_custom_reward_fn, resolve_reward_manager_cls

from ropd_verl.checks.doctor import examine
from ropd_verl.checks.finding import Level, Reach
from ropd_verl.config import compose_config
from ropd_verl.reward_manager import RopdRewardManager
from ropd_verl.train import parse


def composed(way: str, folder: Path):
    return compose_config(*parse(overhead.overrides(way, folder, 5)))


def test_verls_run_has_its_own_reward(tmp_path: Path) -> None:
    config = composed("verl", tmp_path)
    manager = resolve_reward_manager_cls(config)
    assert issubclass(manager, NaiveRewardManager)
    assert manager.run_single is NaiveRewardManager.run_single
    # What the trainer asks of it; see `_WithJudge`.
    for question in ("metrics", "judging_spans", "raise_if_ended"):
        assert hasattr(RopdRewardManager, question)
        assert not getattr(manager, question)(None)
    score = get_custom_reward_fn(config)
    assert score is not None
    asked = {"data_source": "arithmetic", "ground_truth": "12", "extra_info": {}}
    assert score(solution_str="answer 12", **asked) == 1.0
    assert score(solution_str="answer 13", **asked) == 0.0


@pytest.mark.parametrize("way", overhead.WAYS)
def test_the_checks_of_a_start_take_the_configuration(way: str, tmp_path: Path) -> None:
    found = list(examine(composed(way, tmp_path), os.environ, Reach.STATIC))
    assert [d.line for d in found if d.finding.level is Level.ERROR] == []


def test_ropds_run_is_the_example_as_it_is(tmp_path: Path) -> None:
    config = composed("ropd", tmp_path)
    assert resolve_reward_manager_cls(config) is RopdRewardManager
    assert config.trainer.total_training_steps == 5 + overhead.WARM_UP


def test_the_judge_that_answers_at_once_judges_a_group(tmp_path: Path) -> None:
    async def judged(url: str) -> tuple[float, ...]:
        role = {"base_url": url, "api_key_env": None, "model": "yes"}
        settings = RopdSettings.from_node(
            {"journal_dir": tmp_path, "judge": {"rubricator": role, "verifier": role}}
        )
        rollouts = [Rollout(f"answer {k}", True) for k in range(3)]
        question = [{"role": "user", "content": "5+7=?"}]
        async with build_pipeline(settings, {}, Teachers(40)) as pipeline:
            return (await pipeline.score_group(Group("g", question, rollouts, step=1))).scores

    with overhead.serve({}) as url:
        assert asyncio.run(judged(url)) == (1.0, 1.0, 1.0)
