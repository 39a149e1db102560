"""A run's `config.yaml`: the composed configuration that it was started with.

The file refers to nothing but itself and the environment, so reading it takes neither `configs/`
nor the trainer. Which of its settings are valid is not this module's part.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from algo.errors import ConfigurationError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

CONFIG: Final = "config.yaml"
_ABSENT: Final = object()


def recorded_config(run: Path) -> DictConfig:
    """The configuration of the run in `run`, unresolved; raises `ConfigurationError`."""
    file = run / CONFIG
    if not file.is_file():
        raise ConfigurationError(f"{run} holds no {CONFIG}: name a run's directory")
    try:
        config = OmegaConf.load(file)
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        raise unreadable(file, error) from None
    if not isinstance(config, DictConfig):
        raise ConfigurationError(f"{file} holds no keys: remove or restore it")
    return config


def unreadable(file: Path, error: Exception) -> ConfigurationError:
    return ConfigurationError(f"{file} cannot be read: {_line(error)}: remove or restore it")


def override(config: DictConfig, overrides: Sequence[str]) -> None:
    """Set keys of a recorded configuration, in Hydra's syntax (`key=value`).

    A key below `ropd` may be one that the file does not hold. Raises `ConfigurationError`, also
    where a value of the whole does not resolve afterwards.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        for parsed in OverridesParser.create().parse_overrides(list(overrides)):
            _apply(parsed, config)
        OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigurationError(f"configuration: {_line(error)}") from None


def _apply(parsed: Override, config: DictConfig) -> None:
    key, given = parsed.key_or_group, parsed.input_line
    if parsed.is_delete() or parsed.is_sweep_override() or parsed.package is not None:
        raise ConfigurationError(f"{given}: a recorded configuration takes key=value only")
    is_new = OmegaConf.select(config, key, default=_ABSENT) is _ABSENT
    # `RopdSettings` knows the keys below `ropd`, also those that no file sets.
    may_be_new = parsed.is_add() or parsed.is_force_add() or key.startswith("ropd.")
    if is_new and not may_be_new:
        raise ConfigurationError(
            f"{given}: the run's {CONFIG} has no key {key}; a group of configs/ such as mode=... "
            "is composed already, so name the keys that it sets"
        )
    OmegaConf.update(config, key, parsed.value(), force_add=True)


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
