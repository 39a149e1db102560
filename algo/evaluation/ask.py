"""Asks a model for the answers that an evaluation lacks, and stores each as it arrives.

What is on disk is never asked for again. A request's place is taken by the next one when its answer
is stored, so that a run killed at any moment has at most its requests in flight to ask again. A
request that fails for good is stored as a failure, and the others go on; the next run tries it
again. Sending, limits and retries are the `scheduler`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from algo.errors import JudgeFailure, RopdError
from algo.evaluation.log import Answer, EvaluationLog, Failure, Held, Sample
from algo.llm.endpoint import Endpoint, Reply, Request, RequestEngine

FAILURES_IN_A_ROW: Final = 50
"""So many failed requests with no answer between them end a run: it would only go on so."""


class Monitor(Protocol):
    """Looks on, and says when to stop."""

    def update(self, report: AskReport) -> None:
        """An answer was stored, or a request failed."""
        ...

    def may_ask(self, report: AskReport, in_flight: int) -> bool:
        """Whether one more request may be sent beside the `in_flight` ones. Once not, none is."""
        ...


@dataclass
class AskReport:
    """What a run did; grows while it runs."""

    wanted: int
    """Answers that were missing at the start."""
    answered: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    largest_prompt: int = 0
    largest_completion: int = 0
    """Tokens of the largest single prompt and reply."""
    without_usage: int = 0
    """Answers whose tokens the endpoint did not report."""

    def count(self, answer: Answer) -> None:
        self.answered += 1
        prompt, completion = answer.prompt_tokens, answer.completion_tokens
        if prompt is None or completion is None:
            self.without_usage += 1
            return
        self.prompt_tokens += prompt
        self.completion_tokens += completion
        self.largest_prompt = max(self.largest_prompt, prompt)
        self.largest_completion = max(self.largest_completion, completion)


def lacking(held: Held, samples: int) -> list[Sample]:
    """The answers that are missing for `samples` a problem: first samples of all problems first, so
    that whatever a run achieves is spread over the problems."""
    return [
        sample
        for number in range(samples)
        for name, problems in held.problems.items()
        for key in problems
        if (sample := Sample(name, key, number)) not in held.answers
    ]


async def ask(
    wanted: Sequence[Sample],
    endpoint: Endpoint,
    engine: RequestEngine,
    log: EvaluationLog,
    monitor: Monitor,
    concurrency: int,
) -> AskReport:
    """Ask for `wanted`, `concurrency` at a time, and report.

    Sample n is sent with the protocol's seed + n. Raises `JudgeOutage` when the endpoint is down
    for too long, `JudgeFailure` when request after request fails, `JournalError` when answers can
    no longer be stored; whatever arrived before is stored.
    """
    run = _Run(endpoint, engine, log, monitor, AskReport(len(wanted)), iter(wanted))
    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(concurrency, len(wanted))):
                tasks.create_task(run.work())
    except* RopdError as failures:
        raise first_error(failures) from None
    return run.report


@dataclass
class _Run:
    endpoint: Endpoint
    engine: RequestEngine
    log: EvaluationLog
    monitor: Monitor
    report: AskReport
    samples: Iterator[Sample]
    in_flight: int = 0
    failures_in_a_row: int = 0
    stopped: bool = False

    async def work(self) -> None:
        """One of `concurrency` lines of work: sample after sample until none is left."""
        while not self.stopped and self.monitor.may_ask(self.report, self.in_flight):
            sample = next(self.samples, None)
            if sample is None:
                return
            self.in_flight += 1
            try:
                await self._ask(sample)
            finally:
                self.in_flight -= 1
            self.monitor.update(self.report)
        self.stopped = True

    async def _ask(self, sample: Sample) -> None:
        problem = self.log.held.problems[sample.set][sample.key]
        request = Request(problem.messages, sampling=self._sampling(sample))
        try:
            reply = await self.engine.complete(self.endpoint, request)
        except JudgeFailure as failure:
            await self.log.store(sample, Failure(failure.kind.value, failure.message))
            self.report.failed += 1
            self.failures_in_a_row += 1
            if self.failures_in_a_row >= FAILURES_IN_A_ROW:
                raise
            return
        self.failures_in_a_row = 0
        answer = _answer(reply)
        await self.log.store(sample, answer)
        self.report.count(answer)

    def _sampling(self, sample: Sample) -> dict[str, Any]:
        seed = self.log.held.protocol.seed
        return {} if seed is None else {"seed": seed + sample.number}


def _answer(reply: Reply) -> Answer:
    return Answer(
        text=reply.text,
        finish_reason=reply.finish_reason,
        model=reply.model,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        latency_s=round(reply.latency_s, 3),
        attempts=reply.attempts,
    )


def first_error(failures: BaseExceptionGroup[Exception]) -> Exception:
    """The first exception of a group, however deep it lies."""
    first = failures.exceptions[0]
    return first_error(first) if isinstance(first, BaseExceptionGroup) else first
