"""Builds an index through the OpenAI batch API: half the price, results within a day.

What was sent is written to ``<index>.batches`` before it is sent and once it is known to have
arrived, so that a build interrupted anywhere collects what is owed before it asks for more: a batch
is never sent twice, and its results are never stored twice.

The HTTP calls are `batch_api`'s; which answers are missing, and what a reply is worth, is the same
as for every build (`build.py`).
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson

from algo.data.prompt_file import PromptRow
from algo.errors import TeacherIndexError
from algo.llm.batch_api import BatchApi, BatchState
from algo.llm.endpoint import Endpoint, Request
from algo.llm.http.wire import Fault, excerpt, parse_reply, request_body
from algo.sealed_lines import BrokenLine, seal, unseal
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
from algo.teacher.teacher_index import AnswerStatus, TeacherAnswer, TeacherIndex
from algo.teacher.writer import TeacherIndexWriter

Notify = Callable[[str], None]


@dataclass(frozen=True)
class BatchLimits:
    """The endpoint's limits for one batch, and how long it is waited for."""

    requests: int = 50_000
    bytes: int = 190_000_000
    poll_s: float = 60.0
    wait_s: float = 26 * 3600.0


@dataclass(frozen=True)
class SentBatch:
    """One entry of the ledger: a batch that was, or was about to be, sent."""

    tag: str
    seed: int | None
    max_tokens: int
    batch: str | None = None
    settled: bool = False
    """Its results are stored, or it never reached the endpoint."""


class Ledger:
    """The batches of an index, in an append-only file of sealed lines beside it."""

    def __init__(self, index: Path) -> None:
        self.path = index.with_name(index.name + ".batches")

    def owed(self) -> list[SentBatch]:
        """The batches that are not settled. Raises `TeacherIndexError` for a damaged ledger."""
        entries: dict[str, SentBatch] = {}
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        for number, line in enumerate(lines, start=1):
            try:
                entry = SentBatch(**unseal(line))
            except (BrokenLine, TypeError) as error:
                if number == len(lines):
                    continue  # torn by a crash while it was written: not yet sent
                raise TeacherIndexError(f"{self.path}, line {number}: {error}") from None
            entries[entry.tag] = entry
        return [entry for entry in entries.values() if not entry.settled]

    def write(self, entry: SentBatch) -> None:
        """On disk when this returns."""
        fields = {name: getattr(entry, name) for name in SentBatch.__dataclass_fields__}
        try:
            with self.path.open("a+b") as file:
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)  # what a crash left half written
                file.write(seal(fields))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise TeacherIndexError(f"cannot write {self.path}: {error.strerror}") from None


async def build_by_batch(
    prompts: Sequence[PromptRow],
    order: Order,
    endpoint: Endpoint,
    api: BatchApi,
    writer: TeacherIndexWriter,
    monitor: BuildMonitor,
    notify: Notify,
    limits: BatchLimits | None = None,
) -> BuildReport:
    """Collect what earlier builds are owed, then fill what lacks, in at most 1 + retries rounds.

    Raises `JudgeOutage` when the endpoint fails, `TeacherIndexError` when answers cannot be stored.
    """
    limits = limits or BatchLimits()
    build = _BatchBuild(order, endpoint, api, writer, monitor, notify, limits)
    await build.collect()
    wanted = build.lacking(prompts)
    collected = build.report.stored[AnswerStatus.USABLE]
    build.report.wanted = collected + sum(item.missing for item in wanted)
    for _ in range(1 + order.retries):
        wanted = build.lacking(prompts)
        build.report.given_up = sum(item.rejected > order.retries for item in wanted)
        if not await build.send([item for item in wanted if item.rejected <= order.retries]):
            break
        if not await build.collect():
            break
    return build.report


