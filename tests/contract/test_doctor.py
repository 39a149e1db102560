"""The doctor: one line a fault with its setting, the same checks as a start, an exit code."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from algo.cli import app
from algo.ropd import preflight as judge_preflight
from algo.ropd.errors import ConfigurationError
from algo.ropd.teacher_index import Teacher, TeacherAnswer, prompt_fingerprint
from algo.ropd.teacher_index_writer import TeacherIndexWriter
from examples.arithmetic.student import build_tokenizer
from ropd_verl import doctor, preflight
from ropd_verl.checks import composition, inputs, judge, machine
from ropd_verl.checks.finding import Finding, Level, Reach, Subject
from ropd_verl.checks.memory import Shape, checkpoint_gb, training_memory
from ropd_verl.config import compose_config
from tests.contract.fake_judge import FakeJudge

ROWS = [
    {
        "prompt": [{"role": "user", "content": f"1+{i}=?"}],
        "data_source": "arithmetic",
        "reward_model": {"style": "rule", "ground_truth": str(1 + i)},
    }
    for i in range(4)
]


def subject(*overrides: str, name: str = "ropd", environ: dict[str, str] | None = None) -> Subject:
    return Subject(compose_config(name, list(overrides)), environ or {})


def levels(findings: Iterator[Finding] | list[Finding]) -> list[Level]:
    return [finding.level for finding in findings]


@pytest.mark.parametrize(
    ("check", "overrides", "said"),
    [
        (composition.check_mode, ["trainer.v1.trainer_mode=eager"], r"trainer_mode=eager.*mode="),
        (
            composition.check_mode,
            ["mode=separate_async", "updates_per_batch=2"],
            r"32 is not .*parameter_sync_step=2 x .*=32; set updates_per_batch=1",
        ),
        (
            composition.check_mode,
            ["mode=separate_async", "split.rollout_nodes=0"],
            r"set split\.rollout_nodes",
        ),
        (
            composition.check_mode,
            ["mode=separate_async", "actor_rollout_ref.rollout.checkpoint_engine.backend=naive"],
            r"backend=naive; set nccl",
        ),
        (composition.check_mode, ["mode=separate_async", "hardware=cpu"], r"device is cpu"),
        (composition.check_batches, ["actor_rollout_ref.rollout.n=1"], r"rollout\.n=1"),
        (
            composition.check_batches,
            ["preset=official", "data.train_batch_size=30"],
            r"data\.train_batch_size=30 .*ppo_mini_batch_size=8",
        ),
        (
            composition.check_batches,
            ["data.train_batch_size=3", "actor_rollout_ref.rollout.n=7"],
            r"3 prompts x 7 rollouts .* 8 ranks",
        ),
        (composition.check_batches, ["data.gen_batch_size=32"], r"gen_batch_size=32"),
        (
            composition.check_batches,
            ["actor_rollout_ref.actor.ppo_max_token_len_per_gpu=10239"],
            r"10239 is below .* 10240",
        ),
        (
            composition.check_rollout,
            ["actor_rollout_ref.rollout.tensor_model_parallel_size=3"],
            r"8 train GPUs .* of 3",
        ),
        (
            composition.check_rollout,
            ["hardware=cpu", "actor_rollout_ref.rollout.name=vllm"],
            r"name=vllm needs a GPU",
        ),
        (
            composition.check_rollout,
            ["actor_rollout_ref.rollout.max_model_len=8192"],
            r"max_model_len=8192 is below .* 10240",
        ),
        (
            composition.check_rollout,
            ["hardware=cpu", "adapter=lora", "actor_rollout_ref.model.lora.merge=false"],
            r"lora\.merge=true",
        ),
        (
            composition.check_verl,
            ["actor_rollout_ref.actor.loss_agg_mode=mean"],
            r"^actor_rollout_ref\.actor: verl says: Invalid loss_agg_mode: mean$",
        ),
        (composition.check_ropd, ["ropd.teacher_answers=0"], r"ropd\.teacher_answers=0"),
    ],
)
def test_a_fault_names_its_setting_in_one_line(check, overrides, said) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        list(check(subject(*overrides)))
    assert "\n" not in str(caught.value)


def test_the_default_has_no_fault() -> None:
    for check in doctor.CHECKS:
        if check.reach is Reach.STATIC:
            assert set(levels(list(check.run(subject())))) <= {Level.OK, Level.NOTE}


def test_training_on_old_rollouts_without_correction_is_a_warning() -> None:
    found = list(composition.check_mode(subject("trainer.v1.trainer_mode=colocate_async")))
    assert found[0].level is Level.WARNING
    assert "rollout_is=token" in found[0].fix
    assert levels(list(composition.check_mode(subject("mode=colocate_async")))) == [Level.OK]


def test_warm_up_is_counted_in_verls_steps() -> None:
    beyond = list(composition.check_schedule(subject("trainer.total_training_steps=100")))
    assert beyond[0].level is Level.WARNING
    overrides = ["mode=separate_async", "updates_per_batch=4"]
    mini = "actor_rollout_ref.actor.ppo_mini_batch_size=8"
    [sooner, _] = composition.check_schedule(subject(*overrides, mini))
    assert "after 25 training steps" in sooner.what
    assert "lr_warmup_steps=400" in sooner.fix


def test_the_judges_context_is_compared_with_the_longest_prompt() -> None:
    enough = list(composition.check_judge_context(subject("judge=local_vllm")))
    assert levels(enough) == [Level.OK, Level.OK]
    [rubricator, _] = composition.check_judge_context(
        subject("judge=local_vllm", "ropd.judge.rubricator.context_tokens=98304")
    )
    assert rubricator.level is Level.WARNING
    assert "98,304" in rubricator.what
    assert "116,736" in rubricator.what
    one = list(
        composition.check_judge_context(
            subject("judge=local_vllm", "ropd.verification.mode=isolated")
        )
    )
    assert "verifier: 22,528 of" in one[1].what


# --- the machine ------------------------------------------------------------------------------


def test_a_missing_package_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda _: None)
    for override, package in (
        ("hardware=a100x8", "vllm"),
        ("attention=flash", "flash_attn"),
        ("mode=separate_async", "cupy"),
        ("adapter=lora", "peft"),
    ):
        wanted = [name for name, *_ in machine._optional_packages(subject(override))]
        assert package in wanted
    with pytest.raises(ConfigurationError, match=r"vllm: start with ROPD_EXTRA=gpu"):
        list(machine.environment(subject()))


def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *rows: str) -> None:
    """An nvidia-smi on PATH that prints these rows."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\ncat <<'ROWS'\n" + "\n".join(rows) + "\nROWS\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


