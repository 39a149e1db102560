"""The doctor: the same checks as a start, an error a line, an exit code."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from algo.cli import app
from ropd_verl.checks import doctor, start
from ropd_verl.checks.finding import Level, Reach
from ropd_verl.config import compose_config
from tests.builders.checking import levels, subject
from tests.builders.patience import patience


def run(*arguments: str) -> tuple[int, list[str]]:
    done = CliRunner().invoke(app, ["doctor", *arguments])
    return done.exit_code, done.output.splitlines()


def test_the_default_has_no_fault() -> None:
    for check in doctor.CHECKS:
        if check.reach is Reach.STATIC:
            assert set(levels(list(check.run(subject())))) <= {Level.OK, Level.NOTE}


def test_a_role_without_a_model_is_found_before_anybody_is_asked(
    whole: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ROPD_VERIFIER_MODEL", raising=False)
    code, lines = run("--offline", *(o for o in whole if "verifier.model" not in o))
    assert code == 1
    [error] = [line for line in lines if line.startswith("error")]
    assert "ROPD_VERIFIER_MODEL" in error


def test_a_start_runs_the_doctors_checks(
    whole: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []
    fakes = tuple(
        doctor.Check(c.name, c.why, c.reach, lambda _, n=c.name: ran.append(n) or [], c.at_start)
        for c in doctor.CHECKS
    )
    monkeypatch.setattr(start, "CHECKS", fakes)
    start.check(compose_config("ropd", whole), {})
    assert ran == [c.name for c in doctor.CHECKS if c.at_start]
    assert {c.name for c in doctor.CHECKS} - set(ran) == {"judge settings", "structured output"}


def test_the_checks_leave_verls_platform_undecided() -> None:
    """A start chooses it after the checks; verl decides once a process and would take a GPU's."""
    program = (
        "from ropd_verl.checks import doctor; from ropd_verl.config import compose_config\n"
        "list(doctor.examine(compose_config('ropd_cpu', []), {}, doctor.MACHINE))\n"
        "from verl.plugin.platform import platform_manager as chosen\n"
        "print(chosen._current_platform)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=patience(120),
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "None"


def test_the_command_goes_on_after_an_error_and_exits_with_1(whole: list[str]) -> None:
    code, lines = run("--offline", *whole, "ropd.teacher_answers=2", "data.gen_batch_size=4")
    assert code == 1
    errors = [line for line in lines if line.startswith("error")]
    assert [line.split()[1] for line in errors] == ["batches:", "teacher"]
    assert "ropd teacher build" in errors[1]
    assert lines[-1] == "2 error(s), 0 warning(s)"


def test_the_command_passes_a_whole_configuration(whole: list[str]) -> None:
    code, lines = run("--offline", *whole)
    assert (code, lines[-1]) == (0, "0 error(s), 0 warning(s)")


def test_static_needs_neither_files_nor_gpus() -> None:
    code, lines = run("--static")
    assert code == 0
    assert any("8 rank(s)" in line for line in lines)


def test_an_example_makes_its_own_inputs() -> None:
    code, lines = run("--config-name", "ropd_cpu")
    assert code == 0
    assert any(line.startswith("note     student: examples.arithmetic makes") for line in lines)
