"""Checks of the files that a run reads: prompts, student."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from algo.errors import ConfigurationError
from ropd_verl.checks import doctor, inputs
from ropd_verl.checks.finding import Level
from tests.builders.checking import ROWS, levels, subject


def test_a_run_that_its_prompts_cannot_fill(whole: list[str]) -> None:
    assert levels(list(inputs.run_length(subject(*whole)))) == [Level.OK]
    [short, _] = inputs.run_length(subject(*whole, "trainer.total_training_steps=5"))
    assert "after 2 of 5 steps" in short.what
    assert "total_epochs=3" in short.fix
    with pytest.raises(ConfigurationError, match="a step is never full"):
        list(inputs.run_length(subject(*whole, "data.train_batch_size=5")))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"data_source": "rar_science"},
            r"no rule grades row 1, whose data_source is 'rar_science'; begin it",
        ),
        ({"data_source": None}, r"no rule grades row 1, whose data_source is None"),
        ({"reward_model": {"style": "rule", "ground_truth": " "}}, r"row 1 has no reward_model\."),
        ({"reward_model": None}, r"row 1 has no reward_model\.ground_truth"),
    ],
)
def test_validation_rows_that_no_rule_grades_are_told_before_the_start(
    tmp_path: Path, whole: list[str], changes: dict[str, Any], said: str
) -> None:
    file = tmp_path / "val.parquet"
    pq.write_table(pa.Table.from_pylist([ROWS[0], {**ROWS[1], **changes}]), file)
    own = [*whole, f"data.val_files={file}"]
    with pytest.raises(ConfigurationError, match=rf"data\.val_files={file}: {said}"):
        list(inputs.data(subject(*own, "trainer.test_freq=1")))
    never = ["trainer.test_freq=-1", "trainer.val_before_train=false"]
    assert levels(list(inputs.data(subject(*own, *never)))) == [Level.OK]


def test_mathematical_validation_needs_its_package(
    tmp_path: Path, whole: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "val.parquet"
    pq.write_table(pa.Table.from_pylist([{**ROWS[0], "data_source": "aime24"}]), file)
    made = subject(*whole, f"data.val_files={file}", "trainer.test_freq=1")
    assert levels(list(inputs.data(made))) == [Level.OK]
    monkeypatch.setattr(inputs, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"data\.val_files=.*ropd\[math\]"):
        list(inputs.data(made))


def test_a_students_size_is_known_once_it_is_there(tmp_path: Path, whole: list[str]) -> None:
    """On a fresh machine the check `student` fetches it, and what follows reckons with it."""
    made = subject(*whole)
    there = tmp_path / "student/config.json"
    text = there.read_text()
    there.unlink()
    assert made.shape is None
    there.write_text(text)
    assert made.shape is not None
    # One layer of seven linear maps between 8 and 8, but for the heads of 128.
    assert made.shape.linear == 4 * (8 + 128) + 3 * (8 + 8)
    names = [check.name for check in doctor.CHECKS]
    assert names.index("student") < min(names.index("gpus"), names.index("disk"))


@pytest.mark.parametrize("tied", [True, False])
def test_fused_kernels_need_tied_embeddings(tmp_path: Path, whole: list[str], tied: bool) -> None:
    file = tmp_path / "student/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tie_word_embeddings": tied}))
    made = subject(*whole, "actor_rollout_ref.model.use_fused_kernels=true")
    if tied:
        assert levels(list(inputs.student(made))) == [Level.OK]
    else:
        with pytest.raises(ConfigurationError, match=r"use_fused_kernels=true: .* set it to false"):
            list(inputs.student(made))
