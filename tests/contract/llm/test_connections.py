"""A reply belongs to its request: what a server sends unasked is never read as a reply.

The server sends a second reply, of the right shape and wrong, after one in twenty of its replies.
With aiohttp's own connector all of these but the first read between 80 and 315 wrong replies.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from algo.errors import FailureKind
from algo.llm.endpoint import Endpoint, Request
from algo.llm.http.connections import OneReplyConnector, Reuse
from algo.llm.http.transport import Transport
from algo.llm.http.wire import Fault
from algo.llm.settings import RoleSettings
from tests.fakes.raw_server import Connection, RawRequest, chat_body, ok, serve_raw

REQUESTS = 3_072
AT_ONCE = 32
SHARE = 0.05

Behaviour = Callable[[Connection], Awaitable[None]]


def reply(request: RawRequest, *, wrong: bool = False, echo: bool = False) -> bytes:
    asked = request.body["messages"][0]["content"]
    text = f"no {asked}" if wrong else f"yes {asked}"
    return ok(chat_body(text, request.headers["x-request-id"] if echo else None))


def together(drawn: random.Random, cut: int | None = None) -> Behaviour:
    """The second reply right behind the first, or its first `cut` bytes and soon the rest."""

    async def behave(connection: Connection) -> None:
        while (request := await connection.request()) is not None:
            await asyncio.sleep(drawn.uniform(0, 0.004))
            first = reply(request)
            if drawn.random() >= SHARE:
                connection.send(first)
                continue
            both = first + reply(request, wrong=True)
            end = len(both) if cut is None else len(first) + cut
            connection.send(both[:end])
            await asyncio.sleep(0.001)
            connection.send(both[end:])

    return behave


def in_pieces(drawn: random.Random) -> Behaviour:
    """The end of the first reply and the whole second in one piece."""

    async def behave(connection: Connection) -> None:
        while (request := await connection.request()) is not None:
            first = reply(request)
            connection.send(first[:-5])
            await asyncio.sleep(drawn.uniform(0, 0.004))
            second = reply(request, wrong=True) if drawn.random() < SHARE else b""
            connection.send(first[-5:] + second)

    return behave


def late(drawn: random.Random) -> Behaviour:
    """The second reply while the connection waits for its next request."""

    async def behave(connection: Connection) -> None:
        while (request := await connection.request()) is not None:
            connection.send(reply(request))
            if drawn.random() < SHARE:
                await asyncio.sleep(drawn.uniform(0.0005, 0.003))
                if connection.is_quiet():
                    connection.send(reply(request, wrong=True))

    return behave


def with_the_next(drawn: random.Random, *, echo: bool) -> Behaviour:
    """The second reply when the next request has begun to arrive."""

    async def behave(connection: Connection) -> None:
        owed = b""
        while begun := await connection.wait_for_bytes():
            connection.send(owed)
            request = await connection.request(begun)
            if request is None:
                return
            await asyncio.sleep(drawn.uniform(0.001, 0.004))
            connection.send(reply(request, echo=echo))
            wrong = reply(request, wrong=True, echo=echo)
            owed = wrong if drawn.random() < SHARE else b""

    return behave


async def outcomes(
    behave: Behaviour, *, pause_s: float = 0.0, requests: int = REQUESTS
) -> tuple[int, int]:
    """How many replies were wrong, and how many requests found none."""
    transport, wrong, faults = Transport(), 0, 0

    async def ask(endpoint: Endpoint, worker: int) -> None:
        nonlocal wrong, faults
        for number in range(requests // AT_ONCE):
            asked = f"{worker}-{number}"
            try:
                said = await transport.send(endpoint, Request([message(asked)]), 20.0, 1)
            except Fault as fault:
                faults += fault.kind is FailureKind.TRANSPORT
            else:
                wrong += said.text != f"yes {asked}"
            await asyncio.sleep(pause_s)

    async with serve_raw(behave) as url:
        endpoint = Endpoint("verifier", "m", url, RoleSettings())
        await asyncio.gather(*(ask(endpoint, worker) for worker in range(AT_ONCE)))
        await transport.aclose()
    return wrong, faults


def message(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


@pytest.fixture(params=["as it is", "without the end of all reuse"])
def reuse(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each connection is judged by what arrived on it, not by the first bad one alone."""
    if request.param != "as it is":
        monkeypatch.setattr(Reuse, "stop", lambda self, why: None)


@pytest.mark.usefixtures("reuse")
async def test_a_second_reply_that_comes_with_the_first_is_not_read() -> None:
    assert await outcomes(together(random.Random(1))) == (0, 0)


@pytest.mark.usefixtures("reuse")
async def test_a_second_reply_that_ends_the_piece_of_the_first_is_not_read() -> None:
    assert await outcomes(in_pieces(random.Random(2))) == (0, 0)


@pytest.mark.parametrize("cut", [1, 12, 40, 110])
async def test_a_second_reply_that_comes_in_pieces_is_not_read(cut: int) -> None:
    wrong, _ = await outcomes(together(random.Random(cut), cut), pause_s=0.002)
    assert wrong == 0


@pytest.mark.usefixtures("reuse")
async def test_a_late_second_reply_is_not_read_by_the_next_request() -> None:
    wrong, faults = await outcomes(late(random.Random(3)), pause_s=0.005)
    assert wrong == 0
    assert faults <= AT_ONCE  # it came between the choice of the connection and the request


async def test_a_reply_under_the_code_of_another_request_is_refused() -> None:
    """Where a server sends the request's code back, as vLLM does, no moment is the wrong one."""
    wrong, faults = await outcomes(with_the_next(random.Random(4), echo=True), pause_s=0.005)
    assert wrong == 0
    assert 0 < faults <= AT_ONCE


async def test_after_the_first_second_reply_no_connection_is_used_twice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without a code, the second reply to a request that was on its way is read (docs/judges.md);
    what then comes unasked ends all reuse, so that it does not go on."""
    wrong, _ = await outcomes(with_the_next(random.Random(5), echo=False), pause_s=0.005)
    assert 0 < wrong <= AT_ONCE
    assert caplog.text.count("from now on every request has a connection of its own") == 1


async def test_a_farewell_that_nobody_asked_for_costs_one_connection_alone() -> None:
    """Servers send a 408 on a connection that waits for long."""
    connections = 0

    async def behave(connection: Connection) -> None:
        nonlocal connections
        connections += 1
        first = connections == 1
        while (request := await connection.request()) is not None:
            connection.send(reply(request))
            if first:
                await asyncio.sleep(0.001)
                connection.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")

    transport = Transport()
    async with serve_raw(behave) as url:
        endpoint = Endpoint("verifier", "m", url, RoleSettings())
        for number in range(20):
            said = await transport.send(endpoint, Request([message(str(number))]), 20.0, 1)
            assert said.text == f"yes {number}"
            await asyncio.sleep(0.01)
        await transport.aclose()
    assert connections == 2


async def test_aiohttp_makes_its_connections_as_the_connector_says() -> None:
    """The one private name of aiohttp that is relied on; the tests above need it too."""
    connector = OneReplyConnector()
    assert type(connector._factory()).__module__ == "algo.llm.http.connections"
    await connector.close()
