"""What is checked before Ray starts, so that wrong input is one line and not a stack trace.

Each check raises `ConfigurationError` with the setting and the fix. Checks run from cheap to
dear; the judge is asked last.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf
from pyarrow import ArrowException

from algo.ropd.errors import ConfigurationError, TeacherIndexError
from algo.ropd.preflight import check_judge
from algo.ropd.settings import RopdSettings
from algo.ropd.teacher_coverage import require_answers
from ropd_verl.config import absolute

TRAIN_COLUMNS = ("prompt", "data_source")
VAL_COLUMNS = ("prompt", "data_source", "reward_model")

# Ray CPUs that verl's actors hold at least: a rank's placement bundle, and one for each actor
# beside the ranks (task runner, TransferQueue's controller).
_CPUS_A_RANK = 3
_CPUS_BESIDE = 4


def check(config: DictConfig, environ: Mapping[str, str]) -> None:
    """Run every check.

    Raises:
        ConfigurationError: the first thing found wrong.
    """
    settings = ropd_settings(config)
    check_model(config.actor_rollout_ref.model.path)
    train = check_data(config.data.train_files, "data.train_files", TRAIN_COLUMNS)
    if config.trainer.val_before_train or config.trainer.test_freq > 0:
        check_data(config.data.val_files, "data.val_files", VAL_COLUMNS)
    check_ray_cpus(config)
    check_teacher_index(settings, train, config.data.prompt_key)
    for line in asyncio.run(check_judge(settings.judge, environ)):
        print(line)


def ropd_settings(config: DictConfig) -> RopdSettings:
    """The node ``ropd``, validated."""
    node = OmegaConf.to_container(config.ropd, resolve=True)
    return RopdSettings.from_node(node)  # pyright: ignore[reportArgumentType]


def check_model(path: str) -> None:
    """The student's configuration and tokenizer load, and the tokenizer knows how to chat."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        AutoConfig.from_pretrained(path)
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"actor_rollout_ref.model.path={path}: {_one_line(error)}; give a directory in "
            "Hugging Face format or a hub name that this machine can reach"
        ) from None
    if not tokenizer.chat_template:
        raise ConfigurationError(
            f"actor_rollout_ref.model.path={path}: its tokenizer has no chat template; set "
            "actor_rollout_ref.model.custom_chat_template"
        )


def check_data(files: str | Iterable[str] | None, key: str, columns: Iterable[str]) -> list[Path]:
    """Every file is there, is parquet, has rows and the columns that verl reads."""
    if files is None:
        raise ConfigurationError(f"{key} is not set: name a parquet file, or a list of them")
    paths = [absolute(f) for f in ([files] if isinstance(files, str) else files)]
    for path in paths:
        if not path.is_file():
            raise ConfigurationError(f"{key}={path}: no such file; make it or correct {key}")
        try:
            header = pq.ParquetFile(path)
        except (ArrowException, OSError) as error:
            raise ConfigurationError(
                f"{key}={path}: not a parquet file ({_one_line(error)})"
            ) from None
        missing = [c for c in columns if c not in header.schema_arrow.names]
        if missing:
            raise ConfigurationError(
                f"{key}={path}: column {', '.join(missing)} is missing (found: "
                f"{', '.join(header.schema_arrow.names)}); `ropd data prepare` writes them"
            )
        if header.metadata.num_rows == 0:
            raise ConfigurationError(f"{key}={path}: the file has no rows")
    return paths


def check_ray_cpus(config: DictConfig) -> None:
    """A local Ray has CPUs for every actor; verl's trainer would wait for them without a word."""
    ray_init = config.ray_kwargs.get("ray_init") or {}
    if ray_init.get("address") or os.environ.get("RAY_ADDRESS"):
        return  # the cluster's own resources count, and Ray reports what it lacks there
    have = ray_init.get("num_cpus") or os.cpu_count() or 1
    ranks = config.trainer.n_gpus_per_node * config.trainer.nnodes
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


def check_teacher_index(
    settings: RopdSettings, train_files: list[Path], prompt_key: str = "prompt"
) -> None:
    """The index holds m usable answers for every training prompt."""
    if settings.teacher_index is None:
        raise ConfigurationError(
            "ropd.teacher_index is not set: build one with `ropd teacher build` and give its path"
        )
    try:
        require_answers(
            absolute(settings.teacher_index), train_files, settings.teacher_answers, prompt_key
        )
    except TeacherIndexError as error:
        raise ConfigurationError(f"ropd.teacher_index: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
