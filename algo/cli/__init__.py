"""The `ropd` command: one file a subcommand, registered below.

A subcommand's module imports at its top what `ropd --help` needs and no more: typer and the
standard library. What does the work is imported inside the command. Errors of the project end in
one line on stderr and exit code 1.
"""

from __future__ import annotations

import sys

import typer

from algo.cli import data, doctor, evaluate, export, plan, replay, report, teacher
from algo.errors import RopdError

app = typer.Typer(
    help="Rubric-based on-policy distillation.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(data.app, name="data")
app.add_typer(teacher.app, name="teacher")
app.add_typer(evaluate.app, name="eval")
app.command()(replay.replay)
app.command()(report.report)
app.command()(doctor.doctor)
app.command()(plan.plan)
app.command()(export.export)


def main() -> None:
    from algo.env_file import load_env_file

    try:
        load_env_file()
        app()
    except RopdError as error:
        print(f"ropd: {error}", file=sys.stderr)
        raise SystemExit(1) from None
