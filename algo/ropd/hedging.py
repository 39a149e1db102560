"""Sends a second copy of a request that is slow, and takes whichever reply comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


async def first_reply(
    first: Coroutine[Any, Any, Result],
    second: Callable[[], Coroutine[Any, Any, Result] | None],
    after_s: float,
) -> Result:
    """The result of `first`, or of the copy that `second` gives after `after_s` without one.

    `second` may give `None` (no room for a copy). One that fails leaves the other running; when
    both fail, the failure of the one that ended last is raised. The loser is cancelled.
    """
    running = {asyncio.ensure_future(first)}
    try:
        done, running = await asyncio.wait(running, timeout=after_s)
        if not done and (copy := second()) is not None:
            running.add(asyncio.ensure_future(copy))
        while True:
            ended = sorted(done, key=lambda task: task.exception() is not None)
            if ended and (ended[0].exception() is None or not running):
                return ended[0].result()
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
