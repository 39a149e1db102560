"""What a teacher build prints before it starts and when it has ended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from algo.llm.settings import PricesSettings
from algo.teacher.build import BuildReport, Order, Wanted
from algo.teacher.cost import cost, estimate
from algo.teacher.stats import index_stats
from algo.teacher.teacher_index import TeacherIndex


def warn_of_repetition(order: Order, temperature: float | None) -> None:
    if temperature == 0 and order.answers > 1 and order.seed is None:
        typer.echo(
            f"warning: at temperature 0 a teacher repeats itself, and {order.answers} answers may "
            "be one: set teacher.temperature above 0, or seed if the endpoint honours it",
            err=True,
        )


def print_estimate(
    wanted: Sequence[Wanted],
    index: TeacherIndex | None,
    prices: PricesSettings,
    max_tokens: int,
) -> None:
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


def report_distinct(out: Path, order: Order) -> None:
    with TeacherIndex.open(out) as index:
        distinct = index_stats(index).distinct_per_prompt
    typer.echo(f"different answers a prompt: {distinct:.2f} on average, {order.answers} asked for")


def conclude(report: BuildReport, order: Order) -> None:
    stored = ", ".join(f"{number} {status}" for status, number in report.stored.items())
    typer.echo(f"stored: {stored or 'nothing'}")
    if not report.missing:
        return
    reasons = [f"{number} requests failed ({kind})" for kind, number in report.failures.items()]
    if report.given_up:
        reasons.append(
            f"{report.given_up} prompts gave more than {order.retries} truncated, refused or empty "
            "answers: raise teacher.max_tokens or retries, or drop them with `ropd data filter`"
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
