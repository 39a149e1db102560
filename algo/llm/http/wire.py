"""The two API styles on the wire: request body out, `Reply` or `Fault` back. Pure functions.

`chat_completions` is what every OpenAI-compatible server speaks; `responses` is OpenAI's newer
style. Sending is `transport.py`'s part, retrying `scheduler.py`'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from time import time
from typing import Any, Final
from urllib.parse import urlsplit

import orjson

from algo.errors import FailureKind
from algo.llm.endpoint import Endpoint, Reply, Request
from algo.llm.http.reading import OddBody, count, decoded, mapping, mappings, part, text, word

REFUSED: Final = "refusal"
"""The `finish_reason` of a reply that a model or a content filter declined to give."""
CUT_OFF: Final = "length"
"""The `finish_reason` of a reply that stopped at its token limit, in either style."""

_ONE_BODY: Final = {"stream": False}
"""Some gateways stream unless they are told not to."""

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
    whole = {"model": endpoint.model, **kept, **settings.extra_body, **_ONE_BODY}
    return path, orjson.dumps(whole)


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


@lru_cache(maxsize=64)
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
    """The reply in the body of a 200; raises `Fault` when there is none in it.

    Text, finish reason and refusal are read strictly, since a reward follows from them. What the
    body says of its model and its tokens is left out where it cannot be: a paid reply is usable
    without.
    """
    try:
        payload = decoded(body)
        if endpoint.settings.api == "responses":
            said, finish_reason = _responses_text(payload)
            prompt, completion, details = "input_tokens", "output_tokens", "input_tokens_details"
        else:
            said, finish_reason = _chat_text(payload)
            prompt, completion = "prompt_tokens", "completion_tokens"
            details = "prompt_tokens_details"
        model, usage = payload.get("model"), payload.get("usage")
        return Reply(
            text=said,
            finish_reason=finish_reason,
            model=word(model if isinstance(model, str) else None, "model", endpoint.model),
            prompt_tokens=count(part(usage, prompt)),
            completion_tokens=count(part(usage, completion)),
            cached_tokens=count(part(part(usage, details), "cached_tokens")),
            latency_s=latency_s,
            attempts=attempts,
        )
    except OddBody as odd:
        raise Fault(
            FailureKind.TRANSPORT,
            f"HTTP 200 whose body is not a {endpoint.settings.api} reply ({odd}): "
            f"{excerpt(endpoint.without_key(body))}",
            endpoint_down=False,
        ) from None


def _chat_text(payload: dict[str, Any]) -> tuple[str, str]:
    choices = mappings(payload.get("choices"), "choices")
    if not choices:
        raise OddBody("choices is empty")
    message = mapping(choices[0].get("message"), "message")
    finish_reason = word(choices[0].get("finish_reason"), "finish_reason", "stop")
    # LiteLLM hands on what a provider adds to the standard's keys, a refusal too, under this one.
    for holder in (message, message.get("provider_specific_fields")):
        refusal = part(holder, "refusal")
        if refusal is True:  # declined, without words
            return "", REFUSED
        if refusal is not None and refusal is not False and text(refusal, "refusal"):
            return text(refusal, "refusal"), REFUSED
    content = message.get("content")
    if isinstance(content, list):
        parts = mappings(content, "content")
        said = "".join(text(each.get("text"), "text") for each in parts if _is(each, "text"))
    else:
        said = "" if content is None else text(content, "content")
    if finish_reason in _CUT_OFF_WORDS:
        return said, CUT_OFF
    return said, REFUSED if finish_reason == "content_filter" else finish_reason


def _responses_text(payload: dict[str, Any]) -> tuple[str, str]:
    parts = [
        each
        for item in mappings(payload.get("output"), "output")
        if _is(item, "message")
        for each in mappings(item.get("content"), "content")
    ]
    refusals = [text(each.get("refusal"), "refusal") for each in parts if _is(each, "refusal")]
    if refusals:
        return "".join(refusals), REFUSED
    said = "".join(text(each.get("text"), "text") for each in parts if _is(each, "output_text"))
    incomplete = payload.get("incomplete_details")
    if incomplete is None:
        return said, "stop"
    reason = word(mapping(incomplete, "incomplete_details").get("reason"), "reason", "stop")
    return said, {"max_output_tokens": CUT_OFF, "content_filter": REFUSED}.get(reason, "stop")


def _is(entry: dict[str, Any], kind: str) -> bool:
    return text(entry.get("type"), "type") == kind


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
    if status in (400, 404, 405, 413, 422, 501):
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
            seconds = float(headers["retry-after-ms"]) / 1000
        else:
            # LiteLLM hands what the provider asked for on under a name of its own.
            value = headers.get("Retry-After") or headers.get("llm_provider-retry-after")
            if value is None:
                return None
            if value.strip().replace(".", "", 1).isdigit():
                seconds = float(value)
            else:
                seconds = parsedate_to_datetime(value).timestamp() - time()
    except (ValueError, OverflowError):
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def excerpt(body: bytes, size: int = 300) -> str:
    """The start of a body, on one line of printable characters, for an error message."""
    words = " ".join(body[: 4 * size].decode("utf-8", "replace").split())[:size]
    shown = "".join(letter if letter.isprintable() else "\ufffd" for letter in words)
    return shown or "(empty body)"
