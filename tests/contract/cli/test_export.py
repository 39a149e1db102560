"""`ropd export` on a checkpoint in verl's format: a model that transformers loads, and its card."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import yaml
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM
from typer.testing import CliRunner
from verl.model_merger import __main__ as merger
from verl.utils.checkpoint.fsdp_checkpoint_manager import FSDPCheckpointManager

from algo.cli import app
from algo.errors import ConfigurationError
from algo.judge.method import Method
from algo.methods.registry import METHODS
from algo.methods.rlvr import Rlvr
from algo.ropd.pipeline import Ropd
from algo.ropd.settings import RopdSettings
from algo.runs.model_card import CardFacts, model_card, public_name
from algo.teacher.teacher_index import Teacher
from algo.teacher.writer import TeacherIndexWriter
from examples.arithmetic.student import build_tokenizer
from ropd_verl import adapter
from ropd_verl.config import compose_config


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
                    "critic/score/mean": step / 4,
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
        "# my-student, trained by ropd",
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


# --- a run that trained an adapter ----------------------------------------------------------------

RANK, ALPHA = 2, 6


@pytest.fixture
def adapted(run: Path, student: Qwen3ForCausalLM) -> dict[str, torch.Tensor]:
    """``run`` with LoRA, saved as verl's engine does; returns the weights that it trained."""
    actor = run / "checkpoints/global_step_2/actor"
    base = {name: value.clone() for name, value in student.state_dict().items()}
    lora = peft.LoraConfig(
        task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules="all-linear"
    )
    wrapped = peft.get_peft_model(student, lora)
    state = wrapped.state_dict()
    for name in state:
        if ".lora_B." in name:
            torch.nn.init.normal_(state[name])
    torch.save(state, actor / "model_world_size_1_rank_0.pt")
    manager: Any = object.__new__(FSDPCheckpointManager)
    manager.rank = 0
    manager._save_lora_train_meta(str(actor), wrapped)
    configure(run, lora_rank=RANK, lora_alpha=ALPHA)
    trained = dict(base)
    for name, b in state.items():
        if ".lora_B." in name:
            a = state[name.replace("lora_B", "lora_A")]
            plain = name.removeprefix("base_model.model.").replace(".lora_B.default", "")
            trained[plain] = (
                base[plain] + ALPHA / RANK * b.bfloat16().float() @ a.bfloat16().float()
            )
            assert not torch.allclose(trained[plain], base[plain], rtol=0.1, atol=0.01)
    assert len(base) > sum(trained[n] is not base[n] for n in base) == 7
    return trained


@pytest.fixture
def merger_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """verl's merger without a process of its own, which takes long to import verl."""

    def merge(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", command[command.index("verl.model_merger") :])
        merger.main()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", merge)


def configure(run: Path, node: str = "model", /, **values: object) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["actor_rollout_ref"].setdefault(node, {}).update(values)
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def check_exported(out: Path, trained: dict[str, torch.Tensor]) -> None:
    model, loaded = Qwen3ForCausalLM.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
        out, dtype=torch.bfloat16, output_loading_info=True
    )
    assert not loaded["missing_keys"]
    assert not loaded["unexpected_keys"]
    assert set(model.state_dict()) == set(trained)
    for name, value in model.state_dict().items():
        # One bf16 rounding of the base, one of the sum.
        torch.testing.assert_close(value.float(), trained[name], rtol=2**-7, atol=2**-9)
    assert not (out / "lora_adapter").exists()


def test_an_adapter_is_merged_into_its_base(
    run: Path, tmp_path: Path, adapted: dict[str, torch.Tensor]
) -> None:
    out = tmp_path / "model"
    export(str(run), "--out", str(out))
    check_exported(out, adapted)
    assert AutoTokenizer.from_pretrained(out).chat_template
    assert "The LoRA adapter (rank 2, alpha 6) is merged" in (out / "README.md").read_text()


@pytest.mark.usefixtures("merger_in_process")
def test_the_scale_is_the_runs_where_verls_record_is_missing(
    run: Path, tmp_path: Path, adapted: dict[str, torch.Tensor]
) -> None:
    """verl's merger then takes alpha for 0, with which the base would come out."""
    (run / "checkpoints/global_step_2/actor/lora_train_meta.json").unlink()
    export(str(run), "--out", str(tmp_path / "model"))
    check_exported(tmp_path / "model", adapted)


