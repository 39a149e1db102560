"""The fake endpoint over real HTTP: replies, faults, counters, and how it ends."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
import urllib.request
from typing import Any

import aiohttp
import pytest

from algo.testing import FakeOpenAI, Fault, FaultKind, Reply, Request, Usage
from algo.testing.faults import STATUSES
from tests.builders.patience import patience


def echo(request: Request) -> str:
    return f"{request.question} ({request.before}, {request.choice})"


async def post(
    fake: FakeOpenAI, text: str = "2+2=?", path: str = "/chat/completions", **fields: Any
) -> tuple[int, dict[str, Any], Any]:
    """Status, headers and the decoded body of a request."""
    key = "input" if path == "/responses" else "messages"
    messages = [{"role": "user", "content": text}]
    body = {"model": "m", key: messages} | fields
    async with (
        aiohttp.ClientSession() as session,
        session.post(fake.base_url + path, json=body, timeout=aiohttp.ClientTimeout(5)) as response,
    ):
        return response.status, dict(response.headers), _decoded(await response.text())


def _decoded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def said(body: Any) -> list[str]:
    return [choice["message"]["content"] for choice in body["choices"]]


async def test_a_reply_is_what_the_function_says_in_either_style() -> None:
    fake = FakeOpenAI(echo, usage=lambda request, replies: Usage(10, 20))
    async with fake.serve():
        _, _, chat = await post(fake, n=2)
        _, _, response = await post(fake, path="/responses")
        _, _, bare = await post(fake, path="/responses", input="2+2=?")
    assert said(chat) == ["2+2=? (0, 0)", "2+2=? (0, 1)"]
    assert chat["usage"]["total_tokens"] == 30
    assert response["output"][0]["content"][0]["text"] == "2+2=? (1, 0)"
    assert bare["output"][0]["content"][0]["text"] == "2+2=? (2, 0)"
    assert response["usage"]["output_tokens"] == 20


async def test_models_are_listed() -> None:
    fake = FakeOpenAI(echo, models=("a", "b"))
    async with (
        fake.serve() as url,
        aiohttp.ClientSession() as session,
        session.get(f"{url}/models") as response,
    ):
        listed = await response.json()
    assert [model["id"] for model in listed["data"]] == ["a", "b"]


async def test_the_key_is_wanted_everywhere_and_never_said() -> None:
    fake = FakeOpenAI(echo, key="sk-right")
    async with fake.serve() as url, aiohttp.ClientSession() as session:
        for path in ("/models", "/batches"):
            async with session.get(url + path) as response:
                assert response.status == 401
                assert "sk-right" not in await response.text()
        assert (await post(fake))[0] == 401
        headers = {"Authorization": "Bearer sk-right"}
        async with session.get(f"{url}/models", headers=headers) as response:
            assert response.status == 200
    assert fake.keys == {None, "Bearer sk-right"}
    assert fake.requests.total() == 0


@pytest.mark.parametrize(
    ("fields", "status", "named"),
    [
        ({"messages": []}, 400, "messages"),
        ({"messages": "hello"}, 400, "messages"),
        ({"model": 3}, 400, "model"),
        ({"n": 0}, 400, "n"),
        ({"stream": True}, 400, "stream"),
        ({"model": "unknown"}, 404, "unknown"),
        ({"temperature": 1.0}, 400, "Unsupported: 'temperature'"),
    ],
)
async def test_a_wrong_request_is_refused_by_name(
    fields: dict[str, Any], status: int, named: str
) -> None:
    fake = FakeOpenAI(
        echo,
        role_of=lambda body: None if body["model"] == "unknown" else body["model"],
        refuses=["temperature"],
    )
    async with fake.serve():
        found, _, body = await post(fake, **fields)
    assert found == status
    assert named in body["error"]["message"]
    assert fake.replies.total() == 0


@pytest.mark.parametrize("kind", [kind for kind in STATUSES if kind is not FaultKind.HTTP_503])
async def test_a_status_comes_with_an_error_object(kind: FaultKind) -> None:
    fake = FakeOpenAI(echo, plan=lambda request: Fault(kind, message="so it goes"))
    async with fake.serve():
        status, headers, body = await post(fake)
    assert status == STATUSES[kind].status
    assert body["error"]["message"] == "so it goes"
    assert body["error"]["code"] == (STATUSES[kind].code or status)
    assert "Retry-After" not in headers


async def test_a_503_is_the_plain_text_of_a_proxy() -> None:
    fake = FakeOpenAI(echo, plan=lambda request: FaultKind.HTTP_503)
    async with fake.serve():
        status, _, text = await post(fake)
    assert (status, text) == (503, "planted fault")


async def test_a_429_says_how_long_to_wait_if_it_is_told() -> None:
    fake = FakeOpenAI(echo, plan=lambda request: Fault(FaultKind.HTTP_429, seconds=0.5))
    async with fake.serve():
        status, headers, _ = await post(fake)
    assert (status, headers["Retry-After"]) == (429, "0.5")


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(FaultKind.DROP), aiohttp.ServerDisconnectedError),
        (Fault(FaultKind.HANG, seconds=0.2), aiohttp.ServerDisconnectedError),
        (Fault(FaultKind.HALF_BODY), aiohttp.ClientPayloadError),
        (Fault(FaultKind.DRIP), TimeoutError),
        (Fault(FaultKind.HANG), TimeoutError),
    ],
    ids=str,
)
async def test_a_connection_ends_as_planned_and_the_server_goes_on(
    fault: Fault, error: type[Exception]
) -> None:
    fake = FakeOpenAI(echo, plan=lambda request: fault if request.number == 0 else None)
    async with fake.serve():
        started = time.monotonic()
        with pytest.raises(error):
            async with asyncio.timeout(0.6):
                await post(fake)
        if fault.seconds:
            assert time.monotonic() - started > fault.seconds
        assert (await post(fake))[0] == 200
    assert time.monotonic() - started < patience(5.0)
    assert fake.faults == {f"m/{fault.kind}": 1}


async def test_a_fault_of_content_spoils_the_reply() -> None:
    fake = FakeOpenAI(lambda request: Reply("four"), plan=lambda request: FaultKind.TRUNCATED_JSON)
    async with fake.serve():
        _, _, body = await post(fake)
    assert (said(body), body["choices"][0]["finish_reason"]) == (["fo"], "length")


async def test_what_came_is_counted() -> None:
    fake = FakeOpenAI(
        echo,
        plan=lambda request: FaultKind.HTTP_500 if request.number == 1 else None,
        delay_s=lambda request: 0.1,
        role_of=lambda body: "even" if len(body["messages"][0]["content"]) % 2 == 0 else "odd",
    )
    async with fake.serve():
        await asyncio.gather(*(post(fake, text) for text in ("aa", "a", "a", "aa", "aa")))
    assert fake.requests == {"even": 3, "odd": 2}
    assert fake.replies == {"even": 2, "odd": 1}
    assert fake.faults == {"even/http_500": 1, "odd/http_500": 1}
    assert (fake.asked, fake.answered) == ({"aa": 3, "a": 2}, {"aa": 2, "a": 1})
    assert len(fake.bodies) == 5
    assert (fake.in_flight, fake.peak_in_flight) == (0, 5)


async def test_without_a_record_nothing_grows() -> None:
    fake = FakeOpenAI(echo, record=False)
    async with fake.serve():
        replies = [said((await post(fake))[2]) for _ in range(3)]
    assert replies == [["2+2=? (0, 0)"]] * 3
    assert fake.requests == {"m": 3}
    assert not fake.asked
    assert not fake.answered
    assert not fake.bodies


@pytest.mark.parametrize("name", ["answer", "plan", "delay_s", "role_of", "usage"])
async def test_a_function_that_raises_is_a_500_and_comes_up_at_the_end(name: str) -> None:
    def broken(*_: object) -> Any:
        raise LookupError(f"{name} is broken")

    fake = FakeOpenAI(echo)
    setattr(fake, name, broken)
    with pytest.raises(LookupError, match=f"{name} is broken"):
        async with fake.serve():
            assert (await post(fake))[0] == 500


async def test_a_request_that_hangs_does_not_keep_the_server_from_ending() -> None:
    arrived = asyncio.Event()

    def plan(request: Request) -> FaultKind:
        arrived.set()
        return FaultKind.HANG

    fake = FakeOpenAI(echo, plan)
    async with fake.serve():
        hanging = asyncio.create_task(post(fake))
        await arrived.wait()
        started = time.monotonic()
    assert time.monotonic() - started < patience(3.0)
    with pytest.raises(aiohttp.ClientError):
        await hanging


def test_code_without_an_event_loop_is_served_from_a_thread() -> None:
    fake = FakeOpenAI(echo)
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    before = threading.active_count()
    with fake.serve_in_thread() as url:
        request = urllib.request.Request(
            f"{url}/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=patience(10)) as response:
            assert said(json.loads(response.read())) == ["x (0, 0)"]
    assert fake.asked == {"x": 1}
    assert threading.active_count() == before
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{url}/models", timeout=patience(10))


def test_a_port_in_use_is_an_error_and_leaves_no_thread() -> None:
    before = threading.active_count()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        served = FakeOpenAI(echo).serve_in_thread(taken.getsockname()[1])
        with pytest.raises(OSError, match="address already in use"), served:
            pytest.fail("it was served")
    assert threading.active_count() == before
