"""What a configuration alone tells: one line a fault, with its setting."""

from __future__ import annotations

import inspect

import pytest
from transformers.integrations import flash_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from verl.models.transformers import monkey_patch
from verl.utils.config import omega_conf_to_dataclass

from algo.asking.context import FENCE_TOKENS
from algo.errors import ConfigurationError
from ropd_verl.checks import composition
from ropd_verl.checks.finding import Level
from tests.builders.checking import levels, subject

ULYSSES = "actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size"

BYPASS = ["hardware=cpu", "algorithm.rollout_correction.bypass_mode=true"]


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
            composition.check_rollout,
            ["algorithm.rollout_correction.bypass_mode=true"],
            r"rollout\.name=vllm computes other log-probabilities .*bypass_mode=false",
        ),
        (
            composition.check_rollout,
            [*BYPASS, "actor_rollout_ref.rollout.top_p=0.9"],
            r"top_p=0\.9.*bypass_mode=false",
        ),
        (
            composition.check_rollout,
            [*BYPASS, "actor_rollout_ref.rollout.top_k=20"],
            r"top_k=20.*bypass_mode=false",
        ),
        (
            composition.check_rollout,
            [*BYPASS, "actor_rollout_ref.rollout.calculate_log_probs=false"],
            r"calculate_log_probs=false.*bypass_mode=false",
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
    one_answer = 8_192 + FENCE_TOKENS
    assert "verifier: 112,640 of" in enough[1].what
    assert f"verifier: {112_640 - 11 * one_answer:,} of" in one[1].what


def test_nodes_that_only_generate_are_nodes() -> None:
    apart = ("split.train_nodes=1", "split.rollout_nodes=2")
    assert subject("mode=separate_async", *apart).nodes == 3
    assert subject("mode=sync", *apart).nodes == 1


def test_the_trainer_takes_the_rollouts_log_probs_only_where_they_are_its_own() -> None:
    """The CPU example in turns: not in the asynchronous modes, and never on a GPU."""
    key = "algorithm.rollout_correction.bypass_mode"
    assert subject(name="ropd_cpu").select(key) is True
    assert subject("mode=colocate_async", name="ropd_cpu").select(key) is False
    for mode in composition.MODES:
        assert subject(f"mode={mode}").select(key) is False
    mixed = subject("trainer.v1.trainer_mode=colocate_async", name="ropd_cpu")
    [found, *_] = [f for f in composition.check_mode(mixed) if "log-probabilities" in f.what]
    assert found.level is Level.WARNING
