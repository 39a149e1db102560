"""Building by the batch API over real HTTP: nothing is billed twice, wherever it is cut off."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

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
from tests.contract.batch_endpoint import BatchEndpoint, reply
from tests.contract.teacher_endpoint import serving
from tests.contract.test_teacher_builder import build as run_command
from tests.contract.test_teacher_builder import environment, write_prompts

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
    server: BatchEndpoint,
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
    with serving(BatchEndpoint()) as server:
        report = build(server, tmp_path / "i", seed=7)
        assert (report.wanted, report.missing) == (10, 0)
        assert len(server.batches) == 3
        assert server.billed == {f"q{i}": 2 for i in range(5)}
        assert build(server, tmp_path / "i", seed=7).wanted == 0
    assert {line["url"] for line in server.lines} == {"/v1/chat/completions"}
    assert max(len(line["custom_id"]) for line in server.lines) <= 64
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
    with serving(BatchEndpoint()) as server:
        with pytest.raises(Crash):
            build(server, out, crash_at)
        assert build(server, out).missing == 0
        assert server.billed == {f"q{i}": 2 for i in range(5)}
    with TeacherIndex.open(out) as index:
        assert len(index) == 10


def test_results_half_stored_are_completed(tmp_path: Path) -> None:
    out = tmp_path / "i"
    with serving(BatchEndpoint()) as server:
        build(server, out)
        owed = Ledger(out)
        lines = owed.path.read_bytes().splitlines(keepends=True)
        owed.path.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
        lines = out.read_bytes().splitlines(keepends=True)
        out.write_bytes(b"".join(lines[:-1]) + lines[-1][:30])
        assert build(server, out).missing == 0
        assert sum(server.billed.values()) == 10
    with TeacherIndex.open(out) as index:
        assert len(index) == 10


def test_rejected_answers_and_failed_requests_are_asked_again_within_bounds(tmp_path: Path) -> None:
    def result(body: dict[str, Any], before: int) -> dict[str, Any]:
        prompt = body["messages"][-1]["content"]
        if prompt == "q0":
            return reply("cut", "length")
        if prompt == "q1" and before == 0:
            return {"status_code": 500, "body": {"error": "busy"}}
        return reply("fine")

    with serving(BatchEndpoint(result)) as server:
        report = build(server, tmp_path / "i", answers=1, retries=1)
    assert server.billed == {"q0": 2, "q1": 2, "q2": 1, "q3": 1, "q4": 1}
    assert report.stored == {AnswerStatus.USABLE: 4, AnswerStatus.TRUNCATED: 2}
    assert report.failures == {"batch request": 1}
    assert report.missing == 1


def test_failed_batch_is_reported(tmp_path: Path) -> None:
    with serving(BatchEndpoint(status="failed")) as server:
        report = build(server, tmp_path / "i", answers=1, retries=0)
    assert report.missing == 5
    assert "batch_1 failed" in report.last_failure


def test_results_that_cannot_be_read_are_counted_and_asked_again(tmp_path: Path) -> None:
    server = BatchEndpoint()
    keep = server._keep

    def damaged(content: bytes) -> str:
        first = b'"response"' in content and not server.batches
        return keep(b"half a line\n" + content.partition(b"\n")[2] if first else content)

    server._keep = damaged  # type: ignore[method-assign]
    with serving(server):
        report = build(server, tmp_path / "i", answers=1, limits=BatchLimits(poll_s=0.01))
    assert report.failures == {"batch request": 1}
    assert "half a line" in report.last_failure
    assert report.missing == 0
    assert sum(server.billed.values()) == 6


def test_a_batch_that_takes_too_long_is_left_and_collected_later(tmp_path: Path) -> None:
    out = tmp_path / "i"
    impatient = BatchLimits(wait_s=0.0)
    with serving(BatchEndpoint()) as server:
        report = build(server, out, limits=impatient)
        assert "still in_progress" in report.stopped
        report = build(server, out)
        assert report.missing == 0
        assert sum(server.billed.values()) == 10


def test_an_endpoint_without_batches_is_named(tmp_path: Path) -> None:
    with serving(BatchEndpoint()) as server:
        server.base_url += "/elsewhere"
        with pytest.raises(JudgeOutage, match="POST /files: HTTP 404"):
            build(server, tmp_path / "i")


def call(
    server: BatchEndpoint,
    key: str | None,
    call: Callable[[BatchApi], Awaitable[Any]],
    **settings: Any,
) -> Any:
    secret = None if key is None else SecretStr(key)
    endpoint = Endpoint("teacher", "mock", server.base_url, RoleSettings(**settings), secret)

    async def run() -> Any:
        async with BatchApi(endpoint) as api:
            return await call(api)

    return asyncio.run(run())


class Faulty(BatchEndpoint):
    """Makes the batch that it is asked for, and answers as told; counts what came."""

    def __init__(self, answer: Callable[[web.Request], web.Response]) -> None:
        super().__init__()
        self.answer = answer
        self.keys: list[str | None] = []

    async def create(self, request: web.Request) -> web.Response:
        await super().create(request)
        return self.answer(request)

    async def look(self, request: web.Request) -> web.Response:
        self.keys.append(request.headers.get("Authorization"))
        return self.answer(request)


def dropped(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda _: web.json_response({"error": "busy"}, status=503), "HTTP 503: .*busy"),
        (lambda _: web.json_response({}, status=429), "HTTP 429"),
        (lambda _: web.json_response({"unknown": "shape"}), "no reply of the batch API"),
        (lambda _: web.Response(text="<html>", content_type="text/html"), "no reply of the batch"),
        (lambda _: web.Response(text="{", content_type="application/json"), "POST /batches: "),
        (dropped, "APIConnectionError: "),
    ],
)
def test_a_batch_whose_reply_is_lost_is_never_sent_again(
    tmp_path: Path, answer: Callable[[web.Request], web.Response], said: str
) -> None:
    out = tmp_path / "i"
    with serving(Faulty(answer)) as server:
        with pytest.raises(JudgeOutage, match=f"teacher mock at .*{said}"):
            build(server, out, limits=BatchLimits(poll_s=0.01))
        assert len(server.batches) == 1
        whole = BatchEndpoint()
        whole.batches, whole.billed, whole._files = server.batches, server.billed, server._files
    with serving(whole):
        assert build(whole, out).missing == 0
    assert set(whole.billed.values()) == {2}


def test_other_calls_are_sent_again_and_honour_the_wait(tmp_path: Path) -> None:
    def busy_twice(request: web.Request) -> web.Response:
        if len(server.keys) < 3:
            return web.json_response({}, status=503, headers={"retry-after-ms": "1"})
        return web.json_response({"id": "batch_7", "status": "in_progress"})

    server = Faulty(busy_twice)
    with serving(server):
        state = call(server, "sk-secret", lambda api: api.state("batch_7"))
    assert (state.id, state.ended, state.tag, state.message) == ("batch_7", False, None, "")
    assert server.keys == ["Bearer sk-secret"] * 3


def test_recent_batches_are_read_page_by_page() -> None:
    server = BatchEndpoint()
    server.batches = {f"b{i}": {"id": f"b{i}", "status": "completed"} for i in range(5)}

    async def ids(api: BatchApi) -> list[str]:
        return [state.id async for state in api.recent()]

    with serving(server):
        assert call(server, None, ids) == ["b4", "b3", "b2", "b1", "b0"]


def test_a_batch_goes_to_the_api_that_its_lines_are_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def create(_: BatchEndpoint, request: web.Request) -> web.Response:
        asked.append((await request.json())["endpoint"])
        return web.json_response({"id": "b", "status": "validating"})

    monkeypatch.setattr(BatchEndpoint, "create", create)
    with serving(BatchEndpoint()) as server:
        for api in ("chat_completions", "responses"):
            call(server, None, lambda batches: batches.create("file_0", "tag"), api=api)
    assert asked == ["/v1/chat/completions", "/v1/responses"]


def test_an_endpoint_without_a_key_is_sent_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-someone-else")
    server = Faulty(lambda _: web.json_response({"id": "b", "status": "completed"}))
    with serving(server):
        call(server, None, lambda api: api.state("b"))
    assert server.keys == [None]


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_is_one_line_and_never_quotes_the_key(status: int) -> None:
    quoting = {"error": {"message": "no such key:\nsk-secret"}}
    server = Faulty(lambda _: web.json_response(quoting, status=status))
    with serving(server), pytest.raises(JudgeOutage) as caught:
        call(server, "sk-secret", lambda api: api.state("b"))
    said = str(caught.value)
    assert f"teacher mock at {server.base_url}" in said
    assert f"GET /batches/b: HTTP {status}: " in said
    assert len(said.splitlines()) == 1
    assert "sk-secret" not in said
    assert len(server.keys) == 1


def test_without_the_package_the_extra_is_named(tmp_path: Path) -> None:
    data = write_prompts(tmp_path / "train.parquet", ["a"])
    words = ["ropd", "teacher", "build", "--data", str(data), "--out", str(tmp_path / "i")]
    words += ["--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--backend", "batch"]
    code = f"import sys; sys.modules['openai'] = None; sys.argv = {words!r}\n"
    code += "from algo.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("ropd: --backend batch needs the package openai")
    assert 'pip install "ropd[batch]"' in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "i").exists()


def test_the_command_builds_by_batch(tmp_path: Path) -> None:
    data = write_prompts(tmp_path / "train.parquet", ["a", "b"])
    with serving(BatchEndpoint()) as server:
        options = ("--backend", "batch", "batch.poll_s=0.1", "--answers", "3")
        result = run_command(server, data, tmp_path / "i", *options)  # type: ignore[arg-type]
    assert result.returncode == 0, result.stderr
    assert "sent batch batch_0: 6 requests" in result.stderr
    assert "stored: 6 usable" in result.stdout
