"""`ropd export` on a checkpoint in verl's format: a model that transformers loads, and its card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM
from typer.testing import CliRunner

from algo.cli import app
from algo.ropd.errors import ConfigurationError
from algo.ropd.model_card import CardFacts, model_card, public_name
from algo.ropd.teacher_index import Teacher
from algo.ropd.teacher_index_writer import TeacherIndexWriter
from examples.arithmetic.student import build_tokenizer


@pytest.fixture
def student() -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=32,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            head_dim=8,
        )
    )


@pytest.fixture
def run(tmp_path: Path, student: Qwen3ForCausalLM) -> Path:
    """runs/experiment/001 with a checkpoint of step 2, as verl's FSDP engine writes it."""
    run = tmp_path / "runs/experiment/001"
    actor = run / "checkpoints/global_step_2/actor"
    (actor / "huggingface").mkdir(parents=True)
    (run / "checkpoints/latest_checkpointed_iteration.txt").write_text("2")
    (actor / "fsdp_config.json").write_text('{"FSDP_version": 2, "world_size": 1}')
    torch.save(student.state_dict(), actor / "model_world_size_1_rank_0.pt")
    student.config.architectures = ["Qwen3ForCausalLM"]
    student.config.save_pretrained(actor / "huggingface")
    build_tokenizer().save_pretrained(actor / "huggingface")

    index = tmp_path / "secret folder/teacher_index"
    index.parent.mkdir()
    TeacherIndexWriter.open(
        index, Teacher(model="great-teacher", temperature=0.5), provenance={"base_url": "http://x"}
    ).__enter__().__exit__(None, None, None)
    config = {
        "seed": 3,
        "ropd": {"teacher_index": str(index), "teacher_answers": 4},
        "actor_rollout_ref": {"model": {"path": "/secret folder/my-student"}},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "journal").mkdir()
    record = {"roles": {"verifier": {"model": "strict-judge", "base_url": "http://10.0.0.7/v1"}}}
    (run / "journal/judgements-00000.jsonl").write_text(json.dumps(record) + "\n")
    (run / "metrics").mkdir()
    steps = [
        {"step": 0, "data": {"val-core/math/acc/mean@16": 0.25}},
        *(
            {
                "step": step,
                "data": {
                    "ropd/reward_mean": step / 4,
                    "ropd/groups_judged": 8,
                    "ropd/groups_failed": step,
                    "val-core/math/acc/mean@16": step / 4,
                },
            }
            for step in (1, 2, 3)
        ),
    ]
    (run / "metrics/001.jsonl").write_text("\n".join(map(json.dumps, steps)) + "\n")
    return run


def export(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["export", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_a_checkpoint_becomes_a_model_that_loads(
    run: Path, tmp_path: Path, student: Qwen3ForCausalLM
) -> None:
    out = tmp_path / "model"
    assert "step 2" in export(str(run), "--out", str(out))
    merged = AutoModelForCausalLM.from_pretrained(out)
    for name, value in student.state_dict().items():
        torch.testing.assert_close(
            merged.state_dict()[name], value.bfloat16().to(merged.dtype), rtol=0, atol=0
        )
    assert AutoTokenizer.from_pretrained(out).chat_template

    card = (out / "README.md").read_text()
    for said in (
        "# my-student, distilled with ROPD",
        "Step 2 of run experiment/001",
        "| teacher answers (m) | 4 |",
        "| great-teacher | temperature 0.5",
        "| verifier | model strict-judge |",
        "| validation accuracy, sampled, step 0 | 0.25 |",
        "| validation accuracy, sampled, step 2 | 0.5 |",
        "| mean reward, last step | 0.5 |",
        "| groups judged | 16 |",
        "| groups failed and replaced | 3 |",
    ):
        assert said in card
    for private in ("secret folder", "10.0.0.7", "http://x"):
        assert private not in card


def test_what_cannot_be_exported_is_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no checkpoint"):
        export(str(tmp_path), "--out", str(tmp_path / "model"))
    with pytest.raises(ConfigurationError, match="choose another --step"):
        export(str(run), "--out", str(tmp_path / "model"), "--step", "7")
    with pytest.raises(ConfigurationError, match="is not empty"):
        export(str(run), "--out", str(run))


def test_a_card_without_records_says_so() -> None:
    card = model_card(CardFacts("a/001", 1, {}, None, None, None, {}, {}))
    assert "The teacher index was not found" in card
    assert "The run's journal holds no judgement." in card
    assert "The run recorded none." in card


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("Qwen/Qwen3-4B", "Qwen/Qwen3-4B"),
        ("/data/models/mine", "mine"),
        ("runs/ropd_cpu/example/student", "student"),
        ("~/mine", "mine"),
        ("./mine", "mine"),
    ],
)
def test_a_folders_place_stays_private(path: str, name: str) -> None:
    assert public_name(path) == name