A100 = "NVIDIA A100-SXM4-80GB, 81920, 4"


def test_gpus_are_counted_as_the_run_will_see_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi(tmp_path, monkeypatch, *[A100] * 4)
    assert machine.gpus() == [machine.Gpu("NVIDIA A100-SXM4-80GB", 81920, 4)] * 4
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert len(machine.gpus()) == 2
    with pytest.raises(ConfigurationError, match=r"2 GPU\(s\) here and the run takes 8"):
        list(machine.graphics(subject()))
    with pytest.raises(ConfigurationError, match="takes 16"):
        list(machine.graphics(subject("hardware=multinode")))


def test_a_busy_gpu_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, monkeypatch, "NVIDIA H100 80GB HBM3, 81559, 40210")
    found = list(machine.graphics(subject("hardware=gpu1")))
    assert found[0].level is Level.WARNING
    assert "40 GB in use" in found[0].what


def test_no_gpu_is_looked_for_on_a_cpu_or_on_a_cluster() -> None:
    assert list(machine.graphics(subject("hardware=cpu"))) == []
    [found] = machine.graphics(subject(environ={"RAY_ADDRESS": "auto"}))
    assert found.level is Level.NOTE


# Qwen3-4B's published shape.
QWEN3_4B = Shape(parameters=4_022_468_096, layers=36, hidden=2560, vocabulary=151_936)


def sized(*overrides: str) -> Subject:
    made = subject(*overrides)
    made.__dict__["shape"] = QWEN3_4B  # as the cached property would have it
    return made


def test_memory_of_the_shipped_hardware_fits_80_gb() -> None:
    for hardware in ("a100x8", "h100x8", "gpu1", "multinode"):
        assert levels(list(machine.memory(sized(f"hardware={hardware}"), 80.0))) == [Level.OK]


