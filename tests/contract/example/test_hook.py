"""Preparing the embedded default: each artefact once and whole, anew when its settings change."""

from __future__ import annotations

import fcntl
import os
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
from algo.data.prompt_file import read_prompts
from algo.errors import ConfigurationError, RopdError
from algo.teacher.coverage import require_answers
from algo.teacher.teacher_index import TeacherIndex
from examples import arithmetic
from examples.arithmetic import hook
from tests.builders.patience import patience


def settings(workdir: Path, **changes: Any) -> dict[str, Any]:
    small = {"seed": 0, "train_prompts": 6, "val_prompts": 4, "warm_start_steps": 1}
    return {"workdir": str(workdir), "teacher_answers": 3, **small, **changes}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("example")
    arithmetic.prepare(settings(directory))
    return directory


def inodes(workdir: Path) -> dict[str, int]:
    made = [path for paths in hook._OUTPUTS.values() for path in paths]
    return {name: os.stat(workdir / name).st_ino for name in made}


def test_everything_is_there(workdir: Path) -> None:
    require_answers(workdir / "teacher_index", [workdir / "train.parquet"], 3)
    assert (workdir / "student" / "model.safetensors").exists()
    assert not list(workdir.glob(".*.partial*"))


def test_stored_teacher_answers_differ(workdir: Path) -> None:
    with TeacherIndex.open(workdir / "teacher_index") as index:
        for row in read_prompts(workdir / "train.parquet"):
            texts = {answer.text for answer in index.answers(row.fingerprint, 3)}
            assert len(texts) == 3


def test_a_second_start_makes_nothing(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = inodes(workdir)
    arithmetic.prepare(settings(workdir))
    assert inodes(workdir) == before
    assert capsys.readouterr().out.count("reused") == 3


def test_more_teacher_answers_rebuild_the_index_alone(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arithmetic.prepare(settings(workdir, teacher_answers=5))
    assert capsys.readouterr().out.count("reused") == 2
    require_answers(workdir / "teacher_index", [workdir / "train.parquet"], 5)
    arithmetic.prepare(settings(workdir))


def test_a_method_that_shows_no_teacher_has_no_index_made(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (workdir / "teacher_index").read_bytes()
    arithmetic.prepare(settings(workdir, teacher_answers=0))
    assert "teacher index" not in capsys.readouterr().out
    assert (workdir / "teacher_index").read_bytes() == before


def test_an_artefact_without_its_stamp_is_made_again(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workdir / "val.parquet").unlink()
    (workdir / ".teacher_index.json").unlink()
    arithmetic.prepare(settings(workdir))
    assert "student: reused" in capsys.readouterr().out
    assert (workdir / "val.parquet").exists()


def test_the_judge_is_served_with_its_faults(workdir: Path) -> None:
    judge = {"faults": [{"kind": "http_500", "fraction": 0.2}]}
    with arithmetic.serve(settings(workdir, judge=judge)) as base_url:
        url = base_url.removesuffix("/v1") + "/admin/faults"
        with urllib.request.urlopen(url, timeout=patience(20)) as response:
            assert b'"fraction":0.2' in response.read()


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"train_prompts": 0}, "example.train_prompts"),
        ({"trian_prompts": 4}, "example.trian_prompts"),
        ({"judge": {"faults": [{"kind": "melt"}]}}, "example.judge.faults.0.kind"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigurationError, match=key):
        arithmetic.prepare(settings(tmp_path, **changes))


def test_two_preparations_do_not_mix(tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigurationError, match=r"example\.workdir"):
            arithmetic.prepare(settings(tmp_path))


def test_a_failed_step_names_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook, "module_command", lambda *_: [sys.executable, "-m", "no.such.module"])
    for _ in range(2):
        with pytest.raises(RopdError, match=r"student\.log"):
            arithmetic.prepare(settings(tmp_path))
    assert "no.such" in (tmp_path / "student.log").read_text()
    assert not (tmp_path / "student").exists()
