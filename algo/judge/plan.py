"""What a run asks of its judge, its clock and its disk, estimated before it starts.

Pure arithmetic on what is given; no latency, price or throughput is assumed here. What a group
asks, its method says, as `StageCalls`s that follow one another.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from algo.asking.context import FENCE_TOKENS, FRAME_TOKENS
from algo.errors import ConfigurationError
from algo.judge.settings import BudgetSettings
from algo.llm.settings import PricesSettings, RoleSettings

TrainerMode = Literal["sync", "colocate_async", "separate_async"]

TEMPLATE_AND_RUBRIC_TOKENS = 7168
"""Reserved in a judge prompt for the template and a long rubric; the run counts the real ones."""


def judge_context_tokens(
    *, answers: int, answer_tokens: int, question_tokens: int, reply_tokens: int
) -> int:
    """The context that a judge needs for `answers` at their limit, its reply included.

    Counts as `ContextWindow` does, which fits the prompts of the run.
    """
    shown = answers * (answer_tokens + FENCE_TOKENS) + question_tokens
    return shown + TEMPLATE_AND_RUBRIC_TOKENS + FRAME_TOKENS + reply_tokens


@dataclass(frozen=True)
class Workload:
    """A run's size (Table A2's names) and the mean length of its texts, in tokens.

    `answer` is what is judged of an answer: the text after thinking. `rubric` and `verdict` are
    whole replies, thinking included; `verdict` is what is said of one answer, a grade as well.
    """

    prompts: int
    rollouts: int
    teacher_answers: int
    steps: int
    question: int
    answer: int
    rubric: int
    verdict: int


@dataclass(frozen=True)
class StageCalls:
    """What one group asks of a role before the next stage can begin; tokens of all its calls."""

    role: str
    calls: int
    answers: int
    """Most answers that one of its prompts shows."""
    tokens_in: int
    tokens_out: int
    in_turn: int = 1
    """Calls of which each waits for the one before it, where others go beside the last."""


Stages = Sequence[StageCalls]


@dataclass(frozen=True)
class Measured:
    """What a group took where a run has measured it; tokens are of one group."""

    reply_s: Mapping[str, float]
    """Seconds of one reply, by role."""
    tokens_in: float | None = None
    tokens_out: float | None = None
    rollout_s: float | None = None
    train_s: float | None = None


@dataclass(frozen=True)
class JudgePlan:
    """The judge's share. Tokens and money; seconds."""

    calls_per_step: int
    tokens_in_per_step: float
    tokens_out_per_step: float
    cost_per_step: float
    cost_per_run: float
    tail_s: float
    """From a step's last rollout to its last reward, when nothing waits for its turn."""
    work_s: float
    """All of a step's requests, one after the other."""
    in_flight_sync: int
    """Requests in flight that keep the tail at its least when all groups end at once."""


def plan_judge(
    load: Workload, stages: Stages, measured: Measured, prices: PricesSettings
) -> JudgePlan:
    """The judge's share of a run whose groups ask `stages`; all zero where nothing is asked."""
    tokens_in, tokens_out = measured.tokens_in, measured.tokens_out
    if tokens_in is None:
        tokens_in = sum(stage.tokens_in for stage in stages)
    if tokens_out is None:
        tokens_out = sum(stage.tokens_out for stage in stages)
    step_in, step_out = load.prompts * tokens_in, load.prompts * tokens_out
    cost = (step_in * prices.input + step_out * prices.output) * 1e-6
    replies = [(stage, measured.reply_s[stage.role]) for stage in stages]
    return JudgePlan(
        calls_per_step=load.prompts * sum(stage.calls for stage in stages),
        tokens_in_per_step=step_in,
        tokens_out_per_step=step_out,
        cost_per_step=cost,
        cost_per_run=cost * load.steps,
        tail_s=sum(stage.in_turn * seconds for stage, seconds in replies),
        work_s=load.prompts * sum(stage.calls * seconds for stage, seconds in replies),
        in_flight_sync=load.prompts * max((stage.calls for stage in stages), default=0),
    )


def highest_prices(roles: Mapping[str, RoleSettings]) -> PricesSettings:
    """The highest of the roles' prices: an estimate does not tell their tokens apart."""
    each = [role.prices for role in roles.values()]
    return PricesSettings(
        input=max((prices.input for prices in each), default=0.0),
        output=max((prices.output for prices in each), default=0.0),
    )


@dataclass(frozen=True)
class BudgetFit:
    """One limit of `ropd.judge.budget` against the estimate of a whole run."""

    setting: str
    budget: float
    estimate: float
    steps: int

    @property
    def suffices(self) -> bool:
        return self.estimate <= self.budget

    def line(self) -> str:
        given = f"{self.setting}={self.budget:,.10g}"
        if self.suffices:
            return f"{given}: the estimate of {self.estimate:,.0f} is within it"
        lasts = int(self.steps * self.budget / self.estimate)
        return (
            f"{given} is below the estimate of {self.estimate:,.0f}: the run would stop after "
            f"some {lasts} of {self.steps} steps"
        )


