"""A counting teacher behind `algo.testing`, for tests of the builder.

Runs in a thread of the test's process, so that the builder can be a process that gets killed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from algo.testing import Answer, FakeOpenAI, Request, Usage

TOKENS = Usage(10, 20)


def numbered(request: Request) -> str:
    """An answer that differs by how often its prompt was asked before."""
    return f"answer {request.before}"


@contextmanager
def teacher(
    answer: Answer = numbered,
    *,
    latency_s: float = 0.0,
    usage: Usage | None = TOKENS,
    **fields: Any,
) -> Iterator[FakeOpenAI]:
    """A teacher that is served as long as the context lasts; `fields` are those of `FakeOpenAI`."""
    endpoint = FakeOpenAI(
        answer, delay_s=lambda request: latency_s, usage=lambda request, replies: usage, **fields
    )
    with endpoint.serve_in_thread():
        yield endpoint
