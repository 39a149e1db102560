"""RLVR: verl scores each rollout alone, against ground truth, and nobody waits for a group.

What the method is stands in `algo/methods/rlvr.py`. The reward manager grades any request that
carries no group, in training as in validation, so all that is left is a worker without a barrier.

Installed by ``actor_rollout_ref.rollout.agent.agent_loop_manager_class``.
"""

from __future__ import annotations

from typing import Any

import ray
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ

from ropd_verl.agent_loop import SamplingWorker


class GradingManager(AgentLoopManagerTQ):
    """Starts `SamplingWorker`s in place of verl's workers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(SamplingWorker)
