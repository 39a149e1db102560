"""What a check is, what it looks at and what it says.

A check is a function of a `Subject`. It raises `ConfigurationError` for what the run cannot start
with, and returns `Finding`s for everything else. Checks print nothing and change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from functools import cached_property
from typing import Any

from omegaconf import DictConfig, OmegaConf

from algo.methods.registry import ropd_settings
from algo.ropd.settings import RopdSettings
from ropd_verl import ray_cluster
from ropd_verl.checks.shape import Shape, local_shape


class Level(StrEnum):
    OK = "ok"
    NOTE = "note"
    """Not checked, and why."""
    WARNING = "warning"
    """The run starts, and may not end well."""
    ERROR = "error"
    """The run would not start, or would wait for ever."""


class Reach(IntEnum):
    """What a check needs, from little to much."""

    STATIC = 0
    """The configuration alone."""
    MACHINE = 1
    """The machine the run is to start on, and its files."""
    NETWORK = 2
    """The model hub and the judge."""


@dataclass(frozen=True)
class Finding:
    """One line: what was found, why it matters and the fix, as far as there is something to fix."""

    level: Level
    what: str
    fix: str = ""

    def line(self, check: str, why: str) -> str:
        text = f"{self.what}; {self.fix}" if self.fix else self.what
        reason = f" ({why})" if self.level in (Level.WARNING, Level.ERROR) else ""
        return f"{self.level.value:<8} {check}: {text}{reason}"


def ok(what: str) -> Finding:
    return Finding(Level.OK, what)


def note(what: str, fix: str = "") -> Finding:
    return Finding(Level.NOTE, what, fix)


def warning(what: str, fix: str) -> Finding:
    return Finding(Level.WARNING, what, fix)


@dataclass(frozen=True)
class Subject:
    """A composed configuration and the environment it would run in."""

    config: DictConfig
    environ: Mapping[str, str]

    @cached_property
    def settings(self) -> RopdSettings:
        """The node ``ropd``, validated; raises `ConfigurationError`."""
        return ropd_settings(self.config)

    @property
    def on_cpu(self) -> bool:
        return self.select("trainer.device") == "cpu"

    @property
    def mode(self) -> str:
        return self.config.trainer.v1.trainer_mode

    @property
    def on_cluster(self) -> bool:
        """Whether the run joins a Ray cluster that is running already."""
        return ray_cluster.address(self.config, self.environ) is not None

    @property
    def makes_its_inputs(self) -> bool:
        """Whether an example prepares student, data, index and judge at the start."""
        return self.config.get("example") is not None

    @property
    def train_ranks(self) -> int:
        return self.config.trainer.nnodes * self.config.trainer.n_gpus_per_node

    @property
    def nodes(self) -> int:
        """Nodes that train or generate."""
        nodes = self.config.trainer.nnodes
        if self.mode != "separate_async":
            return nodes
        return nodes + self.config.actor_rollout_ref.rollout.nnodes

    @property
    def rollout_ranks(self) -> int:
        """GPUs that only generate (mode=separate_async)."""
        if self.mode != "separate_async":
            return 0
        rollout = self.config.actor_rollout_ref.rollout
        return rollout.nnodes * rollout.n_gpus_per_node

    @property
    def sequence_tokens(self) -> int:
        """The longest sequence: prompt and response."""
        return self.config.data.max_prompt_length + self.config.data.max_response_length

    def sequence_ranks(self, role: str = "actor") -> int:
        """GPUs that share each sequence (Ulysses); verl lets its deprecated key win."""
        node = self.config.actor_rollout_ref[role]
        deprecated = node.get("ulysses_sequence_parallel_size", 1)
        live = node.fsdp_config.get("ulysses_sequence_parallel_size", 1)
        return deprecated if deprecated > 1 else live

    @property
    def shape(self) -> Shape | None:
        """The student's size, if its configuration lies on this machine (hub cache included).

        Asked anew each time: the check `student` may have fetched it in between.
        """
        model = self.config.actor_rollout_ref.model
        shape = local_shape(model.path)
        return None if shape is None else shape.with_lora(model.lora_rank)

    def select(self, key: str) -> Any:
        return OmegaConf.select(self.config, key)


@dataclass(frozen=True)
class Check:
    """A check's name, why its subject matters, and what it needs."""

    name: str
    why: str
    reach: Reach
    run: Callable[[Subject], Iterable[Finding]]
    at_start: bool = True
    """Whether a start of the trainer runs it too."""
    needs_verl: bool = False
    """Whether it reads verl's own keys or code, or torch and transformers, which come with verl."""
