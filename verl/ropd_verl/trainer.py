"""What ROPD adds to verl's trainers, whichever mode they run in.

- the counters of the judge pipeline join each step's metrics under ``ropd/``, and how long the
  trainer waited for the judge alone;
- a judge outage (or whatever else makes judging impossible) ends the run with a checkpoint of
  the last complete step, positioned so that a restart repeats the interrupted step;
- every mode of verl gets this by its usual name (``trainer.v1.trainer_mode``).
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayTaskError
from verl.trainer.main_ppo import TaskRunnerV1
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY, PPOTrainer

from algo.ropd.errors import RopdError
from algo.ropd.reward_manager import Stay
from ropd_verl.judge_time import judge_time
from ropd_verl.ray_actors import class_behind

STARTED_AT_VARIABLE = "ROPD_STARTED_AT"
"""Seconds since the epoch at which `training/train.sh` was called."""

# A step that had to replace so many times its batch will not come to an end by replacing more.
_MOST_REPLACED = 4

_TaskRunner = class_behind(TaskRunnerV1)


class GroupsKeepFailing(RopdError):
    """A step replaced failed groups over and over."""


class _WithJudge:
    """Mixed into a `PPOTrainer` subclass."""

    config: Any
    global_steps: int
    trainer_mode: str
    train_dataloader: Any
    reward_loop_manager: Any
    replay_buffer: Any
    _position: Any = None
    _replaced: int = 0

    def step(self, metrics: dict, timing_raw: dict) -> Any:
        """One training step, with the judge's counters; see the module for an outage."""
        started = time.time()
        self._position = self.train_dataloader.state_dict()
        self._replaced = 0
        try:
            batch = super().step(metrics, timing_raw)  # pyright: ignore
        except RopdError:
            self._save_last_complete_step()
            raise
        metrics.update(self._ask_judges("metrics"))
        metrics.update(self._judge_time(started))
        metrics["ropd/since_start_s"] = time.time() - float(os.environ[STARTED_AT_VARIABLE])
        return batch

    def _add_prompts_to_generate(self, num_prompts: int) -> int:
        """Replace failed groups, unless replacing cannot help.

        verl's replay buffer calls this for every group it evicts, so an outage ends the run
        here instead of going through the whole data set.
        """
        self._ask_judges("raise_if_ended")
        self._replaced += num_prompts
        batch_size = self.config.data.train_batch_size
        # The asynchronous modes also come here to fill their window, before the first step.
        if self._position is not None and self._replaced > _MOST_REPLACED * batch_size:
            raise GroupsKeepFailing(
                f"{self._replaced} groups failed in one step of {batch_size}; the run's log names "
                "each group's cause"
            )
        return super()._add_prompts_to_generate(num_prompts)  # pyright: ignore

    def _judge_time(self, started: float) -> dict[str, float]:
        stays: dict[str, Stay] = self._ask_judges("stays")
        return judge_time(self.replay_buffer.take_looks(), stays, started, time.time())

    def _ask_judges(self, method: str) -> dict[str, Any]:
        """Call ``method`` of the reward manager in each reward worker and merge the answers."""
        merged: dict[str, Any] = {}
        for worker in self.reward_loop_manager.reward_loop_workers:
            call = worker.__ray_call__.remote(
                lambda actor, name: getattr(actor.reward_manager, name)(), method
            )
            try:
                merged.update(ray.get(call, timeout=60) or {})
            except RayTaskError as error:
                raise (error.cause if isinstance(error.cause, RopdError) else error) from None
        return merged

    def _save_last_complete_step(self) -> None:
        """Checkpoint the weights as they were after the last complete step.

        Nothing to save in the very first step. The data position goes back to the beginning of
        the interrupted step in sync mode; the asynchronous modes keep their prompts in the
        TransferQueue, which is part of their checkpoint.
        """
        completed = self.global_steps - 1
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{completed}"
        if completed < 1 or folder.exists():
            return
        self.global_steps = completed
        self._save_checkpoint()  # pyright: ignore
        if self.trainer_mode == "sync":
            torch.save(self._position, folder / "data.pt")


def _with_judge(trainer: type[PPOTrainer]) -> type[PPOTrainer]:
    return type(f"Ropd{trainer.__name__}", (_WithJudge, trainer), {})


class RopdTaskRunner(_TaskRunner):
    """verl's task runner; `verl.trainer.main_ppo.run_ppo` takes it as ``task_runner_class``."""

    def run(self, config: Any) -> None:
        """Train. Raises what ended the run."""
        mode = config.trainer.v1.trainer_mode
        # The registry refuses to give a name a second class, hence the direct entry.
        TRAINER_REGISTRY[mode] = _with_judge(TRAINER_REGISTRY[mode])
        super().run(config)
