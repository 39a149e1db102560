"""What is found out about a judge before a run begins: one request as the run sends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiohttp.typedefs import Handler

from algo.errors import ConfigurationError
from algo.judge import preflight
from algo.judge.preflight import check_judge
from algo.methods.registry import roles_of
from algo.openai_env import resolve_roles
from algo.ropd.settings import RopdSettings
from algo.testing import FakeOpenAI, Fault, FaultKind, Request
from tests.fakes.judge import FakeJudge, Planned


async def check(url: str, verifier: dict[str, Any] | None = None, **of_both: Any) -> None:
    role = {"model": "fake", "base_url": url, "api_key_env": "K", **of_both}
    limits = {"backoff_s": 0.01, "max_backoff_s": 0.02}
    judge = {"rubricator": role, "verifier": {**role, **(verifier or {})}, "limits": limits}
    settings = RopdSettings.from_node({"judge": judge})
    await check_judge(resolve_roles(roles_of(settings), {"K": "sk-key"}), settings.limits)


async def test_each_role_is_asked_once_as_the_run_will_ask() -> None:
    judge = FakeJudge(key="sk-key")
    async with judge.serve() as url:
        await check(url, extra_body={"top_k": 20}, top_p=0.9)
    assert judge.requests == {"trial": 2}
    asked = sorted(judge.bodies, key=lambda body: body["temperature"])
    assert [body["temperature"] for body in asked] == [0.0, 0.7]
    for body in asked:
        assert (body["model"], body["top_k"], body["top_p"]) == ("fake", 20, 0.9)
        assert body["max_tokens"] == 16


async def test_roles_that_ask_alike_are_asked_once() -> None:
    judge = FakeJudge()
    async with judge.serve() as url:
        await check(url, temperature=None)
        assert judge.requests == {"trial": 1}
        await check(url, temperature=None, verifier={"model": "another"})
        assert judge.requests == {"trial": 3}


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        ("temperature", r"ropd\.judge\.(rubricator|verifier)\.temperature=null"),
        ("top_p", r"\.top_p=null"),
        ("reasoning_effort", r"\.reasoning_effort=null"),
        ("max_tokens", r"\.max_tokens_key is the name"),
        ("top_k", r"\.extra_body sends top_k"),
        ("messages", r"see ropd\.judge\.\w+\.model or ROPD_\w+_MODEL, .*temperature"),
    ],
)
async def test_a_refused_request_names_the_setting_to_change(refused: str, said: str) -> None:
    async with FakeJudge(refuses=refused).serve() as url:
        with pytest.raises(ConfigurationError, match=said) as caught:
            await check(url, top_p=0.9, reasoning_effort="low", extra_body={"top_k": 20})
    assert f'HTTP 400: {{"error": {{"message": "Unsupported: \'{refused}\'"' in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_setting_that_is_not_sent_is_not_blamed() -> None:
    async with FakeJudge(refuses="temperature").serve() as url:
        await check(url, temperature=None)


async def test_the_other_name_of_the_limit_is_the_cure() -> None:
    async with FakeJudge(refuses="max_tokens").serve() as url:
        await check(url, max_tokens_key="max_completion_tokens")


@pytest.mark.parametrize("reply", [("", "length"), ("<think>Well", "length"), ("no", "stop")])
@pytest.mark.parametrize("api", ["chat_completions", "responses"])
async def test_only_acceptance_matters(reply: tuple[str, str], api: str) -> None:
    async with FakeJudge(trial_reply=reply).serve() as url:
        await check(url, api=api)


async def test_a_limit_too_small_to_think_in_is_raised_to_the_runs_own() -> None:
    """OpenAI answers 400 where a reasoning model reached the limit before it said anything."""
    message = "Could not finish the message because max_tokens was reached."

    def plan(request: Request) -> Fault | None:
        too_small = request.body["max_tokens"] < 1000
        return Fault(FaultKind.HTTP_400, message=message) if too_small else None

    judge = FakeOpenAI(lambda request: "yes", plan)
    async with judge.serve() as url:
        await check(url, temperature=None, max_tokens=5000)
    assert [body["max_tokens"] for body in judge.bodies] == [16, 5000]


async def test_a_key_that_only_the_list_of_models_needs_not_is_asked_for_at_once() -> None:
    judge = FakeJudge(fault=lambda role, number: "http_401")
    async with judge.serve() as url:
        with pytest.raises(ConfigurationError, match=r"refuses the key from K .*api_key_env"):
            await check(url, temperature=None)
    assert judge.requests == {"trial": 1}


@pytest.mark.parametrize(
    "fault", ["http_500", "http_429", Fault(FaultKind.HTTP_429, 0.05), "drop"], ids=str
)
async def test_an_endpoint_that_is_busy_for_a_moment_is_waited_for(fault: Planned) -> None:
    async with FakeJudge(fault=lambda role, number: fault if number < 3 else "").serve() as url:
        await check(url)


@pytest.mark.parametrize("fault", ["http_500", Fault(FaultKind.HTTP_429, 3600), "hang"], ids=str)
async def test_one_that_stays_away_is_not_waited_for_long(
    fault: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "TRIAL_PATIENCE_S", 0.3)
    async with FakeJudge(fault=lambda role, number: fault).serve() as url:
        with pytest.raises(ConfigurationError, match=r"does not answer .*wait until it does"):
            await check(url)


async def test_a_site_that_is_no_judge_is_told_at_once() -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<html>welcome</html>")

    site = web.Application()
    site.router.add_route("*", "/{path:.*}", page)
    async with TestServer(site) as server:
        with pytest.raises(ConfigurationError, match=r"not a chat_completions reply.*\.base_url"):
            await check(str(server.make_url("/v1")))


@asynccontextmanager
async def behind(
    gateway: Callable[[web.Request], web.Response | None], judge: FakeOpenAI | None = None
) -> AsyncIterator[str]:
    """A judge behind a gateway, which answers what it does not let through."""

    @web.middleware
    async def pass_on(request: web.Request, handler: Handler) -> web.StreamResponse:
        return gateway(request) or await handler(request)

    judge = judge or FakeJudge()
    app = judge.application()
    app.middlewares.append(pass_on)
    async with judge.serve(app=app) as url:
        yield url


def answers(path: str, status: int, message: str) -> Callable[[web.Request], web.Response | None]:
    """A gateway that answers requests to `path` itself."""

    def gateway(request: web.Request) -> web.Response | None:
        if not request.path.endswith(path):
            return None
        return web.json_response({"error": {"message": message}}, status=status)

    return gateway


@pytest.mark.parametrize("status", [401, 403, 404, 405, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("api", ["chat_completions", "responses"])
async def test_a_list_of_models_that_fails_is_no_verdict(status: int, api: str) -> None:
    async with behind(answers("/models", status, "no list here")) as url:
        await check(url, api=api)


async def test_a_list_of_models_that_never_comes_is_no_verdict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preflight, "PATIENCE_S", 0.2)

    async def hang(_: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    judge = FakeJudge()
    app = web.Application()
    app.router.add_get("/v1/models", hang)
    app.router.add_post("/v1/chat/completions", judge._complete)
    async with TestServer(app) as server:
        await check(str(server.make_url("/v1")))
    assert judge.requests == {"trial": 2}


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, "No connected db."),
        (400, "Authentication Error, no_db_connection"),
        (400, "Invalid proxy server token passed"),
        (500, "'NoneType' object has no attribute 'startswith'"),
        (500, "Internal Server Error"),
        (502, "Bad Gateway"),
        (422, "No api key passed in."),
    ],
)
@pytest.mark.parametrize("key", ["K", None])
async def test_a_key_that_a_proxy_refuses_in_its_own_words_is_named(
    status: int, message: str, key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LiteLLM without a database: 400 for a key that is not its own, 500 without any."""
    monkeypatch.setattr(preflight, "TRIAL_PATIENCE_S", 0.2)

    def gateway(request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": message}}, status=status)

    async with behind(gateway) as url:
        with pytest.raises(ConfigurationError) as caught:
            await check(url, api_key_env=key)
    said = str(caught.value)
    assert (
        "the key from K may be the wrong one" if key else "missing key may be the cause"
    ) in said
    assert ".api_key_env" in said
    assert "sk-key" not in said


@pytest.mark.parametrize("status", [404, 405, 501])
@pytest.mark.parametrize(
    ("api", "path", "other"),
    [
        ("responses", "/responses", "chat_completions"),
        ("chat_completions", "/chat/completions", "responses"),
    ],
)
async def test_an_endpoint_without_this_api_names_the_other(
    status: int, api: str, path: str, other: str
) -> None:
    async with behind(answers(path, status, "Not Found")) as url:
        with pytest.raises(ConfigurationError, match=rf"judge\.\w+\.api={other}"):
            await check(url, api=api)
