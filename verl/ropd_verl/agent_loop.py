"""Judge a prompt's rollouts as one group, while other groups still generate.

verl scores each rollout alone; this worker holds the rollouts of a prompt at a `GroupBarrier`,
sends the whole group to the reward worker once, and lets the group succeed or fail as one.
Validation rollouts are graded one by one against ground truth, as in verl, and may carry
sampling parameters of their own (``extra_info.sampling``).

Installed by ``actor_rollout_ref.rollout.agent.agent_loop_manager_class``.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError
from verl import DataProto
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.trainer.ppo.v1 import agent_loop_tq
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

from algo.errors import JudgeOutage
from algo.judge.group import Group, Rollout
from ropd_verl.bundled_queue import BundledQueue
from ropd_verl.cpu.generation import eos_token_ids
from ropd_verl.group_barrier import GroupBarrier, GroupFailed
from ropd_verl.ray_actors import class_behind
from ropd_verl.reward_manager import GROUP_KEY, RolloutScore
from ropd_verl.student_text import rollout_of, student_thinking

_Worker = class_behind(AgentLoopWorkerTQ)

logger = logging.getLogger(__name__)


class SamplingWorker(_Worker):
    """verl's agent loop worker, where a validation row may be sampled in its own way."""

    async def _run_prompt(
        self, prompt: dict, sampling_params: dict, trajectory: dict, trace: bool = False
    ) -> None:
        if trajectory["validate"]:
            own = (prompt.get("extra_info") or {}).get("sampling") or {}
            sampling_params = sampling_params | {k: v for k, v in own.items() if v is not None}
        await super()._run_prompt(prompt, sampling_params, trajectory, trace)


class GroupScoringWorker(SamplingWorker):
    """verl's agent loop worker, with the group as the unit of scoring."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._groups: dict[str, GroupBarrier[AgentLoopOutput, RolloutScore]] = {}
        self._eos = eos_token_ids(self.model_config.generation_config, self.tokenizer)
        self._thinking = student_thinking(
            self.tokenizer,
            self.config.data.get("apply_chat_template_kwargs"),
            self.config.ropd.rollouts.get("thinking"),
        )
        # verl's worker puts by the module's name alone; this process has no other worker.
        agent_loop_tq.__dict__["tq"] = BundledQueue()
        _quiet_group_failures()

    async def _run_prompt(
        self, prompt: dict, sampling_params: dict, trajectory: dict, trace: bool = False
    ) -> None:
        """Open the prompt's barrier for as long as its sessions run."""
        if trajectory["validate"]:
            await super()._run_prompt(prompt, sampling_params, trajectory, trace)
            return
        uid = prompt["uid"]
        size = int(prompt.get("__rollout_n__", self.config.actor_rollout_ref.rollout.n))

        async def judge(outputs: Sequence[AgentLoopOutput]) -> Sequence[RolloutScore]:
            return await self._score_group(prompt, trajectory["step"], outputs)

        self._groups[uid] = GroupBarrier(size, judge)
        try:
            await super()._run_prompt(prompt, sampling_params, trajectory, trace)
        finally:
            del self._groups[uid]

    async def _run_agent_loop(
        self, sampling_params: dict, trajectory: dict, *, uid: str, **kwargs: Any
    ) -> Any:
        """A session that ends in an error, or without an answer, takes its group with it."""
        group = self._groups.get(uid)
        try:
            result = await super()._run_agent_loop(sampling_params, trajectory, uid=uid, **kwargs)
        except BaseException as error:
            if group is not None:
                group.fail(error)
            raise
        if group is not None:
            group.left(kwargs["session_id"])
        return result

    async def _compute_score(self, outputs: list[AgentLoopOutput], kwargs: dict) -> None:
        """Wait for the group's judgement (training), or grade this rollout (validation)."""
        group = self._groups.get(kwargs["uid"])
        if group is None:
            await super()._compute_score(outputs, kwargs)
            return
        started = time.monotonic()
        final = outputs[-1]
        score = await group.arrive(kwargs["session_id"], final)
        final.reward_score = score.reward
        if score.dropped:
            for output in outputs:  # no token of it counts, in the loss or in its group
                output.response_mask = [0] * len(output.response_mask)
        final.extra_fields["reward_extra_info"] = score.extra_info
        final.metrics.compute_score = time.monotonic() - started

    async def _score_group(
        self, prompt: dict, step: int, outputs: Sequence[AgentLoopOutput]
    ) -> Sequence[RolloutScore]:
        try:
            group = Group(
                uid=prompt["uid"],
                messages=prompt["raw_prompt"],
                rollouts=tuple(self._rollout(output) for output in outputs),
                step=int(step),
            )
            worker = random.choice(self.reward_loop_worker_handles)
            request = DataProto(batch=None, non_tensor_batch={}, meta_info={GROUP_KEY: group})
            return await worker.compute_score.remote(request)
        except JudgeOutage:
            raise  # said once, by the trainer, which asks the reward worker and stops
        except RayError as error:
            cause = getattr(error, "cause", error)
            what = f"{type(cause).__name__}: {cause}"
            logger.warning("group %s is replaced: %s", prompt["uid"], what)
            raise
        except Exception:
            logger.exception("group %s is replaced", prompt["uid"])
            raise

    def _rollout(self, output: AgentLoopOutput) -> Rollout:
        return rollout_of(self.tokenizer, output.response_ids, self._eos, self._thinking)


class GroupScoringManager(AgentLoopManagerTQ):
    """Starts `GroupScoringWorker`s in place of verl's workers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(GroupScoringWorker)


def _quiet_group_failures() -> None:
    """Keep verl from printing one stack trace for each sibling of a failed group.

    The group's failure is reported once, with its cause, by `_score_group` or by the session
    that died first.
    """
    log = logging.getLogger("verl.trainer.ppo.v1.agent_loop_tq")
    if not any(f is _is_news for f in log.filters):
        log.addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, GroupFailed)
