"""Every shell script, read by shellcheck."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from algo.paths import REPOSITORY
from tests.builders.patience import patience

SCRIPTS = sorted(
    path
    for path in [*REPOSITORY.glob(".ci/*"), *REPOSITORY.rglob("*.sh")]
    if not path.relative_to(REPOSITORY).parts[0].startswith((".venv", ".cache", ".git"))
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    command = [str(Path(sys.executable).parent / "shellcheck"), "-x", "-s", "bash", str(script)]
    found = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=patience(60)
    )
    assert found.returncode == 0, found.stdout
