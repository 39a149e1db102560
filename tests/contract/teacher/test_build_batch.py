"""Building by the batch API over real HTTP: nothing is billed twice, wherever it is cut off."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from algo.data.fingerprint import prompt_fingerprint
from algo.data.prompt_file import PromptRow
from algo.errors import JudgeOutage
from algo.llm.batch_api import BatchApi
from algo.llm.endpoint import Endpoint
from algo.llm.settings import RoleSettings
from algo.teacher.build import BuildReport, Order, Permission, teacher_of
from algo.teacher.build_batch import BatchLimits, Ledger, build_by_batch
from algo.teacher.teacher_index import AnswerStatus, TeacherIndex
from algo.teacher.writer import TeacherIndexWriter
from algo.testing import Batches, FakeOpenAI, FaultKind, Reply, Request
from tests.builders.teaching import build as run_command
from tests.builders.teaching import write_prompts
from tests.fakes.teacher import teacher

LIMITS = BatchLimits(requests=4, poll_s=0.01)


class Crash(Exception):
    """Stands for the process that dies."""


class CrashingApi(BatchApi):
    """Dies when the reply to its n-th call has arrived, before anything can be done with it."""

    def __init__(self, endpoint: Endpoint, crash_at: int | None = None) -> None:
        super().__init__(endpoint)
        self._left = crash_at

    async def _call(self, *args: Any, **kwargs: Any) -> Any:
        received = await super()._call(*args, **kwargs)
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                raise Crash
        return received


class Unlimited:
    def update(self, report: BuildReport) -> None: ...

    def may_ask(self, report: BuildReport, in_flight: int) -> Permission:
        return Permission.GO


def prompts(count: int) -> list[PromptRow]:
    chats = [[{"role": "user", "content": f"q{i}"}] for i in range(count)]
    return [PromptRow(i, chat, prompt_fingerprint(chat)) for i, chat in enumerate(chats)]


def build(
    server: FakeOpenAI,
    out: Path,
    crash_at: int | None = None,
    limits: BatchLimits = LIMITS,
    **order: Any,
) -> BuildReport:
    endpoint = Endpoint("teacher", "mock", server.base_url, RoleSettings(max_tokens=100))
    wanted = Order(order.pop("answers", 2), 1, **order)

    async def run() -> BuildReport:
        async with CrashingApi(endpoint, crash_at) as api:
            with TeacherIndexWriter.open(out, teacher_of(endpoint, wanted)) as writer:
                return await build_by_batch(
                    prompts(5), wanted, endpoint, api, writer, Unlimited(), print, limits
                )

    return asyncio.run(run())


def test_batches_fill_the_index(tmp_path: Path) -> None:
    with teacher(batches=Batches(page=2)) as server:
        report = build(server, tmp_path / "i", seed=7)
        assert (report.wanted, report.missing) == (10, 0)
        assert len(server.batches.batches) == 3
        assert server.asked == {f"q{i}": 2 for i in range(5)}
        assert build(server, tmp_path / "i", seed=7).wanted == 0
    assert {line["url"] for line in server.batches.lines} == {"/v1/chat/completions"}
    assert max(len(line["custom_id"]) for line in server.batches.lines) <= 64
    with TeacherIndex.open(tmp_path / "i") as index:
        answers = index.answers(prompts(1)[0].fingerprint, 2)
        assert [a.sampling for a in answers] == [
            {"max_tokens": 100, "seed": 7},
            {"max_tokens": 100, "seed": 8},
        ]
        assert answers[0].completion_tokens == 20


@pytest.mark.parametrize("crash_at", range(1, 16))
def test_a_build_cut_off_after_any_call_bills_nothing_twice(tmp_path: Path, crash_at: int) -> None:
    out = tmp_path / "i"
    with teacher(batches=Batches(page=2)) as server:
        with pytest.raises(Crash):
            build(server, out, crash_at)
        assert build(server, out).missing == 0
        assert server.asked == {f"q{i}": 2 for i in range(5)}
    with TeacherIndex.open(out) as index:
        assert len(index) == 10


def test_results_half_stored_are_completed(tmp_path: Path) -> None:
    out = tmp_path / "i"
    with teacher(batches=Batches(page=2)) as server:
        build(server, out)
        owed = Ledger(out)
        lines = owed.path.read_bytes().splitlines(keepends=True)
        owed.path.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
        lines = out.read_bytes().splitlines(keepends=True)
        out.write_bytes(b"".join(lines[:-1]) + lines[-1][:30])
        assert build(server, out).missing == 0
        assert sum(server.asked.values()) == 10
    with TeacherIndex.open(out) as index:
        assert len(index) == 10


def test_rejected_answers_and_failed_requests_are_asked_again_within_bounds(tmp_path: Path) -> None:
    def answer(request: Request) -> Reply:
        return Reply("cut", "length") if request.question == "q0" else Reply("fine")

    def plan(request: Request) -> FaultKind | None:
        busy = request.question == "q1" and request.before == 0
        return FaultKind.HTTP_500 if busy else None

    with teacher(answer, plan=plan) as server:
        report = build(server, tmp_path / "i", answers=1, retries=1)
    assert server.asked == {"q0": 2, "q1": 2, "q2": 1, "q3": 1, "q4": 1}
    assert report.stored == {AnswerStatus.USABLE: 4, AnswerStatus.TRUNCATED: 2}
    assert report.failures == {"batch request": 1}
    assert report.missing == 1


def test_failed_batch_is_reported(tmp_path: Path) -> None:
    with teacher(batches=Batches(status="failed")) as server:
        report = build(server, tmp_path / "i", answers=1, retries=0)
    assert report.missing == 5
    assert "batch_1 failed" in report.last_failure


def test_a_request_that_its_batch_left_without_a_response_is_asked_again(tmp_path: Path) -> None:
    def plan(request: Request) -> FaultKind | None:
        lost = request.question == "q1" and request.before == 0
        return FaultKind.DROP if lost else None

    with teacher(plan=plan) as server:
        report = build(server, tmp_path / "i", answers=1)
    assert server.asked == {"q0": 1, "q1": 2, "q2": 1, "q3": 1, "q4": 1}
    assert report.failures == {"batch request": 1}
    assert report.missing == 0


def test_results_that_cannot_be_read_are_counted_and_asked_again(tmp_path: Path) -> None:
    class Damaging(Batches):
        def store(self, content: bytes) -> str:
            if b'"response"' in content and not self.batches:
                content = b"half a line\n" + content.partition(b"\n")[2]
            return super().store(content)

    with teacher(batches=Damaging()) as server:
        report = build(server, tmp_path / "i", answers=1, limits=BatchLimits(poll_s=0.01))
    assert report.failures == {"batch request": 1}
    assert "half a line" in report.last_failure
    assert report.missing == 0
    assert sum(server.asked.values()) == 6


def test_a_batch_that_takes_too_long_is_left_and_collected_later(tmp_path: Path) -> None:
    out = tmp_path / "i"
    impatient = BatchLimits(wait_s=0.0)
    with teacher(batches=Batches(page=2)) as server:
        report = build(server, out, limits=impatient)
        assert "still in_progress" in report.stopped
        report = build(server, out)
        assert report.missing == 0
        assert sum(server.asked.values()) == 10


def test_an_endpoint_without_batches_is_named(tmp_path: Path) -> None:
    with teacher(batches=Batches(page=2)) as server:
        server.base_url += "/elsewhere"
        with pytest.raises(JudgeOutage, match="POST /files: HTTP 404"):
            build(server, tmp_path / "i")


def test_the_command_builds_by_batch(tmp_path: Path) -> None:
    data = write_prompts(tmp_path / "train.parquet", ["a", "b"])
    with teacher(batches=Batches(page=2)) as server:
        options = ("--backend", "batch", "batch.poll_s=0.1", "--answers", "3")
        result = run_command(server, data, tmp_path / "i", *options)
    assert result.returncode == 0, result.stderr
    assert "sent batch batch_0: 6 requests" in result.stderr
    assert "stored: 6 usable" in result.stdout
