"""Asks one model until its reply can be used.

    verdicts = await judge.ask(query, judge.deadline(), transcript)

A `Query` says what is asked and how the reply is read. A reply that cannot be read is asked for
again a bounded number of times, and the model is told what was wrong. Every exchange is kept in the
judgement's transcript, usable or not. What cannot be had is a `JudgeFailure`, never a number.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeVar

from algo.asking.context import Call, estimated_tokens
from algo.asking.extraction import (
    CutShort,
    InvalidReply,
    NoJson,
    extract_object,
    looks_like_refusal,
)
from algo.asking.templates import inert
from algo.errors import FailureKind, JudgeFailure, RequestRejected
from algo.llm.admission import Deadline
from algo.llm.endpoint import Endpoint, Reply, Request
from algo.llm.http.wire import CUT_OFF, REFUSED
from algo.llm.scheduler import RequestScheduler
from algo.thinking import after_thinking, is_unclosed

logger = logging.getLogger(__name__)

Read = TypeVar("Read")
# Characters of an unusable reply that a repair turn shows the model again: longer than any reply
# that is nearly right, shorter than a flood.
_LONGEST_QUOTED: Final = 20_000


# Characters of what is told to be wrong with a reply: it may quote the reply, and it stands in the
# next prompt, in the journal and in the log.
_LONGEST_COMPLAINT: Final = 600


@dataclass(frozen=True)
class Exchange:
    """One request and what became of it, as the journal keeps it."""

    stage: str
    reply: Reply | None
    fault: str | None
    cut_characters: int = 0
    """How much of the answers was cut out of the prompt to fit the context."""
    prompt_characters: int = 0
    """Of all messages sent, repair turns included."""


Transcript = list[Exchange]
"""The exchanges of one judgement, in the order in which they ended."""


@dataclass(frozen=True)
class Query(Generic[Read]):
    """One thing to ask a model: the prompt, and how its reply is read."""

    prompt: str
    schema_version: str
    json_schema: Mapping[str, Any]
    read: Callable[[Mapping[str, Any]], Read]
    """The value in the reply's JSON object; raises `InvalidReply`."""
    call: Call
    """What the model's context left of the answers."""


@dataclass(eq=False)
class Unusable(Exception):
    """Why a reply cannot be used; `message` is written for the model."""

    kind: FailureKind
    message: str

    def __post_init__(self) -> None:
        self.message = inert(self.message[:_LONGEST_COMPLAINT])

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.message}"


class Judge:
    """One role's endpoint, asked until its reply can be used."""

    def __init__(self, endpoint: Endpoint, scheduler: RequestScheduler, priority: int) -> None:
        self.endpoint = endpoint
        self._scheduler = scheduler
        self._priority = priority
        self._structured = endpoint.settings.structured
        self._text_only = self._structured == "text"

    def deadline(self) -> Deadline:
        """The deadline of a stage that begins now."""
        return self._scheduler.deadline(self.endpoint)

    async def ask(self, query: Query[Read], deadline: Deadline, transcript: Transcript) -> Read:
        """The value read from the first usable reply; raises `JudgeFailure` or `JudgeOutage`."""
        messages = _messages(query.prompt)
        faults: Counter[FailureKind] = Counter()
        while True:
            # A reply may have been cut off because the schema lets a model write spaces for ever.
            loosened = self._structured == "auto" and FailureKind.TRUNCATED in faults
            constrained = not self._text_only and not loosened
            request = Request(
                messages,
                response_format=_response_format(query) if constrained else None,
                priority=self._priority,
                prompt_tokens=query.call.prompt_tokens,
            )
            reply = await self._reply(query, request, deadline, transcript)
            try:
                value = _read(query, reply)
            except Unusable as unusable:
                transcript.append(self._exchange(query, request, reply, str(unusable)))
                faults[unusable.kind] += 1
                if faults[unusable.kind] > self._scheduler.allowed(unusable.kind):
                    raise JudgeFailure(
                        unusable.kind,
                        self.endpoint.role,
                        f"{unusable.message} (reply {faults.total()}, the last allowed)",
                        self.endpoint.name,
                    ) from None
                self._scheduler.count_retry(unusable.kind)
                messages = _repair_turn(query, reply, unusable)
            else:
                transcript.append(self._exchange(query, request, reply, None))
                return value

    async def _reply(
        self, query: Query[Any], request: Request, deadline: Deadline, transcript: Transcript
    ) -> Reply:
        try:
            try:
                return await self._scheduler.complete(self.endpoint, request, deadline)
            except RequestRejected as rejected:
                can_loosen = request.response_format is not None and self._structured == "auto"
                if not can_loosen or not rejected.about_schema:
                    raise
                free = replace(request, response_format=None)
                reply = await self._scheduler.complete(self.endpoint, free, deadline)
                self._go_text_only(rejected)
                return reply
        except JudgeFailure as failure:
            transcript.append(self._exchange(query, request, None, str(failure)))
            raise

    def _exchange(
        self, query: Query[Any], request: Request, reply: Reply | None, fault: str | None
    ) -> Exchange:
        cut = query.call.cut_characters
        return Exchange(self.endpoint.role, reply, fault, cut, request.characters)

    def _go_text_only(self, rejected: RequestRejected) -> None:
        if not self._text_only:
            self._text_only = True
            logger.warning(
                "%s refuses response_format json_schema and is asked for text from now on (%s)",
                self.endpoint.name,
                rejected.message,
            )


def _read(query: Query[Read], reply: Reply) -> Read:
    if reply.finish_reason == REFUSED:
        raise Unusable(FailureKind.REFUSAL, "the model or a content filter declined to answer")
    cut_off = reply.finish_reason == CUT_OFF
    try:
        return query.read(extract_object(reply.text, query.schema_version, cut_off=cut_off))
    except CutShort as error:
        raise Unusable(FailureKind.TRUNCATED, str(error)) from None
    except NoJson as error:
        if looks_like_refusal(reply.text):
            raise Unusable(FailureKind.REFUSAL, "the model declined to answer") from None
        raise Unusable(FailureKind.UNPARSEABLE, str(error)) from None
    except InvalidReply as error:
        raise Unusable(FailureKind.INVALID, str(error)) from None


def _messages(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def _repair_turn(query: Query[Any], reply: Reply, unusable: Unusable) -> list[dict[str, str]]:
    """The next messages: the reply and what was wrong with it, or the prompt with a note.

    The note stands in the one user message where there is no reply worth showing (thinking is
    none) or no room for it, because many chat templates refuse two user messages in a row.
    """
    answer = "" if is_unclosed(reply.text) else after_thinking(reply.text).strip()
    said = inert(answer[:_LONGEST_QUOTED])
    spare = query.call.spare_tokens
    fits = spare is None or estimated_tokens(said) <= spare
    if said and fits and unusable.kind in (FailureKind.INVALID, FailureKind.UNPARSEABLE):
        return [
            *_messages(query.prompt),
            {"role": "assistant", "content": said},
            {
                "role": "user",
                "content": f"Your reply cannot be used: {unusable.message}. "
                "Answer again with the one JSON object described above and nothing else.",
            },
        ]
    return _messages(
        f"{query.prompt}\n\nAn earlier reply to this was of no use: {unusable.message}. "
        "Answer with the one JSON object described above, compactly, and nothing else."
    )


def _response_format(query: Query[Any]) -> dict[str, Any]:
    return {
        "type": "json_schema",
        "json_schema": {
            "name": query.schema_version.replace(".", "_"),
            "strict": True,
            "schema": query.json_schema,
        },
    }
