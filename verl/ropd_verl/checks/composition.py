"""Does the configuration hold together? Needs no file, no GPU and no network.

verl asserts most of this itself, minutes into a start and without naming a key.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterable
from typing import Any

from hydra.errors import InstantiationException

from algo.errors import ConfigurationError
from algo.judge.plan import Workload, judge_context_tokens
from algo.methods.registry import is_judged, method_of
from ropd_verl.checks.finding import Finding, Subject, note, ok, warning

MODES = ("sync", "colocate_async", "separate_async")
GROUPED = "ropd_verl.agent_loop.GroupScoringManager"
"""Has a prompt's rollouts judged as one group."""
FLASH = ("flash_attention_2", "flash_attention_3")
"""What verl's patch of transformers reaches; the first is verl's default."""


def check_method(subject: Subject) -> Iterable[Finding]:
    """The method and the worker that brings its rollouts to it belong together."""
    settings = subject.settings
    key = "actor_rollout_ref.rollout.agent.agent_loop_manager_class"
    if (subject.select(key) == GROUPED) != is_judged(settings):
        raise ConfigurationError(
            f"ropd.method.name={settings.method.name} and {key}={subject.select(key)} do not "
            f"belong together: choose by method={settings.method.name}, which sets both"
        )
    yield ok(f"{settings.method.name}: {method_of(settings).summary(settings)}")


