"""The doctor: one line a fault with its setting, the same checks as a start, an exit code."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers.integrations import flash_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from typer.testing import CliRunner
from verl.models.transformers import monkey_patch
from verl.utils.config import omega_conf_to_dataclass

from algo.cli import app
from algo.data.fingerprint import prompt_fingerprint
from algo.errors import ConfigurationError
from algo.judge import preflight as judge_preflight
from algo.teacher.teacher_index import Teacher, TeacherAnswer
from algo.teacher.writer import TeacherIndexWriter
from examples.arithmetic.student import build_tokenizer
from ropd_verl.checks import composition, doctor, inputs, judge
from ropd_verl.checks import start as preflight
from ropd_verl.checks.finding import Level, Reach, Subject
from ropd_verl.config import compose_config
from tests.builders.checking import levels, subject
from tests.fakes.judge import FakeJudge

ROWS = [
    {
        "prompt": [{"role": "user", "content": f"1+{i}=?"}],
        "data_source": "arithmetic",
        "reward_model": {"style": "rule", "ground_truth": str(1 + i)},
    }
    for i in range(4)
]


ULYSSES = "actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size"


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
            composition.check_batches,
            [f"{ULYSSES}=2", "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=5119"],
            r"per_gpu=5119, 10238 over 2 GPUs, is below .* 10240",
        ),
        (
            composition.check_sequences,
            [f"{ULYSSES}=2"],
            r"actor: .*parallel_size=2 .* attention is sdpa; set attention=flash or size 1",
        ),
        (
            composition.check_sequences,
            ["actor_rollout_ref.actor.ulysses_sequence_parallel_size=2"],
            r"set attention=flash or size 1",
        ),
        (
            composition.check_sequences,
            ["actor_rollout_ref.ref.fsdp_config.ulysses_sequence_parallel_size=2"],
            r"ref: .*parallel_size=2 .* set attention=flash or size 1",
        ),
        (
            composition.check_sequences,
            [f"{ULYSSES}=3", "attention=flash"],
            r"parallel_size=3 does not divide 8 train GPUs",
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
        (composition.check_method, ["ropd.teacher_answers=0"], r"ropd\.teacher_answers=0"),
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


@pytest.mark.parametrize("key", [ULYSSES, "actor_rollout_ref.actor.ulysses_sequence_parallel_size"])
def test_gpus_that_share_a_sequence_share_its_tokens(key: str) -> None:
    tokens = "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=5120"
    shared = subject(f"{key}=2", tokens, "attention=flash")
    [whole] = composition.check_sequences(shared)
    assert whole.what == "each over 2 GPUs"
    [fits] = composition.check_batches(shared)
    assert "4 rank(s)" in fits.what


@pytest.mark.parametrize(
    ("deprecated", "live", "size"), [(1, 2, 2), (4, 1, 4), (4, 2, 4), (1, 1, 1)]
)
def test_the_size_is_the_one_that_verl_takes(deprecated: int, live: int, size: int) -> None:
    old = "actor_rollout_ref.actor.ulysses_sequence_parallel_size"
    made = subject(f"{old}={deprecated}", f"{ULYSSES}={live}")
    assert made.sequence_ranks() == size
    actor = omega_conf_to_dataclass(made.config.actor_rollout_ref.actor)
    assert actor.fsdp_config.ulysses_sequence_parallel_size == size


def test_only_flash_attention_sees_whole_shared_sequences() -> None:
    """verl puts its gathering in the place of a function that these attentions call."""
    assert (
        "flash_attention._flash_attention_forward = _ulysses_flash_attention_forward"
        in inspect.getsource(monkey_patch.apply_monkey_patch)
    )
    through = {
        name
        for name, attend in ALL_ATTENTION_FUNCTIONS.items()
        if attend is flash_attention.flash_attention_forward
    }
    assert set(composition.FLASH) <= through
    assert "sdpa" not in through


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


def asking(url: str, *overrides: str, **values: object) -> Subject:
    """A configuration whose both roles are at `url`."""
    keys = {"base_url": f"'{url}'", "model": "fake", "api_key_env": "null", **values}
    roles = ("rubricator", "verifier")
    judges = (f"ropd.judge.{r}.{k}={v}" for r in roles for k, v in keys.items())
    return subject(*overrides, *judges)


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
        return "http_400" if "response_format" in fake.bodies[-1] else ""

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
        "from ropd_verl.checks import doctor; from ropd_verl.config import compose_config\n"
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


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.1.1", "localhost", "[::1]"])
def test_a_judge_on_this_machine_serves_no_run_on_several_nodes(host: str) -> None:
    url = f"http://{host}:8000/v1"
    with pytest.raises(ConfigurationError, match=r"another machine on each of 2 nodes: set ropd"):
        list(judge.address(asking(url, "hardware=multinode")))
    assert list(judge.address(asking(url))) == []


@pytest.mark.parametrize("host", ["10.0.0.7", "judge.cluster", "[fd00::7]"])
def test_a_judge_that_every_node_reaches_does(host: str) -> None:
    found = judge.address(asking(f"http://{host}:8000/v1", "hardware=multinode"))
    assert levels(found) == [Level.OK]


def test_nodes_that_only_generate_are_nodes() -> None:
    apart = ("split.train_nodes=1", "split.rollout_nodes=2")
    assert subject("mode=separate_async", *apart).nodes == 3
    assert subject("mode=sync", *apart).nodes == 1


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
