"""`ropd plan`: what a run will ask of its judge, its clock and its disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from algo.cli.doctor import ConfigName, Overrides

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from algo.judge.plan import Measured, Stages, Workload
    from algo.judge.signal import Signal
    from algo.llm.settings import PricesSettings
    from algo.ropd.settings import RopdSettings

_CONFIG_NAME = "ropd"
# Of English text under current tokenizers; for the journal's and the index's size alone.
_CHARACTERS_PER_TOKEN = 4.0
Tokens = Annotated[int, typer.Option(min=1, help="Mean, in tokens.")]


def plan(
    overrides: Overrides = None,
    config_name: ConfigName = _CONFIG_NAME,
    answer_tokens: Tokens = 3000,
    question_tokens: Tokens = 300,
    rubric_tokens: Tokens = 800,
    verdict_tokens: Annotated[
        int, typer.Option(min=1, help="Mean of a verdict on one answer, in tokens.")
    ] = 25,
    rubricator_s: Annotated[
        float | None, typer.Option(min=0.0, help="Seconds of one Rubricator reply.")
    ] = None,
    verifier_s: Annotated[
        float | None, typer.Option(min=0.0, help="Seconds of one Verifier reply.")
    ] = None,
    rollout_s: Annotated[
        float | None, typer.Option(min=0.0, help="Seconds to generate a step's rollouts.")
    ] = None,
    train_s: Annotated[
        float | None, typer.Option(min=0.0, help="Seconds of the rest of a step.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="A run's directory: plan from its config.yaml and what it measured."),
    ] = None,
    price_input: Annotated[
        float | None, typer.Option(min=0.0, help="Of a million prompt tokens.")
    ] = None,
    price_output: Annotated[
        float | None, typer.Option(min=0.0, help="Of a million reply tokens.")
    ] = None,
    parameters: Annotated[
        float | None, typer.Option(min=0.0, help="The student's, in billions, for the disk.")
    ] = None,
) -> None:
    """Estimate a configuration's judge calls, tokens, cost, requests in flight, step time and disk.

    Texts' lengths are assumptions until a run has measured them (--run).
    """
    from algo.errors import ConfigurationError
    from algo.judge.plan import Measured, measured_in
    from algo.judge.workload import TextLengths, workload_of
    from algo.methods.registry import method_of, ropd_settings
    from algo.runs.summary import read_metrics

    config = _config(run, config_name, overrides or [])
    settings = ropd_settings(config)
    method = method_of(settings)
    lengths = TextLengths(answer_tokens, question_tokens, rubric_tokens, verdict_tokens)
    load = workload_of(config, settings, lengths)
    stages = method.stages(settings, load)
    if stages is None:
        raise ConfigurationError(
            f"ropd.method.name={method.name} does not say what it asks of its judge: its class "
            "lacks `stages` (docs/methods.md)"
        )
    roles = [stage.role for stage in stages]
    given = {"rubricator": rubricator_s, "verifier": verifier_s}
    if run is not None:
        files = sorted((run / "metrics").glob("*.jsonl"))
        measured = measured_in(list(read_metrics(files).values()), roles)
    elif missing := [f"--{role}-s" for role in roles if given[role] is None]:
        raise ConfigurationError(
            f"give {' and '.join(missing)} (seconds of one reply), or --run DIR to take "
            "the times from a run's metrics"
        )
    else:
        reply_s = {role: seconds for role in roles if (seconds := given[role]) is not None}
        measured = Measured(reply_s, rollout_s=rollout_s, train_s=train_s)
    prices = _prices(method, settings, price_input, price_output)
    concurrency = settings.judge.limits.concurrency
    for line in (
        f"run         {load.steps} steps x {load.prompts} prompts x {load.rollouts} rollouts",
        f"method      {method.name}: {method.summary(settings)}",
        *_judge_lines(load, stages, measured, prices, settings),
        *_step_lines(load, stages, measured, prices, concurrency),
        *_disk_lines(load, stages, method.needs_teachers(settings), config, parameters),
    ):
        typer.echo(line)


def _config(run: Path | None, config_name: str, overrides: list[str]) -> DictConfig:
    """What the run was started with, or what a start would compose."""
    if run is None:
        from ropd_verl.config import compose_config
        from ropd_verl.installation import verl_folder, verl_missing

        if overrides and verl_folder() is None:
            typer.echo(
                f"note: whether overridden keys of verl's exist is not checked; {verl_missing()}",
                err=True,
            )
        return compose_config(config_name, overrides)
    from algo.errors import ConfigurationError
    from algo.runs.configuration import override, recorded_config

    if config_name != _CONFIG_NAME:
        raise ConfigurationError(
            f"--config-name {config_name} beside --run {run}: the run has a configuration of its "
            "own, so give one of the two"
        )
    config = recorded_config(run)
    override(config, overrides)
    return config


def _prices(
    method: type[Signal[RopdSettings]],
    settings: RopdSettings,
    price_input: float | None,
    price_output: float | None,
) -> PricesSettings:
    """The given prices, else the highest of the roles' configured ones."""
    from algo.judge.plan import highest_prices

    given = {"input": price_input, "output": price_output}
    prices = highest_prices(method.roles(settings))
    return prices.model_copy(update={key: v for key, v in given.items() if v is not None})


