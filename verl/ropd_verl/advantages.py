"""GRPO's advantages over the rollouts that were kept: ``algorithm.adv_estimator=ropd_grpo``.

`ropd.rollouts.unfinished=drop` leaves a rollout out by an empty response mask, which takes it out
of verl's loss but not out of its group's mean and standard deviation. Here it is out of both: the
others are normalised among themselves, as verl's own GRPO would a smaller group. Without such
rollouts this is verl's GRPO, number for number.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage, register_adv_est

NAME = "ropd_grpo"


def register() -> None:
    """Make `NAME` known to verl, in the process that computes advantages."""
    register_adv_est(NAME)(advantages_of_kept)


def advantages_of_kept(
    token_level_rewards: torch.Tensor,
    response_mask: torch.Tensor,
    index: np.ndarray,
    config: Any = None,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages and returns, both ``(rollouts, tokens)``.

    ``index`` has the group of each row. A row without a token in its mask gets 0, and so does one
    that is alone in its group, of which verl would take the reward itself for the advantage.
    """
    kept = response_mask.sum(dim=-1) > 0
    names = np.asarray(index, dtype=str)[kept.numpy(force=True)]
    _names, number, members = np.unique(names, return_inverse=True, return_counts=True)
    advantages = torch.zeros_like(token_level_rewards)
    if kept.any():
        of_kept, _returns = compute_grpo_outcome_advantage(
            token_level_rewards=token_level_rewards[kept],
            response_mask=response_mask[kept],
            index=number,
            norm_adv_by_std_in_grpo=True if config is None else config.norm_adv_by_std_in_grpo,
        )
        alone = torch.from_numpy(members[number] == 1).to(of_kept.device)
        advantages[kept] = of_kept.masked_fill(alone[:, None], 0.0)
    return advantages, advantages
