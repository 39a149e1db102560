"""The `ropd` command starts fast: what does the work is imported when a command runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import algo.cli
import algo.env_file
from tests.builders.patience import patience


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, algo.cli; "
        "print({m.split('.')[0] for m in sys.modules} & "
        "{'aiohttp', 'datasets', 'pyarrow', 'ray', 'torch', 'transformers', 'verl'})"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=True,
    )
    assert result.stdout.strip() == "set()"


def test_settings_come_from_the_checkouts_env_file_unless_the_shell_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / ".env"
    file.write_text("ROPD_TEST_NEW='a $HOME'\nROPD_TEST_SET=file\n")
    monkeypatch.setattr(algo.env_file, "ENV_FILE", file)
    monkeypatch.setattr(sys, "argv", ["ropd", "--help"])
    monkeypatch.setenv("ROPD_TEST_NEW", "")  # so that it is taken back afterwards
    monkeypatch.delenv("ROPD_TEST_NEW")
    monkeypatch.setenv("ROPD_TEST_SET", "shell")
    with pytest.raises(SystemExit):
        algo.cli.main()
    assert os.environ["ROPD_TEST_NEW"] == "a $HOME"
    assert os.environ["ROPD_TEST_SET"] == "shell"
