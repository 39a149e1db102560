"""What `ropd teacher build` is told beside its flags, as `key=value` words.

The flags say which teacher answers, for which prompts, and how much of it; these settings say how
it is asked and what bounds the build. A setting that a flag gives, or that only judges have, is an
error here and not a value without effect.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from algo.llm.settings import LimitsSettings, PricesSettings, RoleSettings, Seconds, Settings

_TIMEOUTS_PER_REQUEST = 4
"""A request may take so many timeouts, waits and retries included, before it has failed."""


class TeacherSettings(RoleSettings):
    """How the teacher is asked."""

    api_key_env: str | None = None
    """The NAME of the variable that holds the key; `null`: OPENAI_API_KEY for endpoints of OpenAI
    and Azure, no key for others."""
    max_tokens: int = Field(default=8192, ge=1)
    """Longest answer, thinking included."""
    timeout_s: Seconds | None = 600.0

    @field_validator("model", "base_url")
    @classmethod
    def _given_by_a_flag(cls, value: str | None) -> str | None:
        raise ValueError("give --model and --base-url")

    @field_validator("seed")
    @classmethod
    def _repeats_itself(cls, value: int | None) -> int | None:
        raise ValueError("one seed gives a prompt m equal answers: set seed, without `teacher.`")

    @field_validator("context_tokens", "tokenizer", "structured")
    @classmethod
    def _for_judges(cls, value: Any) -> Any:
        raise ValueError("has no effect on a teacher: leave it out")

    @field_validator("prices")
    @classmethod
    def _without_cache(cls, value: PricesSettings) -> PricesSettings:
        if "cached" in value.model_fields_set:
            raise ValueError("a build is priced as if nothing came from a cache: leave out cached")
        return value


class BuildLimitsSettings(LimitsSettings):
    @field_validator("concurrency", "max_concurrency")
    @classmethod
    def _given_by_a_flag(cls, value: int) -> int:
        raise ValueError("give --concurrency")


class BatchSettings(Settings):
    """`--backend batch`."""

    poll_s: float = Field(default=60.0, ge=0.1)
    """Seconds between looks at a batch."""


class VllmSettings(Settings):
    """`--backend vllm`."""

    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs that one engine takes."""
    replicas: int = Field(default=1, ge=1)
    """Most engines on the cluster."""
    max_model_len: int | None = Field(default=None, ge=1)
    """Prompt and answer together; `null`: what the model can, if the GPUs hold as much."""


class TeacherBuildSettings(Settings):
    teacher: TeacherSettings = TeacherSettings()
    limits: BuildLimitsSettings = BuildLimitsSettings()
    batch: BatchSettings = BatchSettings()
    vllm: VllmSettings = VllmSettings()
    system: str | None = None
    """System message for the teacher, in place of the prompt's own."""
    seed: int | None = None
    """seed + k is sent with the k-th attempt at a prompt; `null` sends none."""
    retries: int = Field(default=2, ge=0)
    """More attempts at a prompt after answers that were cut off, refused or empty."""
    prompt_key: str = "prompt"
    """Column of the chat messages, as data.prompt_key of training."""
    budget_tokens: int | None = Field(default=None, ge=1)
    """Most tokens to use; the build stops before it."""

    def request_limits(self, concurrency: int) -> LimitsSettings:
        """The scheduler's limits when `concurrency` requests are in flight."""
        chosen: dict[str, Any] = {"concurrency": concurrency, "max_concurrency": concurrency}
        if "stage_deadline_s" not in self.limits.model_fields_set:
            chosen["stage_deadline_s"] = _TIMEOUTS_PER_REQUEST * self.teacher.attempt_s
        return self.limits.model_copy(update=chosen)
