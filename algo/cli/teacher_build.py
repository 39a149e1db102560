"""`ropd teacher build`: ask a teacher for the answers that an index lacks."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from algo.data.prompt_file import PromptRow
    from algo.llm.endpoint import Endpoint
    from algo.llm.settings import PricesSettings
    from algo.teacher.build import BuildReport, Order, Wanted
    from algo.teacher.build_offline import OfflineEngine
    from algo.teacher.cost import Budget
    from algo.teacher.teacher_index import TeacherIndex
    from algo.teacher.writer import TeacherIndexWriter


class Backend(StrEnum):
    ENDPOINT = "endpoint"
    BATCH = "batch"
    VLLM = "vllm"


# An engine within the cluster answers at no address; settings want one all the same.
VLLM_URL = "http://ray-cluster"


def build(
    data: Annotated[
        list[Path], typer.Option("--data", help="Prompt file (parquet or JSON lines); repeatable.")
    ],
    out: Annotated[Path, typer.Option(help="Index file; continued if it exists.")],
    model: Annotated[str, typer.Option(envvar="ROPD_TEACHER_MODEL", help="The teacher's name.")],
    answers: Annotated[int, typer.Option(min=1, help="Usable answers a prompt (m).")] = 4,
    base_url: Annotated[
        str, typer.Option(envvar="OPENAI_BASE_URL", help="OpenAI-compatible endpoint, with /v1.")
    ] = "https://api.openai.com/v1",
    api_key_env: Annotated[
        str | None,
        typer.Option(
            help="Name of the variable that holds the key; OPENAI_API_KEY for endpoints of OpenAI "
            "and Azure, none for others."
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight.")] = 64,
    temperature: Annotated[float | None, typer.Option(min=0.0)] = None,
    top_p: Annotated[float | None, typer.Option(min=0.0, max=1.0)] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, thinking too.")] = 8192,
    reasoning_effort: Annotated[str | None, typer.Option()] = None,
    system: Annotated[
        str | None, typer.Option(help="System message for the teacher, in place of the prompt's.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Send seed + k with the k-th attempt at a prompt.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=1.0, help="Seconds for one request.")] = 600.0,
    outage: Annotated[
        float, typer.Option(min=1.0, help="Stop when the endpoint is down for so many seconds.")
    ] = 300.0,
    retries: Annotated[
        int,
        typer.Option(min=0, help="More attempts at a prompt after cut off, refused or empty ones."),
    ] = 2,
    prompt_key: Annotated[
        str, typer.Option(help="Column of the chat messages, as data.prompt_key of training.")
    ] = "prompt",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many prompts.")
    ] = None,
    price_input: Annotated[
        float, typer.Option(min=0.0, help="Price of a million prompt tokens.")
    ] = 0.0,
    price_output: Annotated[
        float, typer.Option(min=0.0, help="Price of a million tokens of answers.")
    ] = 0.0,
    budget: Annotated[
        float | None, typer.Option(min=0.0, help="Most money to spend; stops before it.")
    ] = None,
    budget_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens to use; stops before it.")
    ] = None,
    backend: Annotated[
        Backend,
        typer.Option(
            help="endpoint: requests as they go; batch: the OpenAI batch API, within a day; vllm: "
            "an open-weight model on the Ray cluster, MODEL is its path or hub name."
        ),
    ] = Backend.ENDPOINT,
    tensor_parallel: Annotated[
        int, typer.Option(min=1, help="GPUs that one vLLM engine takes (backend vllm).")
    ] = 1,
    replicas: Annotated[
        int, typer.Option(min=1, help="Most vLLM engines on the cluster (backend vllm).")
    ] = 1,
    poll: Annotated[
        float, typer.Option(min=0.1, help="Seconds between looks at a batch (backend batch).")
    ] = 60.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count and price only.")] = False,
) -> None:
    """Give every prompt its answers; run again after any interruption to go on."""
    from algo.data.prompt_file import distinct_prompts
    from algo.errors import ConfigurationError
    from algo.llm.settings import PricesSettings, RoleSettings
    from algo.llm.wire import is_openai
    from algo.openai_env import resolve_role
    from algo.teacher.build import Order, Wanted, lacking, teacher_of
    from algo.teacher.cost import Budget
    from algo.teacher.teacher_index import TeacherIndex
    from algo.teacher.writer import TeacherIndexWriter

    if backend is Backend.VLLM:
        base_url, api_key_env = VLLM_URL, None
    elif api_key_env is None and is_openai(base_url):
        api_key_env = "OPENAI_API_KEY"
    if api_key_env is not None and not dry_run and not os.environ.get(api_key_env):
        raise ConfigurationError(
            f"{api_key_env} is not set: set it to the key for {base_url}, name another variable "
            "with --api-key-env, or give the --base-url of an endpoint that asks for no key"
        )
    prices = PricesSettings(input=price_input, output=price_output)
    settings = RoleSettings(
        model=model,
        base_url=base_url,
        api_key_env=None if dry_run else api_key_env,
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        reasoning_effort=reasoning_effort,
        timeout_s=timeout,
        prices=prices,
    )
    endpoint = resolve_role("teacher", settings, os.environ, prefix="teacher").endpoint
    order = Order(answers, concurrency, retries=retries, seed=seed, system=system)
    allowed = Budget(budget_tokens, budget, prices, max_tokens)
    prompts = list(islice(distinct_prompts(data, prompt_key).values(), limit))
    _warn_of_repetition(order, temperature)
    if dry_run and not out.exists():
        _print_estimate([Wanted(p, answers, 0, 0) for p in prompts], None, prices, max_tokens)
        return
    if dry_run:
        with TeacherIndex.open(out) as index:
            wanted = list(lacking(index, prompts, order, max_tokens))
            _print_estimate(wanted, index, prices, max_tokens)
        return
    origin = {"backend": backend.value} if backend is Backend.VLLM else {"base_url": base_url}
    provenance = {"data": [str(file) for file in data], **origin}
    with TeacherIndexWriter.open(out, teacher_of(endpoint, order), provenance) as writer:
        with TeacherIndex.open(out) as index:
            wanted = list(lacking(index, prompts, order, max_tokens))
        typer.echo(f"{len(prompts)} prompts, {len(wanted)} of them lack answers")
        if backend is Backend.ENDPOINT:
            run = _by_requests(wanted, order, endpoint, writer, allowed, outage)
            report = asyncio.run(run)
        elif backend is Backend.BATCH:
            report = asyncio.run(_by_batch(prompts, order, endpoint, writer, allowed, poll))
        else:
            engine = _ray_teacher(model, tensor_parallel, replicas)
            report = _by_engine(prompts, order, endpoint, writer, allowed, engine)
    if report.stored:
        _report_distinct(out, order)
    _conclude(report, order)


async def _by_requests(
    wanted: Sequence[Wanted],
    order: Order,
    endpoint: Endpoint,
    writer: TeacherIndexWriter,
    budget: Budget,
    outage_s: float,
) -> BuildReport:
    from algo.cli.progress import BuildProgress
    from algo.llm.scheduler import RequestScheduler
    from algo.llm.settings import LimitsSettings
    from algo.teacher.build import build as build_index

    limits = LimitsSettings(
        concurrency=order.concurrency,
        max_concurrency=order.concurrency,
        stage_deadline_s=4 * endpoint.settings.timeout_s,
        outage_s=outage_s,
    )
    loop = asyncio.get_running_loop()
    async with RequestScheduler(limits) as scheduler:
        with BuildProgress(budget) as progress:

            def interrupted(number: signal.Signals) -> None:
                loop.remove_signal_handler(number)  # the second one ends at once
                progress.stop("interrupted: waiting for the requests in flight")

            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, interrupted, number)
            return await build_index(wanted, order, endpoint, scheduler, writer, progress)


async def _by_batch(
    prompts: Sequence[PromptRow],
    order: Order,
    endpoint: Endpoint,
    writer: TeacherIndexWriter,
    budget: Budget,
    poll_s: float,
) -> BuildReport:
    from algo.cli.progress import BuildProgress
    from algo.llm.batch_api import BatchApi
    from algo.teacher.build_batch import BatchLimits, build_by_batch

    async with BatchApi(endpoint) as api:
        with BuildProgress(budget) as progress:
            limits = BatchLimits(poll_s=poll_s)
            return await build_by_batch(
                prompts, order, endpoint, api, writer, progress, progress.note, limits
            )


def _by_engine(
    prompts: Sequence[PromptRow],
    order: Order,
    endpoint: Endpoint,
    writer: TeacherIndexWriter,
    budget: Budget,
    engine: OfflineEngine,
) -> BuildReport:
    from algo.cli.progress import BuildProgress
    from algo.teacher.build_offline import build_offline

    with BuildProgress(budget) as progress:
        return build_offline(prompts, order, endpoint, engine, writer, progress)


def _ray_teacher(model: str, tensor_parallel: int, replicas: int) -> OfflineEngine:
    from algo.errors import ConfigurationError

    try:
        from ropd_verl.teacher_ray import RayTeacher
    except ImportError as error:
        raise ConfigurationError(
            f"--backend vllm needs Ray Data and vLLM ({error}): install the extra `gpu`, or serve "
            "the model and use --backend endpoint"
        ) from None
    return RayTeacher(model, tensor_parallel=tensor_parallel, replicas=replicas)


def _warn_of_repetition(order: Order, temperature: float | None) -> None:
    if temperature == 0 and order.answers > 1 and order.seed is None:
        typer.echo(
            f"warning: at temperature 0 a teacher repeats itself, and {order.answers} answers may "
            "be one: set --temperature above 0, or --seed if the endpoint honours it",
            err=True,
        )


def _print_estimate(
    wanted: Sequence[Wanted],
    index: TeacherIndex | None,
    prices: PricesSettings,
    max_tokens: int,
) -> None:
    from algo.teacher.cost import cost, estimate

    earlier = (answer.completion_tokens for answer in index or ())
    size = estimate(wanted, earlier, max_tokens)
    typer.echo(f"{size.prompts:,} prompts lack {size.answers:,} answers")
    typer.echo(f"prompt tokens: about {size.prompt_tokens:,}")
    for name, tokens in (
        ("about", size.completion_tokens),
        ("at most", size.most_completion_tokens),
    ):
        if tokens is not None:
            money = cost(prices, size.prompt_tokens, tokens)
            priced = f", costs {money:,.2f}" if money else ""
            typer.echo(f"tokens of answers: {name} {tokens:,}{priced}")


def _report_distinct(out: Path, order: Order) -> None:
    from algo.teacher.stats import index_stats
    from algo.teacher.teacher_index import TeacherIndex

    with TeacherIndex.open(out) as index:
        distinct = index_stats(index).distinct_per_prompt
    typer.echo(f"different answers a prompt: {distinct:.2f} on average, {order.answers} asked for")


def _conclude(report: BuildReport, order: Order) -> None:
    stored = ", ".join(f"{number} {status}" for status, number in report.stored.items())
    typer.echo(f"stored: {stored or 'nothing'}")
    if not report.missing:
        return
    reasons = [f"{number} requests failed ({kind})" for kind, number in report.failures.items()]
    if report.given_up:
        reasons.append(
            f"{report.given_up} prompts gave more than {order.retries} truncated, refused or empty "
            "answers: raise --max-tokens or --retries, or drop them with `ropd data filter`"
        )
    if report.stopped:
        reasons.append(report.stopped)
    typer.echo(
        f"{report.missing} answers are missing: {'; '.join(reasons)}; "
        "run the same command again to ask for them",
        err=True,
    )
    if report.last_failure:
        typer.echo(f"last failure: {report.last_failure}", err=True)
    raise typer.Exit(1)
