"""Finds out whether a server in doubt is down, and when it is back: asks it the trial request.

It asks while the breaker is open and somebody wants the server, about once a second at most. One
trial is given the time that the role gives a request; while that one is out, short ones go beside
it, so that a server that has lost the first is found again at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from algo.errors import FailureKind
from algo.llm.admission import Admission
from algo.llm.breaker import TRIAL_EVERY_S
from algo.llm.endpoint import Endpoint, Reply, Request
from algo.llm.http.wire import Fault
from algo.llm.server import Server
from algo.llm.trial import first_accepted, says_nothing

_SHORT_S: Final = 2.0

Send = Callable[[Endpoint, Request, float], Awaitable[Reply]]


class Trials:
    """The trials of all servers of one scheduler."""

    def __init__(self, admission: Admission, send: Send) -> None:
        self._admission = admission
        self._send = send
        self._running: dict[Server, asyncio.Task[None]] = {}

    def begin(self, server: Server, endpoint: Endpoint) -> None:
        """Have a server whose breaker is open tried, as `endpoint` asks it."""
        running = self._running.get(server)
        if server.breaker.is_open and (running is None or running.done()):
            task = asyncio.create_task(self._until_settled(server, endpoint))
            task.add_done_callback(partial(self._ended, server))
            self._running[server] = task

    def _ended(self, server: Server, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._admission.trial_broke(server, error)

    async def aclose(self) -> None:
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _until_settled(self, server: Server, endpoint: Endpoint) -> None:
        now = asyncio.get_running_loop().time
        out: list[asyncio.Task[None]] = []
        try:
            while self._is_wanted(server):
                wait = server.breaker.trial_at - now()
                if not out and wait > 0.0:
                    await asyncio.sleep(min(wait, TRIAL_EVERY_S))
                    continue
                out.append(asyncio.create_task(self._try(server, endpoint, out, short=bool(out))))
                await asyncio.wait(out, timeout=TRIAL_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
                for ended in [trial for trial in out if trial.done()]:
                    out.remove(ended)
                    ended.result()
                if out and server.breaker.trial_at > now():
                    await asyncio.sleep(server.breaker.trial_at - now())
        finally:
            for trial in out:
                trial.cancel()

    def _is_wanted(self, server: Server) -> bool:
        return server.breaker.is_open and server.users > 0 and self._admission.stopped is None

    async def _try(
        self, server: Server, endpoint: Endpoint, out: list[asyncio.Task[None]], short: bool
    ) -> None:
        own_s = endpoint.settings.attempt_s
        timeout_s = min(_SHORT_S, own_s) if short else own_s

        def send(request: Request) -> Awaitable[Reply]:
            self._admission.trial_sent()
            return self._send(endpoint, request, timeout_s)

        try:
            reply = await first_accepted(endpoint, send)
            if says_nothing(reply):
                raise Fault(FailureKind.UNPARSEABLE, "a reply without a word")
        except Fault as fault:
            if not short or fault.kind is not FailureKind.TIMEOUT:
                self._admission.trial_failed(server, fault.kind, fault.message, fault.retry_after_s)
        else:
            this = asyncio.current_task()
            earlier_one_lost = bool(out) and out[0] is not this
            self._admission.trial_replied(server, earlier_one_lost)
