"""What a run asks of its judge, its clock and its disk, estimated before it starts.

Pure arithmetic on what is given; no latency, price or throughput is assumed here. Calls and their
answers follow `algo/ropd/pipeline.py`: a rubric for the group (or for each student), then one
verification of the pool (or one for each answer).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from algo.asking.context import FENCE_TOKENS, FRAME_TOKENS
from algo.errors import ConfigurationError
from algo.judge.settings import BudgetSettings
from algo.llm.settings import PricesSettings
from algo.ropd.settings import RopdSettings

RubricMode = Literal["shared", "per_student"]
VerificationMode = Literal["joint_blind", "joint_named", "isolated", "students_only"]
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
    whole replies, thinking included; `rubric_text` is the rubric as the Verifier reads it, and
    `verdict` is for one answer.
    """

    prompts: int
    rollouts: int
    teacher_answers: int
    steps: int
    question: int
    answer: int
    rubricator_template: int
    verifier_template: int
    rubric: int
    rubric_text: int
    verdict: int
    rubric_mode: RubricMode = "shared"
    verification_mode: VerificationMode = "joint_blind"


@dataclass(frozen=True)
class Calls:
    """Requests of one group and their tokens."""

    rubricator: int
    verifier: int
    tokens_in: int
    tokens_out: int


def calls_of_group(load: Workload) -> Calls:
    """One group's requests, without retries and without what a prompt cache saves."""
    panels, students = (1, load.rollouts) if load.rubric_mode == "shared" else (load.rollouts, 1)
    shown = students + load.teacher_answers
    judged = students if load.verification_mode == "students_only" else shown
    verifications = judged if load.verification_mode == "isolated" else 1
    rubricator_in = load.rubricator_template + load.question + shown * load.answer
    frame = load.verifier_template + load.question + load.rubric_text
    return Calls(
        rubricator=panels,
        verifier=panels * verifications,
        tokens_in=panels * (rubricator_in + verifications * frame + judged * load.answer),
        tokens_out=panels * (load.rubric + judged * load.verdict),
    )


@dataclass(frozen=True)
class Measured:
    """What a group took where a run has measured it; tokens are of one group."""

    rubricator_s: float
    verifier_s: float
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


def plan_judge(load: Workload, measured: Measured, prices: PricesSettings) -> JudgePlan:
    calls = calls_of_group(load)
    tokens_in = measured.tokens_in if measured.tokens_in is not None else calls.tokens_in
    tokens_out = measured.tokens_out if measured.tokens_out is not None else calls.tokens_out
    step_in, step_out = load.prompts * tokens_in, load.prompts * tokens_out
    cost = (step_in * prices.input + step_out * prices.output) * 1e-6
    group_s = calls.rubricator * measured.rubricator_s + calls.verifier * measured.verifier_s
    return JudgePlan(
        calls_per_step=load.prompts * (calls.rubricator + calls.verifier),
        tokens_in_per_step=step_in,
        tokens_out_per_step=step_out,
        cost_per_step=cost,
        cost_per_run=cost * load.steps,
        tail_s=measured.rubricator_s + measured.verifier_s,
        work_s=load.prompts * group_s,
        in_flight_sync=load.prompts * max(calls.rubricator, calls.verifier),
    )


def highest_prices(settings: RopdSettings) -> PricesSettings:
    """The higher of the two roles' prices: an estimate tells their tokens not apart."""
    roles = (settings.judge.rubricator.prices, settings.judge.verifier.prices)
    return PricesSettings(
        input=max(prices.input for prices in roles), output=max(prices.output for prices in roles)
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
    *,
    checkpoint_gb: float,
    save_every: int,
    keep: int | None,
    characters_per_token: float,
) -> DiskPlan:
    """Checkpoints kept, the journal's texts and replies, the index of a prompt set of run length.

    ``keep``: verl keeps all for None and 0.
    The journal holds each rollout once and each reply; teacher answers stay in the index.
    """
    saved = 0 if save_every <= 0 else math.ceil(load.steps / save_every)
    held = saved if keep is None or keep <= 0 else min(saved, keep)
    calls = calls_of_group(load)
    groups = load.steps * load.prompts
    group_tokens = load.question + load.rollouts * load.answer + calls.tokens_out
    index_tokens = load.teacher_answers * load.answer
    return DiskPlan(
        checkpoints=held * checkpoint_gb,
        journal=groups * group_tokens * characters_per_token / 1e9,
        teacher_index=groups * index_tokens * characters_per_token / 1e9,
    )


def measured_in(metrics: Sequence[Mapping[str, float]]) -> Measured:
    """Medians over a run's steps, from the trainer's metrics of each step.

    Generation is what verl times as `gen` without the judge's tail; training is the rest of the
    step. Raises `ConfigurationError` when no step judged a group.
    """
    steps = [step for step in metrics if step.get("ropd/groups_judged") and "timing_s/step" in step]
    if not steps:
        raise ConfigurationError("the run's metrics hold no step with judged groups: give times")

    def middle(figure: Callable[[Mapping[str, float]], float]) -> float:
        return statistics.median(figure(step) for step in steps)

    rubricator_s = middle(lambda step: step["ropd/judge/rubricator_latency_p50_s"])
    verifier_s = middle(lambda step: step["ropd/judge/verifier_latency_p50_s"])
    return Measured(
        rubricator_s=rubricator_s,
        verifier_s=verifier_s,
        tokens_in=middle(lambda s: s["ropd/judge/tokens_in"] / s["ropd/groups_judged"]),
        tokens_out=middle(lambda s: s["ropd/judge/tokens_out"] / s["ropd/groups_judged"]),
        rollout_s=max(0.0, middle(lambda s: s["timing_s/gen"]) - rubricator_s - verifier_s),
        train_s=middle(lambda s: s["timing_s/step"] - s["timing_s/gen"]),
    )
