"""`ropd teacher`: build an index of teacher answers and look after it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from algo.cli.teacher_build import build

app = typer.Typer(help="Build and look after an index of teacher answers.", no_args_is_help=True)

IndexPath = Annotated[Path, typer.Argument(metavar="INDEX", help="The index file.")]


app.command()(build)


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
    prompt_key: Annotated[str, typer.Option(help="Column of the chat messages.")] = "prompt",
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON.")] = False,
) -> None:
    """Coverage, answers a prompt, lengths, repetition, and agreement with ground truth."""
    import json
    from dataclasses import asdict

    from algo.cli.index_report import print_stats
    from algo.data.prompt_file import distinct_prompts
    from algo.teacher.stats import index_stats
    from algo.teacher.teacher_index import TeacherIndex

    prompts = distinct_prompts(data, prompt_key) if data else None
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
    from algo.teacher.repair import repair as repair_index
    from algo.teacher.repair import verify as verify_index

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
    from algo.errors import ConfigurationError
    from algo.teacher.teacher_index import TeacherIndex

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
    from algo.teacher.repair import merge as merge_indexes

    typer.echo(f"{merge_indexes(sources, out):,} answers in {out}")


@app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...")],
    out: Annotated[Path, typer.Option(help="The new index.")],
) -> None:
    """Convert files of the official release (ropd.teacher_index.v1 and .v2) to an index."""
    from algo.teacher.official import import_official

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
    from algo.teacher.official import export_official
    from algo.teacher.teacher_index import TeacherIndex

    with TeacherIndex.open(index) as opened:
        written = export_official(opened, out, uids_by_fingerprint(data or ()))
    typer.echo(f"{written:,} records in {out}")