def check_verl(subject: Subject) -> Iterable[Finding]:
    """What verl checks itself, with its message."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    config = subject.config
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            validate_config(config, need_reference_policy(config), need_critic(config))
    except InstantiationException as error:
        place = str(error).rpartition("full_key: ")[2]
        raise ConfigurationError(f"{place}: verl says: {_one_line(error.__cause__)}") from None
    except (AssertionError, ValueError, TypeError, NotImplementedError) as error:
        raise ConfigurationError(f"verl says: {_one_line(error)}") from None
    yield ok("verl's own validation passes")


def _one_line(error: BaseException | None) -> str:
    return " ".join(str(error).split())


def check_sequences(subject: Subject) -> Iterable[Finding]:
    """Sequences that GPUs share are attended to as a whole, and the GPUs divide into such groups.

    verl gathers a shared sequence inside flash attention, which it patches. With another attention
    each GPU would see its own part only, and train without an error.
    """
    override = subject.config.actor_rollout_ref.model.override_config
    attention = override.get("attn_implementation", FLASH[0])
    for role in ("actor", "ref"):
        size = subject.sequence_ranks(role)
        set_to = f"actor_rollout_ref.{role}: ulysses_sequence_parallel_size={size}"
        if size > 1 and attention not in FLASH:
            raise ConfigurationError(
                f"{set_to} shares a sequence among GPUs, which verl does with flash attention "
                f"only, and attention is {attention}; set attention=flash or size 1"
            )
        if size < 1 or subject.train_ranks % size:
            raise ConfigurationError(
                f"{set_to} does not divide {subject.train_ranks} train GPUs; change one of them"
            )
    size = subject.sequence_ranks()
    yield ok("each on one GPU" if size == 1 else f"each over {size} GPUs")


def check_batches(subject: Subject) -> Iterable[Finding]:
    """Batch, mini-batch, group and micro-batch divide each other and hold the longest sequence."""
    config = subject.config
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    batch, mini, n = config.data.train_batch_size, actor.ppo_mini_batch_size, rollout.n
    if n < 2:
        raise ConfigurationError(
            f"actor_rollout_ref.rollout.n={n}: a group of one has no advantage; set 2 or more"
        )
    if batch % mini:
        raise ConfigurationError(
            f"data.train_batch_size={batch} is not a multiple of "
            f"actor_rollout_ref.actor.ppo_mini_batch_size={mini}; change one of them"
        )
    sharing = max(1, subject.sequence_ranks())
    ranks = max(1, subject.train_ranks // sharing)
    if (mini * n) % ranks:
        raise ConfigurationError(
            f"{mini} prompts x {n} rollouts of a mini-batch do not divide over {ranks} ranks; "
            "change actor_rollout_ref.actor.ppo_mini_batch_size or the number of GPUs"
        )
    if config.data.get("gen_batch_size") != 1:
        raise ConfigurationError(
            f"data.gen_batch_size={config.data.get('gen_batch_size')}: failed groups are replaced "
            "one by one; set 1"
        )
    tokens = actor.ppo_max_token_len_per_gpu
    if actor.use_dynamic_bsz and tokens * sharing < subject.sequence_tokens:
        room = f"{tokens}" if sharing == 1 else f"{tokens}, {tokens * sharing} over {sharing} GPUs,"
        raise ConfigurationError(
            f"actor_rollout_ref.actor.ppo_max_token_len_per_gpu={room} is below the longest "
            f"sequence, data.max_prompt_length + data.max_response_length = "
            f"{subject.sequence_tokens}; raise it"
        )
    yield ok(f"{batch} prompts x {n} rollouts a step in {batch // mini} update(s), {ranks} rank(s)")


def check_rollout(subject: Subject) -> Iterable[Finding]:
    """The rollout engine fits the device, its parallelism the GPUs."""
    config = subject.config
    rollout, model = config.actor_rollout_ref.rollout, config.actor_rollout_ref.model
    replica = rollout.tensor_model_parallel_size * rollout.data_parallel_size
    for name, ranks in (("train", subject.train_ranks), ("rollout", subject.rollout_ranks)):
        if ranks % replica:
            raise ConfigurationError(
                f"{ranks} {name} GPUs do not divide into rollout replicas of {replica}; change "
                "actor_rollout_ref.rollout.tensor_model_parallel_size"
            )
    if subject.on_cpu and rollout.name != "transformers":
        raise ConfigurationError(
            f"actor_rollout_ref.rollout.name={rollout.name} needs a GPU and trainer.device is cpu; "
            "set transformers, or hardware=cpu"
        )
    length = rollout.get("max_model_len")
    if length is not None and length < subject.sequence_tokens:
        raise ConfigurationError(
            f"actor_rollout_ref.rollout.max_model_len={length} is below the longest sequence of "
            f"{subject.sequence_tokens}; raise it or set null"
        )
    if rollout.name == "transformers":
        if replica > 1:
            raise ConfigurationError(
                "actor_rollout_ref.rollout.name=transformers has no model parallelism; set "
                "actor_rollout_ref.rollout.tensor_model_parallel_size=1"
            )
        if model.lora_rank > 0 and not model.lora.merge:
            raise ConfigurationError(
                "actor_rollout_ref.rollout.name=transformers serves merged weights only; set "
                "actor_rollout_ref.model.lora.merge=true"
            )
    if subject.select("algorithm.rollout_correction.bypass_mode"):
        _check_bypass(rollout)
    replicas = (subject.rollout_ranks or subject.train_ranks) // replica
    yield ok(f"{rollout.name}, {replicas} replica(s)")


def _check_bypass(rollout: Any) -> None:
    """The trainer may take the rollout's log-probabilities for its own where they are the same."""
    fix = "set algorithm.rollout_correction.bypass_mode=false"
    if rollout.name != "transformers":
        raise ConfigurationError(
            f"actor_rollout_ref.rollout.name={rollout.name} computes other log-probabilities than "
            f"the trainer; {fix}"
        )
    if rollout.top_p != 1.0 or rollout.top_k > 0:
        raise ConfigurationError(
            f"actor_rollout_ref.rollout: top_p={rollout.top_p}, top_k={rollout.top_k} leave tokens "
            f"out of the distribution sampled from, and the trainer's has them; {fix}"
        )
    if not rollout.calculate_log_probs:
        raise ConfigurationError(
            "actor_rollout_ref.rollout.calculate_log_probs=false and the trainer is to use the "
            f"rollout's log-probabilities; {fix}"
        )


def check_mode(subject: Subject) -> Iterable[Finding]:
    """The mode's own demands; `docs/modes.md` says what each mode does."""
    if subject.mode not in MODES:
        raise ConfigurationError(
            f"trainer.v1.trainer_mode={subject.mode}: set mode= to one of {', '.join(MODES)}"
        )
    if subject.mode == "separate_async":
        _check_separate(subject)
    correction = subject.select("algorithm.rollout_correction.rollout_is")
    if subject.mode != "sync" and correction is None:
        yield warning(
            f"{subject.mode} trains on rollouts of older weights without correction",
            "set algorithm.rollout_correction.rollout_is=token, or choose mode=...",
        )
    if subject.mode != "sync" and subject.select("algorithm.rollout_correction.bypass_mode"):
        yield warning(
            f"{subject.mode} takes the log-probabilities of older weights for those it trains",
            "choose mode=..., or set algorithm.rollout_correction.bypass_mode=false",
        )
    yield ok(subject.mode)


