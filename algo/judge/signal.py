"""What a run has to know of the method that it trains by, whoever makes the signal.

A `Method` (`method.py`) has a judge; for what the trainer makes itself, such as a reward by ground
truth, a `Signal` is all that stands under `algo/`, and the rest is the plugin's. What a signal does
not name here is not opened, checked, served or required.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from algo.judge.plan import StageCalls, Workload
from algo.judge.settings import EngineSettings
from algo.llm.settings import RoleSettings, Settings

SettingsT = TypeVar("SettingsT", bound=EngineSettings)


class Signal(ABC, Generic[SettingsT]):
    """What `ropd.method.name` chooses; never instantiated but as a `Method`."""

    name: ClassVar[str]
    """Stands in `ropd.method.name`, in the registry and in every record."""
    about: ClassVar[str] = ""
    """What the student learns from, in one sentence with its source, for a model card."""
    options: ClassVar[type[Settings]] = Settings
    """The type of the keys beside `ropd.method.name`, which `settings.method.read(options)` gives;
    the base takes none."""
    metrics: ClassVar[Mapping[str, str]] = {}
    """What the method itself reports: name under `ropd/`, and what it says."""

    @classmethod
    def roles(cls, settings: SettingsT) -> Mapping[str, RoleSettings]:
        """The models that are asked, by role: nothing else is resolved, tried or required."""
        return {}

    @classmethod
    def needs_teachers(cls, settings: SettingsT) -> bool:
        """Whether stored teacher answers are used; the teacher index is opened and checked then."""
        return False

    @classmethod
    def needs_ground_truth(cls, settings: SettingsT) -> bool:
        """Whether every training prompt must have a right answer that `algo/grading` can check."""
        return False

    @classmethod
    def summary(cls, settings: SettingsT) -> str:
        """How the method is set, on one line, for whoever starts a run."""
        roles = cls.roles(settings)
        asked = f"asks {' and '.join(roles)}" if roles else "asks no judge"
        m = settings.teacher_answers
        return f"{asked}, m={m} teacher answers" if cls.needs_teachers(settings) else asked

    @classmethod
    def stages(cls, settings: SettingsT, load: Workload) -> Sequence[StageCalls] | None:
        """What one group asks of its roles, stage after stage; `None` where a method does not say.

        Without retries, and without what a prompt cache saves.
        """
        return None if cls.roles(settings) else ()


AnySignal = type[Signal[Any]]
