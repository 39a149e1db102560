"""Asks a teacher for the answers that an index lacks, and stores each as it arrives.

`build` gives every prompt its m usable answers: what the index holds already is never asked for
again, a prompt with some is topped up. A request's place is only taken by the next one when its
answer is on disk, so that a build killed at any moment has at most its requests in flight to ask
again. Answers that were cut short, refused or empty are stored as such; after more than
`Order.retries` of them a prompt is given up until the order is changed.

Sending, limits and retries of failed requests are the `scheduler`'s; storing is `writer`'s; prices
and budgets are `cost`'s.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Protocol

from algo.data.prompt_file import PromptRow
from algo.errors import JudgeFailure, RopdError, TeacherIndexError
from algo.llm.endpoint import Endpoint, Message, Reply, Request, RequestEngine
from algo.llm.http.wire import CUT_OFF, REFUSED
from algo.teacher.teacher_index import (
    AnswerStatus,
    Teacher,
    TeacherAnswer,
    TeacherIndex,
)
from algo.teacher.writer import TeacherIndexWriter
from algo.thinking import SWITCH, holds_answer

FAILURES_IN_A_ROW = 50
"""So many failed requests with no reply between them end a build: it would only go on so."""


@dataclass(frozen=True)
class Order:
    """What is wanted: `answers` usable ones a prompt, by requests of which `concurrency` fly."""

    answers: int
    concurrency: int
    retries: int = 2
    """Truncated, refused or empty answers after which a prompt is still asked again; those already
    in flight when it is given up may add to them."""
    seed: int | None = None
    """Attempt k of a prompt is sent with seed + k; None sends no seed."""
    system: str | None = None
    """Replaces the prompt's own system message in what the teacher is sent."""


@dataclass
class Wanted:
    """A prompt that lacks answers, and the bookkeeping of filling it."""

    prompt: PromptRow
    missing: int
    attempts: int
    rejected: int


