"""The OpenAI batch API over HTTP: files up, batches made and watched, results down.

One call here is one HTTP exchange with a bounded number of retries. What a batch is for, and which
of them are still owed, is `teacher/build_batch.py`'s part.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson

from algo.errors import FailureKind, JudgeOutage
from algo.llm.endpoint import Endpoint
from algo.llm.wire import excerpt

_ATTEMPTS = 6
_CALL_TIMEOUT_S = 600.0
_PAGE = 100


@dataclass(frozen=True)
class BatchState:
    """Where a batch stands. Files are None until there is something in them."""

    id: str
    status: str
    tag: str | None
    output_file: str | None
    error_file: str | None
    message: str

    @property
    def ended(self) -> bool:
        return self.status in ("completed", "failed", "expired", "cancelled")


class BatchApi:
    """The batch calls of one endpoint; an async context manager.

    Every call raises `JudgeOutage` when the endpoint refuses it or does not answer.
    """

    def __init__(self, endpoint: Endpoint, backoff_s: float = 1.0) -> None:
        self._endpoint = endpoint
        self._backoff_s = backoff_s
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        key = self._endpoint.api_key
        headers = {} if key is None else {"Authorization": f"Bearer {key.get_secret_value()}"}
        self._session = aiohttp.ClientSession(headers=headers, trust_env=True)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def upload(self, lines: bytes) -> str:
        """Store an input file; returns its id."""

        def form() -> aiohttp.FormData:
            data = aiohttp.FormData()
            data.add_field("purpose", "batch")
            data.add_field("file", lines, filename="requests.jsonl")
            return data

        return orjson.loads(await self._call("POST", "/files", form))["id"]

    async def create(self, file: str, tag: str) -> BatchState:
        """Start a batch over an input file; `tag` is kept with it."""
        body = orjson.dumps(
            {
                "input_file_id": file,
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
                "metadata": {"ropd_build": tag},
            }
        )
        # Sent once: a second copy of a call whose reply was lost would be a second, paid batch.
        return _state(orjson.loads(await self._call("POST", "/batches", body, attempts=1)))

    async def state(self, batch: str) -> BatchState:
        return _state(orjson.loads(await self._call("GET", f"/batches/{batch}")))

    async def recent(self) -> AsyncIterator[BatchState]:
        """The account's batches, newest first."""
        after = ""
        while True:
            page = orjson.loads(await self._call("GET", f"/batches?limit={_PAGE}{after}"))
            for batch in page["data"]:
                yield _state(batch)
            if not page.get("has_more"):
                return
            after = f"&after={page['data'][-1]['id']}"

    async def content(self, file: str) -> bytes:
        return await self._call("GET", f"/files/{file}/content")

    async def _call(
        self, method: str, path: str, body: Any = None, attempts: int = _ATTEMPTS
    ) -> bytes:
        problem = ""
        for attempt in range(attempts):
            if attempt:
                await asyncio.sleep(self._backoff_s * 2 ** (attempt - 1))
            try:
                status, received = await self._exchange(method, path, body)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if status == 200:
                return received
            problem = f"HTTP {status}: {excerpt(received)}"
            if status != 429 and status < 500:
                break
        raise JudgeOutage(
            self._endpoint.name, FailureKind.TRANSPORT, 0.0, f"{method} {path}: {problem}"
        )

    async def _exchange(self, method: str, path: str, body: Any) -> tuple[int, bytes]:
        assert self._session is not None
        data = body() if callable(body) else body
        headers = {"Content-Type": "application/json"} if isinstance(data, bytes) else {}
        async with self._session.request(
            method,
            self._endpoint.base_url + path,
            data=data,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=_CALL_TIMEOUT_S),
        ) as response:
            return response.status, await response.read()


def _state(batch: Mapping[str, Any]) -> BatchState:
    errors = ((batch.get("errors") or {}).get("data")) or []
    return BatchState(
        id=batch["id"],
        status=batch["status"],
        tag=(batch.get("metadata") or {}).get("ropd_build"),
        output_file=batch.get("output_file_id"),
        error_file=batch.get("error_file_id"),
        message="; ".join(str(error.get("message")) for error in errors[:3]),
    )
