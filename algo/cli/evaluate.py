"""`ropd eval`: how good a model is on sets of problems, and which of two is better.

Asking, grading and statistics are `algo/evaluation/`'s; the bar is `evaluation_progress.py`'s.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from algo.asking.form import Form
    from algo.cli.evaluation_progress import DecisionProgress, EvaluationProgress
    from algo.evaluation.healthbench import HealthGrade
    from algo.evaluation.judging import Decision, GradeLog
    from algo.evaluation.log import EvaluationLog, Held, Sample
    from algo.evaluation.results import SetResult
    from algo.evaluation.settings import EvaluationSettings
    from algo.llm.endpoint import Endpoint
    from algo.llm.settings import LimitsSettings

app = typer.Typer(help="Score models on sets of problems, and compare them.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="What `ropd eval run --out` wrote.")]


@app.command()
def run(
    sets: Annotated[
        str,
        typer.Option(
            "--set",
            help="Sets, separated by commas: NAME (DATA/NAME.parquet, of `ropd data prepare`) or "
            "NAME=FILE.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the answers; continued if it exists.")],
    model: Annotated[str | None, typer.Option(help="The model's name at the endpoint.")] = None,
    base_url: Annotated[
        str | None, typer.Option(help="OpenAI-compatible endpoint, with /v1.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="In place of an endpoint: RUN, RUN/STEP or a model directory, which is served "
            "here, by vLLM where there is a GPU."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Further settings, such as model.temperature=0.7 model.max_tokens=8192 "
            "model.api_key_env=NAME seed=0; docs/evaluation.md has them all.",
        ),
    ] = None,
    data: Annotated[Path, typer.Option(help="Folder of the sets' files.")] = Path("data"),
    samples: Annotated[int, typer.Option(min=1, help="Answers a problem (k).")] = 16,
    think: Annotated[
        bool | None,
        typer.Option(
            "--think/--no-think",
            help="Sends chat_template_kwargs.enable_thinking; neither leaves the template's own.",
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight.")] = 64,
    max_failed: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Share of failed requests above which exit is 1."),
    ] = 0.01,
) -> None:
    """Ask for what is missing, grade all answers, print the scores; run again to go on."""
    from algo.cli.evaluation_checkpoint import checkpoint_name, endpoint_of
    from algo.errors import ConfigurationError
    from algo.evaluation.ask import lacking
    from algo.evaluation.log import EvaluationLog, Protocol
    from algo.evaluation.problems import digest, read_sets
    from algo.evaluation.settings import EvaluationSettings
    from algo.llm.settings import validated
    from algo.openai_env import resolve_role
    from algo.overrides import read_overrides

    if (checkpoint is None) == (model is None or base_url is None):
        raise ConfigurationError("give --model and --base-url, or --checkpoint")
    settings = validated(EvaluationSettings, read_overrides(overrides or []))
    extra = dict(settings.model.extra_body)
    if think is not None:
        if "chat_template_kwargs" in extra:
            raise ConfigurationError(
                "--think and --no-think set model.extra_body.chat_template_kwargs: give one of them"
            )
        extra["chat_template_kwargs"] = {"enable_thinking": think}
    problems = read_sets(filter(None, sets.split(",")), data)
    name = model or checkpoint_name(checkpoint)
    asked = settings.model.model_copy(update={"model": name, "extra_body": extra})
    protocol = Protocol(
        model=name,
        sets={each: digest(own) for each, own in problems.items()},
        temperature=asked.temperature,
        top_p=asked.top_p,
        max_tokens=asked.max_tokens,
        seed=settings.seed,
        reasoning_effort=asked.reasoning_effort,
        extra_body=extra,
    )
    log = EvaluationLog.open(out, protocol, problems)
    wanted = lacking(log.held, samples)
    typer.echo(f"{len(wanted):,} answers to ask for", err=True)
    stopped = ""
    if wanted:
        with endpoint_of(base_url, checkpoint, name, out) as url:
            asked = asked.model_copy(update={"base_url": url})
            endpoint = resolve_role("model", asked, os.environ, "model").endpoint
            stopped = asyncio.run(_asked(wanted, endpoint, log, settings, concurrency))
    results = _graded(out, log.held, samples)
    if stopped:
        typer.echo(f"{stopped}; run the same command again to go on", err=True)
    if stopped or _failed_share(results) > max_failed:
        raise typer.Exit(1)


@app.command()
def show(folder: Folder) -> None:
    """Print an evaluation's scores again."""
    from algo.evaluation.report import lines, read_results

    for line in lines(read_results(folder)["sets"]):
        typer.echo(line)


@app.command()
def regrade(
    folder: Folder,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Only so many answers a problem (k).")
    ] = None,
) -> None:
    """Grade the stored answers anew, without a request, and print the scores."""
    from algo.evaluation.log import read_evaluation

    held = read_evaluation(folder)
    _graded(folder, held, samples or _samples_of(held))


@app.command()
def compare(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR DIR...", help="The first is compared with each.")
    ],
) -> None:
    """Say how far others are from the first, paired by problem; p values are sign-flip, by Holm."""
    from algo.errors import ConfigurationError
    from algo.evaluation.report import compare_results, compared_line, read_results

    if len(folders) < 2:
        raise ConfigurationError("give at least two folders to compare")
    first, *others = (read_results(folder) for folder in folders)
    for folder, other in zip(folders[1:], others, strict=True):
        typer.echo(f"{folders[0]} -> {folder}")
        for compared in compare_results(first, other):
            typer.echo(f"  {compared_line(compared)}")


