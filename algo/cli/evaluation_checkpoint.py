"""What `ropd eval run --checkpoint` names: found, exported once, and served while it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from algo.errors import ConfigurationError


class _Checkpoint(NamedTuple):
    """A run and its step, None for the newest; or a model directory."""

    run: Path | None
    step: int | None
    model: Path | None


def checkpoint_name(checkpoint: Path | None) -> str:
    """How results call it, such as `ropd_cpu/001 step 40`."""
    found = _find(checkpoint)
    if found.run is None:
        return (found.model or Path()).resolve().name
    return f"{'/'.join(found.run.resolve().parts[-2:])} step {_step(found)}"


@contextmanager
def endpoint_of(
    base_url: str | None, checkpoint: Path | None, name: str, out: Path
) -> Iterator[str]:
    """The endpoint to ask: `base_url`, or a server of `checkpoint` that lasts as the context.

    A run's checkpoint is exported to `out`/model, once. Raises `ConfigurationError` for what is no
    checkpoint, `RopdError` when the server does not start.
    """
    if base_url is not None:
        yield base_url
        return
    from algo.cli.export import export
    from ropd_verl.installation import require_verl
    from ropd_verl.serving import served

    require_verl("--checkpoint serves the model with what trained it")
    found = _find(checkpoint)
    model = found.model or out / "model"
    if found.run is not None and not model.exists():
        export(found.run, model, _step(found))
    with served(model, name, out / "server.log") as url:
        yield url


def _find(checkpoint: Path | None) -> _Checkpoint:
    if checkpoint is None:
        raise ConfigurationError("give --model and --base-url, or --checkpoint")
    if (checkpoint / "checkpoints").is_dir():
        return _Checkpoint(checkpoint, None, None)
    if checkpoint.name.isdigit() and (checkpoint.parent / "checkpoints").is_dir():
        return _Checkpoint(checkpoint.parent, int(checkpoint.name), None)
    if (checkpoint / "config.json").is_file():
        return _Checkpoint(None, None, checkpoint)
    raise ConfigurationError(
        f"--checkpoint {checkpoint}: neither a run (such as runs/ropd/001), nor RUN/STEP, nor a "
        "model directory with a config.json"
    )


def _step(found: _Checkpoint) -> int:
    from algo.cli.export import newest_step

    assert found.run is not None
    return newest_step(found.run) if found.step is None else found.step
