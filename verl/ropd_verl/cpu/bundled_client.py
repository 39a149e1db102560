"""verl's client of the rollout servers, with one message for what is asked at once.

For the `transformers` rollout only. verl's client takes a server from the load balancer, calls it
and gives it back, three messages a rollout; here the rollouts of a prompt share a server, which
reads their prompt once, and all requests of a moment to one server are one call. Answers come back
token by token as they end, so that no rollout waits for another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient, LLMServerClient
from verl.workers.rollout.replica import TokenOutput

from ropd_verl.bundle import Asked, Bundle


@dataclass
class _Taken:
    """A server taken from the load balancer once, for all that asked with one prompt."""

    server: asyncio.Future[tuple[str, Any]]
    request_id: str
    users: int = 0


class BundledServer:
    """Stands for a server's actor handle: ``await server.generate.remote(**request)``."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._bundle: Bundle[dict[str, Any], TokenOutput] = Bundle(self._send)
        self.generate = self

    def remote(self, **request: Any) -> asyncio.Future[TokenOutput]:
        return self._bundle.ask(request)

    async def _send(self, asked: Sequence[Asked[dict[str, Any], TokenOutput]]) -> None:
        requests = [one.item for one in asked]
        ended = self._server.generate_many.options(num_returns="streaming").remote(requests)
        async for reference in ended:
            for index, output in await reference:
                result = asked[index].result
                if result.done():  # its caller has gone
                    continue
                if isinstance(output, Exception):
                    result.set_exception(output)
                else:
                    result.set_result(output)


class BundledClient(LLMServerClient):
    """verl's client in turns (``mode=sync``)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._taking: dict[tuple[int, ...], _Taken] = {}
        self._taken: dict[str, _Taken] = {}
        self._servers: dict[str, BundledServer] = {}

    async def _acquire_server(self, request_id: str, **extra: Any) -> tuple[str, Any]:
        """A server, the same for all that ask with this prompt while the balancer is asked."""
        prompt = tuple(extra["prompt_ids"])
        taken = self._taking.get(prompt)
        if taken is None:
            asking = asyncio.ensure_future(super()._acquire_server(request_id, **extra))
            taken = self._taking[prompt] = _Taken(asking, request_id)
            asking.add_done_callback(lambda _: self._taking.pop(prompt))
        taken.users += 1
        self._taken[request_id] = taken
        try:
            server_id, server = await asyncio.shield(taken.server)
        except BaseException:
            self._taken.pop(request_id)
            taken.users -= 1
            raise
        if server_id not in self._servers:
            self._servers[server_id] = BundledServer(server)
        return server_id, self._servers[server_id]

    def _release_server(self, server_id: str, request_id: str | None = None) -> None:
        """Give the server back with the last of those that share it."""
        assert request_id is not None
        taken = self._taken.pop(request_id)
        taken.users -= 1
        if not taken.users:
            super()._release_server(server_id, taken.request_id)


class BundledAsyncClient(FullyAsyncLLMServerClient, BundledClient):
    """verl's client that continues what was interrupted (the asynchronous modes)."""


def bundled(client: LLMServerClient) -> LLMServerClient:
    """The bundled counterpart of verl's client."""
    kind = BundledAsyncClient if isinstance(client, FullyAsyncLLMServerClient) else BundledClient
    return kind(config=client.config, load_balancer_handle=client._load_balancer)
