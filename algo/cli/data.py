"""`ropd data`: make prompt files from a data set or from your own questions, and check them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from algo.data.prepare import Counts
    from algo.data.sources import Source

app = typer.Typer(help="Make and check prompt files.", no_args_is_help=True)

# Faults printed; the count says how many there are.
_SHOWN = 20


@app.command()
def prepare(
    name: Annotated[
        str,
        typer.Argument(
            metavar="SET",
            help="math, science, medical; own; or a benchmark: aime24, aime25, hmmt25_feb, "
            "hmmt25_nov, gpqa_diamond, healthbench.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the parquet files.")],
    source: Annotated[
        list[Path] | None,
        typer.Option(help="Local copy (parquet, JSON lines, csv) in place of the hub; repeatable."),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the set on the hub.")
    ] = None,
    holdout: Annotated[
        int, typer.Option(min=0, help="Questions to hold out of training, as val.parquet.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Of the draw of held-out questions.")] = 0,
    template: Annotated[
        str | None, typer.Option(help="Prompt text around {question}; the set's own by default.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    max_chars: Annotated[
        int | None, typer.Option(min=1, help="Leave out questions with a longer prompt.")
    ] = None,
    exclude: Annotated[
        list[Path] | None,
        typer.Option(help="Prompt file whose questions must not be trained on; repeatable."),
    ] = None,
    data_source: Annotated[
        str | None, typer.Option(help="Written to every row; its prefix selects the grading.")
    ] = None,
) -> None:
    """Write train.parquet and val.parquet (or a benchmark's file) in verl's columns.

    Own data is a file with `question` (text) or `prompt` (text or chat messages), and `answer` and
    `id` where they are known.
    """
    from algo.data.prepare import Recipe, asked_in, origin_of, write
    from algo.data.prepare import prepare as prepare_rows
    from algo.data.sources import source_named, source_rows

    chosen = source_named(name)
    recipe = Recipe(
        template=template if template is not None else chosen.template,
        system=system,
        holdout=holdout,
        seed=seed,
        max_chars=max_chars,
        data_source=data_source,
    )
    questions = (chosen.read(row) for row in source_rows(chosen, source or [], revision))
    prepared = prepare_rows(chosen, questions, recipe, asked_in(exclude or []))
    files = write(prepared, chosen, recipe, out, origin_of(source or [], revision))
    _report(prepared.counts, chosen)
    typer.echo(f"written: {', '.join(map(str, files)) or 'nothing'}")


def _report(counts: Counts, source: Source) -> None:
    from dataclasses import asdict

    for field, number in asdict(counts).items():
        if number:
            typer.echo(f"{field.replace('_', ' ')}: {number:,}")
    if source.expected:
        typer.echo(f"the set should hold {source.expected} different questions")
    if source.hub:
        typer.echo(f"license of {source.hub}: {source.license}")


@app.command()
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...")],
    validation: Annotated[
        bool, typer.Option(help="Also demand that every row can be graded.")
    ] = False,
    max_chars: Annotated[int | None, typer.Option(min=1, help="Longest prompt allowed.")] = None,
) -> None:
    """Say what is wrong with prompt files, by row and column; exit code 1 if anything is."""
    from algo.data.check import check_file

    faults = 0
    for file in files:
        rows, findings = check_file(file, validation=validation, max_chars=max_chars)
        of_file = sum(finding.fault for finding in findings)
        faults += of_file
        for finding in sorted(findings, key=lambda finding: not finding.fault)[:_SHOWN]:
            typer.echo(f"{file}, {finding}")
        if len(findings) > _SHOWN:
            typer.echo(f"{file}: {len(findings) - _SHOWN:,} more")
        typer.echo(
            f"{file}: {rows:,} rows, {of_file:,} faults, {len(findings) - of_file:,} remarks"
        )
    if faults:
        raise typer.Exit(1)


@app.command("filter")
def filter_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Parquet file of prompts.")],
    index: Annotated[Path, typer.Option(help="Index of teacher answers.")],
    out: Annotated[Path, typer.Option(help="The new parquet file.")],
    answers: Annotated[int, typer.Option(min=1, help="Usable answers a prompt needs (m).")] = 4,
) -> None:
    """Keep the rows whose prompts have enough answers, such as after a teacher refused some."""
    from algo.teacher.filter import keep_answered

    kept, rows = keep_answered(file, index, answers, out)
    typer.echo(f"{kept:,} of {rows:,} rows kept in {out}")
