"""The checkout's `.env` as Python reads it, and commands that run with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import algo.env_file
from algo.env_file import load_env_file
from algo.errors import ConfigurationError
from ropd_verl import train
from tests.builders.patience import patience

ROOT = Path(__file__).parents[3]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / ".env"
    monkeypatch.setattr(algo.env_file, "ENV_FILE", path)
    for name in ("ROPD_TEST_NEW", "ROPD_TEST_SET", "ROPD_DRYRUN"):
        monkeypatch.setenv(name, "")  # so that it is taken back afterwards
        monkeypatch.delenv(name)
    return path


def test_the_file_is_the_one_that_the_scripts_read() -> None:
    assert ROOT / ".env" == algo.env_file.ENV_FILE


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("plain # comment", "plain"),
        (r'"a \"quoted\" back\\slash"', r'a "quoted" back\slash'),
        ("'$HOME $(touch x)'", "$HOME $(touch x)"),
        ('"two\nlines"', "two\nlines"),
        ("", ""),
    ],
)
def test_values(file: Path, value: str, read: str) -> None:
    file.write_text(f"# comment\n\nexport ROPD_TEST_NEW={value}\n")
    load_env_file()
    assert os.environ["ROPD_TEST_NEW"] == read


@pytest.mark.parametrize("held", ["shell", ""])
def test_what_is_set_already_wins(file: Path, monkeypatch: pytest.MonkeyPatch, held: str) -> None:
    monkeypatch.setenv("ROPD_TEST_SET", held)
    file.write_text("ROPD_TEST_SET=file\n")
    load_env_file()
    assert os.environ["ROPD_TEST_SET"] == held


def test_no_file_is_no_error(file: Path) -> None:
    before = dict(os.environ)
    load_env_file()
    assert dict(os.environ) == before


@pytest.mark.parametrize("line", ["no assignment", "ALONE", 'KEY="secret', "KEY='secret' x"])
def test_a_malformed_line_is_named_and_no_value_quoted(file: Path, line: str) -> None:
    file.write_text(f"ROPD_TEST_NEW=1\n\n\n{line}\n")
    with pytest.raises(ConfigurationError, match="line 4: expected KEY=VALUE") as caught:
        load_env_file()
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_text_is_named(file: Path) -> None:
    file.write_bytes(b"KEY=\xff\n")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_env_file()


def test_the_trainer_reads_it_before_the_configuration(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("ROPD_DRYRUN=true\n")
    assert train.main(["--config-name", "ropd_cpu"]) == 0
    assert capsys.readouterr().out.startswith("python -m ropd_verl.train --config-name ropd_cpu")
    file.write_text("no assignment\n")
    assert train.main(["--config-name", "ropd_cpu"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {file}, line 1: ")


def run(checkout: Path, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "algo.env_file", *command],
        env={**os.environ, "PYTHONPATH": str(checkout), **environ},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )


def test_a_command_runs_with_it(tmp_path: Path) -> None:
    (tmp_path / "algo").mkdir()
    for name in ("__init__", "env_file", "errors", "paths"):
        shutil.copy(ROOT / f"algo/{name}.py", tmp_path / "algo")
    (tmp_path / ".env").write_text("ROPD_TEST_NEW='from the file'\nROPD_TEST_SET=file\n")
    shown = run(
        tmp_path, "sh", "-c", 'echo "$ROPD_TEST_NEW, $ROPD_TEST_SET"; exit 7', ROPD_TEST_SET="shell"
    )
    assert (shown.stdout, shown.returncode) == ("from the file, shell\n", 7)
    missing = run(tmp_path, "no-such-command")
    assert (missing.returncode, missing.stderr.count("\n")) == (127, 1)
    (tmp_path / ".env").write_text("KEY='secret\n")
    broken = run(tmp_path, "true")
    assert broken.returncode == 1
    assert "line 1: expected KEY=VALUE" in broken.stderr
    assert "secret" not in broken.stderr
