"""The OpenAI batch API: files up, batches made and watched, results down.

The HTTP is the `openai` package's (extra `batch`), with its bounded retries. What a batch is for,
and which of them are still owed, is `algo/teacher/build_batch.py`'s part.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeVar

from openai import APIError, APIStatusError, AsyncOpenAI, Omit
from openai.types import Batch

from algo.errors import FailureKind, JudgeOutage
from algo.llm.endpoint import Endpoint
from algo.llm.http.wire import excerpt, status_fault

_RETRIES: Final = 7  # half a minute of an endpoint that is down, at the package's pace
_SILENCE_S: Final = 600.0  # the endpoint reads a file of 190 MB before it answers
_CALL_TIMEOUT_S: Final = 3600.0  # with all retries
_PAGE: Final = 100  # the most that the API gives

Received = TypeVar("Received")
Wanted = TypeVar("Wanted")


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

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        key = endpoint.api_key
        self._client = AsyncOpenAI(
            base_url=endpoint.base_url,
            # Without a key here the package would send OPENAI_API_KEY to whoever answers.
            api_key="none" if key is None else key.get_secret_value(),
            max_retries=_RETRIES,
            timeout=_SILENCE_S,
        )
        self._headers: Mapping[str, str | Omit] = {"Authorization": Omit()} if key is None else {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.close()

    async def upload(self, lines: bytes) -> str:
        """Store an input file; returns its id."""
        sent = self._client.files.create(
            file=("requests.jsonl", lines), purpose="batch", extra_headers=self._headers
        )
        return await self._call("POST /files", sent, lambda file: _text(file.id))

    async def create(self, file: str, tag: str) -> BatchState:
        """Start a batch over an input file; `tag` is kept with it."""
        responses = self._endpoint.settings.api == "responses"
        # Sent once: a second copy of a call whose reply was lost would be a second, paid batch.
        sent = self._client.with_options(max_retries=0).batches.create(
            input_file_id=file,
            endpoint="/v1/responses" if responses else "/v1/chat/completions",
            completion_window="24h",
            metadata={"ropd_build": tag},
            extra_headers=self._headers,
        )
        return await self._call("POST /batches", sent, _state)

    async def state(self, batch: str) -> BatchState:
        asked = self._client.batches.retrieve(batch, extra_headers=self._headers)
        return await self._call(f"GET /batches/{batch}", asked, _state)

    async def recent(self) -> AsyncIterator[BatchState]:
        """The account's batches, newest first."""
        asked = self._client.batches.list(limit=_PAGE, extra_headers=self._headers)
        while True:
            page, states = await self._call(
                "GET /batches", asked, lambda page: (page, [_state(batch) for batch in page.data])
            )
            for state in states:
                yield state
            if not page.has_next_page():
                return
            asked = page.get_next_page()

    async def content(self, file: str) -> bytes:
        asked = self._client.files.content(file, extra_headers=self._headers)
        return await self._call(f"GET /files/{file}/content", asked, lambda reply: reply.content)

    async def _call(
        self, call: str, sent: Awaitable[Received], read: Callable[[Received], Wanted]
    ) -> Wanted:
        """What `read` finds in the reply; `call` names it in an error."""
        try:
            async with asyncio.timeout(_CALL_TIMEOUT_S):
                received = await sent
        except APIStatusError as error:
            body = self._endpoint.without_key(error.response.content)
            problem = status_fault(error.status_code, error.response.headers, body).message
        except APIError as error:
            problem = f"{type(error).__name__}: {error.__cause__ or error}"
        except TimeoutError:
            problem = f"no reply within {_CALL_TIMEOUT_S:.0f} s"
        except ValueError as error:  # a body that is no JSON
            problem = f"{type(error).__name__}: {error}"
        else:
            try:
                return read(received)
            except (AttributeError, TypeError):  # the package takes any JSON, and even text
                problem = "HTTP 200 whose body is no reply of the batch API"
        message = excerpt(self._endpoint.without_key(f"{call}: {problem}".encode()), 500)
        raise JudgeOutage(self._endpoint.name, FailureKind.TRANSPORT, 0.0, message)


def _state(batch: Batch) -> BatchState:
    errors = (batch.errors and batch.errors.data) or []
    return BatchState(
        id=_text(batch.id),
        status=_text(batch.status),
        tag=(batch.metadata or {}).get("ropd_build"),
        output_file=batch.output_file_id,
        error_file=batch.error_file_id,
        message="; ".join(str(error.message) for error in errors[:3]),
    )


def _text(value: object) -> str:
    """`value`, of which the package says that it is text, and which it leaves out if it is not."""
    if not isinstance(value, str):
        raise TypeError(value)
    return value
