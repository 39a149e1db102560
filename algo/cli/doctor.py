"""`ropd doctor`: says what a run would stumble over, before it starts."""

from __future__ import annotations

from typing import Annotated

import typer

ConfigName = Annotated[
    str, typer.Option("--config-name", "-cn", help="File in configs/, as for training/train.sh.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[OVERRIDE]...", help="Hydra overrides: key=value.")
]


def doctor(
    overrides: Overrides = None,
    config_name: ConfigName = "ropd",
    static: Annotated[
        bool, typer.Option("--static", help="The configuration alone: no files, GPUs or network.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask neither the model hub nor the judge.")
    ] = False,
) -> None:
    """Check a configuration and this machine; one line a finding, exit code 1 if one is an error.

    The trainer's start runs the same checks and stops at the first error.
    """
    import os

    from ropd_verl.checks.doctor import examine
    from ropd_verl.checks.finding import Level, Reach
    from ropd_verl.config import compose_config

    reach = Reach.STATIC if static else Reach.MACHINE if offline else Reach.NETWORK
    count = dict.fromkeys(Level, 0)
    for diagnosis in examine(compose_config(config_name, overrides or []), os.environ, reach):
        count[diagnosis.finding.level] += 1
        typer.echo(diagnosis.line)
    typer.echo(f"{count[Level.ERROR]} error(s), {count[Level.WARNING]} warning(s)")
    if count[Level.ERROR]:
        raise typer.Exit(1)
