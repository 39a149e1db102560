"""The judged methods by name: `ropd.method.name` chooses one.

Adding a method: its file in this folder, a line in `METHODS`, `configs/method/<name>.yaml`, and a
template in `prompts/` if it asks a model. `docs/methods.md` walks through it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from algo.errors import ConfigurationError
from algo.judge.engine import Engine, open_engine
from algo.judge.method import Method, TeacherAnswers
from algo.llm.settings import RoleSettings
from algo.ropd.pipeline import Ropd
from algo.ropd.settings import RopdSettings

METHODS: dict[str, type[Method[RopdSettings]]] = {
    method.name: method
    for method in (
        Ropd,
    )
}  # fmt: skip


def load_settings(node: Mapping[str, Any]) -> RopdSettings:
    """The node `ropd`, with its method's own options; raises `ConfigurationError` by key."""
    settings = RopdSettings.from_node(node)
    check_method(settings)
    return settings


def ropd_settings(config: DictConfig) -> RopdSettings:
    """The node `ropd` of a whole configuration, composed or recorded; raises as `load_settings`."""
    node: Any = OmegaConf.to_container(config.ropd, resolve=True)
    return load_settings(node)


def method_of(settings: RopdSettings) -> type[Method[RopdSettings]]:
    """The method that `ropd.method.name` chooses; raises `ConfigurationError`."""
    name = settings.method.name
    if name not in METHODS:
        raise ConfigurationError(f"ropd.method.name={name}: choose one of {', '.join(METHODS)}")
    return METHODS[name]


def check_method(settings: RopdSettings) -> None:
    """Raise `ConfigurationError` unless the method exists and takes the options beside its name."""
    method = method_of(settings)
    settings.method.read(method.options)


def roles_of(settings: RopdSettings) -> Mapping[str, RoleSettings]:
    """The models that the chosen method asks, by role."""
    return method_of(settings).roles(settings)


def build_engine(
    settings: RopdSettings,
    environ: Mapping[str, str],
    teachers: TeacherAnswers | None = None,
) -> Engine:
    """The engine of the chosen method; see `open_engine`."""
    check_method(settings)
    return open_engine(method_of(settings), settings, environ, teachers)
