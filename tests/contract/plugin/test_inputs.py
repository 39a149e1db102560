"""Checks of the files that a run reads: prompts, student."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from algo.errors import ConfigurationError
from ropd_verl.checks import doctor, inputs
from ropd_verl.checks.finding import Level
from tests.builders.checking import levels, subject


def test_a_run_that_its_prompts_cannot_fill(whole: list[str]) -> None:
    assert levels(list(inputs.run_length(subject(*whole)))) == [Level.OK]
    [short, _] = inputs.run_length(subject(*whole, "trainer.total_training_steps=5"))
    assert "after 2 of 5 steps" in short.what
    assert "total_epochs=3" in short.fix
    with pytest.raises(ConfigurationError, match="a step is never full"):
        list(inputs.run_length(subject(*whole, "data.train_batch_size=5")))


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