@dataclass
class BuildReport:
    """What a build did; grows while it runs."""

    wanted: int
    """Usable answers that were missing at the start."""
    stored: Counter[AnswerStatus] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    """Requests that brought no answer, by kind."""
    last_failure: str = ""
    stopped: str = ""
    """Why the build ended early, if it did."""
    given_up: int = 0
    """Prompts that have collected all the rejected answers they may."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    largest_prompt: int = 0
    largest_completion: int = 0
    """Tokens of the largest single prompt and reply."""
    without_usage: int = 0
    """Replies whose tokens the endpoint did not report."""

    @property
    def missing(self) -> int:
        return self.wanted - self.stored[AnswerStatus.USABLE]

    def count(self, answer: TeacherAnswer) -> None:
        self.stored[answer.status] += 1
        prompt, completion = answer.prompt_tokens, answer.completion_tokens
        if prompt is None or completion is None:
            self.without_usage += 1
            return
        self.prompt_tokens += prompt
        self.completion_tokens += completion
        self.largest_prompt = max(self.largest_prompt, prompt)
        self.largest_completion = max(self.largest_completion, completion)


class Permission(Enum):
    """Whether one more request may be sent."""

    GO = auto()
    WAIT = auto()
    """Not beside those in flight; ask again when one of them has ended."""
    STOP = auto()


class BuildMonitor(Protocol):
    """Looks on while a build runs, and says whether it shall go on."""

    def update(self, report: BuildReport) -> None:
        """An answer was stored, or a request failed."""
        ...

    def may_ask(self, report: BuildReport, in_flight: int) -> Permission:
        """Whether one more request may be sent. `WAIT` only while some are in flight."""
        ...


def teacher_of(endpoint: Endpoint, order: Order) -> Teacher:
    """The identity that answers from `endpoint` under `order` have."""
    settings = endpoint.settings
    return Teacher(
        model=endpoint.model,
        system=order.system,
        temperature=settings.temperature,
        top_p=settings.top_p,
        reasoning_effort=settings.reasoning_effort,
        extra_body=settings.extra_body,
    )


def lacking(
    index: TeacherIndex, prompts: Iterable[PromptRow], order: Order, max_tokens: int
) -> Iterator[Wanted]:
    """The prompts with fewer than `order.answers` usable answers.

    Truncated answers count against a prompt only if they were given at least `max_tokens`: a larger
    limit is a new chance.
    """
    for prompt in prompts:
        missing = order.answers - index.count(prompt.fingerprint)
        if missing <= 0:
            continue
        held = index.all_answers(prompt.fingerprint)
        rejected = sum(
            answer.status is not AnswerStatus.USABLE and not _had_less_room(answer, max_tokens)
            for answer in held
        )
        yield Wanted(prompt, missing, len(held), rejected)


def _had_less_room(answer: TeacherAnswer, max_tokens: int) -> bool:
    return (
        answer.status is AnswerStatus.TRUNCATED
        and answer.sampling.get("max_tokens", max_tokens) < max_tokens
    )


def allowed_ahead(monitor: BuildMonitor, report: BuildReport, wanted: int) -> int:
    """How many of `wanted` requests may be sent all at once."""
    for ahead in range(wanted):
        if monitor.may_ask(report, ahead) is not Permission.GO:
            return ahead
    return wanted


async def build(
    wanted: Sequence[Wanted],
    order: Order,
    endpoint: Endpoint,
    engine: RequestEngine,
    writer: TeacherIndexWriter,
    monitor: BuildMonitor,
) -> BuildReport:
    """Fill `wanted`, and report.

    Raises `JudgeOutage` when the endpoint is down for too long, `JudgeFailure` when request after
    request fails, `TeacherIndexError` when answers can no longer be stored; whatever arrived before
    is stored.
    """
    report = BuildReport(
        wanted=sum(item.missing for item in wanted),
        given_up=sum(item.rejected > order.retries for item in wanted),
    )
    commits = _Commits(writer)
    run = _Build(order, endpoint, engine, commits, monitor, report, _slots(wanted))
    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(order.concurrency, report.wanted)):
                tasks.create_task(run.work())
    except* RopdError as failures:
        raise _first(failures) from None
    finally:
        await commits.finish()
    return report


def _slots(wanted: Sequence[Wanted]) -> Iterator[Wanted]:
    """One entry for each missing answer, a prompt's next to each other."""
    for item in wanted:
        yield from [item] * item.missing


@dataclass
class _Build:
    order: Order
    endpoint: Endpoint
    engine: RequestEngine
    commits: _Commits
    monitor: BuildMonitor
    report: BuildReport
    slots: Iterator[Wanted]
    in_flight: int = 0
    failures_in_a_row: int = 0
    one_ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def work(self) -> None:
        """One of the build's `concurrency` lines of work: slot after slot until none is left."""
        for item in self.slots:
            while item.rejected <= self.order.retries:
                if not await self._allowed():
                    return
                answer = await self._ask(item)
                if answer is None or answer.status is AnswerStatus.USABLE:
                    break
                item.rejected += 1
                self.report.given_up += item.rejected == self.order.retries + 1

    async def _allowed(self) -> bool:
        while True:
            permission = self.monitor.may_ask(self.report, self.in_flight)
            if permission is not Permission.WAIT:
                return permission is Permission.GO
            await self.one_ended.wait()

    async def _ask(self, item: Wanted) -> TeacherAnswer | None:
        # In flight until it is counted, so that a budget never loses sight of it.
        self.in_flight += 1
        try:
            answer = await self._answered(item)
            if answer is not None:
                await self.commits.store(answer)
                self.report.count(answer)
        finally:
            self.in_flight -= 1
            self.one_ended.set()  # wakes all that wait, and nobody who comes later
            self.one_ended.clear()
        self.monitor.update(self.report)
        return answer

    async def _answered(self, item: Wanted) -> TeacherAnswer | None:
        sampling = self._sampling(item)
        messages = teacher_messages(item.prompt.messages, self.order.system)
        try:
            request = Request(messages, sampling=sampling)
            reply = await self.engine.complete(self.endpoint, request)
        except JudgeFailure as failure:
            self._failed(failure)
            return None
        self.failures_in_a_row = 0
        recorded = recorded_sampling(self.endpoint, sampling)
        thinks = asked_to_think(self.endpoint)
        return answer_of(item.prompt.fingerprint, reply, recorded, thinks)

    def _failed(self, failure: JudgeFailure) -> None:
        self.report.failures[failure.kind.value] += 1
        self.report.last_failure = str(failure)
        self.failures_in_a_row += 1
        if self.failures_in_a_row >= FAILURES_IN_A_ROW:
            raise failure

    def _sampling(self, item: Wanted) -> dict[str, Any]:
        attempt = item.attempts
        item.attempts += 1
        return {} if self.order.seed is None else {"seed": self.order.seed + attempt}


