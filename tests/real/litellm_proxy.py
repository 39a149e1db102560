"""The engine behind LiteLLM's proxy: scores as they are without it, and what a user is told.

    python -m tests.real.litellm_proxy [--folder FOLDER]

Makes an environment in FOLDER (a temporary one unless named; a named one is used again), installs
the pinned proxy there, serves the fake judge and the embedded one, puts the proxy with a key of its
own in front, and compares. Prints a line a check and the messages that a user would see; exits with
1 when a check fails. Takes a minute or two beside the installation. No part of the suite: it
installs some hundred packages.

Of LiteLLM two releases of March 2026 were malicious. The pin is older than three months, and no
package that was uploaded after `UPLOADED_BEFORE` is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from algo.errors import ConfigurationError, JudgeFailure
from algo.judge.preflight import check_judge
from algo.methods.registry import roles_of
from algo.openai_env import resolve_roles
from algo.ropd.settings import RopdSettings
from algo.testing import Fault, FaultKind, Request
from examples.arithmetic.impairments import Impairments, Role
from examples.arithmetic.judge import ArithmeticJudge, JudgeServer
from tests.builders.judging import group, pipeline_for, right_scores
from tests.fakes.judge import FakeJudge
from tests.real.environment import free_port, installed, stop

PACKAGES: Final = ("litellm[proxy]==1.98.0",)
UPLOADED_BEFORE: Final = "2026-08-27"
GROUPS: Final = 24
_START_S: Final = 180
_UPSTREAM_KEY: Final = "sk-upstream-of-this-check"


@dataclass(frozen=True)
class Proxy:
    """Where the proxy answers, its key, and where the fake judge does without it."""

    url: str
    key: str
    direct: str
    judge: FakeJudge

    def node(self, model: str, **more: Any) -> dict[str, Any]:
        role = {"model": model, "api_key_env": "KEY", "timeout_s": 60.0, **more}
        limits = {"concurrency": 8, "max_backoff_s": 15.0, "backoff_s": 0.5}
        return {"rubricator": role, "verifier": role, "limits": limits}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="where the environment is made, and kept")
    chosen = parser.parse_args().folder
    with tempfile.TemporaryDirectory(prefix="ropd-real-") as temporary:
        folder = Path(temporary)
        python = installed(chosen or folder, "litellm", PACKAGES, UPLOADED_BEFORE)
        return _held(python, folder)


def _held(python: Path, folder: Path) -> int:
    judge = FakeJudge(key=_UPSTREAM_KEY, delay_s=lambda role: 0.05, keep_bodies=False)
    judge.plan = _planned(judge.plan)
    embedded = JudgeServer(Impairments()).endpoint
    embedded.key = _UPSTREAM_KEY
    key = f"sk-{secrets.token_hex(16)}"
    with (
        judge.serve_in_thread() as direct,
        embedded.serve_in_thread() as arithmetic,
        _proxy(python, folder, key, {"fake": direct, "arithmetic": arithmetic}) as url,
    ):
        proxy = Proxy(url, key, direct, judge)
        results = [asyncio.run(_checked(check, proxy, folder)) for check in CHECKS]
    return 0 if all(results) else 1


def _planned(plan: Callable[[Request], Any]) -> Callable[[Request], Any]:
    """By the model that is asked for, what the endpoint behind the proxy does."""
    kinds = {
        "overflow": Fault(FaultKind.CONTEXT_OVERFLOW, message="maximum context length is 10"),
        "filter": Fault(FaultKind.CONTENT_FILTER, message="content_filter"),
        "refusal": Fault(FaultKind.REFUSAL),
    }
    return lambda request: kinds.get(request.body["model"], plan(request))


async def _checked(
    check: Callable[[Proxy, Path], Awaitable[str]], proxy: Proxy, folder: Path
) -> bool:
    name = (check.__doc__ or "").partition("\n")[0]
    try:
        said = await asyncio.wait_for(check(proxy, folder / check.__name__), 400)
    except (AssertionError, ConfigurationError, JudgeFailure, TimeoutError) as error:
        print(f"FAILED  {name}\n        {type(error).__name__}: {error}", flush=True)
        return False
    print(f"ok      {name}" + (f"\n        {said}" if said else ""), flush=True)
    return True


async def _scores(
    proxy: Proxy, folder: Path, url: str, model: str, groups: int = GROUPS, **more: Any
) -> Mapping[str, float]:
    """Judge groups and compare each score with what the fake judge's verdicts amount to; gives the
    engine's metrics."""
    node = proxy.node(model, **more)
    key = _UPSTREAM_KEY if url == proxy.direct else proxy.key
    async with pipeline_for(url, folder, environ={"KEY": key}, **node) as engine:
        each = [group(number, size=4) for number in range(groups)]
        scored = await asyncio.gather(*(engine.score_group(one) for one in each))
        figures = engine.metrics()
    for one, judged in zip(each, scored, strict=True):
        assert judged.scores == right_scores(one), f"{judged.scores} are not the right scores"
    return figures


