"""How long a test waits for what should happen, on this machine as it is now.

A bound on waiting is there to end a hang, and must not tell a slow or busy machine from a fault:
`patience(seconds)` is that many seconds of an idle machine of the suite's size, more on a slower
one, and more while others use its cores. What is faster than its bound costs nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import lru_cache

_PIECE = 200_000
_PIECE_S = 0.005
"""CPU seconds of `_PIECE` turns of a loop on the machine that the bounds are written for."""


def patience(seconds: float) -> float:
    """Seconds to wait at most, for what takes less than `seconds` on an idle machine."""
    return seconds * _slowness() * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def wait_until(happened: Callable[[], object], seconds: float, else_say: object = "") -> None:
    """Return once `happened()` is true; after `patience(seconds)`, an `AssertionError`.

    The load is looked at all the while, so that one which comes up meanwhile counts.
    """
    started = time.monotonic()
    while not happened():
        waited = time.monotonic() - started
        assert waited < patience(seconds), f"not within {waited:.0f} s: {else_say}"
        time.sleep(0.02)


@lru_cache
def _slowness() -> float:
    """How many times slower one core is here, at least 1: CPU time, which load does not touch."""
    return max(1.0, min(_piece() for _ in range(3)) / _PIECE_S)


def _piece() -> float:
    started = time.process_time()
    total = 0
    for number in range(_PIECE):
        total += number
    return time.process_time() - started
