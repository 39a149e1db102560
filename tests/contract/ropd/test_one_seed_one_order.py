"""One seed gives each prompt one order of its answers, however the groups arrive and resume."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from pathlib import Path
from typing import Any
from uuid import uuid4

from algo.judge.journal import read_records
from algo.ropd.pipeline import Group
from tests.builders.judging import group, pipeline_for
from tests.fakes.judge import FakeJudge

Orders = dict[str, list[tuple[int, tuple[int, ...]]]]


def epochs(draw: random.Random) -> list[list[Group]]:
    """Two passes over six prompts, each in an order of its own, under fresh uids."""
    passes = []
    for _ in range(2):
        groups = [group(number, size=4, uid=uuid4().hex) for number in range(6)]
        draw.shuffle(groups)
        passes.append(groups)
    return passes


async def judged(url: str, folder: Path, groups: list[Group], draw: random.Random) -> None:
    async with pipeline_for(url, folder) as pipeline:

        async def later(each: Group, pause: float) -> None:
            await asyncio.sleep(pause)
            await pipeline.score_group(each)

        await asyncio.gather(*(later(each, draw.random() * 0.05) for each in groups))


def orders(folder: Path) -> Orders:
    found: Orders = defaultdict(list)
    for record in read_records(folder):
        if record["status"] == "judged":
            entry = (record["occurrence"], tuple(record["panels"][0]["order"]))
            found[record["question"]].append(entry)
    return {question: sorted(entries) for question, entries in found.items()}


async def test_random_orders_of_arrival_and_a_resume_give_the_same_orders(tmp_path: Path) -> None:
    seen: list[Orders] = []
    judge = FakeJudge()
    async with judge.serve() as url:
        for seed in range(5):
            draw = random.Random(seed)
            folder = tmp_path / str(seed)
            first, second = epochs(draw)
            if seed % 2:  # a resume between the passes, or within the second
                await judged(url, folder, first + second[:seed], draw)
                await judged(url, folder, second[seed:], draw)
            else:
                await judged(url, folder, first, draw)
                await judged(url, folder, second, draw)
            seen.append(orders(folder))
    assert all(each == seen[0] for each in seen)
    assert [number for number, _ in seen[0]["What is 3 + 3?"]] == [0, 1]
    assert all(len({order for _, order in entries}) == 2 for entries in seen[0].values())


async def test_a_failed_judgement_takes_no_occurrence(tmp_path: Path) -> None:
    judge = FakeJudge()
    async with judge.serve() as url:
        await judged(url, tmp_path / "a", [group(1)], random.Random(0))
        limits: dict[str, Any] = {"retries": {"refusal": 0}}
        judge.fault = lambda role, number: "refusal_in_prose"
        async with pipeline_for(url, tmp_path / "b", limits=limits) as pipeline:
            [failed] = await asyncio.gather(pipeline.score_group(group(1)), return_exceptions=True)
            assert isinstance(failed, Exception)
            judge.fault = lambda role, number: ""
            await pipeline.score_group(group(1, uid="again"))
    assert orders(tmp_path / "a") == orders(tmp_path / "b")