def test_one_gpu_without_offload_does_not_fit() -> None:
    offload = "actor_rollout_ref.actor.fsdp_config"
    [found] = machine.memory(
        sized(
            "hardware=gpu1", f"{offload}.param_offload=false", f"{offload}.optimizer_offload=false"
        ),
        80.0,
    )
    assert found.level is Level.WARNING
    assert "96 GB to generate" in found.what
    assert "offload" in found.fix


def test_memory_by_hand() -> None:
    """Ten parameters, two ranks, five tokens: 4 + 8 bytes of state, 4 of gradients a parameter."""
    shape = Shape(parameters=10, layers=3, hidden=2, vocabulary=7)
    kept = training_memory(
        shape,
        ranks=2,
        micro_batch_tokens=5,
        param_offload=False,
        optimizer_offload=False,
        gradient_checkpointing=True,
    )
    assert kept.state * 1e9 == pytest.approx(10 * 12 / 2)
    assert kept.update * 1e9 == pytest.approx(10 * 16 / 2 + 5 * 2 * 3 * 2 + 5 * 7 * 6)
    assert kept.host == 0
    assert checkpoint_gb(shape) * 1e9 == pytest.approx(120)


def test_disk_counts_the_checkpoints_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=int(150e9))
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage)
    [short] = machine.disk(sized())
    assert short.level is Level.WARNING
    assert short.what.startswith("3 checkpoint(s) of 48.3 GB, 150 GB free")
    [enough] = machine.disk(sized("trainer.max_actor_ckpt_to_keep=2"))
    assert enough.level is Level.OK


# --- inputs and judge -----------------------------------------------------------------------------


@pytest.fixture
def whole(tmp_path: Path) -> list[str]:
    """Overrides of `ropd` under which everything but the judge is there."""
    build_tokenizer().save_pretrained(tmp_path / "student")
    (tmp_path / "student/config.json").write_text(
        '{"model_type": "qwen3", "hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 32,'
        ' "intermediate_size": 8, "num_attention_heads": 1, "num_key_value_heads": 1}'
    )
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "train.parquet")
    with TeacherIndexWriter.open(tmp_path / "index", Teacher(model="t")) as writer:
        writer.append(
            [TeacherAnswer(prompt_fingerprint(row["prompt"]), "answer", "t") for row in ROWS]
        )
    return [
        "hardware=cpu",
        f"actor_rollout_ref.model.path={tmp_path}/student",
        f"data.train_files={tmp_path}/train.parquet",
        f"data.val_files={tmp_path}/train.parquet",
        f"ropd.teacher_index={tmp_path}/index",
        "ropd.teacher_answers=1",
        "data.train_batch_size=2",
        "trainer.total_training_steps=2",
        "actor_rollout_ref.actor.optim.lr_warmup_steps=0",
        "ropd.judge.rubricator.model=judge",
        "ropd.judge.verifier.model=judge",
        "ropd.judge.rubricator.api_key_env=null",
        "ropd.judge.verifier.api_key_env=null",
    ]


def test_a_run_that_its_prompts_cannot_fill(whole: list[str]) -> None:
    assert levels(list(inputs.run_length(subject(*whole)))) == [Level.OK]
    [short, _] = inputs.run_length(subject(*whole, "trainer.total_training_steps=5"))
    assert "after 2 of 5 steps" in short.what
    assert "total_epochs=3" in short.fix
    with pytest.raises(ConfigurationError, match="a step is never full"):
        list(inputs.run_length(subject(*whole, "data.train_batch_size=5")))


def test_a_role_without_a_model_is_found_before_anybody_is_asked(
    whole: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ROPD_VERIFIER_MODEL", raising=False)
    code, lines = run("--offline", *(o for o in whole if "verifier.model" not in o))
    assert code == 1
    [error] = [line for line in lines if line.startswith("error")]
    assert "ROPD_VERIFIER_MODEL" in error


def asking(url: str, **values: object) -> Subject:
    """A configuration whose both roles are at `url`."""
    keys = {"base_url": url, "model": "fake", "api_key_env": "null", **values}
    roles = ("rubricator", "verifier")
    return subject(*(f"ropd.judge.{r}.{k}={v}" for r in roles for k, v in keys.items()))


@pytest.mark.parametrize(("takes_schema", "level"), [(True, Level.OK), (False, Level.NOTE)])
async def test_structured_output_is_tried_with_each_role(takes_schema: bool, level: Level) -> None:
    fake = FakeJudge(json_schema=takes_schema)
    async with fake.serve() as url:
        found = await judge._ask_each_role(asking(url).settings, {})
    assert levels(found) == [level, level]
    asked = ["response_format" in body for body in fake.bodies]
    assert (asked.count(True), asked.count(False)) == (2, 0 if takes_schema else 2)
    assert {body["max_tokens"] for body in fake.bodies} == {4096, 8192}  # as in the run


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        ("temperature", r"\.temperature=null leaves temperature out"),
        ("max_tokens", r"\.max_tokens_key is the name"),
    ],
)
async def test_the_schema_is_not_blamed_for_what_else_is_refused(refused: str, said: str) -> None:
    async with FakeJudge(refuses=refused).serve() as url:
        with pytest.raises(ConfigurationError, match=said) as caught:
            await judge._ask_each_role(asking(url).settings, {})
    assert "schema" not in str(caught.value)


