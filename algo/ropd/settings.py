"""The typed form of the Hydra node `ropd`.

Validated once, at start, by `RopdSettings.from_node`: an unknown key, a wrong type or a
contradiction is one `ConfigurationError` line that names the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from algo.judge.settings import BudgetSettings, EngineSettings
from algo.llm.settings import Fraction, LimitsSettings, RoleSettings, Settings, validated


class RubricatorSettings(RoleSettings):
    """The model that writes rubrics (Eq. 2)."""

    temperature: float | None = Field(default=0.7, ge=0.0)
    """Table A2. `null` leaves the endpoint's default, as for every sampling key below."""
    max_tokens: int = Field(default=8192, ge=1)
    """Most tokens of a reply, thinking included."""


class VerifierSettings(RoleSettings):
    """The model that decides criteria (Eq. 3)."""

    temperature: float | None = Field(default=0.0, ge=0.0)
    """Table A2. `null` leaves the endpoint's default, as for every sampling key below."""


class JudgeSettings(Settings):
    """The models that judge, and what bounds their requests."""

    rubricator: RubricatorSettings = RubricatorSettings()
    verifier: VerifierSettings = VerifierSettings()
    limits: LimitsSettings = LimitsSettings()
    budget: BudgetSettings = BudgetSettings()


class PromptsSettings(Settings):
    """Templates of your own; each must hold the shipped one's placeholders."""

    rubricator: Path | None = None
    """`null`: the shipped prompts/rubricator.txt."""
    verifier: Path | None = None
    """`null`: the shipped prompts/verifier.txt."""


class RubricSettings(Settings):
    """What a rubric is for, and how long it is."""

    mode: Literal["shared", "per_student"] = "shared"
    """`shared` is Eq. 2; `per_student` redoes Table 6's "w/o sharing"."""
    weights: Literal["stated", "equal"] = "stated"
    """`stated` is Eq. 4's w_k, as the Rubricator gives them; `equal` counts every criterion as 1,
    an ablation that the paper lacks. The Rubricator is asked the same either way."""
    min_criteria: int = Field(default=4, ge=1)
    """Fewest criteria of a rubric (K, Table A2); a reply with fewer is invalid."""
    max_criteria: int = Field(default=12, ge=1)
    """Most criteria of a rubric (K, Table A2); a reply with more is invalid."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_criteria < self.min_criteria:
            raise ValueError("max_criteria is below min_criteria: raise it or lower the other")
        return self


class VerificationSettings(Settings):
    """Who is verified beside whom, in which order, and what happens to what does not fit."""

    mode: Literal["joint_blind", "joint_named", "isolated", "students_only"] = "joint_blind"
    """`joint_blind` is Eq. 3 and section 4.3; `joint_named` redoes Table 6's "w/o blind";
    `isolated` sends one answer a call; `students_only` leaves the teachers out of the pool."""
    seed: int = 0
    """Seeds the shuffle of every group, together with its prompt and how often that was judged
    before: one seed gives one order, whatever the order in which groups arrive."""
    overflow: Literal["cut", "split", "fail"] = "cut"
    """When the prompt exceeds the role's `context_tokens`: `cut` all answers in the middle, each by
    the same share (marked), `split` the rollouts over several verifier calls that all show the
    teachers (then cut what still exceeds), or `fail` the group as context_overflow."""


class ProbesSettings(Settings):
    """Answers that must score low under any judge, sent at start and every so many steps."""

    every_steps: int | None = Field(default=None, ge=1)
    """`null` sends none."""
    max_score: Fraction = 0.2
    """A probe that scores above this has fooled the judge."""
    action: Literal["warn", "stop"] = "warn"
    """What follows then: a warning in the log, or the end of the run."""


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

    @property
    def budget(self) -> BudgetSettings:
        return self.judge.budget

    @classmethod
    def from_node(cls, node: Mapping[str, Any]) -> RopdSettings:
        """Validate the plain (interpolated) node; raises `ConfigurationError` naming each key."""
        return validated(cls, node, "ropd")
