"""The methods by name: `ropd.method.name` chooses one.

Adding a judged method: its file in this folder, a line in `METHODS`, `configs/method/<name>.yaml`,
and a template in `prompts/` if it asks a model. `docs/methods.md` walks through it. What the
trainer makes itself is a `Signal` in `SIGNALS`, its work in the plugin (`ropd_verl/methods/`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from omegaconf import DictConfig, OmegaConf

from algo.errors import ConfigurationError
from algo.judge.engine import Engine, open_engine
from algo.judge.method import Method, TeacherAnswers
from algo.judge.signal import Signal
from algo.llm.settings import RoleSettings
from algo.methods.ovd import Ovd
from algo.methods.rlvr import Rlvr
from algo.methods.teacher_judge import TeacherJudge
from algo.ropd.pipeline import Ropd
from algo.ropd.settings import RopdSettings

METHODS: dict[str, type[Method[RopdSettings]]] = {
    method.name: method
    for method in (
        Ropd,
        TeacherJudge,
        Ovd,
    )
}
"""Those that ask a judge, and write a journal."""
SIGNALS: dict[str, type[Signal[RopdSettings]]] = {signal.name: signal for signal in (Rlvr,)}
"""Those that do not."""

_OF_ROPD_ALONE: Final[Mapping[str, Any]] = {
    "rubric.mode": "shared",
    "rubric.weights": "stated",
    "verification.mode": "joint_blind",
    "probes.every_steps": None,
    "prompts.rubricator": None,
    "prompts.verifier": None,
}
"""Settings that no other method reads, and the values that ask for nothing."""


def load_settings(node: Mapping[str, Any]) -> RopdSettings:
    """The node `ropd`, with its method's own options; raises `ConfigurationError` by key."""
    settings = RopdSettings.from_node(node)
    check_method(settings)
    return settings


def ropd_settings(config: DictConfig) -> RopdSettings:
    """The node `ropd` of a whole configuration, composed or recorded; raises as `load_settings`."""
    node: Any = OmegaConf.to_container(config.ropd, resolve=True)
    return load_settings(node)


def method_of(settings: RopdSettings) -> type[Signal[RopdSettings]]:
    """The method that `ropd.method.name` chooses, judged or not; raises `ConfigurationError`."""
    name = settings.method.name
    known = {**METHODS, **SIGNALS}
    if name not in known:
        raise ConfigurationError(f"ropd.method.name={name}: choose one of {', '.join(known)}")
    return known[name]


def check_method(settings: RopdSettings) -> None:
    """Raise `ConfigurationError` unless the method exists, takes the options beside its name, and
    reads what was set for ROPD."""
    method = method_of(settings)
    settings.method.read(method.options)
    if method is Ropd:
        return
    for key, unset in _OF_ROPD_ALONE.items():
        node, _, name = key.partition(".")
        if (value := getattr(getattr(settings, node), name)) != unset:
            raise ConfigurationError(
                f"ropd.{key}={value} is a setting of method=ropd, and method={method.name} does "
                "not read it: leave it out, or set method=ropd"
            )


def roles_of(settings: RopdSettings) -> Mapping[str, RoleSettings]:
    """The models that the chosen method asks, by role."""
    return method_of(settings).roles(settings)


def is_judged(settings: RopdSettings) -> bool:
    """Whether the chosen method asks a judge: it has an engine and a journal then."""
    return settings.method.name in METHODS


def build_engine(
    settings: RopdSettings,
    environ: Mapping[str, str],
    teachers: TeacherAnswers | None = None,
) -> Engine:
    """The engine of the chosen method; see `open_engine`."""
    check_method(settings)
    if not is_judged(settings):
        raise ConfigurationError(
            f"ropd.method.name={settings.method.name} asks no judge, so there is no engine: choose "
            f"one of {', '.join(METHODS)}"
        )
    return open_engine(METHODS[settings.method.name], settings, environ, teachers)
