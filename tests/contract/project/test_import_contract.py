"""`lint-imports` passes on this tree, and names both ends of what is planted in a copy of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.builders.patience import patience

ROOT = Path(__file__).parents[3]
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


@dataclass(frozen=True)
class Copy:
    root: Path

    def plant(self, file: str, statement: str) -> None:
        with (self.root / file).open("a") as module:
            module.write(f"\n\n{statement}\n")

    def lint(self) -> tuple[int, str]:
        path = os.pathsep.join((str(self.root), str(self.root / "verl")))
        done = subprocess.run(
            [str(LINT_IMPORTS), "--no-cache", "--no-logo"],
            cwd=self.root,
            env=os.environ | {"PYTHONPATH": path, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=patience(60),
            check=False,
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def tree(tmp_path: Path) -> Copy:
    no_bytecode = shutil.ignore_patterns("__pycache__")
    for folder in ("algo", "examples", "verl/ropd_verl"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=no_bytecode)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return Copy(tmp_path)


def test_the_tree_keeps_the_contracts(tree: Copy) -> None:
    code, said = tree.lint()
    assert code == 0, said
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert f"{len(contracts['contracts'])} kept, 0 broken" in said


@pytest.mark.parametrize(
    ("file", "statement", "named"),
    [
        pytest.param(
            "algo/llm/http/wire.py",
            "from algo.judge import gate",
            (
                "algo.llm is not allowed to import algo.judge",
                "algo.llm.http.wire -> algo.judge.gate",
            ),
            id="upwards",
        ),
        pytest.param(
            "algo/llm/http/wire.py",
            "def late():\n    from algo.report import page",
            ("algo.llm.http.wire -> algo.report.page",),
            id="upwards-when-called",
        ),
        pytest.param(
            "algo/judge/settings.py",
            "from algo.judge import gate",  # which imports settings
            ("No cycles are allowed in algo.judge.", ".gate", ".settings"),
            id="circle-in-a-room",
        ),
        pytest.param(
            "algo/teacher/table.py",
            "from algo.judge import journal",  # whose room imports the teacher's
            ("No cycles are allowed in algo.", ".teacher -> .judge"),
            id="circle-of-rooms",
        ),
        pytest.param(
            "verl/ropd_verl/run_directory.py",
            "from ropd_verl import train",
            ("No cycles are allowed in ropd_verl.", ".run_directory", ".train"),
            id="circle-in-the-plugin",
        ),
        pytest.param(
            "algo/grading/ground_truth.py",
            "def late():\n    import torch",
            ("algo.grading.ground_truth -> torch",),
            id="trainer",
        ),
        pytest.param(
            "algo/runs/summary.py",
            "def late():\n    from ropd_verl import trainer",
            ("algo.runs.summary -> ropd_verl.trainer",),
            id="plugin",
        ),
        pytest.param(
            "algo/cli/report.py",
            "import verl",
            ("algo.cli.report -> verl",),
            id="trainer-in-the-command",
        ),
        pytest.param(
            "verl/ropd_verl/train.py",
            "from examples.arithmetic import prepare",
            ("ropd_verl.train -> examples.arithmetic",),
            id="example",
        ),
    ],
)
def test_what_is_planted_is_named(
    tree: Copy, file: str, statement: str, named: tuple[str, ...]
) -> None:
    tree.plant(file, statement)
    code, said = tree.lint()
    assert code == 1, said
    for part in named:
        assert part in said


def test_a_new_room_has_to_be_given_a_floor(tree: Copy) -> None:
    (tree.root / "algo/attic").mkdir()
    (tree.root / "algo/attic/__init__.py").write_text('"""Nobody said on which floor."""\n')
    code, said = tree.lint()
    assert code == 1
    assert "algo.attic" in said