class _BatchBuild:
    def __init__(
        self,
        order: Order,
        endpoint: Endpoint,
        api: BatchApi,
        writer: TeacherIndexWriter,
        monitor: BuildMonitor,
        notify: Notify,
        limits: BatchLimits,
    ) -> None:
        self.order, self.endpoint, self.api, self.writer = order, endpoint, api, writer
        self.monitor, self.notify, self.limits = monitor, notify, limits
        self.ledger = Ledger(writer.path)
        self.report = BuildReport(0)

    def lacking(self, prompts: Sequence[PromptRow]) -> list[Wanted]:
        with TeacherIndex.open(self.writer.path) as index:
            return list(lacking(index, prompts, self.order, self.endpoint.settings.max_tokens))

    async def send(self, wanted: Sequence[Wanted]) -> int:
        """Send batches for `wanted` as far as the budget goes; returns the number of requests."""
        slots = [item for item in wanted for _ in range(item.missing)]
        allowed = allowed_ahead(self.monitor, self.report, len(slots))
        lines = (self._request(item) for item in slots[:allowed])
        for chunk in _chunks(lines, self.limits):
            entry = SentBatch(uuid4().hex, self.order.seed, self.endpoint.settings.max_tokens)
            file = await self.api.upload(chunk)
            self.ledger.write(entry)
            batch = await self.api.create(file, entry.tag)
            self.ledger.write(replace(entry, batch=batch.id))
            requests = chunk.count(b"\n")
            self.notify(f"sent batch {batch.id}: {requests:,} requests")
        return allowed

    async def collect(self) -> bool:
        """Wait for every batch owed and store its results; False when one did not end in time."""
        for entry in self.ledger.owed():
            if entry.batch is None:
                entry = await self._found_again(entry)
            if entry.batch is None:
                self.ledger.write(replace(entry, settled=True))
                continue
            state = await self._ended(entry.batch)
            if not state.ended:
                self.report.stopped = f"batch {state.id} is still {state.status}"
                return False
            await self._store(entry, state)
            self.ledger.write(replace(entry, settled=True))
        return True

    async def _found_again(self, entry: SentBatch) -> SentBatch:
        """The batch of an interrupted call, if the endpoint made it after all."""
        async for state in self.api.recent():
            if state.tag == entry.tag:
                return replace(entry, batch=state.id)
        return entry

    async def _ended(self, batch: str) -> BatchState:
        end = asyncio.get_running_loop().time() + self.limits.wait_s
        status = ""
        while True:
            state = await self.api.state(batch)
            if state.status != status:
                self.notify(f"batch {batch}: {state.status} {state.message}".rstrip())
                status = state.status
            if state.ended or asyncio.get_running_loop().time() >= end:
                return state
            await asyncio.sleep(self.limits.poll_s)

    async def _store(self, entry: SentBatch, state: BatchState) -> None:
        results: dict[tuple[str, int], dict[str, Any]] = {}
        for file in (state.error_file, state.output_file):
            if file is not None:
                results |= self._results(await self.api.content(file))
        if not results:
            self.report.failures[f"batch {state.status}"] += 1
            self.report.last_failure = f"batch {state.id} {state.status}: {state.message}"
        with TeacherIndex.open(self.writer.path) as index:
            answers = list(self._answers(entry, state.id, results, index))
        self.writer.append(answers)
        for answer in answers:
            self.report.count(answer)
        self.monitor.update(self.report)

    def _results(self, content: bytes) -> dict[tuple[str, int], dict[str, Any]]:
        """The results of a file, by prompt fingerprint and attempt."""
        found: dict[tuple[str, int], dict[str, Any]] = {}
        for line in content.splitlines():
            try:
                result = json.loads(line)  # not orjson, which refuses lone surrogates
                found[_read_custom_id(result["custom_id"])] = result
            except (ValueError, KeyError, TypeError):
                self._failed(f"a result that cannot be read: {excerpt(line)}")
        return found

    def _answers(
        self,
        entry: SentBatch,
        batch: str,
        results: Mapping[tuple[str, int], Mapping[str, Any]],
        index: TeacherIndex,
    ) -> Iterator[TeacherAnswer]:
        for (fingerprint, attempt), result in results.items():
            origin = {"batch": batch, "attempt": attempt}
            if any(a.extra == origin for a in index.all_answers(fingerprint)):
                continue  # stored before the build was interrupted
            response = result.get("response") or {}
            body = json.dumps(response.get("body") or result.get("error")).encode()
            if response.get("status_code") != 200:
                quoted = excerpt(self.endpoint.without_key(body))
                self._failed(f"HTTP {response.get('status_code')}: {quoted}")
                continue
            try:
                reply = parse_reply(self.endpoint, body, 0.0, 1)
            except Fault as fault:
                self._failed(str(fault))
                continue
            seed = {} if entry.seed is None else {"seed": entry.seed + attempt}
            sampling = recorded_sampling(self.endpoint, {"max_tokens": entry.max_tokens, **seed})
            answer = answer_of(fingerprint, reply, sampling, asked_to_think(self.endpoint))
            yield answer._replace(latency_s=None, extra=origin)

    def _failed(self, message: str) -> None:
        self.report.failures["batch request"] += 1
        self.report.last_failure = message

    def _request(self, item: Wanted) -> bytes:
        attempt = item.attempts
        item.attempts += 1
        sampling = {} if self.order.seed is None else {"seed": self.order.seed + attempt}
        messages = teacher_messages(item.prompt.messages, self.order.system)
        path, body = request_body(self.endpoint, Request(messages, sampling=sampling))
        custom_id = _custom_id(item.prompt.fingerprint, attempt)
        head = orjson.dumps({"custom_id": custom_id, "method": "POST", "url": f"/v1{path}"})
        return head[:-1] + b',"body":' + body + b"}\n"


def _custom_id(fingerprint: str, attempt: int) -> str:
    # 43 characters and the attempt: endpoints take 64.
    key = base64.urlsafe_b64encode(bytes.fromhex(fingerprint)).rstrip(b"=").decode()
    return f"{key}.{attempt}"


def _read_custom_id(custom_id: str) -> tuple[str, int]:
    key, _, attempt = custom_id.rpartition(".")
    return base64.urlsafe_b64decode(key + "=").hex(), int(attempt)


def _chunks(lines: Iterator[bytes], limits: BatchLimits) -> Iterator[bytes]:
    """Lines joined to files of at most so many requests and bytes."""
    held: list[bytes] = []
    size = 0
    for line in lines:
        if held and (len(held) == limits.requests or size + len(line) > limits.bytes):
            yield b"".join(held)
            held, size = [], 0
        held.append(line)
        size += len(line)
    if held:
        yield b"".join(held)