@app.command()
def judge(
    folder: Folder,
    model: Annotated[str, typer.Option(help="The grader's name at the endpoint.")],
    base_url: Annotated[str, typer.Option(help="The grader's endpoint, with /v1.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Further settings, such as grader.api_key_env=NAME grader.max_tokens=2048.",
        ),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Only so many answers a problem (k).")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight.")] = 64,
) -> None:
    """Have a grader decide the criteria of HealthBench replies; run again to go on."""
    from algo.evaluation.healthbench import grader_form
    from algo.evaluation.judging import GradeLog, Grader, undecided
    from algo.evaluation.log import read_evaluation
    from algo.evaluation.results import Outcome
    from algo.evaluation.settings import JudgingSettings
    from algo.llm.settings import validated
    from algo.openai_env import resolve_role
    from algo.overrides import read_overrides

    settings = validated(JudgingSettings, read_overrides(overrides or []))
    role = settings.grader.model_copy(update={"model": model, "base_url": base_url})
    endpoint = resolve_role("grader", role, os.environ, "grader").endpoint
    form = grader_form(role)
    held = read_evaluation(folder)
    k = samples or _samples_of(held)
    grader = Grader(model, form.template.sha256, role.temperature, role.reasoning_effort)
    log = GradeLog.open(folder, grader)
    wanted = undecided(held, log.grades, k)
    typer.echo(f"{len(wanted):,} decisions to ask for", err=True)
    limits = settings.limits.model_copy(
        update={"concurrency": concurrency, "max_concurrency": concurrency}
    )
    stopped = asyncio.run(_decided(wanted, held, endpoint, form, log, limits))
    results = _graded(folder, held, k)
    if stopped:
        typer.echo(f"{stopped}; run the same command again to go on", err=True)
    if stopped or any(each.outcomes[Outcome.UNGRADED] for each in results):
        raise typer.Exit(1)


async def _asked(
    wanted: Sequence[Sample],
    endpoint: Endpoint,
    log: EvaluationLog,
    settings: EvaluationSettings,
    concurrency: int,
) -> str:
    """Ask and store; why it ended early, or nothing."""
    from algo.cli.evaluation_progress import EvaluationProgress
    from algo.errors import JudgeFailure, JudgeOutage
    from algo.evaluation.ask import ask
    from algo.llm.scheduler import RequestScheduler

    limits = settings.request_limits(concurrency)
    try:
        async with RequestScheduler(limits) as scheduler:
            with EvaluationProgress(
                len(wanted), settings.model.prices, settings.budget_tokens
            ) as progress:
                _stop_on_signals(progress)
                await ask(wanted, endpoint, scheduler, log, progress, concurrency)
                return progress.stopped
    except (JudgeFailure, JudgeOutage) as error:
        return str(error)  # what is stored is graded all the same
    finally:
        await log.aclose()


async def _decided(
    wanted: Sequence[Decision],
    held: Held,
    endpoint: Endpoint,
    form: Form[HealthGrade],
    log: GradeLog,
    limits: LimitsSettings,
) -> str:
    """Ask a grader and store; why it ended early, or nothing."""
    from algo.asking.query import Judge
    from algo.cli.evaluation_progress import DecisionProgress
    from algo.errors import JudgeFailure, JudgeOutage
    from algo.evaluation.judging import decide
    from algo.llm.scheduler import RequestScheduler

    concurrency = limits.concurrency
    try:
        async with RequestScheduler(limits) as scheduler:
            with DecisionProgress(len(wanted)) as progress:
                _stop_on_signals(progress)
                grader = Judge(endpoint, scheduler, priority=0)
                await decide(wanted, held, grader, form, log, progress, concurrency)
                return progress.stopped
    except (JudgeFailure, JudgeOutage) as error:
        return str(error)
    finally:
        await log.aclose()


def _stop_on_signals(progress: EvaluationProgress | DecisionProgress) -> None:
    loop = asyncio.get_running_loop()

    def interrupted(number: signal.Signals) -> None:
        loop.remove_signal_handler(number)  # the second one ends at once
        progress.stop("interrupted")

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted, number)


def _graded(folder: Path, held: Held, samples: int) -> list[SetResult]:
    from algo.evaluation.judging import decided_samples, read_grades
    from algo.evaluation.report import lines, read_results, write_results
    from algo.evaluation.results import grade_all, set_results

    decided = decided_samples(held, read_grades(folder))
    results = set_results(held, grade_all(held, decided), samples)
    write_results(folder, held.protocol, results)
    for line in lines(read_results(folder)["sets"]):
        typer.echo(line)
    return results


def _failed_share(results: Sequence[SetResult]) -> float:
    return sum(each.failed for each in results) / max(1, sum(each.asked for each in results))


def _samples_of(held: Held) -> int:
    """How many samples a problem were asked for, by what was stored."""
    return 1 + max((sample.number for sample in (*held.answers, *held.failures)), default=0)
