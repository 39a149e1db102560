"""Builds an index with an engine that takes all requests at once, such as vLLM on a Ray cluster.

Results are stored as the engine yields them; what an interrupted build had not yielded is asked for
again. Which engine it is, this module does not know: `ropd_verl.teacher_ray` is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from algo.data.prompt_file import PromptRow
from algo.llm.endpoint import Endpoint, Message, Reply
from algo.teacher.build import (
    BuildMonitor,
    BuildReport,
    Order,
    Wanted,
    allowed_ahead,
    answer_of,
    asked_to_think,
    lacking,
    recorded_sampling,
    teacher_messages,
)
from algo.teacher.teacher_index import AnswerStatus, TeacherIndex
from algo.teacher.writer import TeacherIndexWriter


@dataclass(frozen=True)
class OfflineRequest:
    """One answer to make. `sampling` is complete: the engine has no settings of its own."""

    fingerprint: str
    messages: Sequence[Message]
    sampling: Mapping[str, Any]


class OfflineEngine(Protocol):
    """Answers requests in any order, in batches, each as soon as it is there.

    A request that cannot be answered comes back with the reason in place of a reply.
    """

    def __call__(
        self, requests: Sequence[OfflineRequest]
    ) -> Iterator[Sequence[tuple[OfflineRequest, Reply | str]]]: ...


def build_offline(
    prompts: Sequence[PromptRow],
    order: Order,
    endpoint: Endpoint,
    engine: OfflineEngine,
    writer: TeacherIndexWriter,
    monitor: BuildMonitor,
) -> BuildReport:
    """Fill what lacks, in at most 1 + `order.retries` rounds.

    Raises `TeacherIndexError` when answers cannot be stored, and what the engine raises.
    """
    report = BuildReport(0)
    for _ in range(1 + order.retries):
        with TeacherIndex.open(writer.path) as index:
            wanted = list(lacking(index, prompts, order, endpoint.settings.max_tokens))
        missing = sum(item.missing for item in wanted)
        report.wanted = report.stored[AnswerStatus.USABLE] + missing
        report.given_up = sum(item.rejected > order.retries for item in wanted)
        requests = list(_requests(wanted, order, endpoint, report, monitor))
        if not requests:
            break
        for batch in engine(requests):
            _store(batch, writer, report, asked_to_think(endpoint))
            monitor.update(report)
    return report


def _store(
    batch: Sequence[tuple[OfflineRequest, Reply | str]],
    writer: TeacherIndexWriter,
    report: BuildReport,
    thinks: bool,
) -> None:
    answers = []
    for request, reply in batch:
        if isinstance(reply, str):
            report.failures["engine"] += 1
            report.last_failure = reply
        else:
            answers.append(answer_of(request.fingerprint, reply, request.sampling, thinks))
    writer.append(answers)
    for answer in answers:
        report.count(answer)


def _requests(
    wanted: Sequence[Wanted],
    order: Order,
    endpoint: Endpoint,
    report: BuildReport,
    monitor: BuildMonitor,
) -> Iterator[OfflineRequest]:
    """What the budget allows of the missing answers."""
    slots = [item for item in wanted if item.rejected <= order.retries for _ in range(item.missing)]
    for item in slots[: allowed_ahead(monitor, report, len(slots))]:
        yield _request(item.prompt, order, endpoint, item.attempts)
        item.attempts += 1


def _request(prompt: PromptRow, order: Order, endpoint: Endpoint, attempt: int) -> OfflineRequest:
    seed = {} if order.seed is None else {"seed": order.seed + attempt}
    return OfflineRequest(
        fingerprint=prompt.fingerprint,
        messages=teacher_messages(prompt.messages, order.system),
        sampling=recorded_sampling(endpoint, seed),
    )
