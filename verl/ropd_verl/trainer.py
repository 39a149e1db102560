"""What ROPD adds to verl's trainers, whichever mode they run in.

- the counters of the judge pipeline join each step's metrics under ``ropd/``, and how long the
  trainer waited for the judge alone;
- a judge outage, or whatever else makes judging impossible, ends the run with a checkpoint of the
  last complete step, from which a restart goes on as if nothing had happened;
- every mode of verl gets this by its usual name (``trainer.v1.trainer_mode``).
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from verl.trainer.main_ppo import TaskRunnerV1
from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY, PPOTrainer
from verl.utils.checkpoint.checkpoint_manager import find_latest_ckpt_path

from algo.errors import RopdError
from algo.runs.judge_time import JudgingSpan, judge_time
from algo.runs.summary import SINCE_START
from ropd_verl import advantages, ray_cluster
from ropd_verl.checks.machine import ray_cpus_needed
from ropd_verl.cpu.bundled_client import bundled
from ropd_verl.plugin import ROLLOUT
from ropd_verl.ray_actors import class_behind

STARTED_AT_VARIABLE = "ROPD_STARTED_AT"
"""Seconds since the epoch at which `training/train.sh` was called."""

# A step in which so many times its batch failed will not come to an end by replacing more.
_MOST_FAILED = 4
# For the reward worker to answer a call: it may be at a long fsync, never at a judge's reply.
_PATIENCE_S = 60

_TaskRunner = class_behind(TaskRunnerV1)

logger = logging.getLogger(__name__)


class GroupsKeepFailing(RopdError):
    """A step replaced failed groups over and over."""


class JudgingEnded(RopdError):
    """The reward worker is gone, or met what it cannot go on from."""


class _WithJudge:
    """Mixed into a `PPOTrainer` subclass."""

    config: Any
    global_steps: int
    local_trigger_step: int
    trainer_mode: str
    train_dataloader: Any
    reward_loop_manager: Any
    replay_buffer: Any
    _restored_tq_prompt_count: int
    _position: Any = None
    _failed_before: int = 0

    def step(self, metrics: dict, timing_raw: dict) -> Any:
        """One training step, with the judge's counters; see the module for an outage."""
        started = time.time()
        self._position = self.train_dataloader.state_dict()
        self._failed_before = self.replay_buffer.failed_groups
        self.local_trigger_step = 0  # it still stands at the last step's
        try:
            batch = super().step(metrics, timing_raw)  # pyright: ignore
        except RopdError as ending:
            self._save_last_complete_step(ending)
            raise
        try:
            metrics.update(self._judge_metrics(started))
        except JudgingEnded as ending:
            # This step is complete. The next one ends the run, with a checkpoint, if it must.
            logger.warning("step %d has no figures of the judge: %s", self.global_steps, ending)
        metrics[SINCE_START] = time.time() - float(os.environ[STARTED_AT_VARIABLE])
        return batch

    def get_llm_client(self) -> Any:
        """verl's client; for the CPU's rollout, the one that sends what is asked at once."""
        client = super().get_llm_client()  # pyright: ignore
        return bundled(client) if self.config.actor_rollout_ref.rollout.name == ROLLOUT else client

    def _add_batch_to_generate(self) -> None:
        """A step's prompts.

        After an outage in an asynchronous mode the interrupted step's prompts are in flight again
        already; only those that failed with it are replaced, or the window would have grown.
        """
        restored, self._restored_tq_prompt_count = self._restored_tq_prompt_count, 0
        surplus = max(0, restored - self._window())
        if surplus == 0:
            super()._add_batch_to_generate()  # pyright: ignore
        elif surplus < self.config.data.train_batch_size:
            self._add_prompts_to_generate(self.config.data.train_batch_size - surplus)

    def _window(self) -> int:
        """Prompts that an asynchronous mode keeps in flight beyond a step's batch."""
        if self.trainer_mode == "sync":
            return 0
        batches = self.config.trainer.v1[self.trainer_mode].num_warmup_batches
        return int(batches * self.config.data.train_batch_size)

    def _add_prompts_to_generate(self, num_prompts: int) -> int:
        """Replace evicted groups, unless replacing cannot help.

        verl's replay buffer calls this for every group it evicts, so an outage ends the run
        here instead of going through the whole data set.
        """
        self._ask_judges("raise_if_ended")
        failed = self.replay_buffer.failed_groups - self._failed_before
        batch_size = self.config.data.train_batch_size
        if failed > _MOST_FAILED * batch_size:
            raise GroupsKeepFailing(
                f"{failed} groups failed in one step of {batch_size}; the run's log names each "
                "group's cause"
            )
        return super()._add_prompts_to_generate(num_prompts)  # pyright: ignore

    def _judge_metrics(self, started: float) -> dict[str, float]:
        spans: dict[str, JudgingSpan] = self._ask_judges("judging_spans")
        times = judge_time(self.replay_buffer.take_waits(), spans, started, time.time())
        figures = self._ask_judges("metrics")
        return figures | times if figures else {}  # of a method without a judge there are none

    def _ask_judges(self, method: str) -> dict[str, Any]:
        """Call ``method`` of the reward manager in each reward worker and merge the answers.

        Raises what of the project's errors the method raises, and `JudgingEnded` for any other.
        """
        merged: dict[str, Any] = {}
        for worker in self.reward_loop_manager.reward_loop_workers:
            call = worker.__ray_call__.remote(
                lambda actor, name: getattr(actor.reward_manager, name)(), method
            )
            try:
                merged.update(ray.get(call, timeout=_PATIENCE_S) or {})
            except RayTaskError as error:
                if isinstance(error.cause, RopdError):
                    raise error.cause from None
                logger.exception("the reward worker cannot go on")
                cause = f"{type(error.cause).__name__}: {error.cause}"
                raise JudgingEnded(f"the reward worker cannot go on: {cause}") from error
            except RayError as error:
                logger.exception("the reward worker does not answer")
                what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                raise JudgingEnded(f"the reward worker does not answer: {what}") from error
        return merged

    def _save_last_complete_step(self, ending: RopdError) -> None:
        """Checkpoint the weights as they were after the last complete step.

        There is nothing to save in the very first step, nor when this step has updated the
        weights already, as `separate_async` does several times a step: what the last regular
        checkpoint holds is then the newest state that a restart can go on from.

        In sync mode the data position goes back to the beginning of the interrupted step. The
        asynchronous modes keep the prompts in flight in the TransferQueue, which is part of their
        checkpoint (see `_add_batch_to_generate`).
        """
        completed = self.global_steps - 1
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{completed}"
        saved = find_latest_ckpt_path(str(folder.parent)) == str(folder)
        if completed < 1 or self.local_trigger_step > 0 or saved:
            return
        self.global_steps = completed
        try:
            self._save_checkpoint()  # pyright: ignore
            if self.trainer_mode == "sync":
                torch.save(self._position, folder / "data.pt")
        except Exception:
            # What ended the run is the judge, and is to be said; a full disk may be why for both.
            logger.exception("no checkpoint of step %d could be written", completed)
            ending.add_note(f"no checkpoint of step {completed} could be written, see the log")


def _with_judge(trainer: type[PPOTrainer]) -> type[PPOTrainer]:
    return type(f"Ropd{trainer.__name__}", (_WithJudge, trainer), {})


class RopdTaskRunner(_TaskRunner):
    """verl's task runner; `verl.trainer.main_ppo.run_ppo` takes it as ``task_runner_class``."""

    def run(self, config: Any) -> None:
        """Train. Raises what ended the run."""
        ray_cluster.require(ray.cluster_resources(), config, ray_cpus_needed(config))
        mode = config.trainer.v1.trainer_mode
        advantages.register()
        # The registry refuses to give a name a second class, hence the direct entry.
        TRAINER_REGISTRY[mode] = _with_judge(TRAINER_REGISTRY[mode])
        super().run(config)
