"""`ropd replay`: recompute every reward of a run from its journal; compare another judge."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from algo.judge.replay import Replayed
    from algo.ropd.rejudge import Rejudged
    from algo.ropd.settings import VerifierSettings


def replay(
    journal: Annotated[Path, typer.Argument(help="Journal folder, or one of its files.")],
    rejudge: Annotated[
        bool, typer.Option("--rejudge", help="Let another judge decide the same criteria.")
    ] = False,
    model: Annotated[
        str | None, typer.Option(envvar="ROPD_VERIFIER_MODEL", help="The other judge's name.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(envvar="OPENAI_BASE_URL", help="Its endpoint, with /v1.")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="Name of the variable that holds its key, if it needs one.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0.0)] = 0.0,
    max_tokens: Annotated[int, typer.Option(min=1)] = 4096,
    teacher_index: Annotated[
        Path | None,
        typer.Option(help="The run's teacher index; without it the students are judged alone."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Rejudge only the first so many groups.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Groups judged at a time.")] = 32,
) -> None:
    """Recompute every reward of a journal; exit code 1 if one differs from what the run used."""
    from itertools import islice

    from algo.judge.journal import read_records
    from algo.judge.replay import replay as replayed_records
    from algo.methods.registry import METHODS
    from algo.ropd.settings import VerifierSettings

    failed = sum(record["status"] == "failed" for record in read_records(journal))
    judged = inexact = 0
    for replayed in replayed_records(journal, METHODS):
        judged += 1
        if not replayed.exact:
            inexact += 1
            typer.echo(f"differs: judgement {replayed.judgement_id} of group {replayed.uid}")
    typer.echo(f"{judged} judged groups replayed, {inexact} differ; {failed} failed groups")
    if rejudge:
        if model is None:
            raise typer.BadParameter("--rejudge needs --model, or ROPD_VERIFIER_MODEL")
        settings = VerifierSettings(
            model=model,
            base_url=base_url,
            api_key_env=api_key_env,
            temperature=temperature,
            max_tokens=max_tokens,
        )
        chosen = list(islice(replayed_records(journal, METHODS), limit))
        outcome = asyncio.run(_rejudge(chosen, settings, teacher_index, concurrency))
        _report(outcome)
    if inexact:
        raise typer.Exit(1)


async def _rejudge(
    chosen: list[Replayed], settings: VerifierSettings, teacher_index: Path | None, width: int
) -> Rejudged:
    from algo.asking.query import Judge
    from algo.judge.preflight import check_roles
    from algo.llm.scheduler import RequestScheduler
    from algo.openai_env import resolve_role
    from algo.ropd.client import Verifier
    from algo.ropd.rejudge import rejudge
    from algo.ropd.settings import JudgeSettings, RopdSettings
    from algo.teacher.teacher_index import TeacherIndex

    role = resolve_role("verifier", settings, os.environ, "replay.verifier")
    index = None if teacher_index is None else TeacherIndex.open(teacher_index)
    async with RequestScheduler() as scheduler:
        await check_roles([role], scheduler)
        judge = Judge(role.endpoint, scheduler, priority=0)
        verifier = Verifier(judge, RopdSettings(judge=JudgeSettings(verifier=settings)))
        return await rejudge(chosen, verifier, index, width)


def _report(outcome: Rejudged) -> None:
    from algo.analysis.agreement import agreement

    figures = agreement(outcome.comparisons)
    typer.echo(
        f"rejudged {figures.groups} groups, {figures.answers} answers, "
        f"{figures.decisions} decisions"
    )
    for name, value in (
        ("agreement per criterion", figures.per_criterion),
        ("the same beyond chance (kappa)", figures.kappa),
        ("answers with the same score", figures.per_answer),
        ("rank correlation of scores in a group", figures.rank_correlation),
        ("mean score before", figures.mean_score_before),
        ("mean score after", figures.mean_score_after),
    ):
        typer.echo(f"  {name:<40} {'-' if value is None else f'{value:.3f}'}")
    for kind, count in outcome.failures.most_common():
        typer.echo(f"  could not be judged ({kind.value}): {count}")