def _judge_lines(
    load: Workload,
    stages: Stages,
    measured: Measured,
    prices: PricesSettings,
    settings: RopdSettings,
) -> list[str]:
    from algo.judge.plan import fit_budget, plan_judge

    if not stages:
        return ["calls       none: no judge is asked"]
    judge = plan_judge(load, stages, measured, prices)
    taken_from = "estimated" if measured.tokens_in is None else "measured"
    cost = (
        f"{judge.cost_per_step:,.2f} a step, {judge.cost_per_run:,.0f} a run "
        f"(per million: {prices.input:g} in, {prices.output:g} out; no retries, no cache)"
        if prices.input or prices.output
        else "no prices given"
    )
    asked = " and ".join(f"{stage.calls} {stage.role.capitalize()}" for stage in stages)
    return [
        f"calls       {judge.calls_per_step} a step ({asked} a group), "
        f"{judge.calls_per_step * load.steps:,} a run",
        f"tokens      a step {_millions(judge.tokens_in_per_step)} in, "
        f"{_millions(judge.tokens_out_per_step)} out; a run "
        f"{_millions(judge.tokens_in_per_step * load.steps)} in, "
        f"{_millions(judge.tokens_out_per_step * load.steps)} out ({taken_from})",
        f"cost        {cost}",
        *(f"budget      {fit.line()}" for fit in fit_budget(settings.budget, judge, load.steps)),
        f"tail        {judge.tail_s:,.1f} s from a step's last rollout to its last reward",
        f"in flight   {judge.in_flight_sync} requests, when all groups of a step end at once "
        f"(limits.concurrency={settings.judge.limits.concurrency})",
    ]


def _millions(tokens: float) -> str:
    return f"{tokens / 1e6:,.2f} M"


def _step_lines(
    load: Workload, stages: Stages, measured: Measured, prices: PricesSettings, concurrency: int
) -> list[str]:
    from algo.judge.plan import bound_step, plan_judge

    judge = plan_judge(load, stages, measured, prices)
    lines = []
    for mode in ("sync", "colocate_async", "separate_async"):
        bound = bound_step(judge, measured, mode, concurrency)
        if bound is None:
            return ["step        give --rollout-s and --train-s for its time"]
        if not stages:
            lines.append(f"step        {mode}: at least {bound.step_s:,.1f} s")
            continue
        hidden = "all but the tail" if mode == "sync" else "judging"
        lines.append(
            f"step        {mode}: at least {bound.step_s:,.1f} s, {bound.visible_s:,.1f} s of it "
            f"for judging; {bound.in_flight_to_hide} request(s) in flight hide {hidden}"
        )
    return lines


def _disk_lines(
    load: Workload, stages: Stages, teachers: bool, config: DictConfig, billions: float | None
) -> list[str]:
    from algo.judge.plan import plan_disk
    from ropd_verl.checks.memory import checkpoint_gb
    from ropd_verl.checks.shape import Shape, local_shape

    model = config.actor_rollout_ref.model
    unknown = "disk        give --parameters (billions), for "
    if billions is not None:
        shape = Shape(round(billions * 1e9), layers=0, hidden=0, vocabulary=0)
    else:
        try:
            shape = local_shape(model.path)
        except ImportError:
            return [f"{unknown}torch and transformers, which read the student's size, are missing"]
        if shape is None:
            return [f"{unknown}the student is not here"]
    # verl's default, where its defaults are not here, is no adapter.
    shape = shape.with_lora(model.get("lora_rank", 0))
    disk = plan_disk(
        load,
        stages,
        teachers=teachers,
        checkpoint_gb=checkpoint_gb(shape),
        save_every=config.trainer.save_freq,
        keep=config.trainer.get("max_actor_ckpt_to_keep"),
        characters_per_token=_CHARACTERS_PER_TOKEN,
    )
    adapter = " and the adapter's" if shape.adapter == 0 else ""
    return [
        f"disk        checkpoints {disk.checkpoints:,.1f} GB{adapter}, journal "
        f"{disk.journal:,.2f} GB, teacher index {disk.teacher_index:,.2f} GB"
    ]
