"""The machine: packages, GPUs and their memory, Ray's CPUs, disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig

from algo.errors import ConfigurationError
from algo.paths import absolute
from ropd_verl import ray_cluster
from ropd_verl.adapter import peft_missing
from ropd_verl.checks.finding import Finding, Subject, note, ok, warning
from ropd_verl.checks.memory import GB, checkpoint_gb, most_checkpoints, training_memory
from ropd_verl.checks.nvidia import Gpu, installed, visible
from ropd_verl.installation import require_verl

VERL = "0.9.1"

# Ray CPUs that verl's actors hold at least: a rank's placement bundle, and one for each actor
# beside the ranks (task runner, TransferQueue's controller).
_CPUS_A_RANK = 3
_CPUS_BESIDE = 4

# A GPU with more than this in use (MB) is not free: a driver's own share is a few hundred.
_BUSY_MB = 2000


def environment(subject: Subject) -> Iterable[Finding]:
    """verl's version, and the optional packages that this configuration asks for."""
    require_verl("a run trains with verl")
    from ropd_verl import plugin

    plugin.check_registered()
    found = _version("verl")
    if found != VERL:
        raise ConfigurationError(
            f"verl {found} is installed and this project is written for {VERL}: start with "
            "`bash training/train.sh`, which sets up the environment"
        )
    for package, reason, fix in _optional_packages(subject):
        if find_spec(package) is None:
            raise ConfigurationError(f"{reason} needs the package {package}: {fix}")
    yield ok(f"verl {found}, torch {_version('torch')}, transformers {_version('transformers')}")


def _optional_packages(subject: Subject) -> Iterable[tuple[str, str, str]]:
    rollout, model = (subject.config.actor_rollout_ref[k] for k in ("rollout", "model"))
    if rollout.name == "vllm":
        yield ("vllm", "actor_rollout_ref.rollout.name=vllm", "start with ROPD_EXTRA=gpu")
    if model.override_config.get("attn_implementation") == "flash_attention_2":
        yield (
            "flash_attn",
            "attention=flash",
            "install the extra `flash-attn` (docs/installation.md), or set attention=sdpa",
        )
    if rollout.checkpoint_engine.backend == "nccl" and subject.mode == "separate_async":
        yield (
            "cupy",
            "mode=separate_async",
            "install the extra `separate-async` (docs/installation.md), or set mode=colocate_async",
        )
    yield ("peft", "verl", peft_missing())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(none)"


def graphics(subject: Subject) -> Iterable[Finding]:
    """As many GPUs as the run takes, free, and large enough for what it is estimated to take."""
    if subject.on_cpu:
        return
    wanted = subject.train_ranks + subject.rollout_ranks
    if subject.on_cluster:
        yield note(f"the run joins a Ray cluster; its {wanted} GPUs are not looked at from here")
        return
    here, setting = installed(), os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = visible(here, setting)
    if seen.in_parts:
        yield note(
            f"CUDA_VISIBLE_DEVICES names {seen.unknown}, a part of a GPU: neither number nor "
            "memory of the parts is looked at"
        )
        return
    stops = f"CUDA_VISIBLE_DEVICES names {seen.unknown}, which nvidia-smi does not list (once)"
    if len(seen.gpus) < wanted:
        raise ConfigurationError(
            f"{len(seen.gpus)} GPU(s) here and the run takes {wanted}: "
            f"{f'{stops}: correct it, ' if seen.unknown else ''}choose hardware=..., set "
            "trainer.n_gpus_per_node, or join a Ray cluster of more nodes by RAY_ADDRESS"
        )
    if seen.unknown:
        yield warning(stops, "correct it: CUDA ignores this entry and what follows")
    taken = seen.gpus[:wanted]
    by_number = wanted < len(here) and "GPU-" not in (setting or "")
    by_speed = os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID"
    if by_number and by_speed and len({gpu.name for gpu in here}) > 1:
        yield warning(
            "GPUs of several kinds: CUDA numbers them from fast to slow, nvidia-smi by their slots",
            "set CUDA_DEVICE_ORDER=PCI_BUS_ID, by which they are looked at here",
        )
    yield from _others_on(taken)
    yield ok(f"{len(seen.gpus)} x {taken[0].name}")
    totals = [gpu.total_mb for gpu in taken if gpu.total_mb is not None]
    if len(totals) < wanted:
        yield note("nvidia-smi does not tell the GPUs' memory, so it is not estimated")
    else:
        yield from memory(subject, min(totals) * 1.048576e6 / GB)


