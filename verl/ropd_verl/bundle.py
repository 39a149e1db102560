"""What many tasks ask for at once, sent as one message.

The n rollouts of a prompt do the same at the same moment: n messages of a few hundred bytes, each
of which costs Python at both ends. Here they travel together. Nothing waits for it: a bundle holds
what was asked for within one turn of the event loop, and leaves with the next.
Pure asyncio: knows neither Ray nor verl.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Asked(NamedTuple, Generic[Item, Result]):
    """One item of a bundle, and where its result goes."""

    item: Item
    result: asyncio.Future[Result]


class Bundle(Generic[Item, Result]):
    """Collects items and sends them together.

    Args:
        send: resolves the result of each item it is given, in any order. What it raises, and what
            it leaves unresolved, fails the items that have no result yet.
    """

    def __init__(self, send: Callable[[Sequence[Asked[Item, Result]]], Awaitable[None]]) -> None:
        self._send = send
        self._asked: list[Asked[Item, Result]] = []
        self._sending: set[asyncio.Task[None]] = set()

    def ask(self, item: Item) -> asyncio.Future[Result]:
        """Send ``item`` with whatever else is asked for in this turn of the event loop."""
        loop = asyncio.get_running_loop()
        if not self._asked:
            loop.call_soon(self._leave)
        self._asked.append(Asked(item, loop.create_future()))
        return self._asked[-1].result

    def _leave(self) -> None:
        asked, self._asked = self._asked, []
        task = asyncio.create_task(self._exchange(asked))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _exchange(self, asked: Sequence[Asked[Item, Result]]) -> None:
        error: BaseException = RuntimeError("the answer to a bundle left an item out")
        try:
            await self._send(asked)
        except BaseException as raised:
            error = raised
            if not isinstance(raised, Exception):  # cancellation and the like pass through
                raise
        finally:
            for one in asked:
                if not one.result.done():
                    one.result.set_exception(error)
