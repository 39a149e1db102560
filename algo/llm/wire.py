"""The two API styles on the wire: request body out, `Reply` or `Fault` back. Pure functions.

`chat_completions` is what every OpenAI-compatible server speaks; `responses` is OpenAI's newer
style. Sending is `transport.py`'s part, retrying `scheduler.py`'s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from algo.errors import FailureKind
from algo.llm.endpoint import Endpoint, Reply, Request

REFUSED: Final = "refusal"
"""The `finish_reason` of a reply that a model or a content filter declined to give."""
CUT_OFF: Final = "length"
"""The `finish_reason` of a reply that stopped at its token limit, in either style."""

_OPENAI_HOSTS: Final = (".openai.com", ".openai.azure.com")

_CUT_OFF_WORDS: Final = ("length", "max_tokens", "model_length")
"""What endpoints call it."""

_REFUSAL_MARKS: Final = (
    "content_filter",
    "content_policy",
    "content management policy",
    "responsibleaipolicyviolation",
    "invalid_prompt",
)
_SCHEMA_MARKS: Final = (
    "response_format",
    "schema",
    "guided",
    "structured",
    "grammar",
    "text.format",
)
"""How endpoints name what constrains a reply when they do not take it."""
_OVERFLOW_MARKS: Final = (
    "context_length_exceeded",
    "maximum context length",
    "context length",
    "context window",
    "max_model_len",
    "prompt is too long",
)


@dataclass(eq=False)
class Fault(Exception):
    """Why one attempt brought no reply.

    `endpoint_down` tells faults that speak about the endpoint (they count for its circuit breaker)
    from those that speak about this one request; `retryable` whether sending it again can help.
    """

    kind: FailureKind
    message: str
    endpoint_down: bool = True
    retryable: bool = True
    retry_after_s: float | None = None
    about_schema: bool = False
    """Whether the endpoint names the reply's JSON schema as what it refuses."""
    refuses_key: bool = False

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.message}"


def request_body(endpoint: Endpoint, request: Request) -> tuple[str, bytes]:
    """The path under `base_url` and the JSON body."""
    settings = endpoint.settings
    chosen = {
        "temperature": settings.temperature,
        "top_p": settings.top_p,
        "seed": settings.seed,
        "max_tokens": settings.max_tokens,
        "reasoning_effort": settings.reasoning_effort,
        **request.sampling,
    }
    if settings.api == "responses":
        path, body = "/responses", _responses_body(request, chosen)
    else:
        path, body = "/chat/completions", _chat_body(endpoint, request, chosen)
    kept = {key: value for key, value in body.items() if value is not None}
    return path, orjson.dumps({"model": endpoint.model, **kept, **settings.extra_body})


def _chat_body(endpoint: Endpoint, request: Request, chosen: dict[str, Any]) -> dict[str, Any]:
    limit_key = endpoint.settings.max_tokens_key
    if limit_key == "auto":
        # OpenAI's reasoning models refuse the older name; other servers may not know the newer.
        limit_key = "max_completion_tokens" if is_openai(endpoint.base_url) else "max_tokens"
    limit = chosen.pop("max_tokens")
    return {
        "messages": request.messages,
        limit_key: limit,
        "response_format": request.response_format,
        **chosen,
    }


def is_openai(base_url: str) -> bool:
    """Whether OpenAI itself answers there, or Azure for it."""
    return (urlsplit(base_url).hostname or "").endswith(_OPENAI_HOSTS)


def _responses_body(request: Request, chosen: dict[str, Any]) -> dict[str, Any]:
    effort = chosen["reasoning_effort"]
    text = None
    if request.response_format is not None:
        text = {"format": {"type": "json_schema", **request.response_format["json_schema"]}}
    return {
        "input": request.messages,
        "store": False,
        "temperature": chosen["temperature"],
        "top_p": chosen["top_p"],
        "max_output_tokens": chosen["max_tokens"],
        "reasoning": None if effort is None else {"effort": effort},
        "text": text,
    }


