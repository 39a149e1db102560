"""The Rubricator and the Verifier: one typed call each.

A call asks, reads the JSON out of the reply, validates it exactly, and, when the reply cannot be
used, asks again a bounded number of times, telling the model what was wrong. Every exchange is kept
in the judgement's transcript, usable or not. What comes back is a `Rubric` or verdicts, never a
number; what cannot be had is a `JudgeFailure`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from algo.ropd.budget import Budget, Call, estimated_tokens
from algo.ropd.endpoint import Endpoint, Reply
from algo.ropd.errors import FailureKind, JudgeFailure, RequestRejected
from algo.ropd.extraction import CutShort, NoJson, extract_object, looks_like_refusal
from algo.ropd.prompts import PromptTemplate, VerifierPrompts, rubricator_prompt
from algo.ropd.rubric import (
    RUBRIC_SCHEMA,
    VERIFIER_SCHEMA,
    InvalidReply,
    Rubric,
    Verdict,
    parse_rubric,
    parse_verdicts,
    rubric_json_schema,
    verifier_json_schema,
)
from algo.ropd.scheduler import Deadline, RequestScheduler
from algo.ropd.thinking import after_thinking, is_unclosed
from algo.ropd.wire import CUT_OFF, REFUSED

logger = logging.getLogger(__name__)

Read = TypeVar("Read")
_LONGEST_QUOTED: Final = 20_000
"""Characters of an unusable reply that a repair turn shows the model again."""


@dataclass(frozen=True)
class Exchange:
    """One request and what became of it, as the journal keeps it."""

    stage: str
    reply: Reply | None
    fault: str | None
    cut_characters: int = 0
    """How much of the answers was cut out of the prompt to fit the context."""


Transcript = list[Exchange]
"""The exchanges of one judgement, in the order in which they ended."""


@dataclass(frozen=True)
class Question(Generic[Read]):
    """One thing to ask a model: the prompt, and how its reply is read."""

    prompt: str
    schema_version: str
    json_schema: Mapping[str, Any]
    read: Callable[[Mapping[str, Any]], Read]
    call: Call
    """What the budget made of the answers."""


@dataclass(eq=False)
class Unusable(Exception):
    """Why a reply cannot be used; `message` is written for the model."""

    kind: FailureKind
    message: str

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

    async def ask(
        self, question: Question[Read], deadline: Deadline, transcript: Transcript
    ) -> Read:
        """The value read from the first usable reply; raises `JudgeFailure` or `JudgeOutage`."""
        messages = _messages(question.prompt)
        faults: Counter[FailureKind] = Counter()
        while True:
            # A reply may have been cut off because the schema lets a model write spaces for ever.
            loosened = self._structured == "auto" and FailureKind.TRUNCATED in faults
            constrained = not self._text_only and not loosened
            reply = await self._reply(question, messages, constrained, deadline, transcript)
            try:
                value = _read(question, reply)
            except Unusable as unusable:
                transcript.append(self._exchange(question, reply, str(unusable)))
                faults[unusable.kind] += 1
                if faults[unusable.kind] > self._scheduler.allowed(unusable.kind):
                    raise JudgeFailure(
                        unusable.kind,
                        self.endpoint.role,
                        f"{unusable.message} (reply {faults.total()}, the last allowed)",
                        self.endpoint.name,
                    ) from None
                self._scheduler.count_retry(unusable.kind)
                messages = _repair_turn(question, reply, unusable)
            else:
                transcript.append(self._exchange(question, reply, None))
                return value

    async def _reply(
        self,
        question: Question[Any],
        messages: list[dict[str, str]],
        constrained: bool,
        deadline: Deadline,
        transcript: Transcript,
    ) -> Reply:
        try:
            try:
                return await self._send(question, messages, constrained, deadline)
            except RequestRejected as rejected:
                can_loosen = constrained and self._structured == "auto"
                if not can_loosen or not rejected.about_schema:
                    raise
                reply = await self._send(question, messages, False, deadline)
                self._go_text_only(rejected)
                return reply
        except JudgeFailure as failure:
            transcript.append(self._exchange(question, None, str(failure)))
            raise

    async def _send(
        self,
        question: Question[Any],
        messages: list[dict[str, str]],
        constrained: bool,
        deadline: Deadline,
    ) -> Reply:
        return await self._scheduler.complete(
            self.endpoint,
            messages,
            response_format=_response_format(question) if constrained else None,
            priority=self._priority,
            deadline=deadline,
            prompt_tokens=question.call.prompt_tokens,
        )

    def _exchange(
        self, question: Question[Any], reply: Reply | None, fault: str | None
    ) -> Exchange:
        return Exchange(self.endpoint.role, reply, fault, question.call.cut_characters)

    def _go_text_only(self, rejected: RequestRejected) -> None:
        if not self._text_only:
            self._text_only = True
            logger.warning(
                "%s refuses response_format json_schema and is asked for text from now on (%s)",
                self.endpoint.name,
                rejected.message,
            )


class Rubricator:
    """Writes the rubric of a group (Eq. 2)."""

    def __init__(
        self, judge: Judge, template: PromptTemplate, criteria: tuple[int, int], budget: Budget
    ) -> None:
        self._judge = judge
        self.template = template
        self._criteria = criteria
        self._budget = budget

    async def write(
        self,
        question: str,
        teachers: Sequence[str],
        students: Sequence[str],
        transcript: Transcript,
    ) -> Rubric:
        """C_x = Rubricator(x, Y_T, Y_S): one rubric for all `students` given."""
        (call,) = self._budget.plan([self.template.text, question], [*teachers, *students])
        shown_teachers, shown_students = call.texts[: len(teachers)], call.texts[len(teachers) :]
        return await self._judge.ask(
            Question(
                rubricator_prompt(
                    self.template, question, shown_teachers, shown_students, self._criteria
                ),
                RUBRIC_SCHEMA,
                rubric_json_schema(self._criteria),
                lambda payload: parse_rubric(payload, self._criteria),
                call,
            ),
            self._judge.deadline(),
            transcript,
        )


class Verifier:
    """Decides every criterion for every answer (Eq. 3)."""

    def __init__(self, judge: Judge, template: PromptTemplate, budget: Budget) -> None:
        self._judge = judge
        self.template = template
        self._budget = budget

    @property
    def endpoint(self) -> Endpoint:
        return self._judge.endpoint

    async def judge(
        self,
        question: str,
        rubric: Rubric,
        answers: Sequence[str],
        transcript: Transcript,
        *,
        sources: Sequence[str] | None = None,
        isolated: bool = False,
    ) -> tuple[Verdict, ...]:
        """One verdict an answer, in the order given, which is the order shown.

        `sources` names who wrote each answer (joint_named mode alone). `isolated` shows one answer
        a call; the first call then goes ahead, so that the others find its prefix in a cache.
        """
        prompts = VerifierPrompts.begin(self.template, question, rubric, answers)
        deadline = self._judge.deadline()
        frame = [self.template.text, question, prompts.rubric]

        async def verdicts(call: Call) -> tuple[Verdict, ...]:
            named = None if sources is None else [sources[place] for place in call.places]
            count = len(call.texts)
            return await self._judge.ask(
                Question(
                    prompts.render(call.texts, named),
                    VERIFIER_SCHEMA,
                    verifier_json_schema(count, len(rubric.criteria)),
                    lambda payload: parse_verdicts(payload, count, rubric),
                    call,
                ),
                deadline,
                transcript,
            )

        if isolated:
            calls = [call for answer in answers for call in self._budget.plan(frame, [answer])]
            ahead = [await verdicts(calls[0])]
            judged = ahead + await all_of(verdicts(call) for call in calls[1:])
        else:
            judged = await all_of(verdicts(call) for call in self._budget.plan(frame, answers))
        return tuple(verdict for part in judged for verdict in part)


async def all_of(calls: Iterable[Coroutine[Any, Any, Read]]) -> list[Read]:
    """The results in order; the first failure cancels the others and is raised as it is."""
    calls = list(calls)
    if len(calls) == 1:
        return [await calls[0]]  # a task of its own would go behind what is already waiting
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def _read(question: Question[Read], reply: Reply) -> Read:
    if reply.finish_reason == REFUSED:
        raise Unusable(FailureKind.REFUSAL, "the model or a content filter declined to answer")
    cut_off = reply.finish_reason == CUT_OFF
    try:
        return question.read(extract_object(reply.text, question.schema_version, cut_off=cut_off))
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


def _repair_turn(question: Question[Any], reply: Reply, unusable: Unusable) -> list[dict[str, str]]:
    """The next messages: the reply and what was wrong with it, or the prompt with a note.

    The note stands in the one user message where there is no reply worth showing (thinking is
    none) or no room for it, because many chat templates refuse two user messages in a row.
    """
    said = "" if is_unclosed(reply.text) else after_thinking(reply.text).strip()[:_LONGEST_QUOTED]
    spare = question.call.spare_tokens
    fits = spare is None or estimated_tokens(said) <= spare
    if said and fits and unusable.kind in (FailureKind.INVALID, FailureKind.UNPARSEABLE):
        return [
            *_messages(question.prompt),
            {"role": "assistant", "content": said},
            {
                "role": "user",
                "content": f"Your reply cannot be used: {unusable.message}. "
                "Answer again with the one JSON object described above and nothing else.",
            },
        ]
    return _messages(
        f"{question.prompt}\n\nAn earlier reply to this was of no use: {unusable.message}. "
        "Answer with the one JSON object described above, compactly, and nothing else."
    )


def _response_format(question: Question[Any]) -> dict[str, Any]:
    return {
        "type": "json_schema",
        "json_schema": {
            "name": question.schema_version.replace(".", "_"),
            "strict": True,
            "schema": question.json_schema,
        },
    }
