"""What can go wrong between a client and an OpenAI-compatible endpoint: one vocabulary.

A `Fault` says what a request meets. When it meets it is decided elsewhere (`schedule`, or any
function of the request); faults of the transport are acted out by `server`; those of content are
applied here, by `spoil`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

from algo.testing.wire import Reply


class FaultKind(StrEnum):
    """What a request meets instead of its reply."""

    HTTP_400 = "http_400"
    CONTENT_FILTER = "content_filter"
    """Status 400 with the code of a content filter."""
    CONTEXT_OVERFLOW = "context_overflow"
    """Status 400 with the code of a prompt that is too long for the model."""
    HTTP_401 = "http_401"
    HTTP_404 = "http_404"
    HTTP_429 = "http_429"
    """Status 429; with a `Retry-After` header if the fault has `seconds`."""
    HTTP_500 = "http_500"
    HTTP_503 = "http_503"
    """Status 503 in plain text, as a proxy words it; the other statuses carry an error object."""

    DROP = "drop"
    """The connection is cut without a response."""
    HANG = "hang"
    """No response for the fault's `seconds`, then the connection is cut; without them, an hour."""
    DRIP = "drip"
    """A response of white space that never ends."""
    HALF_BODY = "half_body"
    """The connection is cut in the middle of the body."""

    TRUNCATED_JSON = "truncated_json"
    """The first half of the reply, with finish reason `length`."""
    WHITESPACE = "whitespace"
    """A start, then white space up to the token limit."""
    EMPTY = "empty"
    REFUSAL = "refusal"
    """No content, and a `refusal` beside it."""
    REFUSAL_IN_PROSE = "refusal_in_prose"
    """A refusal that only its words give away."""
    DRAFT_CUT_OFF = "draft_cut_off"
    """A whole draft of another content, in a thought that the token limit cuts off. The opening tag
    is missing, as where a chat template has written it."""
    DRAFT_UNCLOSED = "draft_unclosed"
    """The same in a thought that is opened and never closed."""
    WRONG_SCHEMA = "wrong_schema"
    """JSON of another shape than the prompt asked for."""
    WRONG_VERSION = "wrong_version"
    """The right object under the name of another schema."""
    WRONG_COUNT = "wrong_count"
    """One item too many in the first entry's list; of entries without lists, two are left."""
    MISSING_INDEX = "missing_index"
    """The first entry is missing."""
    DOUBLE_INDEX = "double_index"
    """The last entry stands there twice."""

    LYING_TOTALS = "lying_totals"
    """Totals beside the entries that do not follow from them."""
    PROSE_AND_FENCES = "prose_and_fences"
    """The right object after a thought, in prose and a code fence."""


REJECTIONS: Final = (
    FaultKind.HTTP_400,
    FaultKind.CONTENT_FILTER,
    FaultKind.CONTEXT_OVERFLOW,
    FaultKind.HTTP_401,
    FaultKind.HTTP_404,
)
"""What sending the same request again does not change."""
HARMLESS: Final = (FaultKind.LYING_TOTALS, FaultKind.PROSE_AND_FENCES)
"""Faults of style: they must cost nothing."""
PASSING: Final = tuple(kind for kind in FaultKind if kind not in (*REJECTIONS, *HARMLESS))
"""What the next attempt may be spared."""


@dataclass(frozen=True)
class Fault:
    """A kind with its particulars; those that its kind has no use for are ignored."""

    kind: FaultKind
    seconds: float | None = None
    message: str = "planted fault"
    """The text of an error status."""

    def __str__(self) -> str:
        return self.kind if self.seconds is None else f"{self.kind} of {self.seconds:g} s"


class Status(NamedTuple):
    status: int
    code: str | None = None
    plain: bool = False


