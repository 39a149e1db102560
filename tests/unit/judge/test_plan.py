"""The plan by hand: calls, tokens, money, bounds, disk; and the documentation's worked example."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from algo.cli import app
from algo.errors import ConfigurationError
from algo.judge.plan import (
    Measured,
    StageCalls,
    TrainerMode,
    Workload,
    bound_step,
    fit_budget,
    judge_context_tokens,
    measured_in,
    plan_disk,
    plan_judge,
)
from algo.judge.settings import BudgetSettings
from algo.llm.settings import PricesSettings
from algo.paths import REPOSITORY

LOAD = Workload(
    prompts=10,
    rollouts=3,
    teacher_answers=2,
    steps=7,
    question=100,
    answer=1000,
    rubric=200,
    verdict=10,
)
STAGES = (StageCalls("rubricator", 1, 5, 5600, 200), StageCalls("verifier", 1, 5, 5580, 50))
RATES = Measured({"rubricator": 20.0, "verifier": 5.0}, rollout_s=60.0, train_s=40.0)


def test_money_and_requests_in_flight() -> None:
    plan = plan_judge(LOAD, STAGES, RATES, PricesSettings(input=2.0, output=8.0))
    assert plan.calls_per_step == 20
    assert plan.tokens_in_per_step == 10 * 11180
    assert plan.cost_per_step == pytest.approx((111_800 * 2 + 2_500 * 8) / 1e6)
    assert plan.cost_per_run == pytest.approx(7 * plan.cost_per_step)
    assert plan.tail_s == 25.0
    assert plan.work_s == 10 * 25.0
    assert plan.in_flight_sync == 10


def test_measured_tokens_replace_the_estimate() -> None:
    measured = replace(RATES, tokens_in=50.0, tokens_out=7.0)
    plan = plan_judge(LOAD, STAGES, measured, PricesSettings())
    assert (plan.tokens_in_per_step, plan.tokens_out_per_step) == (500.0, 70.0)


@pytest.mark.parametrize(
    ("mode", "concurrency", "step", "visible", "hide"),
    [
        # 250 s of requests: all at once they take the tail of 25 s, which follows the last rollout.
        ("sync", 10, 60 + 25 + 40, 25.0, 5),
        # Two at a time they take 125 s, longer than generation and tail.
        ("sync", 2, 125 + 40, 65.0, 5),
        ("colocate_async", 10, 100.0, 0.0, 3),
        ("colocate_async", 2, 125.0, 25.0, 3),
        ("separate_async", 10, 60.0, 0.0, 5),
        ("separate_async", 1, 250.0, 190.0, 5),
    ],
)
def test_the_shortest_step(
    mode: TrainerMode, concurrency: int, step: float, visible: float, hide: int
) -> None:
    bound = bound_step(plan_judge(LOAD, STAGES, RATES, PricesSettings()), RATES, mode, concurrency)
    assert bound is not None
    assert (bound.step_s, bound.visible_s, bound.in_flight_to_hide) == (step, visible, hide)


def test_no_bound_without_times() -> None:
    unknown = Measured({"rubricator": 20.0, "verifier": 5.0})
    assert (
        bound_step(plan_judge(LOAD, STAGES, unknown, PricesSettings()), unknown, "sync", 8) is None
    )


def test_disk_holds_what_is_kept() -> None:
    def disk(keep: int | None, every: int = 2):
        return plan_disk(
            LOAD, STAGES, checkpoint_gb=3.0, save_every=every, keep=keep, characters_per_token=4
        )

    assert disk(None).checkpoints == 12.0  # steps 2, 4, 6 and the last
    assert disk(3).checkpoints == 9.0
    assert disk(0).checkpoints == disk(-1).checkpoints == 12.0  # verl keeps all
    assert disk(None, every=-1).checkpoints == 0.0
    assert disk(None).journal == pytest.approx(70 * (100 + 3 * 1000 + 250) * 4 / 1e9)
    assert disk(None).teacher_index == pytest.approx(70 * 2 * 1000 * 4 / 1e9)
    none = plan_disk(
        LOAD,
        (),
        teachers=False,
        checkpoint_gb=3.0,
        save_every=2,
        keep=None,
        characters_per_token=4,
    )
    assert (none.checkpoints, none.journal, none.teacher_index) == (12.0, 0.0, 0.0)


def test_a_run_is_measured_by_medians_of_its_steps() -> None:
    def step(gen: float, whole: float, tokens: float) -> dict[str, float]:
        return {
            "ropd/groups_judged": 4.0,
            "ropd/judge/rubricator_latency_p50_s": 2.0,
            "ropd/judge/verifier_latency_p50_s": 1.0,
            "ropd/judge/tokens_in": tokens,
            "ropd/judge/tokens_out": 40.0,
            "timing_s/gen": gen,
            "timing_s/step": whole,
        }

    steps = [{"val-core/x": 1.0}, step(10, 30, 400), step(12, 31, 800), step(50, 90, 4000)]
    both = ("rubricator", "verifier")
    measured = measured_in(steps, both)
    reply_s = {"rubricator": 2.0, "verifier": 1.0}
    assert measured == Measured(reply_s, 200.0, 10.0, rollout_s=9.0, train_s=20.0)
    for roles in (both, ()):
        with pytest.raises(ConfigurationError, match="no step with judged groups"):
            measured_in(steps[:1], roles)
    unjudged = measured_in(steps, ())
    assert unjudged == Measured({}, rollout_s=12.0, train_s=20.0)


def test_calls_that_go_ahead_lengthen_the_tail_and_a_method_without_a_judge_has_none() -> None:
    graded = (replace(STAGES[1], calls=3, in_turn=2),)
    plan = plan_judge(LOAD, graded, RATES, PricesSettings())
    assert (plan.calls_per_step, plan.tail_s, plan.work_s) == (30, 10.0, 150.0)
    assert plan.in_flight_sync == 30
    nothing = plan_judge(LOAD, (), RATES, PricesSettings(input=1.0))
    assert (nothing.calls_per_step, nothing.tail_s, nothing.cost_per_run) == (0, 0, 0)
    bound = bound_step(nothing, RATES, "sync", 8)
    assert bound is not None
    assert (bound.step_s, bound.visible_s) == (100.0, 0.0)


def test_the_launchers_default_context_is_what_the_default_run_needs() -> None:
    """training/launch_judge_vllm.sh reckons in shell, `ropd doctor` here."""
    script = (REPOSITORY / "training/launch_judge_vllm.sh").read_text()
    names = ("answers", "answer_tokens", "question_tokens", "frame_tokens", "reply_tokens")
    said = {n: re.search(rf"\b{n}=(\$\(\((?P<sum>[\d +]+)\)\)|(?P<n>\d+))", script) for n in names}
    numbers = {
        name: sum(map(int, found["sum"].split("+"))) if found["sum"] else int(found["n"])
        for name, found in said.items()
        if found
    }
    frame = numbers.pop("frame_tokens")
    assert judge_context_tokens(**numbers) == 116_736
    assert frame == 8192


def test_the_worked_example_is_what_the_command_prints() -> None:
    text = (REPOSITORY / "docs/plan.md").read_text()
    [command, shown] = re.findall(r"```(?:bash|text)\n(.*?)\n```", text, re.DOTALL)[1:3]
    done = CliRunner().invoke(app, shlex.split(command)[1:])
    assert done.exit_code == 0, done.output
    assert done.output.strip() == shown.strip()


def test_a_checkpoint_of_an_adapter_holds_no_adam_states_of_the_base() -> None:
    times = ["--rubricator-s", "26", "--verifier-s", "10"]
    done = CliRunner().invoke(app, ["plan", *times, "--parameters", "4", "adapter=lora"])
    assert "checkpoints 48.0 GB and the adapter's," in done.output  # three of 4 bytes each


@pytest.mark.parametrize(
    ("method", "missing"),
    [("ropd", "--rubricator-s and --verifier-s"), ("tjudge", "give --verifier-s")],
)
def test_times_have_to_be_given_or_measured(method: str, missing: str) -> None:
    done = CliRunner().invoke(app, ["plan", f"method={method}"])
    assert isinstance(done.exception, ConfigurationError)
    assert missing in str(done.exception)


@pytest.mark.parametrize(
    ("method", "calls"),
    [
        ("tjudge", "256 a step (8 Verifier a group), 135,936 a run"),
        ("ovd", "256 a step (8 Verifier a group), 135,936 a run"),
        ("rlvr", "none: no judge is asked"),
    ],
)
def test_every_method_has_a_plan(method: str, calls: str) -> None:
    times = ["--verifier-s", "2", "--rollout-s", "200", "--train-s", "58", "--parameters", "4"]
    done = CliRunner().invoke(app, ["plan", *times, f"method={method}"])
    assert done.exit_code == 0, done.output
    assert f"calls       {calls}\n" in done.output
    assert f"method      {method}: " in done.output
    tail = 258.0 if method == "rlvr" else 260.0
    assert f"sync: at least {tail} s" in done.output
    assert "teacher index 0.00 GB" in done.output


def test_a_budget_is_compared_with_the_whole_runs_estimate() -> None:
    prices = PricesSettings(input=1.0, output=10.0)
    judge = plan_judge(LOAD, STAGES, RATES, prices)
    tokens = (judge.tokens_in_per_step + judge.tokens_out_per_step) * LOAD.steps
    enough, half = (
        fit_budget(BudgetSettings(tokens=int(limit)), judge, LOAD.steps)[0]
        for limit in (tokens, tokens / 2)
    )
    assert enough.suffices
    assert not half.suffices
    assert "after some 3 of 7 steps" in half.line()
    [money] = fit_budget(BudgetSettings(cost=judge.cost_per_run * 2), judge, LOAD.steps)
    assert money.suffices
    assert fit_budget(BudgetSettings(), judge, LOAD.steps) == []


def test_the_command_says_what_the_budget_is_worth() -> None:
    times = ["--rubricator-s", "5", "--verifier-s", "5", "--parameters", "4"]
    poor, rich = (
        CliRunner().invoke(app, ["plan", *times, f"ropd.judge.budget.tokens={tokens}"])
        for tokens in (1_000_000, 10**12)
    )
    assert "budget      ropd.judge.budget.tokens=1,000,000 is below the estimate" in poor.output
    assert "is within it" in rich.output
    assert "budget " not in CliRunner().invoke(app, ["plan", *times]).output
