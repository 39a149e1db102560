"""`ropd teacher build`: ask a teacher for the answers that an index lacks.

The flags are what every build is told; all else stands in `key=value` words after them, which
`algo/teacher/settings.py` defines. What is printed before and after is `build_report.py`'s.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from algo.data.prompt_file import PromptRow
    from algo.llm.batch_api import BatchApi
    from algo.llm.endpoint import Endpoint
    from algo.llm.settings import LimitsSettings
    from algo.teacher.build import BuildReport, Order, Wanted
    from algo.teacher.build_offline import OfflineEngine
    from algo.teacher.cost import Budget
    from algo.teacher.settings import TeacherSettings, VllmSettings
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
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Further settings, such as teacher.temperature=0.7 teacher.max_tokens=8192 "
            "teacher.api_key_env=NAME seed=0 retries=2; docs/data.md has them all.",
        ),
    ] = None,
    answers: Annotated[int, typer.Option(min=1, help="Usable answers a prompt (m).")] = 4,
    base_url: Annotated[
        str, typer.Option(envvar="OPENAI_BASE_URL", help="OpenAI-compatible endpoint, with /v1.")
    ] = "https://api.openai.com/v1",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests in flight.")] = 64,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many prompts.")
    ] = None,
    backend: Annotated[
        Backend,
        typer.Option(
            help="endpoint: requests as they go; batch: the OpenAI batch API, within a day; vllm: "
            "an open-weight model on the Ray cluster, MODEL is its path or hub name."
        ),
    ] = Backend.ENDPOINT,
    budget: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="Most money to spend, in the currency of teacher.prices; stops before it."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count and price only.")] = False,
) -> None:
    """Give every prompt its answers; run again after any interruption to go on."""
    from algo.cli.build_report import conclude, print_estimate, report_distinct, warn_of_repetition
    from algo.data.prompt_file import distinct_prompts
    from algo.llm.settings import validated
    from algo.overrides import read_overrides
    from algo.teacher.build import Order, Wanted, lacking, teacher_of
    from algo.teacher.cost import Budget
    from algo.teacher.settings import TeacherBuildSettings
    from algo.teacher.teacher_index import TeacherIndex
    from algo.teacher.writer import TeacherIndexWriter

    settings = validated(TeacherBuildSettings, read_overrides(overrides or []))
    chat_template: Mapping[str, Any] = {}
    if backend is Backend.VLLM:
        base_url, chat_template = VLLM_URL, _chat_template(settings.teacher)
    endpoint = _endpoint(settings.teacher, model, base_url, asks_for_key=not dry_run)
    api = _batch_api(endpoint) if backend is Backend.BATCH and not dry_run else None
    prices, max_tokens = settings.teacher.prices, settings.teacher.max_tokens
    order = Order(answers, concurrency, settings.retries, settings.seed, settings.system)
    allowed = Budget(settings.budget_tokens, budget, prices, max_tokens)
    prompts = list(islice(distinct_prompts(data, settings.prompt_key).values(), limit))
    warn_of_repetition(order, settings.teacher.temperature)
    if dry_run and not out.exists():
        print_estimate([Wanted(p, answers, 0, 0) for p in prompts], None, prices, max_tokens)
        return
    if dry_run:
        with TeacherIndex.open(out) as index:
            wanted = list(lacking(index, prompts, order, max_tokens))
            print_estimate(wanted, index, prices, max_tokens)
        return
    origin = {"backend": backend.value} if backend is Backend.VLLM else {"base_url": base_url}
    provenance = {"data": [str(file) for file in data], **origin}
    with TeacherIndexWriter.open(out, teacher_of(endpoint, order), provenance) as writer:
        with TeacherIndex.open(out) as index:
            wanted = list(lacking(index, prompts, order, max_tokens))
        typer.echo(f"{len(prompts)} prompts, {len(wanted)} of them lack answers")
        if backend is Backend.ENDPOINT:
            limits = settings.request_limits(concurrency)
            report = asyncio.run(_by_requests(wanted, order, endpoint, writer, allowed, limits))
        elif api is not None:
            poll_s = settings.batch.poll_s
            report = asyncio.run(_by_batch(prompts, order, endpoint, api, writer, allowed, poll_s))
        else:
            engine = _ray_teacher(model, settings.vllm, chat_template)
            report = _by_engine(prompts, order, endpoint, writer, allowed, engine)
    if report.stored:
        report_distinct(out, order)
    conclude(report, order)


def _endpoint(
    teacher: TeacherSettings, model: str, base_url: str, *, asks_for_key: bool
) -> Endpoint:
    from algo.errors import ConfigurationError
    from algo.llm.http.wire import is_openai
    from algo.openai_env import resolve_role

    key = teacher.api_key_env or ("OPENAI_API_KEY" if is_openai(base_url) else None)
    if key is not None and asks_for_key and not os.environ.get(key):
        raise ConfigurationError(
            f"{key} is not set: set it to the key for {base_url}, name another variable with "
            "teacher.api_key_env=NAME, or give the --base-url of an endpoint that asks for no key"
        )
    chosen = {"model": model, "base_url": base_url, "api_key_env": key if asks_for_key else None}
    resolved = resolve_role("teacher", teacher.model_copy(update=chosen), os.environ, "teacher")
    return resolved.endpoint


def _chat_template(teacher: TeacherSettings) -> Mapping[str, Any]:
    """The `chat_template_kwargs` for a teacher in the cluster, which takes no request's body.

    Raises `ConfigurationError` for settings that have no effect there.
    """
    from algo.errors import ConfigurationError

    known = {"temperature", "top_p", "max_tokens", "extra_body", "prices"}
    unknown = [f"teacher.{name}" for name in sorted(teacher.model_fields_set - known)]
    extra = dict(teacher.extra_body)
    template: Mapping[str, Any] = extra.pop("chat_template_kwargs", {})
    unknown += [f"teacher.extra_body.{name}" for name in extra]
    if unknown:
        raise ConfigurationError(
            f"{', '.join(unknown)}: --backend vllm has no such setting; leave it out, or serve the "
            "model and use --backend endpoint"
        )
    return template


async def _by_requests(
    wanted: Sequence[Wanted],
    order: Order,
    endpoint: Endpoint,
    writer: TeacherIndexWriter,
    budget: Budget,
    limits: LimitsSettings,
) -> BuildReport:
    from algo.cli.progress import BuildProgress
    from algo.llm.scheduler import RequestScheduler
    from algo.teacher.build import build as build_index

    loop = asyncio.get_running_loop()
    async with RequestScheduler(limits) as scheduler:
        with BuildProgress(budget) as progress:

            def interrupted(number: signal.Signals) -> None:
                loop.remove_signal_handler(number)  # the second one ends at once
                progress.stop("interrupted: waiting for the requests in flight")

            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, interrupted, number)
            return await build_index(wanted, order, endpoint, scheduler, writer, progress)


def _batch_api(endpoint: Endpoint) -> BatchApi:
    from algo.errors import ConfigurationError

    try:
        from algo.llm.batch_api import BatchApi
    except ImportError as error:
        raise ConfigurationError(
            f'--backend batch needs the package openai ({error}): pip install "ropd[batch]"'
        ) from None
    return BatchApi(endpoint)


async def _by_batch(
    prompts: Sequence[PromptRow],
    order: Order,
    endpoint: Endpoint,
    api: BatchApi,
    writer: TeacherIndexWriter,
    budget: Budget,
    poll_s: float,
) -> BuildReport:
    from algo.cli.progress import BuildProgress
    from algo.teacher.build_batch import BatchLimits, build_by_batch

    async with api:
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


def _ray_teacher(
    model: str, settings: VllmSettings, chat_template: Mapping[str, Any]
) -> OfflineEngine:
    from algo.errors import ConfigurationError

    try:
        from ropd_verl.teacher_ray import RayTeacher
    except ImportError as error:
        raise ConfigurationError(
            f"--backend vllm needs Ray Data and vLLM ({error}): install the extra `gpu`, or serve "
            "the model and use --backend endpoint"
        ) from None
    return RayTeacher(model, **settings.model_dump(), chat_template_kwargs=chat_template)
