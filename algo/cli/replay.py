"""`ropd replay`: recompute every reward of a run from its journal; compare another judge."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from algo.judge.replay import Replayed
    from algo.openai_env import ResolvedRole
    from algo.ropd.as_judged import AsJudged
    from algo.ropd.rejudge import Rejudged


def replay(
    run: Annotated[
        Path, typer.Argument(help="A run's directory, a journal folder, or one of its files.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[OVERRIDE]...",
            help="Settings of the other judge beside the run's, as replay.verifier.top_p=null.",
        ),
    ] = None,
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
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="The run's by default.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="The run's by default.")] = None,
    teacher_index: Annotated[
        Path | None,
        typer.Option(
            help="For a run of an earlier version, whose journal lacks the teachers' words."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Rejudge only the first so many groups.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Groups judged at a time.")] = 32,
) -> None:
    """Recompute every reward of a run; exit code 1 if one differs from what the run used.

    With --rejudge another judge decides the same criteria on the same answers, shown as the run
    showed them and sampled as the run sampled.
    """
    from itertools import islice

    from algo.judge.journal import journal_folder
    from algo.judge.replay import read_judgements
    from algo.judge.replay import replay as replayed_records
    from algo.methods.registry import METHODS
    from algo.overrides import read_overrides
    from algo.ropd.as_judged import AsJudged, given_settings
    from algo.teacher.teacher_index import TeacherIndex

    given = given_settings(read_overrides(overrides or []))
    folder = journal_folder(run)
    journal = folder if run.is_dir() else run
    failed = sum(record["status"] == "failed" for record in read_judgements(journal))
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
        own = {"temperature": temperature, "max_tokens": max_tokens}
        flags = {key: value for key, value in own.items() if value is not None}
        judge = {"model": model, "base_url": base_url, "api_key_env": api_key_env}
        index = None if teacher_index is None else TeacherIndex.open(teacher_index)
        shown = AsJudged(folder, index)
        chosen = list(islice(replayed_records(journal, METHODS), limit))
        outcome = asyncio.run(_rejudge(chosen, shown, {**judge, **flags, **given}, concurrency))
        _report(outcome)
        for what, count in shown.lacking.items():
            typer.echo(f"note: {count} {what}")
    if inexact:
        raise typer.Exit(1)


async def _rejudge(
    chosen: list[Replayed], shown: AsJudged, given: Mapping[str, Any], width: int
) -> Rejudged:
    from algo.llm.settings import validated
    from algo.openai_env import resolve_role
    from algo.ropd.rejudge import rejudge
    from algo.ropd.settings import VerifierSettings

    def other(recorded: Mapping[str, Any]) -> ResolvedRole:
        name = "replay.verifier"
        settings = validated(VerifierSettings, {**recorded, **given}, name)
        return resolve_role("verifier", settings, os.environ, name)

    return await rejudge(chosen, shown, other, width)


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
