"""A counting teacher behind the chat-completions API, for tests of the builder.

Runs in a thread of the test's process, so that the builder can be a process that gets killed.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from aiohttp import web

Answer = Callable[[dict[str, Any], int], "tuple[str, str]"]
"""(request body, how often this prompt was asked before) -> (text, finish_reason)."""


class TeacherEndpoint:
    """Counts what it is asked, by the text of the last message."""

    def __init__(
        self,
        answer: Answer | None = None,
        latency_s: float = 0.0,
        usage: tuple[int, int] | None = (10, 20),
    ) -> None:
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.in_flight = 0
        self.peak_in_flight = 0
        self.base_url = ""
        self._answer = answer or (lambda body, before: (f"answer {before}", "stop"))
        self._latency_s = latency_s
        self._usage = usage

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/chat/completions", self.complete)]

    async def complete(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        prompt = body["messages"][-1]["content"]
        before = self.asked[prompt]
        self.asked[prompt] += 1
        self.bodies.append(body)
        self.keys.add(request.headers.get("Authorization"))
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            await asyncio.sleep(self._latency_s)
        finally:
            self.in_flight -= 1
        text, finish_reason = self._answer(body, before)
        if finish_reason.isdigit():
            return web.json_response({"error": {"message": text}}, status=int(finish_reason))
        self.answered[prompt] += 1
        choice = {"message": {"content": text}, "finish_reason": finish_reason}
        reply: dict[str, Any] = {"model": body["model"], "choices": [choice]}
        if self._usage is not None:
            names = ("prompt_tokens", "completion_tokens")
            reply["usage"] = dict(zip(names, self._usage, strict=True))
        return web.json_response(reply)


class Served(Protocol):
    base_url: str

    def routes(self) -> list[web.RouteDef]: ...


S = TypeVar("S", bound=Served)


@contextmanager
def serving(endpoint: S) -> Iterator[S]:
    """Serve on a free loopback port; sets `endpoint.base_url`."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(step: Awaitable[None]) -> None:
        asyncio.run_coroutine_threadsafe(_awaited(step), loop).result(timeout=30)

    app = web.Application()
    app.router.add_routes(endpoint.routes())
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    run(runner.setup())
    site = web.TCPSite(runner, "127.0.0.1", 0)
    run(site.start())
    port = runner.addresses[0][1]
    endpoint.base_url = f"http://127.0.0.1:{port}/v1"
    try:
        yield endpoint
    finally:
        run(runner.cleanup())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=30)
        loop.close()


async def _awaited(step: Awaitable[None]) -> None:
    await step
