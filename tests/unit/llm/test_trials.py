"""A fault in the code that tries a server is told as what it is, not as an outage."""

from __future__ import annotations

import asyncio
import random
from typing import Any

from algo.errors import FailureKind
from algo.llm.endpoint import Endpoint, Reply, Request
from algo.llm.http.wire import Fault
from algo.llm.scheduler import RequestScheduler
from algo.llm.settings import LimitsSettings, RoleSettings
from tests.builders.virtual_time import run
from tests.fakes.simulated_server import SimulatedServer

ENDPOINT = Endpoint("judge", "m", "http://h/v1", RoleSettings())


class Broken(SimulatedServer):
    """Fails at everything, and at the trial request by a fault of the code."""

    async def send(
        self, endpoint: Endpoint, request: Request, timeout_s: float, attempt: int
    ) -> Reply:
        if request.messages[0]["content"].startswith("Answer with"):
            await asyncio.sleep(0.1)
            raise ZeroDivisionError("a bug")
        await asyncio.sleep(0.01)
        raise Fault(FailureKind.TRANSPORT, "HTTP 500")


def test_a_bug_in_a_trial_reaches_all_that_wait_for_it() -> None:
    async def main() -> tuple[list[Any], float]:
        limits = LimitsSettings(concurrency=8, max_concurrency=8)
        async with RequestScheduler(limits, Broken(), random.Random(0)) as scheduler:
            asked = [
                scheduler.complete(ENDPOINT, Request([{"role": "user", "content": f"{n}"}]))
                for n in range(32)
            ]
            ends: list[Any] = await asyncio.gather(*asked, return_exceptions=True)
            return ends, asyncio.get_running_loop().time()

    ends, ended_at = run(main())
    for end in ends:
        assert isinstance(end, RuntimeError), end
        assert isinstance(end.__cause__, ZeroDivisionError)
        assert "m at http://h/v1" in str(end)
    assert len({id(end) for end in ends}) == len(ends)
    assert ended_at < 10.0