def fit_budget(budget: BudgetSettings, judge: JudgePlan, steps: int) -> list[BudgetFit]:
    """Each limit that is set; retries, probes and trial requests come on top of the estimate."""
    tokens = (judge.tokens_in_per_step + judge.tokens_out_per_step) * steps
    found = []
    if budget.tokens is not None:
        found.append(BudgetFit("ropd.judge.budget.tokens", budget.tokens, tokens, steps))
    if budget.cost is not None:
        cost = judge.cost_per_run
        found.append(BudgetFit("ropd.judge.budget.cost", budget.cost, cost, steps))
    return found


@dataclass(frozen=True)
class StepBound:
    """No step can be shorter; seconds. `visible` is what the judge adds to a step without one."""

    step_s: float
    visible_s: float
    in_flight_to_hide: int
    """Requests in flight that end a step's judging within the step's other work."""


def bound_step(
    judge: JudgePlan, measured: Measured, mode: TrainerMode, concurrency: int
) -> StepBound | None:
    """The shortest step of a mode; None unless rollout and training times are known.

    `sync`: the tail stands between the last rollout and training, and judging that takes longer
    than generation delays it further. The asynchronous modes judge beside generation and training,
    which share their GPUs in `colocate_async`.
    """
    if measured.rollout_s is None or measured.train_s is None:
        return None
    judging = max(judge.work_s / concurrency, judge.tail_s)
    rollout, train = measured.rollout_s, measured.train_s
    if mode == "sync":
        idle = rollout + train
        step = max(rollout + judge.tail_s, judging) + train
        window = rollout
    else:
        idle = rollout + train if mode == "colocate_async" else max(rollout, train)
        step = max(idle, judging)
        window = idle
    return StepBound(
        step_s=step,
        visible_s=step - idle,
        in_flight_to_hide=max(1, math.ceil(judge.work_s / window)),
    )


@dataclass(frozen=True)
class DiskPlan:
    """GB on disk at the end of a run."""

    checkpoints: float
    journal: float
    teacher_index: float


def plan_disk(
    load: Workload,
    stages: Stages,
    *,
    teachers: bool = True,
    checkpoint_gb: float,
    save_every: int,
    keep: int | None,
    characters_per_token: float,
) -> DiskPlan:
    """Checkpoints kept, the journal's texts and replies, the index of a prompt set of run length.

    ``keep``: verl keeps all for None and 0. ``teachers``: whether the method uses an index.
    The journal holds each rollout once and each reply; teacher answers stay in the index.
    """
    saved = 0 if save_every <= 0 else math.ceil(load.steps / save_every)
    held = saved if keep is None or keep <= 0 else min(saved, keep)
    groups = load.steps * load.prompts
    replies = sum(stage.tokens_out for stage in stages)
    group_tokens = load.question + load.rollouts * load.answer + replies if stages else 0
    index_tokens = load.teacher_answers * load.answer if teachers else 0
    return DiskPlan(
        checkpoints=held * checkpoint_gb,
        journal=groups * group_tokens * characters_per_token / 1e9,
        teacher_index=groups * index_tokens * characters_per_token / 1e9,
    )


def measured_in(metrics: Sequence[Mapping[str, float]], roles: Collection[str]) -> Measured:
    """Medians over a run's steps, from the trainer's metrics of each step.

    Generation is what verl times as `gen` without the judge's tail, one reply of each of `roles`;
    training is the rest of the step. Raises `ConfigurationError` when no step judged a group by
    these roles, or none was timed.
    """
    latencies = {role: f"ropd/judge/{role}_latency_p50_s" for role in roles}
    wanted = {"timing_s/step", "timing_s/gen", *latencies.values()}
    steps = [
        step
        for step in metrics
        if step.keys() >= wanted and (not roles or step.get("ropd/groups_judged"))
    ]
    if not steps:
        raise ConfigurationError("the run's metrics hold no step with judged groups: give times")

    def middle(figure: Callable[[Mapping[str, float]], float]) -> float:
        return statistics.median(figure(step) for step in steps)

    def of_a_group(name: str) -> float | None:
        return middle(lambda step: step[name] / step["ropd/groups_judged"]) if roles else None

    reply_s = {role: middle(lambda s, name=name: s[name]) for role, name in latencies.items()}
    return Measured(
        reply_s=reply_s,
        tokens_in=of_a_group("ropd/judge/tokens_in"),
        tokens_out=of_a_group("ropd/judge/tokens_out"),
        rollout_s=max(0.0, middle(lambda s: s["timing_s/gen"]) - sum(reply_s.values())),
        train_s=middle(lambda s: s["timing_s/step"] - s["timing_s/gen"]),
    )
