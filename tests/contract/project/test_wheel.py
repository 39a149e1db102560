"""The package works when installed: built, put into an environment that holds the core dependencies
only, and used from a directory outside the repository."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import pytest

from algo.data.fingerprint import prompt_fingerprint
from algo.judge.journal import read_records
from algo.teacher.teacher_index import Teacher, TeacherAnswer
from algo.teacher.writer import TeacherIndexWriter
from examples.arithmetic.impairments import Impairments
from examples.arithmetic.judge_process import running_judge
from examples.arithmetic.problems import Problem
from examples.arithmetic.solutions import solve
from tests.builders.finished_run import write_run
from tests.builders.patience import patience

# The first test builds and installs; a cold cache fetches the core dependencies.
pytestmark = pytest.mark.timeout(300)
SET_UP_LIMIT_S = 280
ROOT = Path(__file__).parents[3]
# uv and its sources as the set-up of the repository finds them.
SET_UP = """
set -euo pipefail
source training/environment.sh
ropd_find_uv
ropd_uv_sources
"$ROPD_UV" build --quiet --wheel --out-dir "$1/dist" .
"$ROPD_UV" venv --quiet --python "$2" "$1/venv"
"$ROPD_UV" pip install --quiet --python "$1/venv/bin/python" --constraints constraints/cpu.txt \\
  "$1"/dist/*.whl
"""
INSTALL = 'verl is not installed: pip install "ropd[cpu]"'


@dataclass(frozen=True)
class Installed:
    """An environment that holds the wheel, and a directory to use it from."""

    wheel: Path
    bin: Path
    cwd: Path

    def run(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.bin / words[0]), *words[1:]],
            cwd=self.cwd,
            env=_outside() | environ,
            capture_output=True,
            text=True,
            timeout=patience(60),
            check=False,
        )

    def said(self, *words: str, **environ: str) -> str:
        done = self.run(*words, **environ)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, *words: str) -> str:
        """The one line of a command that cannot be done here."""
        done = self.run(*words)
        assert done.returncode != 0
        lines = done.stderr.splitlines()
        assert len(lines) == 1, done.stderr
        return lines[0]


def _outside() -> dict[str, str]:
    """This process's environment without what leads back to the repository and its packages."""
    own = ("OPENAI_", "PYTHON", "ROPD_", "VIRTUAL_ENV")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    if sys.prefix != sys.base_prefix:
        # An environment made by uv has no pip, whose settings say where packages come from.
        here = str(Path(sys.executable).parent)
        folders = environ["PATH"].split(os.pathsep)
        environ["PATH"] = os.pathsep.join(folder for folder in folders if folder != here)
    return environ


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    place = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        ["bash", "-c", SET_UP, "bash", str(place), sys.executable],
        cwd=ROOT,
        env=_outside(),
        capture_output=True,
        text=True,
        timeout=patience(SET_UP_LIMIT_S),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    [wheel] = (place / "dist").glob("*.whl")
    (place / "elsewhere").mkdir()
    return Installed(wheel, place / "venv/bin", place / "elsewhere")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "ropd_cpu/001", steps=2, groups=2)


def _files(folder: str, suffix: str) -> set[str]:
    return {str(file.relative_to(ROOT)) for file in (ROOT / folder).rglob(f"*{suffix}")}


def test_the_wheel_holds_the_two_packages_whole_and_nothing_else(installed: Installed) -> None:
    with ZipFile(installed.wheel) as wheel:
        names = set(wheel.namelist())
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"algo", "ropd_verl"}
    assert names >= {"algo/py.typed", "ropd_verl/py.typed", "algo/report/page.html.j2"}
    assert names >= _files("algo", ".py")
    plugin = _files("verl/ropd_verl", ".py") | _files("verl/ropd_verl", ".yaml")
    assert {f"verl/{name}" for name in names} >= plugin
    shipped = _files("configs", ".yaml") | _files("prompts", ".txt")
    assert len(shipped) > 20
    assert {name for name in names if "/shipped/" in name} == {
        f"algo/shipped/{name}" for name in shipped
    }


def test_neither_the_trainer_nor_the_examples_are_there(installed: Installed) -> None:
    program = (
        "from importlib.util import find_spec\n"
        "print([name for name in ('verl', 'ray', 'torch', 'transformers', 'examples', 'tests', "
        "'benchmarks', 'training', 'algo', 'ropd_verl') if find_spec(name)])"
    )
    assert installed.said("python", "-c", program) == "['algo', 'ropd_verl']\n"


def test_the_command_is_there(installed: Installed) -> None:
    said = installed.said("ropd", "--help")
    assert all(command in said for command in ("doctor", "plan", "report", "replay", "teacher"))


@pytest.mark.parametrize("name", ["ropd", "ropd_cpu"])
def test_the_doctor_checks_a_configuration(installed: Installed, name: str) -> None:
    lines = installed.said("ropd", "doctor", "--static", "--config-name", name).splitlines()
    assert lines[-1] == "0 error(s), 0 warning(s)"
    assert sum(line.startswith("ok ") for line in lines) >= 4
    [left_out] = [line for line in lines if "not checked" in line]
    assert left_out.startswith("note     verl: not checked: sequences, rollout, verl, ")
    assert INSTALL in left_out


def test_the_plan_is_the_documented_one(installed: Installed) -> None:
    text = (ROOT / "docs/plan.md").read_text()
    [command, shown] = re.findall(r"```(?:bash|text)\n(.*?)\n```", text, re.DOTALL)[1:3]
    assert installed.said(*shlex.split(command)).strip() == shown.strip()


def test_a_plan_without_the_students_size_says_how_to_give_it(installed: Installed) -> None:
    times = ("--rubricator-s", "26", "--verifier-s", "10")
    done = installed.run("ropd", "plan", *times, "trainer.total_training_steps=3")
    assert done.returncode == 0, done.stderr
    assert "3 steps x 32 prompts" in done.stdout
    assert "disk        give --parameters (billions), for torch and transformers" in done.stdout
    assert "whether overridden keys of verl's exist is not checked" in done.stderr
    assert INSTALL in done.stderr


def test_a_finished_run_is_read(installed: Installed, run: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    installed.said("ropd", "report", str(run), "--out", str(page))
    assert page.read_text().startswith("<!doctype html>")
    said = installed.said("ropd", "replay", str(run / "journal"))
    assert "4 judged groups replayed, 0 differ" in said
    said = installed.said("ropd", "teacher", "verify", str(run / "teacher_index"))
    assert "16 whole answers, 0 damaged places" in said
    assert "2 steps x 2 prompts x 8" in installed.said("ropd", "plan", "--run", str(run))


def test_the_readmes_snippet_scores_a_group(installed: Installed) -> None:
    problem = Problem(4821, 937)
    with TeacherIndexWriter.open(installed.cwd / "teacher.index", Teacher(model="t")) as writer:
        fingerprint = prompt_fingerprint(problem.messages)
        writer.append([TeacherAnswer(fingerprint, solve(problem), "t")] * 4)
    [code] = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    with running_judge(Impairments(), installed.cwd / "judge.log") as url:
        installed.said(
            *("python", "-c", code),
            OPENAI_BASE_URL=url,
            OPENAI_API_KEY="unused",
            ROPD_RUBRICATOR_MODEL="arithmetic-rubricator",
            ROPD_VERIFIER_MODEL="arithmetic-verifier",
        )
    [record] = read_records(installed.cwd / "journal")
    right, wrong = record["scores"]
    assert 0 <= wrong < right <= 1


def test_what_needs_the_trainer_says_so_in_one_line(installed: Installed, run: Path) -> None:
    start = ("python", "-m", "ropd_verl.train")
    assert INSTALL in installed.refused(*start)
    assert INSTALL in installed.refused("ropd", "export", str(run), "--step", "1", "--out", "out")
    done = installed.run("ropd", "doctor", "--offline")
    assert done.returncode == 1
    assert f"error    environment: a run trains with verl, and {INSTALL}" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_embedded_example_says_that_it_needs_the_repository(installed: Installed) -> None:
    said = installed.refused("python", "-m", "ropd_verl.train", "--config-name", "ropd_cpu")
    assert said.startswith("error: example.hook=examples.arithmetic is not here")
    assert "clone the repository" in said
    done = installed.run("ropd", "doctor", "--offline", "--config-name", "ropd_cpu")
    assert "error    example: example.hook=examples.arithmetic" in done.stdout


@pytest.fixture
def env_file(installed: Installed) -> Iterator[Path]:
    file = installed.cwd / ".env"
    yield file
    file.unlink()


def test_settings_come_from_the_current_directorys_env_file(
    installed: Installed, run: Path, env_file: Path
) -> None:
    rejudge = ("ropd", "replay", str(run / "journal"), "--rejudge")
    assert "ROPD_VERIFIER_MODEL" in installed.run(*rejudge).stderr
    env_file.write_text("ROPD_VERIFIER_MODEL=model\nOPENAI_BASE_URL=http://127.0.0.1:9/v1\n")
    assert "http://127.0.0.1:9/v1" in installed.run(*rejudge).stderr