class _Commits:
    """Stores answers in batches: those that arrive during one fsync share the next."""

    def __init__(self, writer: TeacherIndexWriter) -> None:
        self._writer = writer
        self._waiting: list[tuple[TeacherAnswer, asyncio.Future[None]]] = []
        self._draining: asyncio.Task[None] | None = None

    async def store(self, answer: TeacherAnswer) -> None:
        """Return once `answer` is on disk. Raises `TeacherIndexError`."""
        stored = asyncio.get_running_loop().create_future()
        self._waiting.append((answer, stored))
        if self._draining is None or self._draining.done():
            self._draining = asyncio.create_task(self._drain())
        await stored

    async def finish(self) -> None:
        """Wait until nothing is being written; afterwards the writer may be closed."""
        if self._draining is not None:
            await asyncio.wait([self._draining])

    async def _drain(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(self._writer.append, [answer for answer, _ in batch])
            except BaseException as error:
                for _, stored in batch:
                    if not stored.done():
                        stored.set_exception(error)
                if not isinstance(error, TeacherIndexError):
                    raise
            else:
                for _, stored in batch:
                    if not stored.done():
                        stored.set_result(None)


def teacher_messages(messages: Sequence[Message], system: str | None) -> list[dict[str, Any]]:
    """What the teacher is sent for a prompt: its messages, under another system message if set."""
    # Arrow fills keys that only some messages have with nulls, which endpoints refuse.
    own = [{k: v for k, v in message.items() if v is not None} for message in messages]
    if system is None:
        return own
    rest = [message for message in own if message["role"] != "system"]
    return [{"role": "system", "content": system}, *rest]


def recorded_sampling(endpoint: Endpoint, sampling: Mapping[str, Any]) -> dict[str, Any]:
    """What an answer was sampled with: the endpoint's settings under the request's own."""
    names = ("temperature", "top_p", "max_tokens", "reasoning_effort")
    sent = {name: getattr(endpoint.settings, name) for name in names}
    return {k: v for k, v in {**sent, **sampling}.items() if v is not None}


def answer_of(
    fingerprint: str, reply: Reply, sampling: Mapping[str, Any], thinks: bool
) -> TeacherAnswer:
    """The record of one reply, judged by how it ended: usable, truncated, refused or empty.

    `thinks` is whether the teacher was asked to (`asked_to_think`).
    """
    return TeacherAnswer(
        fingerprint=fingerprint,
        text=reply.text,
        model=reply.model,
        status=_status(reply, thinks),
        finish_reason=reply.finish_reason,
        sampling=sampling,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        latency_s=round(reply.latency_s, 3),
        thinks=thinks,
    )


def asked_to_think(endpoint: Endpoint) -> bool:
    """Whether think tags in a teacher's answers are thinking: not where its chat template is told
    to do without."""
    chosen = endpoint.settings.extra_body.get("chat_template_kwargs")
    switch = chosen.get(SWITCH) if isinstance(chosen, Mapping) else None
    return switch is not False


def _status(reply: Reply, thinks: bool) -> AnswerStatus:
    if reply.finish_reason == REFUSED:
        return AnswerStatus.REFUSED
    if reply.finish_reason == CUT_OFF:
        return AnswerStatus.TRUNCATED
    return AnswerStatus.USABLE if holds_answer(reply.text, thinks) else AnswerStatus.EMPTY


def _first(failures: BaseExceptionGroup[Exception]) -> Exception:
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
