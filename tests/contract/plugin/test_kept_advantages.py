"""`ropd_grpo` is verl's GRPO over the rollouts that were kept, through verl's own functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from verl import DataProto
from verl.trainer.ppo.core_algos import agg_loss, compute_grpo_outcome_advantage
from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

from ropd_verl import advantages
from ropd_verl.checks.rollouts import ESTIMATOR
from ropd_verl.config import compose_config
from ropd_verl.reward_manager import on_grid

TOKENS = 4
Group = list[tuple[float, bool]]
"""Of each rollout its reward, and whether it was kept."""
GROUPS = st.lists(
    st.lists(st.tuples(st.floats(0, 1).map(on_grid), st.booleans()), min_size=1, max_size=8).filter(
        lambda group: any(kept for _, kept in group)
    ),
    min_size=1,
    max_size=4,
)


def batch_of(groups: list[Group]) -> tuple[DataProto, list[str]]:
    rows = [(g, i, *each) for g, group in enumerate(groups) for i, each in enumerate(group)]
    mask, rewards = torch.zeros(len(rows), TOKENS), torch.zeros(len(rows), TOKENS)
    for row, (_, i, reward, kept) in enumerate(rows):
        length = 2 + i % 3
        mask[row, :length] = float(kept)
        rewards[row, length - 1] = reward if kept else 0.0
    uids = np.array([f"u{g}" for g, *_ in rows], dtype=object)
    batch = {"response_mask": mask, "token_level_rewards": rewards}
    data = DataProto.from_dict(tensors=batch, non_tensors={"uid": uids})
    return data, [f"u{g}_{i}_0" for g, i, *_ in rows]


def computed(groups: list[Group], estimator: str, normalised: bool) -> torch.Tensor:
    advantages.register()
    data, keys = batch_of(groups)
    config: Any = OmegaConf.create({"norm_adv_by_std_in_grpo": normalised})
    made = compute_advantage_for_multi_trajectories(
        data, keys, estimator, norm_adv_by_std_in_grpo=normalised, config=config
    )
    return made.batch["advantages"]


@settings(deadline=None)
@given(GROUPS, st.booleans())
def test_the_kept_are_normalised_as_if_the_others_had_never_been(
    groups: list[Group], normalised: bool
) -> None:
    of_all = computed(groups, advantages.NAME, normalised)
    kept = torch.tensor([each[1] for group in groups for each in group])
    assert not of_all[~kept].any()
    alone = [[each for each in group if each[1]] for group in groups]
    of_kept = computed(alone, "grpo", normalised)
    single = torch.tensor([len(group) == 1 for group in alone for _ in group])
    assert not of_all[kept][single].any()
    torch.testing.assert_close(
        of_all[kept][~single][:, 0], of_kept[~single][:, 0], rtol=1e-5, atol=1e-5
    )


@settings(deadline=None)
@given(GROUPS, st.booleans())
def test_with_everything_kept_it_is_verls_own(groups: list[Group], normalised: bool) -> None:
    whole = [[(reward, True) for reward, _ in group] for group in groups]
    whole = [group for group in whole if len(group) > 1] or [[(0.0, True), (1.0, True)]]
    assert torch.equal(
        computed(whole, advantages.NAME, normalised), computed(whole, "grpo", normalised)
    )


@pytest.mark.parametrize("mode", ["seq-mean-token-mean", "token-mean"])
def test_what_is_left_out_adds_nothing_to_the_loss(mode: str) -> None:
    groups: list[Group] = [[(1.0, True), (0.0, True), (0.5, False)], [(0.25, True), (0.5, False)]]
    data, _ = batch_of(groups)
    mask = data.batch["response_mask"]
    loss = torch.rand(mask.shape)
    spoiled = torch.where(mask > 0, loss, torch.tensor(1e9))
    assert torch.equal(agg_loss(loss, mask, mode), agg_loss(spoiled, mask, mode))


def test_verls_own_estimator_would_let_the_left_out_count() -> None:
    groups: list[Group] = [[(1.0, True), (0.5, True), (0.0, False)]]
    data, _ = batch_of(groups)
    of_verl, _ = compute_grpo_outcome_advantage(
        data.batch["token_level_rewards"],
        data.batch["response_mask"],
        data.non_tensor_batch["uid"],
        norm_adv_by_std_in_grpo=False,
    )
    assert of_verl[:, 0].tolist() == [0.5, 0.0, 0.0]
    assert computed(groups, advantages.NAME, False)[:, 0].tolist() == [0.25, -0.25, 0.0]


def test_the_check_and_the_estimator_agree_on_its_name() -> None:
    assert ESTIMATOR == advantages.NAME
    config = compose_config("ropd", [f"algorithm.adv_estimator={ESTIMATOR}"])
    assert config.algorithm.adv_estimator == ESTIMATOR
