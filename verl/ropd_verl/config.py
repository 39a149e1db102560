"""From command line to composed configuration.

Hydra composes it from `configs/` over verl's own defaults, or over a stand-in where verl is not
installed; a mistake in an override becomes one line. This module starts nothing and reads no
environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from algo.errors import ConfigurationError
from algo.methods.registry import load_settings, method_of, roles_of, ropd_settings
from algo.paths import shipped
from algo.ropd.pipeline import Ropd
from ropd_verl.installation import verl_folder

CONFIG_DIR = shipped("configs")
_STAND_IN = Path(__file__).with_name("without_verl")

KEY_LINES = (
    "actor_rollout_ref.model.path",
    "data.train_files",
    "data.val_files",
    "data.train_batch_size",
    "data.max_prompt_length",
    "data.max_response_length",
    "actor_rollout_ref.rollout.name",
    "actor_rollout_ref.rollout.n",
    "actor_rollout_ref.rollout.temperature",
    "actor_rollout_ref.actor.optim.lr",
    "actor_rollout_ref.actor.ppo_mini_batch_size",
    "actor_rollout_ref.actor.loss_agg_mode",
    "algorithm.norm_adv_by_std_in_grpo",
    "ropd.method.name",
    "ropd.teacher_index",
    "ropd.teacher_answers",
    "ropd.rubric.mode",
    "ropd.verification.mode",
    "ropd.judge.rubricator.model",
    "ropd.judge.rubricator.base_url",
    "ropd.judge.verifier.model",
    "ropd.judge.verifier.base_url",
    "trainer.device",
    "trainer.nnodes",
    "trainer.n_gpus_per_node",
    "trainer.v1.trainer_mode",
    "trainer.total_epochs",
    "trainer.total_training_steps",
    "trainer.logger",
    "run_root",
)
"""What a dry run shows."""


def compose_config(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose ``configs/<config_name>.yaml`` with Hydra overrides.

    Keys below ``ropd`` need no ``+`` where no file sets them: `RopdSettings` knows them all.
    Without verl the configuration lacks verl's own keys, and an override of one of them is taken as
    it is; what needs them calls `require_verl` first.

    Raises:
        ConfigurationError: unknown configuration, unknown key, bad syntax, bad value.
    """
    name = config_name.removesuffix(".yaml")
    if not (CONFIG_DIR / f"{name}.yaml").is_file():
        available = ", ".join(sorted(p.stem for p in CONFIG_DIR.glob("*.yaml")))
        raise ConfigurationError(f"--config-name {config_name}: choose one of {available}")
    verl = verl_folder()
    defaults = _STAND_IN if verl is None else verl / "trainer" / "config"
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            config = compose(
                name,
                # Quoted: the path may hold spaces.
                overrides=[
                    f"hydra.searchpath=['file://{defaults}']",
                    *(_settable(override, any_key=verl is None) for override in overrides),
                ],
            )
        resolved: Any = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigurationError(f"configuration: {_first_lines(error)}") from None
    load_settings(resolved["ropd"])
    return config


def _settable(override: str, *, any_key: bool) -> str:
    """The override with a ``++`` where its key may be one that no file sets."""
    if override.startswith("ropd."):
        return f"++{override}"
    key = override.partition("=")[0]
    is_value = key[:1] not in ("+", "~") and not (CONFIG_DIR / key).is_dir()
    return f"++{override}" if any_key and is_value else override


def _first_lines(error: Exception) -> str:
    """Hydra's message without its advice paragraphs, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])


def key_lines(config: DictConfig) -> list[str]:
    """``key: value`` for the settings that matter most to the chosen method, resolved."""
    settings = ropd_settings(config)
    method, asked = method_of(settings), roles_of(settings)

    def is_read(key: str) -> bool:
        match key.split("."):
            case ["ropd", "judge", role, _]:
                return role in asked
            case ["ropd", "teacher_index" | "teacher_answers"]:
                return method.needs_teachers(settings)
            case ["ropd", "rubric" | "verification", _]:
                return method is Ropd
        return True

    return [f"{k}: {_shown(OmegaConf.select(config, k))}" for k in KEY_LINES if is_read(k)]


def _shown(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
