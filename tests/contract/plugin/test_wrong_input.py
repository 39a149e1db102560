"""Wrong input gets one clear line before Ray starts, from the entry that users call."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from algo.data.fingerprint import prompt_fingerprint
from algo.errors import ConfigurationError
from algo.ropd.settings import RopdSettings
from algo.teacher.teacher_index import Teacher, TeacherAnswer
from algo.teacher.writer import TeacherIndexWriter
from examples.arithmetic.student import build_tokenizer
from ropd_verl.checks import inputs, machine, start
from ropd_verl.config import compose_config
from tests.builders.patience import patience

MESSAGES = [{"role": "user", "content": "12+34=?"}]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    row = {
        "prompt": MESSAGES,
        "data_source": "arithmetic",
        "reward_model": {"style": "rule", "ground_truth": "46"},
    }
    path = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist([row]), path)
    return path


@pytest.fixture
def index(tmp_path: Path) -> Path:
    path = tmp_path / "teacher_index"
    with TeacherIndexWriter.open(path, Teacher(model="t")) as writer:
        answer = TeacherAnswer(prompt_fingerprint(MESSAGES), "answer 46", "t")
        writer.append([answer])
    return path


def settings(**values: object) -> RopdSettings:
    return RopdSettings.from_node(values)


def test_entry_says_one_line_and_exits_with_2() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ropd_verl.train", "--config-name=ropd_cpu", "trainer.nope=1"],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=patience(120),
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "trainer.nope" in line


@pytest.mark.parametrize("path", ["/no/such/model", "no-such/model-at-all"])
def test_missing_model(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigurationError, match=f"actor_rollout_ref.model.path={path}"):
        inputs.check_model(path)


def test_model_without_a_chat_template(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    with pytest.raises(ConfigurationError, match="custom_chat_template"):
        inputs.check_model(str(tmp_path))


def test_data_that_is_missing_unreadable_or_lacks_columns(tmp_path: Path, data: Path) -> None:
    assert inputs.check_data(str(data), "data.train_files", inputs.VAL_COLUMNS) == [data]
    with pytest.raises(ConfigurationError, match="no such file"):
        inputs.check_data(str(tmp_path / "absent"), "data.train_files", ())
    (tmp_path / "text").write_text("prompt")
    with pytest.raises(ConfigurationError, match="not a parquet file"):
        inputs.check_data(str(tmp_path / "text"), "data.train_files", ())
    pq.write_table(pa.table({"question": ["1+1"]}), tmp_path / "columns")
    with pytest.raises(ConfigurationError, match=r"prompt, data_source is missing.*question"):
        inputs.check_data(str(tmp_path / "columns"), "data.train_files", inputs.TRAIN_COLUMNS)
    pq.write_table(pq.read_table(data).slice(0, 0), tmp_path / "empty")
    with pytest.raises(ConfigurationError, match="no rows"):
        inputs.check_data([str(tmp_path / "empty")], "data.train_files", ("prompt",))


def test_data_that_is_not_set() -> None:
    with pytest.raises(ConfigurationError, match=r"data\.train_files is not set"):
        inputs.check_data(None, "data.train_files", ())


def test_index_that_is_missing_or_lacks_answers(tmp_path: Path, data: Path, index: Path) -> None:
    inputs.check_teacher_index(settings(teacher_index=index, teacher_answers=1), [data])
    with pytest.raises(ConfigurationError, match="ropd teacher build"):
        inputs.check_teacher_index(settings(teacher_index=index, teacher_answers=4), [data])
    with pytest.raises(ConfigurationError, match=r"no teacher index at"):
        inputs.check_teacher_index(settings(teacher_index=tmp_path / "absent"), [data])
    with pytest.raises(ConfigurationError, match=r"ropd\.teacher_index is not set"):
        inputs.check_teacher_index(settings(), [data])


def test_too_few_ray_cpus_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = compose_config("ropd_cpu", [])
    machine.check_ray_cpus(config)
    config.ray_kwargs.ray_init.num_cpus = 4
    with pytest.raises(ConfigurationError, match=r"ray_kwargs\.ray_init\.num_cpus="):
        machine.check_ray_cpus(config)


def test_unreachable_judge(data: Path, index: Path, tmp_path: Path) -> None:
    config = compose_config("ropd_cpu", [])
    build_tokenizer().save_pretrained(tmp_path)
    config_json = '{"model_type": "qwen3", "tie_word_embeddings": true}'
    (tmp_path / "config.json").write_text(config_json)
    OmegaConf.update(config, "actor_rollout_ref.model.path", str(tmp_path))
    config.data.train_files = config.data.val_files = str(data)
    config.ropd.teacher_index, config.ropd.teacher_answers = str(index), 1
    for role in ("rubricator", "verifier"):
        OmegaConf.update(
            config, f"ropd.judge.{role}.base_url", "http://127.0.0.1:9/v1", force_add=True
        )
    with pytest.raises(ConfigurationError, match=r"127.0.0.1:9/v1.*base_url"):
        start.check(config, {})
