"""Whose failure it is, the server's or the prompt's, over hours of virtual time.

Servers that are down at random and prompts at which a server always fails: such a prompt fails
alone and in bounded time, no other prompt fails, and a run stops only where the server is really
away.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algo.errors import FailureKind, JudgeFailure, JudgeOutage
from algo.llm.endpoint import Endpoint, Reply, Request
from algo.llm.scheduler import RequestScheduler
from algo.llm.settings import LimitsSettings, RoleSettings
from tests.builders.virtual_time import run
from tests.fakes.simulated_server import Away, SimulatedServer

OUTAGE_S = 300.0
TIMEOUT_S = 120.0
ENDPOINT = Endpoint("judge", "m", "http://h/v1", RoleSettings(timeout_s=TIMEOUT_S))
ONE_LOST = ("page", "empty")
"""What a first request cannot tell from an answer to its own prompt."""
KINDS = (FailureKind.TRANSPORT, FailureKind.RATE_LIMIT, FailureKind.TIMEOUT)


@dataclass
class Asked:
    """What became of one request, and when."""

    prompt: str
    outcome: Reply | BaseException
    began_at: float
    ended_at: float


def asks(
    server: SimulatedServer, prompts: list[tuple[str, float]], seed: int = 0, **limits: Any
) -> list[Asked]:
    """Send each prompt at its moment; the outcomes in order."""

    async def main() -> list[Asked]:
        now = asyncio.get_running_loop().time
        chosen = LimitsSettings.model_validate({"outage_s": OUTAGE_S, **limits})
        async with RequestScheduler(chosen, server, random.Random(seed)) as scheduler:

            async def ask(prompt: str, at: float) -> Asked:
                await asyncio.sleep(at)
                outcome: Reply | BaseException
                try:
                    request = Request([{"role": "user", "content": prompt}])
                    outcome = await scheduler.complete(ENDPOINT, request)
                except (JudgeFailure, JudgeOutage) as error:
                    outcome = error
                return Asked(prompt, outcome, at, now())

            return await asyncio.gather(*(ask(prompt, at) for prompt, at in prompts))

    return run(main())


def poison(kind: FailureKind) -> Any:
    return lambda prompt: kind if prompt.startswith("poison") else None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("others", [0, 1, 30])
def test_a_prompt_that_always_fails_fails_alone(kind: FailureKind, others: int) -> None:
    server = SimulatedServer(poison=poison(kind))
    prompts = [("poison", 0.0), *((f"good {n}", 0.0) for n in range(others))]
    asked = asks(server, prompts)
    assert isinstance(asked[0].outcome, JudgeFailure)
    assert asked[0].outcome.kind is kind
    assert "retries used up" in str(asked[0].outcome)
    assert asked[0].ended_at < 400.0
    assert all(isinstance(each.outcome, Reply) for each in asked[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_several_such_prompts_stop_no_run(kind: FailureKind) -> None:
    server = SimulatedServer(poison=poison(kind))
    asked = asks(server, [(f"poison {n}", 0.0) for n in range(6)] + [("good", 300.0)])
    assert all(isinstance(each.outcome, JudgeFailure) for each in asked[:-1])
    assert isinstance(asked[-1].outcome, Reply)
    assert asked[-1].ended_at < 310.0


@pytest.mark.parametrize("away", get_args(Away))
@pytest.mark.parametrize("requests", [2, 20])
def test_a_server_that_stays_away_ends_the_run_after_the_outage(away: Away, requests: int) -> None:
    server = SimulatedServer(down=[(10.0, 1e9)], away=away)
    asked = asks(server, [(f"good {n}", 10.0 * (n % 2)) for n in range(requests)])
    ends = [each for each in asked if each.began_at >= 10.0]
    outages = [each for each in ends if isinstance(each.outcome, JudgeOutage)]
    rejected = 1 if away in ONE_LOST else 0
    assert len(outages) >= len(ends) - rejected
    opened_by = 10.0 + (TIMEOUT_S if away == "hangs" else 15.0)
    for each in outages:
        assert 10.0 + OUTAGE_S <= each.ended_at <= opened_by + OUTAGE_S + 1.0


@pytest.mark.parametrize("away", get_args(Away))
@pytest.mark.parametrize("back_at", [30.0, 123.4, 299.0])
def test_requests_go_on_within_two_seconds_after_the_server_is_back(
    away: Away, back_at: float
) -> None:
    server = SimulatedServer(down=[(5.0, back_at)], away=away, latency_s=lambda: 0.3)
    early = [(f"early {n}", 4.9) for n in range(8)]
    asked = asks(server, early + [(f"good {n}", 20.0) for n in range(8)], outage_s=400.0)
    failed = [
        each for each in asked if not isinstance(each.outcome, Reply) or not each.outcome.text
    ]
    assert len(failed) <= (1 if away in ONE_LOST else 0)
    known_down = back_at > 5.0 + TIMEOUT_S or away != "hangs"
    latest = back_at if known_down else 20.0 + TIMEOUT_S
    assert all(each.ended_at < latest + 2.0 for each in asked)


@pytest.mark.parametrize("away", ["page", "html", "empty"])
def test_a_burst_of_what_a_gateway_says_costs_one_request_at_most(away: Away) -> None:
    server = SimulatedServer(down=[(0.0, 8.0)], away=away)
    asked = asks(server, [(f"good {n}", 0.0) for n in range(64)])
    lost = [each for each in asked if not isinstance(each.outcome, Reply) or not each.outcome.text]
    assert len(lost) <= 1


Spells = st.lists(st.tuples(st.floats(3.0, 250.0), st.floats(20.0, 280.0)), max_size=3)
"""Of gaps and lengths, in seconds: fewer than a request has retries of any kind."""


@settings(max_examples=150, deadline=None)
@given(
    spells=Spells,
    away=st.sampled_from(["refuses", "hangs"]),
    kinds=st.lists(st.sampled_from(KINDS), max_size=3),
    begin=st.lists(st.floats(0.0, 1500.0), min_size=1, max_size=12),
    seed=st.integers(0, 2**16),
)
def test_whatever_happens_each_failure_is_put_to_its_cause(
    spells: list[tuple[float, float]],
    away: Away,
    kinds: list[FailureKind],
    begin: list[float],
    seed: int,
) -> None:
    down: list[tuple[float, float]] = []
    for gap, length in spells:
        start = gap + (down[-1][1] if down else 0.0)
        down.append((start, start + length))
    planned = {f"poison {n}": kind for n, kind in enumerate(kinds)}
    rng = random.Random(seed)
    server = SimulatedServer(
        latency_s=lambda: rng.uniform(0.2, 3.0), down=down, away=away, poison=planned.get
    )
    prompts = [(f"good {n}", at) for n, at in enumerate(begin)]
    prompts += [(prompt, rng.uniform(0.0, 1000.0)) for prompt in planned]
    for each in asks(server, prompts, seed):
        if each.prompt in planned:
            assert isinstance(each.outcome, JudgeFailure), each
            assert each.ended_at - each.began_at < 2500.0
        else:
            assert isinstance(each.outcome, Reply), each
