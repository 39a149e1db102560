"""`ropd report`: one HTML page on which each reward is traced to the sentence that earned it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run_dir: Annotated[
        Path, typer.Argument(help="A run's directory, such as runs/ropd/001, or a journal folder.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The page; report.html in the run's directory by default.")
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(help="1,10,40 or last:3; the first, the middle and the last by default."),
    ] = None,
    groups: Annotated[
        int | None, typer.Option(min=1, help="Groups shown a step; 2 by default.")
    ] = None,
    max_mb: Annotated[
        float | None,
        typer.Option(min=0.1, help="Bound of the page, 3 by default; texts are cut to keep it."),
    ] = None,
) -> None:
    """Write a static page of the run: figures, rubrics, verdicts, sums, answers, raw replies."""
    from algo.report import DEFAULT_MAX_MB, write_report

    page = run_dir / "report.html" if out is None else out
    bound = DEFAULT_MAX_MB if max_mb is None else max_mb
    write_report(run_dir, page, steps=steps, groups=groups, max_mb=bound)
    typer.echo(page)