STATUSES: Final[Mapping[FaultKind, Status]] = {
    FaultKind.HTTP_400: Status(400),
    FaultKind.CONTENT_FILTER: Status(400, "content_filter"),
    FaultKind.CONTEXT_OVERFLOW: Status(400, "context_length_exceeded"),
    FaultKind.HTTP_401: Status(401, "invalid_api_key"),
    FaultKind.HTTP_404: Status(404),
    FaultKind.HTTP_429: Status(429, "rate_limit_exceeded"),
    FaultKind.HTTP_500: Status(500),
    FaultKind.HTTP_503: Status(503, plain=True),
}
"""The kinds that are an HTTP status."""
CONNECTION: Final = (FaultKind.DROP, FaultKind.HANG, FaultKind.DRIP, FaultKind.HALF_BODY)
"""The kinds that end the connection, or never do."""

FALSE_TOTAL: Final = 9999
_WHITESPACE: Final = " \n" * 50_000


def spoil(reply: Reply, kind: FaultKind) -> Reply:
    """The reply under a fault of content; under one of another sort, the reply itself.

    Kinds that speak of entries or schemas change JSON objects alone. The entries are the first list
    of objects in it: a rubric's criteria, a verifier's answers.
    """
    text = reply.text or ""
    match kind:
        case FaultKind.TRUNCATED_JSON:
            return Reply(text[: len(text) // 2], "length")
        case FaultKind.WHITESPACE:
            return Reply(text[:40] + _WHITESPACE, "length")
        case FaultKind.EMPTY:
            return Reply("")
        case FaultKind.REFUSAL:
            return Reply(None, refusal="I cannot help with that.")
        case FaultKind.REFUSAL_IN_PROSE:
            return Reply("I'm sorry, but I can't help with that.")
        case FaultKind.DRAFT_CUT_OFF:
            return Reply(f"Draft: {_draft(text)} Hmm wait, let me recheck", "length")
        case FaultKind.DRAFT_UNCLOSED:
            return Reply(f"<think> Draft: {_draft(text)} Hmm wait, let me recheck")
        case FaultKind.WRONG_SCHEMA:
            return Reply(json.dumps({"schema_version": "other.v0", "items": []}))
        case FaultKind.PROSE_AND_FENCES:
            fenced = f"```json\n{text}\n```"
            return Reply(f"<think>{{maybe}}</think>Here it is:\n{fenced}\nHope it helps {{}}!")
    payload = _object(text)
    if payload is None or not _distort(payload, kind):
        return reply
    return reply._replace(text=json.dumps(payload))


def _distort(payload: dict[str, Any], kind: FaultKind) -> bool:
    """Change the object in place; whether the kind is one that does."""
    entries = _entries(payload)
    match kind:
        case FaultKind.WRONG_VERSION:
            payload["schema_version"] = "ropd.other.v9"
        case FaultKind.WRONG_COUNT:
            lists = [value for value in entries[0].values() if isinstance(value, list)]
            if lists:
                lists[0].append(True)
            else:
                del entries[2:]
        case FaultKind.MISSING_INDEX:
            del entries[0]
        case FaultKind.DOUBLE_INDEX:
            entries.append(dict(entries[-1]))
        case FaultKind.LYING_TOTALS:
            payload["maximum_score"] = FALSE_TOTAL
            for entry in entries:
                entry["final_score"] = FALSE_TOTAL
        case _:
            return False
    return True


def _draft(text: str) -> str:
    """A valid object that says something else: points are 1, verdicts are turned round."""
    payload = _object(text)
    if payload is None:
        return text
    for entry in _entries(payload):
        for name, value in entry.items():
            if name == "points":
                entry[name] = 1
            elif isinstance(value, list):
                entry[name] = [not item if isinstance(item, bool) else item for item in value]
    return json.dumps(payload)


def _object(text: str) -> dict[str, Any] | None:
    try:
        payload = json.loads(text)
    except ValueError:
        return None
    return payload if isinstance(payload, dict) and _entries(payload) else None


def _entries(payload: Mapping[str, Any]) -> list[dict[str, Any]]:
    lists = (value for value in payload.values() if isinstance(value, list) and value)
    return next((found for found in lists if isinstance(found[0], dict)), [])
