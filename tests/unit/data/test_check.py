"""Checking and filtering prompt files: every finding with its row and column."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from algo.cli import app
from algo.data.check import check_file
from algo.data.prompt_file import read_prompts
from algo.errors import ConfigurationError
from algo.teacher.filter import keep_answered
from algo.teacher.teacher_index import Teacher, TeacherAnswer
from algo.teacher.writer import TeacherIndexWriter


def row(text: str = "q", **changes: Any) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": text}],
        "data_source": "aime24",
        "reward_model": {"ground_truth": "1"},
        "extra_info": {"index": text},
        **changes,
    }


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def found(path: Path, **options: Any) -> list[str]:
    return [str(finding) for finding in check_file(path, **options)[1]]


def test_a_good_file_has_no_findings(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", row("a"), row("b"))
    assert check_file(path, validation=True, max_chars=1) == (2, [])


@pytest.mark.parametrize(
    ("bad", "finding"),
    [
        (row(prompt="text"), "row 1, prompt: not a list of chat messages with role and content"),
        (row(prompt=[]), "row 1, prompt: not a list of chat messages with role and content"),
        (row(" "), "row 1, prompt[0]: content is empty"),
        (
            row(prompt=[{"role": "user", "content": None}]),
            "row 1, prompt[0]: content is not text",
        ),
        (
            row(prompt=[{"role": "assistant", "content": "x"}]),
            "row 1, prompt: ends with a assistant message, not a user's",
        ),
        (row("first"), "row 1, prompt: remark: the same prompt as row 0"),
        (row("x" * 99), "row 1, prompt: 99 characters, more than 50"),
        (row(data_source=None), "row 1, data_source: missing"),
        (row(data_source="poetry"), "row 1, data_source: no rule grades 'poetry'"),
        (row(reward_model=None), "row 1, reward_model.ground_truth: missing"),
        (row(extra_info=None), "row 1, extra_info.index: remark: missing"),
        (
            row(extra_info={"index": "first"}),
            "row 1, extra_info.index: remark: 'first', as in row 0",
        ),
    ],
)
def test_findings_name_row_and_column(tmp_path: Path, bad: dict[str, Any], finding: str) -> None:
    path = write(tmp_path / "a.jsonl", row("first"), bad)
    assert finding in found(path, validation=True, max_chars=50)


def test_training_files_need_no_ground_truth(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", row(data_source="rar_science", reward_model=None))
    assert found(path) == ["row 0, reward_model.ground_truth: remark: missing"]


def test_check_command_counts_and_fails_on_faults(tmp_path: Path) -> None:
    good = write(tmp_path / "good.jsonl", row("a"), row("a"))
    bad = write(tmp_path / "bad.jsonl", *(row(prompt=None) for _ in range(30)))
    result = CliRunner().invoke(app, ["data", "check", str(good)])
    assert result.exit_code == 0
    assert "2 rows, 0 faults, 2 remarks" in result.output
    result = CliRunner().invoke(app, ["data", "check", str(good), str(bad)])
    assert result.exit_code == 1
    assert "30 faults" in result.output
    assert "bad.jsonl: 39 more" in result.output


def test_filter_keeps_answered_rows_with_every_column(tmp_path: Path) -> None:
    data = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist([row(text) for text in "abc"]), data)
    index = tmp_path / "index"
    with TeacherIndexWriter.open(index, Teacher("t")) as writer:
        for prompt in list(read_prompts(data))[:2]:
            writer.append([TeacherAnswer(prompt.fingerprint, "x", "t")] * (2 - prompt.row))
    out = tmp_path / "kept.parquet"
    assert keep_answered(data, index, 2, out) == (1, 3)
    assert pq.read_table(out).to_pylist() == [row("a")]
    assert keep_answered(data, index, 1, out) == (2, 3)
    with pytest.raises(ConfigurationError, match="no prompt of"):
        keep_answered(data, index, 5, out)
