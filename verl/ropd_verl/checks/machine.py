"""The machine: packages, GPUs and their memory, Ray's CPUs, disk."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from omegaconf import DictConfig

from algo.ropd.errors import ConfigurationError
from ropd_verl.checks.finding import Finding, Subject, note, ok, warning
from ropd_verl.checks.memory import GB, checkpoint_gb, training_memory
from ropd_verl.config import absolute

VERL = "0.9.1"

# Ray CPUs that verl's actors hold at least: a rank's placement bundle, and one for each actor
# beside the ranks (task runner, TransferQueue's controller).
_CPUS_A_RANK = 3
_CPUS_BESIDE = 4

# A GPU with more than this in use (MB) is not free: a driver's own share is a few hundred.
_BUSY_MB = 2000


def environment(subject: Subject) -> Iterable[Finding]:
    """verl's version, and the optional packages that this configuration asks for."""
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
    if model.lora_rank > 0:
        yield ("peft", "adapter=lora", "pip install peft, or adapter=full")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(none)"


@dataclass(frozen=True)
class Gpu:
    """One GPU as nvidia-smi shows it; MB."""

    name: str
    total_mb: float
    used_mb: float


def gpus() -> list[Gpu]:
    """The GPUs of this machine that the run may use; none without a driver.

    Asked of nvidia-smi: asking CUDA would leave a context of this process on every GPU.
    """
    query = ["nvidia-smi", "--query-gpu=name,memory.total,memory.used"]
    try:
        asked = subprocess.run(
            [*query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [line.split(",") for line in asked.stdout.splitlines() if line.count(",") == 2]
    found = [Gpu(name.strip(), float(total), float(used)) for name, total, used in rows]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return found if visible is None else found[: len([v for v in visible.split(",") if v.strip()])]


def graphics(subject: Subject) -> Iterable[Finding]:
    """As many GPUs as the run takes, free, and large enough for what it reckons with."""
    if subject.on_cpu:
        return
    wanted = subject.train_ranks + subject.rollout_ranks
    if subject.on_cluster:
        yield note(f"the run joins a Ray cluster; its {wanted} GPUs are not looked at from here")
        return
    seen = gpus()
    if len(seen) < wanted:
        raise ConfigurationError(
            f"{len(seen)} GPU(s) here and the run takes {wanted}: choose hardware=..., set "
            "trainer.n_gpus_per_node, or join a Ray cluster of more nodes by RAY_ADDRESS"
        )
    busy = [gpu for gpu in seen[:wanted] if gpu.used_mb > _BUSY_MB]
    if busy:
        most = max(gpu.used_mb for gpu in busy) / 1000
        yield warning(
            f"{len(busy)} of {wanted} GPUs have up to {most:.0f} GB in use",
            "end what runs on them, or choose others by CUDA_VISIBLE_DEVICES",
        )
    yield ok(f"{len(seen)} x {seen[0].name}")
    yield from memory(subject, min(gpu.total_mb for gpu in seen[:wanted]) * 1.048576e6 / GB)


def memory(subject: Subject, gpu_gb: float) -> Iterable[Finding]:
    """Reckoned GB of the two phases against one GPU's."""
    if subject.shape is None:
        yield note("the student's size is not known here, so its memory is not reckoned")
        return
    config = subject.config.actor_rollout_ref
    shape = replace(subject.shape, trained=_trained(subject))
    need = training_memory(
        shape,
        ranks=subject.train_ranks,
        micro_batch_tokens=config.actor.ppo_max_token_len_per_gpu,
        param_offload=config.actor.fsdp_config.param_offload,
        optimizer_offload=config.actor.fsdp_config.optimizer_offload,
        gradient_checkpointing=config.model.enable_gradient_checkpointing,
    )
    rollout = config.rollout.gpu_memory_utilization * gpu_gb
    generating = need.state + rollout
    text = (
        f"at least {need.update:.0f} GB to update, {generating:.0f} GB to generate (vLLM "
        f"{rollout:.0f}) of {gpu_gb:.0f} GB a GPU; {need.host:.0f} GB of host memory a GPU"
    )
    if max(need.update, generating) > gpu_gb:
        yield warning(
            text,
            "set actor_rollout_ref.actor.fsdp_config.{param,optimizer}_offload=true, lower "
            "ppo_max_token_len_per_gpu or rollout.gpu_memory_utilization, or adapter=lora",
        )
    else:
        yield ok(text)


def _trained(subject: Subject) -> int | None:
    """Parameters with gradients; LoRA's are few enough to leave out of a lower bound."""
    return 0 if subject.config.actor_rollout_ref.model.lora_rank > 0 else None


def ray_cpus(subject: Subject) -> Iterable[Finding]:
    check_ray_cpus(subject.config)
    yield ok("Ray has a CPU for every actor")


def check_ray_cpus(config: DictConfig) -> None:
    """A local Ray has CPUs for every actor; verl's trainer would wait for them without a word."""
    ray_init = config.ray_kwargs.get("ray_init") or {}
    if ray_init.get("address") or os.environ.get("RAY_ADDRESS"):
        return  # the cluster's own resources count, and Ray reports what it lacks there
    have = ray_init.get("num_cpus") or os.cpu_count() or 1
    ranks = config.trainer.n_gpus_per_node * config.trainer.nnodes
    if config.trainer.v1.trainer_mode == "separate_async":
        rollout = config.actor_rollout_ref.rollout
        ranks += rollout.nnodes * rollout.n_gpus_per_node
    need = (
        ranks * _CPUS_A_RANK
        + config.actor_rollout_ref.rollout.agent.num_workers
        + config.reward.num_workers
        + config.transfer_queue.backend.SimpleStorage.num_data_storage_units
        + _CPUS_BESIDE
    )
    if have < need:
        raise ConfigurationError(
            f"Ray would have {have} CPUs and the run's actors ask for {need}: set "
            f"ray_kwargs.ray_init.num_cpus={need} (logical CPUs; they may exceed the machine's) or "
            "lower actor_rollout_ref.rollout.agent.num_workers"
        )


def disk(subject: Subject) -> Iterable[Finding]:
    """Room for the checkpoints that the run keeps."""
    trainer = subject.config.trainer
    if subject.shape is None or trainer.save_freq <= 0 or trainer.total_training_steps is None:
        yield note("the checkpoints' size is not known here")
        return
    saved = -(-trainer.total_training_steps // trainer.save_freq)
    kept = min(saved, trainer.get("max_actor_ckpt_to_keep") or saved)
    one = checkpoint_gb(subject.shape)
    place = _existing(absolute(subject.config.run_root))
    free = shutil.disk_usage(place).free / GB
    text = f"{kept} checkpoint(s) of {one:,.1f} GB, {free:,.0f} GB free at {place}"
    # One more is written before the oldest goes.
    if (kept + (kept < saved)) * one > free:
        yield warning(
            text, "set trainer.max_actor_ckpt_to_keep, raise trainer.save_freq or move run_root"
        )
    else:
        yield ok(text)


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())