async def directly(proxy: Proxy, folder: Path) -> str:
    """Without the proxy: the right scores"""
    await _scores(proxy, folder, proxy.direct, "fake")
    assert proxy.judge.peak_in_flight > 2
    return f"{GROUPS} groups, {proxy.judge.peak_in_flight} requests at a time"


async def chat(proxy: Proxy, folder: Path) -> str:
    """Chat completions through the proxy: the same scores"""
    before = proxy.judge.requests.total()
    await _scores(proxy, folder, proxy.url, "judge")
    came = proxy.judge.requests.total() - before
    assert came == 2 * GROUPS, f"{came} requests came through"
    return f"{GROUPS} groups, {came} requests"


async def bridge(proxy: Proxy, folder: Path) -> str:
    """Responses through the proxy: the same scores"""
    before = proxy.judge.requests.total()
    await _scores(proxy, folder, proxy.url, "judge", api="responses")
    came = proxy.judge.requests.total() - before
    assert came == 2 * GROUPS, f"{came} requests came through"
    return f"{GROUPS} groups, {came} requests"


async def parallel(proxy: Proxy, folder: Path) -> str:
    """max_parallel_requests=2 at the proxy: two at a time, the same scores"""
    proxy.judge.peak_in_flight = 0
    await _scores(proxy, folder, proxy.url, "narrow")
    assert 0 < proxy.judge.peak_in_flight <= 2, f"{proxy.judge.peak_in_flight} at a time"
    return f"{GROUPS} groups, at most {proxy.judge.peak_in_flight} requests at a time"


async def per_minute(proxy: Proxy, folder: Path) -> str:
    """rpm=30 at the proxy, more than that asked: its 429s are waited out, the same scores"""
    figures = await _scores(proxy, folder, proxy.url, "slow", groups=20)
    refused = figures["ropd/judge/retries/rate_limit"]
    assert refused > 0, "none was refused"
    return f"20 groups, {refused:.0f} requests sent again after a 429"


async def _told(proxy: Proxy, key: str | None, model: str = "judge", **more: Any) -> str:
    node = proxy.node(model, base_url=proxy.url, **more)
    if key is None:
        for role in ("rubricator", "verifier"):
            node[role] = {**node[role], "api_key_env": None}
    settings = RopdSettings.from_node({"judge": node})
    roles = resolve_roles(roles_of(settings), {"KEY": key or ""} if key else {})
    said = ""
    try:
        await check_judge(roles, settings.limits)
    except ConfigurationError as error:
        said = str(error)
    assert not key or key not in said, "it quotes the key"
    return said


async def preflight(proxy: Proxy, folder: Path) -> str:
    """A start finds the proxy usable, in both APIs"""
    for api in ("chat_completions", "responses"):
        said = await _told(proxy, proxy.key, api=api)
        assert not said, said
    return ""


async def wrong_key(proxy: Proxy, folder: Path) -> str:
    """A wrong key is named as such"""
    said = await _told(proxy, f"sk-{secrets.token_hex(16)}")
    assert "key from KEY" in said, said or "it was taken"
    return said


async def no_key(proxy: Proxy, folder: Path) -> str:
    """A missing key is named as such"""
    said = await _told(proxy, None)
    assert "key" in said, said or "it was taken"
    assert "api_key_env" in said, said
    return said


