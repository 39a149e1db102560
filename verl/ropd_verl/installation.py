"""Whether the trainer is installed here, and what brings it. Imports nothing of it.

The plugin's wheel installs without verl: configurations compose, are checked and planned on a
machine that will never train.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from algo.errors import ConfigurationError
from algo.paths import is_checkout


def verl_folder() -> Path | None:
    """The folder of the installed verl, found without importing it (which takes seconds)."""
    spec = find_spec("verl")
    # A folder without an `__init__.py`, such as this repository's `verl/`, is not verl.
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def verl_missing() -> str:
    """What to do about it, as the end of a line."""
    if is_checkout():
        return "verl is not installed: `bash training/train.sh` sets it up"
    return 'verl is not installed: pip install "ropd[cpu]", or "ropd[gpu]" where there are GPUs'


def require_verl(reason: str) -> None:
    """Raise `ConfigurationError` unless verl is installed; `reason` says what asks for it."""
    if verl_folder() is None:
        raise ConfigurationError(f"{reason}, and {verl_missing()}")
