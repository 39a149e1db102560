"""Odd replies through a whole engine: the right scores or a `JudgeFailure`, and one record a group.

A part of the replies has a body, or a whole response, that no server should send.
"""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from algo.errors import JudgeFailure, JudgeOutage
from algo.judge.journal import read_records
from algo.judge.replay import replay
from algo.methods.registry import METHODS
from algo.ropd.pipeline import ScoredGroup
from tests.builders.judging import group, pipeline_for, right_scores
from tests.builders.odd_replies import CHAT, mutated, odd_body, odd_bytes, written
from tests.fakes.judge import FakeJudge, role_of
from tests.fakes.raw_server import Connection, chat_body, ok, serve_raw

GROUPS = 150
LIMITS = {"outage_s": 60.0, "stage_deadline_s": 20.0}


def answer(judge: FakeJudge, body: dict[str, Any]) -> str:
    prompt = body["messages"][0]["content"]
    role = role_of(body)
    return json.dumps(judge.rubric(prompt) if role == "rubricator" else judge.verdicts(prompt))


def odd_response(drawn: random.Random, text: str) -> bytes:
    """An HTTP response in which something is odd, be it the body, its envelope or its framing."""
    right = {**CHAT, "choices": [{"message": {"content": text}, "finish_reason": "stop"}]}
    match drawn.randrange(7):
        case 0:
            return ok(written(mutated(right, drawn, 1)).encode())
        case 1:  # under another schema: one that holds a whole rubric would be right, and differ
            other = odd_body(drawn, "chat_completions")
            return ok(other.replace(b"ropd.rubric.v1", b"ropd.rubric.v0"))
        case 2:
            return ok(drawn.randbytes(drawn.randrange(200)))
        case 3:
            header = drawn.choice(
                ["Content-Encoding: gzip", "Content-Encoding: br", "Content-Encoding: deflate"]
            )
            return ok(chat_body(text), header)
        case 4:
            return ok(chat_body(text), f"Set-Cookie: {drawn.choice(['=', ';;', 'a=b; expires=x'])}")
        case 5:
            status = drawn.choice((b"204 No", b"206 Part", b"302 Found", b"500 No", b"999 Odd"))
            extra = drawn.choice(
                (
                    b"Retry-After: nan",
                    b"retry-after-ms: inf",
                    b"retry-after-ms: nan",
                    b"Location: :",
                )
            )
            return b"HTTP/1.1 %b\r\n%b\r\nContent-Length: 2\r\n\r\n{}" % (status, extra)
        case _:
            head, _, body = ok(chat_body(text)).partition(b"\r\n\r\n")
            return odd_bytes(drawn, head) + b"\r\n\r\n" + body


@pytest.mark.parametrize("seed", range(3))
async def test_an_odd_reply_ends_no_run_and_changes_no_score(seed: int, tmp_path: Path) -> None:
    drawn, judge = random.Random(seed), FakeJudge()
    odd = 0

    async def behave(connection: Connection) -> None:
        nonlocal odd
        while (request := await connection.request()) is not None:
            text = answer(judge, request.body)
            if drawn.random() < 0.25:
                odd += 1
                connection.send(odd_response(drawn, text))
                return  # closes: some of these have no end of their own
            connection.send(ok(chat_body(text)))

    async with serve_raw(behave) as url, pipeline_for(url, tmp_path, limits=LIMITS) as pipeline:
        judged = await asyncio.gather(
            *(pipeline.score_group(group(number)) for number in range(GROUPS)),
            return_exceptions=True,
        )
        metrics = pipeline.metrics()
    assert odd > 40
    assert not [each for each in judged if not isinstance(each, ScoredGroup | JudgeFailure)]
    failed = sum(isinstance(each, JudgeFailure) for each in judged)
    assert failed < GROUPS // 4
    for number, each in enumerate(judged):
        if isinstance(each, ScoredGroup):
            assert each.scores == right_scores(group(number))
    records = list(read_records(tmp_path))
    assert sorted(record["uid"] for record in records) == sorted(
        f"uid-{number}" for number in range(GROUPS)
    )
    assert [record["status"] for record in records].count("failed") == failed
    assert metrics["ropd/groups_failed"] == failed
    assert all(replayed.exact for replayed in replay(tmp_path, METHODS))


async def test_nothing_but_odd_replies_stops_the_run_with_a_record_of_each_group(
    tmp_path: Path,
) -> None:
    drawn = random.Random(7)

    async def behave(connection: Connection) -> None:
        while (request := await connection.request()) is not None:
            del request
            connection.send(ok(written(drawn.choice([[], {}, {"choices": 1}])).encode()))

    limits = {**LIMITS, "stage_deadline_s": 3.0, "outage_s": 1.0}
    async with serve_raw(behave) as url, pipeline_for(url, tmp_path, limits=limits) as pipeline:
        judged = await asyncio.gather(
            *(pipeline.score_group(group(number)) for number in range(20)), return_exceptions=True
        )
    assert all(isinstance(each, JudgeFailure | JudgeOutage) for each in judged)
    uids = [record["uid"] for record in read_records(tmp_path)]
    assert len(uids) == len(set(uids)) == 20
