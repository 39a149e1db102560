"""The benchmark runs, on its mock and on any other endpoint, and ends on one line of JSON."""

from __future__ import annotations

import asyncio
import json
import sys

from tests.fakes.judge import FakeJudge

FIGURES = {
    "wall_s",
    "bound_s",
    "ratio",
    "ratio_first",
    "peak_in_flight",
    "cpu_ms_per_request",
    "refused_per_request",
    "refused_per_request_first",
    "groups_judged",
}


async def benchmark(*arguments: str) -> dict[str, float]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "benchmarks.judge", "--json", "--steps", "2", "--groups", "3", *arguments),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(output.decode().splitlines()[-1])


async def test_the_mock_is_judged_no_faster_than_its_bound() -> None:
    figures = await benchmark()
    assert set(figures) == FIGURES
    assert figures["groups_judged"] == 6
    assert figures["ratio"] >= 1.0
    assert figures["wall_s"] >= figures["bound_s"] > 0.4


async def test_any_endpoint_can_be_measured() -> None:
    judge = FakeJudge(delay_s=lambda role: 0.1)
    async with judge.serve() as url:
        figures = await benchmark("--endpoint", url, "--model", "fake")
    assert figures["groups_judged"] == 6
    assert figures["bound_s"] >= 0.2
    assert judge.requests == {"rubricator": 6, "verifier": 6}
