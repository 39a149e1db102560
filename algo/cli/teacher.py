"""`ropd teacher`: build an index of teacher answers and look after it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from algo.ropd.endpoint import Endpoint
    from algo.ropd.teacher_builder import BuildReport, Order, Wanted
    from algo.ropd.teacher_index_writer import TeacherIndexWriter

app = typer.Typer(help="Build and look after an index of teacher answers.", no_args_is_help=True)

DataFiles = Annotated[
    list[Path], typer.Option("--data", help="Prompt file (parquet or JSON lines); repeatable.")
]
IndexPath = Annotated[Path, typer.Argument(metavar="INDEX", help="The index file.")]


@app.command()
def build(
    data: DataFiles,
    out: Annotated[Path, typer.Option(help="Index file; continued if it exists.")],
    model: Annotated[str, typer.Option(envvar="ROPD_TEACHER_MODEL", help="The teacher's name.")],
    answers: Annotated[int, typer.Option(min=1, help="Usable answers a prompt (m).")] = 4,
    base_url: Annotated[
        str, typer.Option(envvar="OPENAI_BASE_URL", help="OpenAI-compatible endpoint, with /v1.")
    ] = "https://api.openai.com/v1",
    api_key_env: Annotated[
        str | None, typer.Option(help="Name of the variable that holds the key, if one is needed.")
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
        int, typer.Option(min=0, help="Truncated, refused or empty answers a prompt may collect.")
    ] = 2,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many prompts.")
    ] = None,
) -> None:
    """Give every prompt its answers; run again after any interruption to go on."""
    from itertools import islice

    from algo.data.prompt_file import distinct_prompts
    from algo.openai_env import resolve_role
    from algo.ropd.settings import RoleSettings
    from algo.ropd.teacher_builder import Order, lacking, teacher_of
    from algo.ropd.teacher_index import TeacherIndex
    from algo.ropd.teacher_index_writer import TeacherIndexWriter

    settings = RoleSettings(
        model=model,
        base_url=base_url,
        api_key_env=api_key_env,
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        reasoning_effort=reasoning_effort,
        timeout_s=timeout,
    )
    endpoint = resolve_role("teacher", settings, os.environ, prefix="teacher").endpoint
    order = Order(answers, concurrency, retries=retries, seed=seed, system=system)
    prompts = list(islice(distinct_prompts(data).values(), limit))
    provenance = {"data": [str(file) for file in data], "base_url": base_url}
    with TeacherIndexWriter.open(out, teacher_of(endpoint, order), provenance) as writer:
        with TeacherIndex.open(out) as index:
            wanted = list(lacking(index, prompts, order, max_tokens))
        typer.echo(f"{len(prompts)} prompts, {len(wanted)} of them lack answers")
        report = asyncio.run(_build(wanted, order, endpoint, writer, timeout, outage))
    _conclude(report, order)


async def _build(
    wanted: list[Wanted],
    order: Order,
    endpoint: Endpoint,
    writer: TeacherIndexWriter,
    timeout_s: float,
    outage_s: float,
) -> BuildReport:
    from algo.cli.progress import BuildProgress
    from algo.ropd.scheduler import RequestScheduler
    from algo.ropd.settings import LimitsSettings
    from algo.ropd.teacher_builder import build as build_index

    limits = LimitsSettings(
        concurrency=order.concurrency,
        max_concurrency=order.concurrency,
        stage_deadline_s=4 * timeout_s,
        outage_s=outage_s,
    )
    async with RequestScheduler(limits) as scheduler:
        with BuildProgress() as progress:
            return await build_index(wanted, order, endpoint, scheduler, writer, progress)


def _conclude(report: BuildReport, order: Order) -> None:
    stored = ", ".join(f"{number} {status}" for status, number in report.stored.items())
    typer.echo(f"stored: {stored or 'nothing, none was missing'}")
    if not report.missing:
        return
    reasons = [f"{number} requests failed ({kind})" for kind, number in report.failures.items()]
    if report.given_up:
        reasons.append(
            f"{report.given_up} prompts gave more than {order.retries} truncated, refused or empty "
            "answers: raise --max-tokens or --retries, or leave them out of the data"
        )
    typer.echo(
        f"{report.missing} answers are missing: {'; '.join(reasons) or 'stopped early'}; "
        "run the same command again to ask for them",
        err=True,
    )
    if report.last_failure:
        typer.echo(f"last failure: {report.last_failure}", err=True)
    raise typer.Exit(1)


@app.command()
def stats(
    index: IndexPath,
    data: Annotated[
        list[Path] | None, typer.Option("--data", help="Prompt file to compare with; repeatable.")
    ] = None,
    answers: Annotated[int, typer.Option(min=1, help="Answers a prompt needs (m).")] = 4,
    grade: Annotated[
        int, typer.Option(min=0, help="Most answers to compare with ground truth.")
    ] = 200,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON.")] = False,
) -> None:
    """Coverage, answers a prompt, lengths, repetition, and agreement with ground truth."""
    import json
    from dataclasses import asdict

    from algo.cli.index_report import print_stats
    from algo.data.prompt_file import distinct_prompts
    from algo.ropd.teacher_index import TeacherIndex
    from algo.ropd.teacher_index_stats import index_stats

    prompts = distinct_prompts(data) if data else None
    with TeacherIndex.open(index) as opened:
        counted = index_stats(opened, prompts, answers, grade)
        if as_json:
            typer.echo(json.dumps(asdict(counted)))
        else:
            print_stats(opened.header, counted, answers)


@app.command()
def verify(
    index: IndexPath,
    repair: Annotated[
        bool, typer.Option(help="Keep what is whole; the damaged file is set aside.")
    ] = False,
) -> None:
    """Read every byte and name every damaged record; exit code 1 if there is one."""
    from algo.ropd.teacher_index_care import repair as repair_index
    from algo.ropd.teacher_index_care import verify as verify_index

    found = verify_index(index)
    for damage in found.damage:
        typer.echo(f"{index}, {damage}")
    typer.echo(f"{found.answers:,} whole answers, {len(found.damage):,} damaged places")
    if found.damage and repair:
        typer.echo(f"repaired; the damaged file is {repair_index(index)}")
    elif found.damage:
        raise typer.Exit(1)


@app.command()
def show(
    index: IndexPath,
    fingerprint: Annotated[
        str | None, typer.Argument(help="A prompt's fingerprint or its first characters.")
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option("--data", help="Prompt file, to show questions from.")
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help="So many prompts drawn at random.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
) -> None:
    """Answers to read: of one prompt, or of some drawn at random."""
    import random

    from algo.cli.index_report import print_prompt
    from algo.data.prompt_file import distinct_prompts
    from algo.ropd.errors import ConfigurationError
    from algo.ropd.teacher_index import TeacherIndex

    prompts = distinct_prompts(data) if data else {}
    with TeacherIndex.open(index) as opened:
        held = dict.fromkeys(answer.fingerprint for answer in opened)
        chosen = [key for key in held if key.startswith(fingerprint or "")]
        if not chosen:
            raise ConfigurationError(f"{index} holds no prompt {fingerprint or 'at all'}")
        for key in random.Random(seed).sample(chosen, min(sample, len(chosen))):
            print_prompt(key, prompts.get(key), opened.all_answers(key))


@app.command()
def merge(
    sources: Annotated[list[Path], typer.Argument(metavar="INDEX...")],
    out: Annotated[Path, typer.Option(help="The new index.")],
) -> None:
    """Write the answers of several indexes to a new one; what they share is written once."""
    from algo.ropd.teacher_index_care import merge as merge_indexes

    typer.echo(f"{merge_indexes(sources, out):,} answers in {out}")


@app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...")],
    out: Annotated[Path, typer.Option(help="The new index.")],
) -> None:
    """Convert files of the official release (ropd.teacher_index.v1 and .v2) to an index."""
    from algo.ropd.teacher_index_official import import_official

    typer.echo(f"{import_official(files, out):,} answers in {out}")


@app.command()
def export(
    index: IndexPath,
    out: Annotated[Path, typer.Option(help="The new JSON-lines file.")],
    data: Annotated[
        list[Path] | None, typer.Option("--data", help="Prompt file, for its extra_info.index.")
    ] = None,
) -> None:
    """Write the usable answers in the official release's format."""
    from algo.data.prompt_file import uids_by_fingerprint
    from algo.ropd.teacher_index import TeacherIndex
    from algo.ropd.teacher_index_official import export_official

    with TeacherIndex.open(index) as opened:
        written = export_official(opened, out, uids_by_fingerprint(data or ()))
    typer.echo(f"{written:,} records in {out}")