def parse_reply(endpoint: Endpoint, body: bytes, latency_s: float, attempts: int) -> Reply:
    """The reply in the body of a 200; raises `Fault` when there is none in it."""
    try:
        payload = _decoded(body)
        if endpoint.settings.api == "responses":
            text, finish_reason = _responses_text(payload)
            prompt, completion, details = "input_tokens", "output_tokens", "input_tokens_details"
        else:
            text, finish_reason = _chat_text(payload)
            prompt, completion = "prompt_tokens", "completion_tokens"
            details = "prompt_tokens_details"
        usage = payload.get("usage") or {}
        return Reply(
            text=text,
            finish_reason=finish_reason,
            model=payload.get("model") or endpoint.model,
            prompt_tokens=usage.get(prompt),
            completion_tokens=usage.get(completion),
            cached_tokens=(usage.get(details) or {}).get("cached_tokens"),
            latency_s=latency_s,
            attempts=attempts,
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise Fault(
            FailureKind.TRANSPORT,
            f"HTTP 200 whose body is not a {endpoint.settings.api} reply "
            f"({type(error).__name__}): {excerpt(body)}",
            endpoint_down=False,
        ) from None


def _decoded(body: bytes) -> Any:
    """The JSON in `body`. A lone surrogate, which a model can write, is no reason to pay again."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return json.loads(body)


def _chat_text(payload: dict[str, Any]) -> tuple[str, str]:
    choice = payload["choices"][0]
    message = choice["message"]
    finish_reason = choice.get("finish_reason") or "stop"
    if message.get("refusal"):
        return message["refusal"], REFUSED
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "".join(part["text"] for part in content if part.get("type") == "text")
    if finish_reason in _CUT_OFF_WORDS:
        return content, CUT_OFF
    return content, REFUSED if finish_reason == "content_filter" else finish_reason


def _responses_text(payload: dict[str, Any]) -> tuple[str, str]:
    parts = [
        part for item in payload["output"] if item["type"] == "message" for part in item["content"]
    ]
    refusals = [part["refusal"] for part in parts if part["type"] == "refusal"]
    if refusals:
        return "".join(refusals), REFUSED
    text = "".join(part["text"] for part in parts if part["type"] == "output_text")
    reason = (payload.get("incomplete_details") or {}).get("reason")
    finish_reasons = {"max_output_tokens": CUT_OFF, "content_filter": REFUSED}
    return text, finish_reasons.get(reason, "stop") if reason else "stop"


def status_fault(status: int, headers: Mapping[str, str], body: bytes) -> Fault:
    """The fault that an HTTP status other than 200 stands for."""
    message = f"HTTP {status}: {excerpt(body)}"
    if status in (401, 403):
        # Without the body, which may quote a part of the key.
        message = f"HTTP {status}: the endpoint refuses the key"
        return Fault(FailureKind.TRANSPORT, message, refuses_key=True)
    if status == 429:
        return Fault(FailureKind.RATE_LIMIT, message, retry_after_s=retry_after_s(headers))
    if status == 408:
        return Fault(FailureKind.TIMEOUT, message)
    if status in (400, 404, 413, 422):
        kind, about_schema = _rejection(status, body[:4000].decode("utf-8", "replace").lower())
        return Fault(kind, message, endpoint_down=False, retryable=False, about_schema=about_schema)
    return Fault(FailureKind.TRANSPORT, message, retry_after_s=retry_after_s(headers))


def _rejection(status: int, body: str) -> tuple[FailureKind, bool]:
    """Why an endpoint rejects this very request, and whether it is for the reply's schema."""
    if any(mark in body for mark in _REFUSAL_MARKS):
        return FailureKind.REFUSAL, False
    if status == 413 or any(mark in body for mark in _OVERFLOW_MARKS):
        return FailureKind.CONTEXT_OVERFLOW, False
    return FailureKind.TRANSPORT, any(mark in body for mark in _SCHEMA_MARKS)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that the endpoint asks to wait (`retry-after-ms`, or `Retry-After` in any form)."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        # LiteLLM hands what the provider asked for on under a name of its own.
        value = headers.get("Retry-After") or headers.get("llm_provider-retry-after")
        if value is None:
            return None
        if value.strip().replace(".", "", 1).isdigit():
            return float(value)
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except ValueError:
        return None


def excerpt(body: bytes, size: int = 300) -> str:
    """The start of a body, on one line, for an error message."""
    text = " ".join(body[: 4 * size].decode("utf-8", "replace").split())
    return text[:size] or "(empty body)"
