"""What the README shows can be run as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from algo.data.fingerprint import prompt_fingerprint
from algo.judge.journal import read_records
from algo.teacher.teacher_index import Teacher, TeacherAnswer
from algo.teacher.writer import TeacherIndexWriter
from examples.arithmetic.impairments import Impairments
from examples.arithmetic.judge_process import running_judge
from examples.arithmetic.problems import Problem
from examples.arithmetic.solutions import solve
from tests.builders.patience import patience

README = (Path(__file__).parents[3] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_first_screen_is_the_two_commands() -> None:
    first = [line.split("#")[0].strip() for line in blocks("bash")[0].splitlines()]
    assert first == ["bash training/train.sh --config-name ropd_cpu", "bash tests/run.sh"]
    assert README.index("```bash") < 200


def test_the_judge_alone_scores_a_group(tmp_path: Path) -> None:
    problem = Problem(4821, 937)
    with TeacherIndexWriter.open(tmp_path / "teacher.index", Teacher(model="t")) as writer:
        fingerprint = prompt_fingerprint(problem.messages)
        writer.append([TeacherAnswer(fingerprint, solve(problem), "t")] * 4)
    [code] = blocks("python")
    with running_judge(Impairments(), tmp_path / "judge.log") as base_url:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=os.environ
            | {
                "OPENAI_BASE_URL": base_url,
                "OPENAI_API_KEY": "unused",
                "ROPD_RUBRICATOR_MODEL": "arithmetic-rubricator",
                "ROPD_VERIFIER_MODEL": "arithmetic-verifier",
            },
            capture_output=True,
            text=True,
            timeout=patience(60),
            check=False,
        )
    assert done.returncode == 0, done.stderr
    right, wrong = map(float, re.findall(r"[\d.]+", done.stdout.split(")")[0]))
    assert 0 <= wrong < right <= 1
    [record] = read_records(tmp_path / "journal")
    assert record["scores"] == [right, wrong]
    assert "unused" not in str(record)


def test_nothing_is_left_to_fill_in() -> None:
    assert "@@" not in README
