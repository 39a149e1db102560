"""An event loop whose time passes only where nothing else is to be done: hours in milliseconds.

    outcome = run(judge_for_an_hour())

What is measured is exact and the same on every machine. No sockets: nothing ever comes in.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar
from unittest import mock

Result = TypeVar("Result")

_CLOCKS = ("algo.llm.admission.monotonic", "algo.llm.scheduler.monotonic")


# What one round of the loop takes: without it a wait too short to change a float would never end.
_TICK_S = 1e-9


class _Skipping(selectors.SelectSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("every task waits for something that nobody will do")
        self.now += max(_TICK_S, timeout)
        return []


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.now


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """What `main` returns, run with the request engine's clock on virtual time."""
    loop = _VirtualLoop()
    try:
        with mock.patch(_CLOCKS[0], loop.time), mock.patch(_CLOCKS[1], loop.time):
            return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