def _others_on(gpus: Sequence[Gpu]) -> Iterable[Finding]:
    busy = [gpu.used_mb for gpu in gpus if gpu.used_mb is not None and gpu.used_mb > _BUSY_MB]
    if busy:
        yield warning(
            f"{len(busy)} of {len(gpus)} GPUs have up to {max(busy) / 1000:.0f} GB in use",
            "end what runs on them, or choose others by CUDA_VISIBLE_DEVICES",
        )


def memory(subject: Subject, gpu_gb: float) -> Iterable[Finding]:
    """Estimated GB of the two phases against one GPU's."""
    if subject.shape is None:
        yield note("the student's size is not known here, so its memory is not estimated")
        return
    config = subject.config.actor_rollout_ref
    adamw = config.actor.optim.get("override_optimizer_config") or {}
    foreach = adamw.get("foreach") is not False and not adamw.get("fused")
    need = training_memory(
        subject.shape,
        ranks=subject.train_ranks,
        micro_batch_tokens=config.actor.ppo_max_token_len_per_gpu,
        param_offload=config.actor.fsdp_config.param_offload,
        optimizer_offload=config.actor.fsdp_config.optimizer_offload,
        gradient_checkpointing=config.model.enable_gradient_checkpointing,
        foreach=foreach,
    )
    rollout = config.rollout.gpu_memory_utilization * gpu_gb
    generating = need.state + rollout
    text = (
        f"at least {need.update:.0f} GB to update, {generating:.0f} GB to generate (vLLM "
        f"{rollout:.0f}) of {gpu_gb:.0f} GB a GPU; {need.host:.0f} GB of host memory a GPU"
    )
    fixes = []
    if need.step > gpu_gb and foreach:
        fixes.append(
            "set actor_rollout_ref.actor.optim.override_optimizer_config={foreach:false}, which "
            "updates one weight after the other"
        )
    if need.backward > gpu_gb:
        fixes.append("lower actor_rollout_ref.actor.ppo_max_token_len_per_gpu")
    if need.update > gpu_gb:
        fixes.append("take more GPUs, or adapter=lora")
    if generating > gpu_gb:
        fixes.append(
            "set actor_rollout_ref.actor.fsdp_config.{param,optimizer}_offload=true or lower "
            "actor_rollout_ref.rollout.gpu_memory_utilization"
        )
    yield warning(text, "; ".join(fixes)) if fixes else ok(text)


def ray_cpus(subject: Subject) -> Iterable[Finding]:
    check_ray_cpus(subject.config)
    yield ok("Ray has a CPU for every actor")


def check_ray_cpus(config: DictConfig) -> None:
    """A local Ray has CPUs for every actor; verl's trainer would wait for them without a word."""
    if ray_cluster.address(config, os.environ) is not None:
        return  # the cluster's own resources count: `ray_cluster.require`, once it is joined
    have = (config.ray_kwargs.get("ray_init") or {}).get("num_cpus") or os.cpu_count() or 1
    need = ray_cpus_needed(config)
    if have < need:
        raise ConfigurationError(
            f"Ray would have {have} CPUs and the run's actors ask for {need}: set "
            f"ray_kwargs.ray_init.num_cpus={need} (logical CPUs; they may exceed the machine's) or "
            "lower actor_rollout_ref.rollout.agent.num_workers"
        )


def ray_cpus_needed(config: DictConfig) -> int:
    """Ray CPUs that the run's actors hold."""
    return (
        ray_cluster.ranks(config) * _CPUS_A_RANK
        + config.actor_rollout_ref.rollout.agent.num_workers
        + config.reward.num_workers
        + config.transfer_queue.backend.SimpleStorage.num_data_storage_units
        + _CPUS_BESIDE
    )


def disk(subject: Subject) -> Iterable[Finding]:
    """Room for the checkpoints that this start writes; verl removes none of an earlier start's."""
    trainer = subject.config.trainer
    if subject.shape is None or trainer.save_freq <= 0 or trainer.total_training_steps is None:
        yield note("the checkpoints' size is not known here")
        return
    saved = -(-trainer.total_training_steps // trainer.save_freq)
    most = most_checkpoints(saved, trainer.get("max_actor_ckpt_to_keep"))
    one = checkpoint_gb(subject.shape)
    place = _existing(absolute(subject.config.run_root))
    free = shutil.disk_usage(place).free / GB
    text = f"{most} checkpoint(s) of {one:,.1f} GB, {free:,.0f} GB free at {place}"
    if most * one > free:
        yield warning(
            text, "set trainer.max_actor_ckpt_to_keep, raise trainer.save_freq or move run_root"
        )
    else:
        yield ok(text)


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())
