"""The typed form of the Hydra node `ropd`.

Validated once, at start, by `RopdSettings.from_node`: an unknown key, a wrong type or a
contradiction is one `ConfigurationError` line that names the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from algo.judge.settings import EngineSettings
from algo.llm.settings import Fraction, LimitsSettings, RoleSettings, Settings, validated


class RubricatorSettings(RoleSettings):
    temperature: float | None = Field(default=0.7, ge=0.0)
    """Table A2."""
    max_tokens: int = Field(default=8192, ge=1)


class VerifierSettings(RoleSettings):
    temperature: float | None = Field(default=0.0, ge=0.0)
    """Table A2."""


class JudgeSettings(Settings):
    """The models that judge, and what bounds their requests."""

    rubricator: RubricatorSettings = RubricatorSettings()
    verifier: VerifierSettings = VerifierSettings()
    limits: LimitsSettings = LimitsSettings()


class PromptsSettings(Settings):
    rubricator: Path | None = None
    """`null`: the shipped prompts/rubricator.txt."""
    verifier: Path | None = None
    """`null`: the shipped prompts/verifier.txt."""


class RubricSettings(Settings):
    mode: Literal["shared", "per_student"] = "shared"
    """`shared` is Eq. 2; `per_student` redoes Table 6's "w/o sharing"."""
    min_criteria: int = Field(default=4, ge=1)
    max_criteria: int = Field(default=12, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_criteria < self.min_criteria:
            raise ValueError("max_criteria is below min_criteria: raise it or lower the other")
        return self


class VerificationSettings(Settings):
    mode: Literal["joint_blind", "joint_named", "isolated", "students_only"] = "joint_blind"
    """`joint_blind` is Eq. 3 and section 4.3; `joint_named` redoes Table 6's "w/o blind";
    `isolated` sends one answer a call; `students_only` leaves the teachers out of the pool."""
    seed: int = 0
    """Seeds the shuffle of every group, together with the group's uid."""
    overflow: Literal["cut", "split", "fail"] = "cut"
    """When the prompt exceeds the role's `context_tokens`: `cut` the longest answers in the middle
    (marked), `split` the verifier's answers over several calls (then cut what still exceeds), or
    `fail` the group as context_overflow."""


class ProbesSettings(Settings):
    """Answers that must score low under any judge, sent at start and every so many steps."""

    every_steps: int | None = Field(default=None, ge=1)
    """`null` sends none."""
    max_score: Fraction = 0.2
    action: Literal["warn", "stop"] = "warn"


class RopdSettings(EngineSettings):
    """The node `ropd` of the Hydra configuration."""

    prompts: PromptsSettings = PromptsSettings()
    rubric: RubricSettings = RubricSettings()
    verification: VerificationSettings = VerificationSettings()
    judge: JudgeSettings = JudgeSettings()
    probes: ProbesSettings = ProbesSettings()

    @property
    def limits(self) -> LimitsSettings:
        return self.judge.limits

    @classmethod
    def from_node(cls, node: Mapping[str, Any]) -> RopdSettings:
        """Validate the plain (interpolated) node; raises `ConfigurationError` naming each key."""
        return validated(cls, node, "ropd")