async def unknown_model(proxy: Proxy, folder: Path) -> str:
    """An unknown model is named"""
    said = await _told(proxy, proxy.key, "no-such-model")
    assert "no-such-model" in said, said or "it was taken"
    assert ".model" in said, said
    return said


def _fails_as(kind: str, model: str) -> Callable[[Proxy, Path], Awaitable[str]]:
    async def check(proxy: Proxy, folder: Path) -> str:
        retries = {"rate_limit": 1, "refusal": 0, "unparseable": 0}
        node = proxy.node(model)
        node["limits"] |= {"retries": retries, "outage_s": 20.0, "stage_deadline_s": 30.0}
        async with pipeline_for(proxy.url, folder, environ={"KEY": proxy.key}, **node) as engine:
            (end,) = await asyncio.gather(
                engine.score_group(group(0, size=4)), return_exceptions=True
            )
        assert isinstance(end, JudgeFailure), f"it ended as {end!r}"
        assert end.kind.value == kind, f"{end.kind.value}: {end.message}"
        return end.message[:300]

    check.__doc__ = f"`{model}` behind the proxy is a failure `{kind}`"
    check.__name__ = model
    return check


async def embedded(proxy: Proxy, folder: Path) -> str:
    """The embedded judge writes through the proxy what it writes without it"""
    prompt = {"messages": [{"role": "user", "content": "7+5=?"}], "seed": 3}
    body = json.dumps({"model": "arithmetic-teacher", **prompt}).encode()
    request = urllib.request.Request(
        f"{proxy.url}/chat/completions",
        body,
        {"Authorization": f"Bearer {proxy.key}", "Content-Type": "application/json"},
    )
    answer = await asyncio.to_thread(lambda: urllib.request.urlopen(request, timeout=60).read())
    said = json.loads(answer)["choices"][0]["message"]["content"]
    own = ArithmeticJudge().answer(Request({"model": "x", **prompt}, role=Role.TEACHER))
    assert said == own, said
    return ""


CHECKS: Final = (
    directly,
    preflight,
    chat,
    bridge,
    parallel,
    embedded,
    wrong_key,
    no_key,
    unknown_model,
    _fails_as("context_overflow", "overflow"),
    _fails_as("refusal", "filter"),
    _fails_as("refusal", "refusal"),
    per_minute,
)


@contextmanager
def _proxy(python: Path, folder: Path, key: str, upstream: Mapping[str, str]) -> Iterator[str]:
    """Serve; gives the base URL."""
    fake = {"api_base": upstream["fake"], "api_key": _UPSTREAM_KEY}
    models = {
        name: {"model": f"openai/{name}", **fake} for name in ("overflow", "filter", "refusal")
    }
    models |= {
        "judge": {"model": "openai/fake", **fake},
        "narrow": {"model": "openai/fake", **fake, "max_parallel_requests": 2},
        "slow": {"model": "openai/fake", **fake, "rpm": 30},
        "arithmetic-teacher": {
            "model": "openai/arithmetic-teacher",
            "api_base": upstream["arithmetic"],
            "api_key": _UPSTREAM_KEY,
        },
    }
    config = {
        "model_list": [{"model_name": n, "litellm_params": p} for n, p in models.items()],
        "general_settings": {"master_key": key},
        "litellm_settings": {"num_retries": 0, "telemetry": False},
        # Of the strategies this one alone heeds `rpm`.
        "router_settings": {
            "num_retries": 0,
            "disable_cooldowns": True,
            "routing_strategy": "usage-based-routing-v2",
        },
    }
    file = folder / "proxy.yaml"
    file.write_text(json.dumps(config))  # JSON is YAML
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with (folder / "proxy.log").open("w+") as log:
        process = subprocess.Popen(
            [
                python.parent / "litellm",
                "--config",
                file,
                "--host",
                "127.0.0.1",
                "--port",
                f"{port}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
            | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "127.0.0.1"},
        )
        try:
            _wait(process, f"{url}/health/liveliness", Path(log.name))
            yield f"{url}/v1"
        finally:
            stop(process)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    sys.exit(f"the proxy did not start; the end of its log:\n{log.read_text()[-3000:]}")


if __name__ == "__main__":
    sys.exit(main())
