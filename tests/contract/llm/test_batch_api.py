"""The batch API over real HTTP: a paid batch is never sent twice, a refusal is one line."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from algo.errors import JudgeOutage
from algo.llm.batch_api import BatchApi
from algo.llm.endpoint import Endpoint
from algo.llm.settings import RoleSettings
from algo.testing import Batches, FakeOpenAI
from algo.testing.batches import AnswerLine
from tests.builders.patience import patience
from tests.builders.teaching import environment, write_prompts
from tests.fakes.teacher import teacher


def call(
    server: FakeOpenAI,
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


class Faulty(Batches):
    """Makes the batch that it is asked for, and answers as told; keeps the keys that came."""

    def __init__(self, answer: Callable[[web.Request], web.Response]) -> None:
        super().__init__()
        self.told = answer
        self.keys: list[str | None] = []

    async def create(self, request: web.Request, answer: AnswerLine) -> web.Response:
        await super().create(request, answer)
        return self.told(request)

    async def look(self, request: web.Request) -> web.Response:
        self.keys.append(request.headers.get("Authorization"))
        return self.told(request)


def dropped(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


BODY = {"model": "mock", "messages": [{"role": "user", "content": "q"}]}
LINE = json.dumps({"custom_id": "c", "body": BODY}).encode() + b"\n"


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
def test_a_batch_whose_reply_is_lost_is_sent_once_and_found_again(
    answer: Callable[[web.Request], web.Response], said: str
) -> None:
    faulty = Faulty(answer)

    async def create(api: BatchApi) -> None:
        await api.create(await api.upload(LINE), "tag-1")

    async def found(api: BatchApi) -> list[str | None]:
        return [state.tag async for state in api.recent()]

    with teacher(batches=faulty) as server:
        with pytest.raises(JudgeOutage, match=f"teacher mock at .*{said}"):
            call(server, None, create)
        assert len(faulty.batches) == 1
        assert call(server, None, found) == ["tag-1"]


def test_other_calls_are_sent_again_and_honour_the_wait() -> None:
    def busy_twice(request: web.Request) -> web.Response:
        if len(faulty.keys) < 3:
            return web.json_response({}, status=503, headers={"retry-after-ms": "1"})
        return web.json_response({"id": "batch_7", "status": "in_progress"})

    faulty = Faulty(busy_twice)
    with teacher(batches=faulty) as server:
        state = call(server, "sk-secret-of-a-test", lambda api: api.state("batch_7"))
    assert (state.id, state.ended, state.tag, state.message) == ("batch_7", False, None, "")
    assert faulty.keys == ["Bearer sk-secret-of-a-test"] * 3


def test_recent_batches_are_read_page_by_page() -> None:
    batches = Batches(page=2)
    batches.batches = {f"b{i}": {"id": f"b{i}", "status": "completed"} for i in range(5)}

    async def ids(api: BatchApi) -> list[str]:
        return [state.id async for state in api.recent()]

    with teacher(batches=batches) as server:
        assert call(server, None, ids) == ["b4", "b3", "b2", "b1", "b0"]


def test_a_batch_goes_to_the_api_that_its_lines_are_for() -> None:
    asked: list[str] = []

    class Noting(Batches):
        async def create(self, request: web.Request, answer: AnswerLine) -> web.Response:
            asked.append((await request.json())["endpoint"])
            return web.json_response({"id": "b", "status": "validating"})

    with teacher(batches=Noting()) as server:
        for api in ("chat_completions", "responses"):
            call(server, None, lambda batches: batches.create("file_0", "tag"), api=api)
    assert asked == ["/v1/chat/completions", "/v1/responses"]


def test_an_endpoint_without_a_key_is_sent_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-someone-else")
    faulty = Faulty(lambda _: web.json_response({"id": "b", "status": "completed"}))
    with teacher(batches=faulty) as server:
        call(server, None, lambda api: api.state("b"))
    assert faulty.keys == [None]


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_is_one_line_and_never_quotes_the_key(status: int) -> None:
    quoting = {"error": {"message": "no such key:\nsk-secret-of-a-test"}}
    faulty = Faulty(lambda _: web.json_response(quoting, status=status))
    with teacher(batches=faulty) as server, pytest.raises(JudgeOutage) as caught:
        call(server, "sk-secret-of-a-test", lambda api: api.state("b"))
    said = str(caught.value)
    assert f"teacher mock at {server.base_url}" in said
    assert f"GET /batches/b: HTTP {status}: " in said
    assert len(said.splitlines()) == 1
    assert "sk-secret-of-a-test" not in said
    assert len(faulty.keys) == 1


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
        timeout=patience(60),
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("ropd: --backend batch needs the package openai")
    assert 'pip install "ropd[batch]"' in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "i").exists()
