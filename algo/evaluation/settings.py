"""What `ropd eval run` is told beside its flags, as `key=value` words."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from algo.llm.settings import LimitsSettings, RoleSettings, Settings

_TIMEOUTS_PER_REQUEST = 4
"""A request may take so many timeouts, waits and retries included, before it has failed."""


class ModelSettings(RoleSettings):
    """How the evaluated model is asked: the paper's sampling by default (§4.1: T = 1.0, top-p 0.95,
    32,768 tokens)."""

    api_key_env: str | None = None
    """The NAME of the variable that holds the key; `null` for an endpoint that asks for none."""
    temperature: float | None = Field(default=1.0, ge=0.0)
    """`null` leaves the endpoint's default."""
    top_p: float | None = Field(default=0.95, gt=0.0, le=1.0)
    """Nucleus sampling."""
    max_tokens: int = Field(default=32_768, ge=1)
    """Longest answer, thinking included."""

    @field_validator("model", "base_url")
    @classmethod
    def _given_by_a_flag(cls, value: str | None) -> str | None:
        raise ValueError("give --model and --base-url")

    @field_validator("seed")
    @classmethod
    def _repeats_itself(cls, value: int | None) -> int | None:
        raise ValueError("one seed gives equal samples: set seed, without `model.`")

    @field_validator("context_tokens", "tokenizer", "structured")
    @classmethod
    def _for_judges(cls, value: Any) -> Any:
        raise ValueError("has no effect on an evaluated model: leave it out")


class EvaluationLimitsSettings(LimitsSettings):
    @field_validator("concurrency", "max_concurrency")
    @classmethod
    def _given_by_a_flag(cls, value: int) -> int:
        raise ValueError("give --concurrency")


class GraderSettings(RoleSettings):
    """How the grader of HealthBench replies is asked."""

    api_key_env: str | None = None
    """The NAME of the variable that holds the key; `null` for an endpoint that asks for none."""
    temperature: float | None = Field(default=0.0, ge=0.0)
    """`null` leaves the endpoint's default."""

    @field_validator("model", "base_url")
    @classmethod
    def _given_by_a_flag(cls, value: str | None) -> str | None:
        raise ValueError("give --model and --base-url")


class JudgingSettings(Settings):
    """What `ropd eval judge` is told beside its flags."""

    grader: GraderSettings = GraderSettings()
    limits: EvaluationLimitsSettings = EvaluationLimitsSettings()


class EvaluationSettings(Settings):
    model: ModelSettings = ModelSettings()
    limits: EvaluationLimitsSettings = EvaluationLimitsSettings()
    seed: int | None = None
    """seed + n is sent with a problem's n-th sample; `null` sends none."""
    budget_tokens: int | None = Field(default=None, ge=1)
    """Most tokens that one call of the command may use; it stops before it."""

    def request_limits(self, concurrency: int) -> LimitsSettings:
        """The scheduler's limits when `concurrency` requests are in flight."""
        chosen: dict[str, Any] = {"concurrency": concurrency, "max_concurrency": concurrency}
        if "stage_deadline_s" not in self.limits.model_fields_set:
            chosen["stage_deadline_s"] = _TIMEOUTS_PER_REQUEST * self.model.attempt_s
        return self.limits.model_copy(update=chosen)
