"""How a model is asked and how hard an endpoint is pushed: frozen values, validated once.

An unknown key, a wrong type or a contradiction is an error when the settings are made. This module
reads no environment variable and no file; `algo/openai_env.py` fills what a role leaves `null` from
the environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from algo.errors import ConfigurationError

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Seconds = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]

_ATTEMPT_S = 120.0
# 34: the pace that the defaults of both stand for, a judge under load, one of many requests.
_TOKENS_PER_S = 4096 / _ATTEMPT_S
_STAGE_S = 600.0
_ATTEMPTS_PER_STAGE = 5


class Settings(BaseModel):
    """The base of every node: frozen, and strict about its keys.

    The string under a field is its description; docs/reference.md is made of them.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), use_attribute_docstrings=True
    )


AnySettings = TypeVar("AnySettings", bound=BaseModel)


def validated(kind: type[AnySettings], node: Mapping[str, Any], name: str = "") -> AnySettings:
    """The settings in a plain node; raises `ConfigurationError` naming each wrong key.

    `name` is how the node is called; keys of the node `""` stand alone.
    """
    try:
        return kind.model_validate(dict(node))
    except ValidationError as error:
        raise ConfigurationError(one_line(error, name)) from None


def one_line(error: ValidationError, name: str) -> str:
    """Every fault that pydantic found in the node, by key, on one line."""
    faults = []
    for fault in error.errors(include_url=False):
        key = ".".join([*filter(None, [name]), *(str(part) for part in fault["loc"])])
        if fault["type"] == "extra_forbidden":
            faults.append(f"{key}: no such setting")
        else:
            faults.append(f"{key}={fault['input']!r}: {fault['msg']}")
    return "; ".join(faults)


class PricesSettings(Settings):
    """What a million tokens cost, in any one currency."""

    input: float = Field(default=0.0, ge=0.0)
    """Prompt tokens that the endpoint had to read anew."""
    cached: float = Field(default=0.0, ge=0.0)
    """Prompt tokens that the endpoint reports as served from its cache."""
    output: float = Field(default=0.0, ge=0.0)
    """Tokens of a reply, thinking included."""

    def cost(self, fresh: float, cached: float, written: float) -> float:
        """Of so many prompt tokens read anew and from the cache, and tokens of replies."""
        return (fresh * self.input + cached * self.cached + written * self.output) / 1e6


class RoleSettings(Settings):
    """One LLM role: which endpoint answers for it, and how it is asked."""

    model: str | None = None
    """`null`: the environment's `ROPD_<ROLE>_MODEL`."""
    base_url: str | None = None
    """Up to and including `/v1`. `null`: the environment's `OPENAI_BASE_URL`, else OpenAI's own."""
    api_key_env: str | None = "OPENAI_API_KEY"
    """The NAME of the variable that holds the key; `null` for an endpoint that asks for none."""
    api: Literal["chat_completions", "responses"] = "chat_completions"
    """`responses` for models that are served that way only."""
    temperature: float | None = Field(default=None, ge=0.0)
    """`null` leaves the endpoint's default, as for every sampling key below."""
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    """Nucleus sampling."""
    seed: int | None = None
    """InFlight with each request."""
    reasoning_effort: str | None = None
    """How much a reasoning model thinks, in the endpoint's own words, such as `low`."""
    max_tokens: int = Field(default=4096, ge=1)
    """Most tokens of a reply, thinking included."""
    max_tokens_key: Literal["auto", "max_tokens", "max_completion_tokens"] = "auto"
    """What a chat completion calls this limit; `auto`: the newer name at OpenAI and Azure alone."""
    timeout_s: Seconds | None = None
    """For one attempt, from sending to the reply's last byte. `null`: 120 s, or as long as
    `max_tokens` take at 34 tokens a second where that is longer."""
    context_tokens: int | None = Field(default=None, ge=1)
    """The model's context window; `null` sends any length and lets the endpoint refuse it."""
    tokenizer: str | None = None
    """The model's tokenizer.json (or its folder): counts tokens, and says what are control tokens
    in an answer. `null` estimates high and goes by a list of such tokens."""
    structured: Literal["auto", "json_schema", "text"] = "auto"
    """`auto` asks under a JSON schema, and for text once the endpoint names it as refused."""
    extra_body: dict[str, Any] = {}
    """Further keys of the request's body, such as vLLM's `chat_template_kwargs`."""
    prices: PricesSettings = PricesSettings()

    @field_validator("extra_body")
    @classmethod
    def _is_no_stream(cls, extra_body: dict[str, Any]) -> dict[str, Any]:
        if "stream" in extra_body:
            raise ValueError("stream is always false, since a reply is read whole: leave it out")
        return extra_body

    @property
    def attempt_s(self) -> float:
        """What bounds one attempt."""
        if self.timeout_s is not None:
            return self.timeout_s
        return max(_ATTEMPT_S, self.max_tokens / _TOKENS_PER_S)