async def test_a_schema_that_is_refused_for_no_reason_given_is_a_warning() -> None:
    def fault(role: str, number: int) -> str:
        return "400" if "response_format" in fake.bodies[-1] else ""

    fake = FakeJudge(fault=fault)
    async with fake.serve() as url:
        found = await judge._ask_each_role(asking(url).settings, {})
    assert levels(found) == [Level.WARNING] * 2
    assert found[1].fix == "set ropd.judge.verifier.structured=text"


async def test_a_judge_that_insists_on_a_schema_must_have_it() -> None:
    async with FakeJudge(json_schema=False).serve() as url:
        with pytest.raises(ConfigurationError, match=r"structured=json_schema insists"):
            await judge._ask_each_role(asking(url, structured="json_schema").settings, {})


async def test_silence_is_not_taken_for_a_refused_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_preflight, "TRIAL_PATIENCE_S", 0.3)
    async with FakeJudge(fault=lambda role, number: "hang").serve() as url:
        found = await judge._ask_each_role(asking(url).settings, {})
    assert levels(found) == [Level.WARNING] * 2
    assert "timeout_s" in found[0].fix


def test_a_start_runs_the_doctors_checks(
    whole: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []
    fakes = tuple(
        doctor.Check(c.name, c.why, c.reach, lambda _, n=c.name: ran.append(n) or [], c.at_start)
        for c in doctor.CHECKS
    )
    monkeypatch.setattr(preflight, "CHECKS", fakes)
    preflight.check(compose_config("ropd", whole), {})
    assert ran == [c.name for c in doctor.CHECKS if c.at_start]
    assert {c.name for c in doctor.CHECKS} - set(ran) == {"judge settings", "structured output"}


def test_the_checks_leave_verls_platform_undecided() -> None:
    """A start chooses it after the checks; verl decides once a process and would take a GPU's."""
    program = (
        "from ropd_verl import doctor; from ropd_verl.config import compose_config\n"
        "list(doctor.examine(compose_config('ropd_cpu', []), {}, doctor.MACHINE))\n"
        "from verl.plugin.platform import platform_manager as chosen\n"
        "print(chosen._current_platform)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.splitlines()[-1] == "None"


# --- the command ------------------------------------------------------------------------------


def run(*arguments: str) -> tuple[int, list[str]]:
    done = CliRunner().invoke(app, ["doctor", *arguments])
    return done.exit_code, done.output.splitlines()


def test_the_command_goes_on_after_an_error_and_exits_with_1(whole: list[str]) -> None:
    code, lines = run("--offline", *whole, "ropd.teacher_answers=2", "data.gen_batch_size=4")
    assert code == 1
    errors = [line for line in lines if line.startswith("error")]
    assert [line.split()[1] for line in errors] == ["batches:", "teacher"]
    assert "ropd teacher build" in errors[1]
    assert lines[-1] == "2 error(s), 0 warning(s)"


def test_the_command_passes_a_whole_configuration(whole: list[str]) -> None:
    code, lines = run("--offline", *whole)
    assert (code, lines[-1]) == (0, "0 error(s), 0 warning(s)")


def test_static_needs_neither_files_nor_gpus() -> None:
    code, lines = run("--static")
    assert code == 0
    assert any("8 rank(s)" in line for line in lines)


def test_an_example_makes_its_own_inputs() -> None:
    code, lines = run("--config-name", "ropd_cpu")
    assert code == 0
    assert any(line.startswith("note     student: examples.arithmetic makes") for line in lines)