@pytest.mark.usefixtures("merger_in_process")
def test_an_adapter_that_was_trained_on_keeps_its_own_scale(
    run: Path, tmp_path: Path, adapted: dict[str, torch.Tensor]
) -> None:
    (run / "checkpoints/global_step_2/actor/lora_train_meta.json").unlink()
    own = tmp_path / "adapter"
    configure(run, lora_adapter_path=str(own), lora_alpha=99)
    with pytest.raises(ConfigurationError, match=r"lora_adapter_path=.*put it back"):
        export(str(run), "--out", str(tmp_path / "model"))
    lora = peft.LoraConfig(
        task_type="CAUSAL_LM", r=RANK, lora_alpha=ALPHA, target_modules=r".*(_proj)"
    )
    lora.save_pretrained(str(own))
    export(str(run), "--out", str(tmp_path / "model"))
    check_exported(tmp_path / "model", adapted)


@pytest.mark.usefixtures("adapted", "merger_in_process")
@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"lora_alpha": 7}, "rank 2 and alpha 6, the run's configuration 2 and 7"),
        ({"lora_rank": 0}, "holds an adapter and .*lora_rank=0"),
    ],
)
def test_an_adapter_of_another_run_is_not_exported(
    run: Path, tmp_path: Path, model: dict[str, int], said: str
) -> None:
    configure(run, "model", **model)
    with pytest.raises(ConfigurationError, match=said):
        export(str(run), "--out", str(tmp_path / "model"))
    assert not list(tmp_path.glob("*model*")), "an untrained base is left"


@pytest.mark.usefixtures("adapted", "merger_in_process")
def test_an_adapter_without_its_whole_base_is_not_exported(run: Path, tmp_path: Path) -> None:
    shard = run / "checkpoints/global_step_2/actor/model_world_size_1_rank_0.pt"
    state = torch.load(shard)
    del state["base_model.model.model.norm.weight"]
    torch.save(state, shard)
    with pytest.raises(ConfigurationError, match=r"lacks weights of the base: model\.norm"):
        export(str(run), "--out", str(tmp_path / "model"))
    assert not list(tmp_path.glob("*model*"))
    configure(run, "actor", checkpoint={"save_lora_only": True})
    with pytest.raises(ConfigurationError, match=r"save_lora_only.*merge it into"):
        export(str(run), "--out", str(tmp_path / "model"))


@pytest.mark.usefixtures("adapted")
def test_a_missing_peft_is_named_with_its_cure(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"peft is missing: .*uv pip install --python"):
        export(str(run), "--out", str(tmp_path / "model"))


def test_what_cannot_be_exported_is_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no checkpoint"):
        export(str(tmp_path), "--out", str(tmp_path / "model"))
    with pytest.raises(ConfigurationError, match="choose another --step"):
        export(str(run), "--out", str(tmp_path / "model"), "--step", "7")
    with pytest.raises(ConfigurationError, match="is not empty"):
        export(str(run), "--out", str(run))
    with pytest.raises(ConfigurationError, match=r"no config\.yaml: name a run's directory"):
        export(str(tmp_path), "--out", str(tmp_path / "model"), "--step", "2")


def test_a_card_without_records_says_so() -> None:
    card = model_card(CardFacts("a/001", "ropd", "", 1, {}, None, True, None, None, {}, {}))
    assert "The teacher index was not found" in card
    assert "The run's journal holds no judgement." in card
    assert "The run recorded none." in card


@pytest.mark.parametrize("method", [method for method in METHODS.values() if method is not Ropd])
def test_a_card_knows_the_method(method: type[Method[RopdSettings]]) -> None:
    config = OmegaConf.to_container(compose_config("ropd", [f"method={method.name}"]), resolve=True)
    assert isinstance(config, dict)
    facts: dict[str, Any] = {"config": config, "teachers": None, "provenance": None, "versions": {}}
    facts |= {"run": "a/001", "method": method.name, "about": method.about, "step": 1}
    card = model_card(CardFacts(**facts, roles=None, teachers_used=False, figures={}))
    assert f"trained by {method.name}\n" in card
    assert method.about in card
    assert f"| method | {method.name} |" in card
    assert "rubric" not in card.lower()
    assert "teacher answers (m)" not in card
    assert "No teacher answer was used." in card
    assert "on-policy-distillation" in card


def test_a_card_of_rlvr_speaks_of_no_judge_and_no_distillation() -> None:
    facts = CardFacts("a/001", "rlvr", Rlvr.about, 1, {}, {}, False, None, None, {}, {})
    card = model_card(facts)
    assert "No judge was asked." in card
    assert "- on-policy-distillation" not in card


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
