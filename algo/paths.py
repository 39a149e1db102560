"""Where this project's own files are, and what a configured path is relative to. Pure.

In a checkout, prompts and configurations lie at the repository's root; in an installed wheel they
lie inside the package.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

_PACKAGE: Final = Path(__file__).resolve().parent
_INSTALLED: Final = _PACKAGE / "shipped"

REPOSITORY: Final = _PACKAGE.parent
"""The checkout's root; of no meaning in an installed wheel."""


def shipped(folder: Literal["prompts", "configs"]) -> Path:
    """The folder of that name that came with this code."""
    return (_INSTALLED if _INSTALLED.is_dir() else REPOSITORY) / folder


def is_checkout() -> bool:
    """Whether this code runs from its repository, not from an installed wheel."""
    return not _INSTALLED.is_dir()


def absolute(path: str | Path) -> Path:
    """A configured path: relative ones are relative to the repository, wherever one stands.

    In an installed wheel, which has no repository, they are relative to the current directory.
    """
    expanded = Path(path).expanduser()
    if expanded.is_absolute():
        return expanded
    return (REPOSITORY if is_checkout() else Path.cwd()) / expanded
