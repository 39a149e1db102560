"""An endpoint, what is asked of it, the reply that comes back, and who asks: values and a type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import SecretStr

from algo.llm.redaction import redacted
from algo.llm.settings import RoleSettings

Message = Mapping[str, Any]
"""One chat message: `role` and `content`."""


@dataclass(frozen=True)
class Endpoint:
    """A role's settings with everything resolved: model, base URL and key are known.

    `name` says who answers (`rubricator qwen3-30b at http://host:8000/v1`) and is safe to log; the
    key is a `SecretStr` and shows in no repr.
    """

    role: str
    model: str
    base_url: str
    settings: RoleSettings
    api_key: SecretStr | None = None

    @property
    def name(self) -> str:
        return f"{self.role} {self.model} at {self.base_url}"

    @property
    def server(self) -> tuple[str, str]:
        """What fails together: requests to one model behind one URL."""
        return self.base_url, self.model

    def without_key(self, error: bytes) -> bytes:
        """The beginning of what is quoted in an error message, without the key in any writing.

        Some servers quote the key they refuse. Nothing else is ever rewritten: a reply's words are
        the model's. `redaction.py` says which keys and which writings.
        """
        return redacted(error, self.api_key.get_secret_value() if self.api_key else "")


@dataclass(frozen=True)
class Request:
    """One thing asked of an endpoint. It is sent as often as it takes and never changed."""

    messages: Sequence[Message]
    response_format: Mapping[str, Any] | None = None
    """What constrains the reply, in the chat style whatever the endpoint's API."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """Takes the place of the role's temperature, top_p, seed, max_tokens and reasoning_effort."""
    timeout_s: float | None = None
    """For one attempt; `None`: the role's."""
    priority: int = 0
    """Higher goes first."""
    prompt_tokens: int | None = None
    """What the caller counted, for the tokens-per-minute limit; `None`: a high estimate is charged
    until the reply tells."""

    @property
    def characters(self) -> int:
        """Of all messages."""
        return sum(len(str(message["content"])) for message in self.messages)


@dataclass(frozen=True)
class Reply:
    """One complete answer of a model.

    Token counts are `None` when the endpoint did not tell. `latency_s` is the time of the attempt
    that succeeded; `attempts` counts those that were sent, this one included.
    """

    text: str
    finish_reason: str
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    latency_s: float
    attempts: int


class RequestEngine(Protocol):
    """What most callers need of a `RequestScheduler`."""

    async def complete(self, endpoint: Endpoint, request: Request) -> Reply:
        """One reply; raises `JudgeFailure` or `JudgeOutage`."""
        ...
