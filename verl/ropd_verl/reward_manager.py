"""verl's door into the judge.

A group's request holds one `Group` and is answered with one `RolloutScore` a rollout; an error
is raised, never scored. A request without a group is one rollout, which is graded against ground
truth and never reaches the judge: a validation's, or a training rollout of ``method=rlvr``. For a
method without a judge no engine, and so no journal and no teacher index, is opened.

Configured by ``reward.reward_manager`` (source=importlib); settings come from the node ``ropd``.
One reward worker a run (``reward.num_workers=1``): one place for the limiter, the journal and
the counters.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from typing import Any

from verl import DataProto
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from algo.errors import ConfigurationError, JudgeFailure
from algo.grading.ground_truth import grade
from algo.judge.engine import Engine
from algo.judge.group import Group, Rule
from algo.methods.registry import build_engine, is_judged, ropd_settings
from algo.runs.judge_time import JudgingSpan

GROUP_KEY = "ropd_group"
"""Key of `DataProto.meta_info` under which a request carries its `Group`."""


REWARD_GRID = 2.0**-16
"""Rewards are handed to verl as multiples of this.

verl averages a group in float32. The mean of eight equal 0.6 is off by 6e-8 there, and GRPO
divides by a standard deviation of as much plus 1e-6: a tied group, which says nothing, would push
every token by 0.05. On this grid the sums of up to 256 rewards are exact, and ties give 0.
"""


def on_grid(score: float) -> float:
    """The multiple of `REWARD_GRID` nearest to a score in [0, 1]; off by less than 8e-6."""
    return round(score / REWARD_GRID) * REWARD_GRID


@dataclass(frozen=True)
class RolloutScore:
    """One rollout's reward in [0, 1], and what is kept beside it in verl's records."""

    reward: float
    extra_info: dict[str, Any]
    dropped: bool = False
    """Left out of its group and of the loss: the reward counts nowhere."""


def _extra_info(*, acc: float | None = None, judgement: str = "", rule: str = "") -> dict[str, Any]:
    """The same keys for every outcome: verl takes the columns from the first row."""
    return {"acc": acc, "judgement_id": judgement, "rule": rule}


class RopdRewardManager(RewardManagerBase):
    """Judges groups, grades validation rollouts, and reports for both."""

    tokenizer: Any  # verl declares the factory's type, not the tokenizer's

    def __init__(
        self,
        config: Any,
        tokenizer: Any,
        compute_score: Any = None,
        reward_router_address: str | None = None,
        reward_model_tokenizer: Any = None,
    ) -> None:
        super().__init__(config, tokenizer, compute_score)
        settings = ropd_settings(config)
        if is_judged(settings) and config.reward.num_workers != 1:
            raise ConfigurationError(
                f"reward.num_workers={config.reward.num_workers}: set it to 1, for the judge's "
                "limits and journal belong to one process"
            )
        self._engine = build_engine(settings, os.environ) if is_judged(settings) else None
        self._fatal: Exception | None = None
        self._spans: dict[str, JudgingSpan] = {}

    async def run_single(self, data: DataProto) -> Any:
        """Answer one request of an agent loop worker.

        Returns:
            A list of `RolloutScore` in rollout order for a group; verl's dictionary with
            ``reward_score`` and ``reward_extra_info`` for a single rollout.

        Raises:
            JudgeFailure: this group cannot be judged, and is replaced.
            Exception: anything else ends the run (`raise_if_ended`): an outage, a full disk under
                the journal, a mistake in the code.
        """
        group = data.meta_info.get(GROUP_KEY)
        if group is not None:
            return await self._score(self._judging(), group)
        # Off the event loop: a mathematical comparison must not hold up the judge's replies.
        try:
            return await asyncio.to_thread(self._grade, data)
        except Exception as error:
            if self._engine is None:  # the reward itself: no other prompt can stand for it
                self._fatal = error
            raise

    def _judging(self) -> Engine:
        if self._engine is None:
            raise ConfigurationError(
                "a group came to a method without a judge: leave "
                "actor_rollout_ref.rollout.agent.agent_loop_manager_class to method=..."
            )
        return self._engine

    async def _score(self, engine: Engine, group: Group) -> list[RolloutScore]:
        self._spans[group.uid] = JudgingSpan(time.time(), None)
        try:
            scored = await engine.score_group(group)
        except JudgeFailure:
            raise
        except Exception as error:
            self._fatal = error
            raise
        finally:
            self._spans[group.uid] = JudgingSpan(self._spans[group.uid].started, time.time())
        return [
            RolloutScore(
                on_grid(score),
                _extra_info(judgement=scored.judgement_id, rule=rule or ""),
                rule is Rule.DROPPED,
            )
            for score, rule in zip(scored.scores, scored.rules, strict=True)
        ]

    def _grade(self, data: DataProto) -> dict[str, Any]:
        row = data[-1]  # of a rollout with several outputs, the last holds the answer
        fields = row.non_tensor_batch
        length = int(fields["response_len"])
        text = self.tokenizer.decode(row.batch["responses"][:length], skip_special_tokens=True)
        score = grade(fields["data_source"], text, fields["reward_model"]["ground_truth"])
        return {"reward_score": score, "reward_extra_info": _extra_info(acc=score)}

    def metrics(self) -> dict[str, float]:
        """The engine's counters since the last call, under ``ropd/``; none without a judge."""
        return {} if self._engine is None else dict(self._engine.metrics())

    def judging_spans(self) -> dict[str, JudgingSpan]:
        """By uid, the groups that were at the judge at any time since the last call."""
        found = self._spans
        self._spans = {uid: span for uid, span in found.items() if span.ended is None}
        return found

    def raise_if_ended(self) -> None:
        """Raise what made judging impossible for good, if anything did."""
        if self._fatal is not None:
            raise self._fatal
