"""A proxy of the environment is asked where it names one, and nowhere else."""

from __future__ import annotations

import pytest

from algo.llm.endpoint import Endpoint, Request
from algo.llm.http.transport import Transport
from algo.llm.http.wire import Fault
from algo.llm.settings import RoleSettings
from tests.fakes.raw_server import Connection, chat_body, ok, serve_raw

ELSEWHERE = "http://0.0.0.0:9/v1"
"""No address of this machine alone, by its look, and refused at once."""
ASK = Request([{"role": "user", "content": "x"}])


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def answer(connection: Connection) -> None:
    while await connection.request() is not None:
        connection.send(ok(chat_body("by the proxy", None)))


async def asked(base_url: str) -> str:
    transport = Transport()
    try:
        endpoint = Endpoint("judge", "m", base_url, RoleSettings())
        return (await transport.send(endpoint, ASK, 5.0, 1)).text
    finally:
        await transport.aclose()


async def test_a_judge_elsewhere_is_asked_through_the_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serve_raw(answer) as url:
        monkeypatch.setenv("http_proxy", url.removesuffix("/v1"))
        assert await asked(ELSEWHERE) == "by the proxy"


@pytest.mark.parametrize("exempt", ["0.0.0.0", "*"])
async def test_a_judge_that_no_proxy_names_is_asked_itself(
    exempt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve_raw(answer) as url:
        monkeypatch.setenv("http_proxy", url.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", exempt)
        with pytest.raises(Fault):
            await asked(ELSEWHERE)


async def test_a_proxy_for_another_scheme_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve_raw(answer) as url:
        monkeypatch.setenv("https_proxy", url.removesuffix("/v1"))
        with pytest.raises(Fault):
            await asked(ELSEWHERE)