def _check_separate(subject: Subject) -> None:
    config = subject.config
    rollout = config.actor_rollout_ref.rollout
    sync_step = config.trainer.v1.separate_async.parameter_sync_step
    batch = config.data.train_batch_size
    mini = config.actor_rollout_ref.actor.ppo_mini_batch_size
    if subject.on_cpu:
        raise ConfigurationError(
            "mode=separate_async moves weights between GPUs and trainer.device is cpu; set "
            "mode=colocate_async"
        )
    if batch != sync_step * mini:
        raise ConfigurationError(
            f"mode=separate_async: data.train_batch_size={batch} is not "
            f"trainer.v1.separate_async.parameter_sync_step={sync_step} x "
            f"actor_rollout_ref.actor.ppo_mini_batch_size={mini}; set "
            f"updates_per_batch={max(1, batch // mini)}"
        )
    if rollout.nnodes < 1 or rollout.n_gpus_per_node < 1:
        raise ConfigurationError(
            "mode=separate_async has no GPUs to generate on; set "
            "split.rollout_nodes and split.rollout_gpus_per_node"
        )
    if rollout.checkpoint_engine.backend == "naive":
        raise ConfigurationError(
            "mode=separate_async cannot move weights with "
            "actor_rollout_ref.rollout.checkpoint_engine.backend=naive; set nccl"
        )


def check_schedule(subject: Subject) -> Iterable[Finding]:
    """Warm-up ends before the run does; learning-rate steps are counted as verl counts them."""
    config = subject.config
    optim = config.actor_rollout_ref.actor.optim
    steps, warmup = config.trainer.total_training_steps, optim.lr_warmup_steps
    if steps is None:
        yield note("trainer.total_training_steps is null: the data's size sets the number of steps")
        return
    updates = config.trainer.v1.get(subject.mode, {}).get("parameter_sync_step", 1)
    if warmup >= steps * updates:
        yield warning(
            f"warm-up of {warmup} learning-rate steps in a run of {steps * updates}",
            "lower actor_rollout_ref.actor.optim.lr_warmup_steps",
        )
    if updates > 1 and warmup > 0:
        yield warning(
            f"mode={subject.mode} takes {updates} learning-rate steps a training step, so warm-up "
            f"ends after {warmup // updates} training steps",
            f"set actor_rollout_ref.actor.optim.lr_warmup_steps={warmup * updates} to keep "
            f"{warmup} training steps",
        )
    yield ok(f"{steps} steps, {optim.lr_scheduler_type}, lr {optim.lr:g}, warm-up {max(0, warmup)}")


def check_judge_context(subject: Subject) -> Iterable[Finding]:
    """The judge's context against the longest prompt that answers at their limit make."""
    settings, config = subject.settings, subject.config
    load = Workload(
        prompts=config.data.train_batch_size,
        rollouts=config.actor_rollout_ref.rollout.n,
        teacher_answers=settings.teacher_answers,
        steps=1,
        question=config.data.max_prompt_length,
        answer=config.data.max_response_length,
        rubric=0,
        verdict=0,
    )
    method = method_of(settings)
    stages, roles = method.stages(settings, load), method.roles(settings)
    if stages is None:
        yield note(f"not compared: how much ropd.method.name={method.name} shows at once")
        return
    for stage in stages:
        name, answers, role = stage.role, stage.answers, roles[stage.role]
        needed = judge_context_tokens(
            answers=answers,
            answer_tokens=config.data.max_response_length,
            question_tokens=config.data.max_prompt_length,
            reply_tokens=role.max_tokens,
        )
        key = f"ropd.judge.{name}.context_tokens"
        if role.context_tokens is None:
            yield note(
                f"the {name} needs up to {needed:,} tokens for {answers} answers of "
                f"{config.data.max_response_length:,} and {key} is null: not compared",
                f"set {key} to the model's context window",
            )
        elif role.context_tokens < needed:
            yield warning(
                f"{key}={role.context_tokens:,} and {answers} answers at their limit need "
                f"{needed:,}: such prompts meet ropd.verification.overflow="
                f"{settings.verification.overflow}",
                f"serve the judge with {needed:,} tokens or lower data.max_response_length",
            )
        else:
            yield ok(f"{name}: {needed:,} of {role.context_tokens:,} tokens at worst")
