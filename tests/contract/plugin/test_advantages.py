"""Advantages by hand equal verl's, for both presets: docs/fidelity.md's numbers and more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from verl.trainer.ppo.core_algos import agg_loss, get_adv_estimator_fn

from ropd_verl.config import compose_config
from ropd_verl.reward_manager import on_grid

EPSILON = 1e-6


@cache
def algorithm(preset: str) -> Any:
    return compose_config("ropd", [f"preset={preset}"]).algorithm


def verl_advantages(preset: str, groups: Sequence[Sequence[float]]) -> list[list[float]]:
    """What the configured estimator makes of the rewards, each at its response's last token."""
    config = algorithm(preset)
    rewards = [reward for group in groups for reward in group]
    uids = [f"uid{g}" for g, group in enumerate(groups) for _ in group]
    lengths = [2 + i % 3 for i in range(len(rewards))]
    mask = torch.tensor([[1.0] * length + [0.0] * (4 - length) for length in lengths])
    token_rewards = torch.zeros(len(rewards), 4)
    for i, (reward, length) in enumerate(zip(rewards, lengths, strict=True)):
        token_rewards[i, length - 1] = reward
    estimate = get_adv_estimator_fn(config.adv_estimator)
    advantages, returns = estimate(
        token_level_rewards=token_rewards,
        response_mask=mask,
        index=np.array(uids, dtype=object),
        norm_adv_by_std_in_grpo=config.norm_adv_by_std_in_grpo,
    )
    torch.testing.assert_close(advantages, returns)
    # One value for each of a response's tokens, none beyond it.
    torch.testing.assert_close(advantages, advantages[:, :1] * mask)
    flat = iter(advantages[:, 0].tolist())
    return [[next(flat) for _ in group] for group in groups]


def by_hand(rewards: Sequence[float], *, normalised: bool) -> list[float]:
    mean = math.fsum(rewards) / len(rewards)
    if not normalised:
        return [r - mean for r in rewards]
    sample_variance = math.fsum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1)
    return [(r - mean) / (math.sqrt(sample_variance) + EPSILON) for r in rewards]


def test_the_example_of_the_documentation() -> None:
    rewards = [[1.0, 0.5, 0.5, 0.0]]
    assert verl_advantages("paper", rewards)[0] == pytest.approx(
        [1.224742, 0.0, 0.0, -1.224742], abs=1e-6
    )
    assert verl_advantages("official", rewards)[0] == pytest.approx([0.5, 0.0, 0.0, -0.5])


GROUPS = [
    [17 / 22, 5 / 22, 1.0, 0.0, 12 / 22, 12 / 22, 8 / 22, 22 / 22],
    [0.25, 0.75, 0.5, 0.5, 0.125, 0.375, 0.625, 0.875],
]


@pytest.mark.parametrize(("preset", "normalised"), [("paper", True), ("official", False)])
def test_groups_are_normalised_apart(preset: str, normalised: bool) -> None:
    for ours, verls in zip(GROUPS, verl_advantages(preset, GROUPS), strict=True):
        assert verls == pytest.approx(by_hand(ours, normalised=normalised), rel=1e-4, abs=1e-6)


def test_the_standard_deviation_is_the_samples_not_the_populations() -> None:
    [found] = verl_advantages("paper", GROUPS[:1])
    rewards = GROUPS[0]
    mean = math.fsum(rewards) / 8
    population = math.sqrt(math.fsum((r - mean) ** 2 for r in rewards) / 8)
    papers = [(r - mean) / population for r in rewards]
    ratios = [a / b for a, b in zip(found, papers, strict=True) if abs(b) > 1e-3]
    assert ratios == pytest.approx([math.sqrt(7 / 8)] * len(ratios), rel=1e-4)


@pytest.mark.parametrize("preset", ["paper", "official"])
@given(passed=st.integers(0, 60), points=st.integers(1, 60), size=st.integers(2, 64))
@settings(deadline=None)
def test_a_tie_teaches_nothing(preset: str, passed: int, points: int, size: int) -> None:
    """Because rewards come on a grid on which float32 averages exactly."""
    reward = on_grid(min(passed, points) / points)
    [advantages] = verl_advantages(preset, [[reward] * size])
    assert advantages == [0.0] * size


def test_without_the_grid_a_tie_would_teach_roundings() -> None:
    [advantages] = verl_advantages("paper", [[0.6] * 8])
    assert min(map(abs, advantages)) > 0.01


@given(st.floats(0, 1))
def test_the_grid_keeps_a_score_and_its_range(score: float) -> None:
    assert abs(on_grid(score) - score) < 8e-6
    assert 0 <= on_grid(score) <= 1


def test_the_loss_is_averaged_as_the_preset_says() -> None:
    """Two responses of 1 and 3 tokens with losses 4 and 1, 2, 3."""
    losses = torch.tensor([[4.0, 9.0, 9.0], [1.0, 2.0, 3.0]])
    mask = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    expected = {"paper": (4 + (1 + 2 + 3) / 3) / 2, "official": (4 + 1 + 2 + 3) / 4}
    for preset, loss in expected.items():
        mode = compose_config("ropd", [f"preset={preset}"]).actor_rollout_ref.actor.loss_agg_mode
        assert float(agg_loss(losses, mask, mode)) == pytest.approx(loss)