class RetriesSettings(Settings):
    """How often one request is tried again, by the kind of failure.

    Whose a failure is, the trial request decides (the smallest one, as before the run): while the
    endpoint cannot answer that either, requests wait, up to `outage_s`, and are charged nothing.
    """

    transport: int = Field(default=6, ge=0)
    """A connection refused or reset, a 5xx, half a body."""
    rate_limit: int = Field(default=12, ge=0)
    """HTTP 429."""
    timeout: int = Field(default=2, ge=0)
    """No complete reply within `timeout_s`."""
    refusal: int = Field(default=1, ge=0)
    """The model declined, or a content filter did."""
    truncated: int = Field(default=2, ge=0)
    """The reply stopped at `max_tokens` before its JSON was complete."""
    unparseable: int = Field(default=2, ge=0)
    """The reply holds no JSON object. The next request tells the model what was wrong, as for
    `truncated` and `invalid`."""
    invalid: int = Field(default=2, ge=0)
    """The reply's JSON breaks its schema."""


class LimitsSettings(Settings):
    """One limiter for all roles of a process."""

    concurrency: int = Field(default=64, ge=1)
    """Requests in flight to one URL at the start, whatever models they ask."""
    max_concurrency: int = Field(default=256, ge=1)
    """The limit grows up to here, within tenths of a second while nothing is refused; on 429 it
    falls to what the endpoint takes, and shrinks on timeouts."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    """Over all roles; `null` is no limit."""
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Prompt and reply over all roles; what a reply really used is charged. `null` is no limit."""
    queue: int = Field(default=20_000, ge=1)
    """Most requests waiting; one more is an error."""
    retries: RetriesSettings = RetriesSettings()
    backoff_s: Seconds = 0.5
    """Before the first retry of a request; doubles, with jitter."""
    max_backoff_s: Seconds = 30.0
    """The longest such pause, also where the endpoint asks for more."""
    stage_deadline_s: Seconds | None = None
    """For one stage of a group (its rubric, or all its verdicts) with every retry and wait. A
    group is thus judged or failed within twice this, plus at most `outage_s` of waiting for an
    endpoint that is down. `null`: 600 s, or five attempts of the role where that is longer (a
    reply, two more after timeouts and two after replies of no use)."""
    breaker_failures: int = Field(default=5, ge=1)
    """After so many failures in a row requests wait until the trial request has shown whether the
    endpoint is down or fails at some prompts."""
    outage_s: Seconds = 300.0
    """How long an endpoint may be down before the run stops, from when it is taken to be down."""

    def stage_s(self, role: RoleSettings) -> float:
        """The deadline of a stage that `role` answers."""
        if self.stage_deadline_s is not None:
            return self.stage_deadline_s
        return max(_STAGE_S, _ATTEMPTS_PER_STAGE * role.attempt_s)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_concurrency < self.concurrency:
            raise ValueError("max_concurrency is below concurrency: raise it or lower the other")
        return self
