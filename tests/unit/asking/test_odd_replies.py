"""Whatever a server sends is a usable reply or a counted failure, with a record, in bounded time.

From the bytes of the body to the value that a judge is asked for, its record and the repair turn.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from algo.asking.context import Call
from algo.asking.extraction import InvalidReply, NoJson, extract_object
from algo.asking.query import Judge, Query, Transcript
from algo.errors import FailureKind, JudgeFailure
from algo.judge.method import Judgement
from algo.judge.record import Setup, failed_record
from algo.llm.admission import Deadline
from algo.llm.endpoint import Endpoint, Reply, Request
from algo.llm.http.wire import Fault, parse_reply, request_body
from algo.llm.scheduler import RequestScheduler
from algo.ropd.rubric import RUBRIC_SCHEMA, Rubric, parse_rubric, rubric_json_schema
from algo.sealed_lines import seal, unseal
from tests.builders.judgements import group_of
from tests.builders.odd_replies import (
    CHAT,
    ENDPOINTS,
    RUBRIC,
    odd_body,
    odd_bytes,
    odd_text,
    written,
)

CRITERIA = (4, 12)
LONGEST_MESSAGE = 1_500
LONGEST_RECORD = 600_000
"""Bytes of one call: 200,000 characters and what escaping adds."""
# The promise is 50 ms on an idle core. A core that others share takes several times as long even in
# its own CPU time; what this is to notice took seconds.
LOOP_S = 5 * 0.05

SEEDS = st.integers(0, 2**64)
APIS = st.sampled_from(sorted(ENDPOINTS))
QUERY = Query(
    "prompt",
    RUBRIC_SCHEMA,
    rubric_json_schema(CRITERIA),
    lambda payload: parse_rubric(payload, CRITERIA),
    Call((0,), ("a",), 0),
)


class OneBody:
    """Stands for the scheduler: each request gets the same body, after it was put on the wire."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.sent: list[bytes] = []

    async def complete(self, endpoint: Endpoint, request: Request, _: Deadline) -> Reply:
        self.sent.append(request_body(endpoint, request)[1])
        try:
            return parse_reply(endpoint, self.body, 0.1, 1)
        except Fault as fault:
            raise JudgeFailure(fault.kind, endpoint.role, fault.message, endpoint.name) from None

    def allowed(self, kind: FailureKind) -> int:
        return 1

    def count_retry(self, kind: FailureKind) -> None:
        pass


def asked(api: str, body: bytes) -> Rubric | JudgeFailure:
    """What a judge makes of `body`, once its exchanges have been recorded and read back."""
    endpoint, scheduler = ENDPOINTS[api], OneBody(body)
    judge = Judge(endpoint, cast(RequestScheduler, scheduler), 0)
    transcript: Transcript = []
    outcome = done(judge, transcript)
    assert transcript
    kept = JudgeFailure("invalid", "rubricator", "m") if isinstance(outcome, Rubric) else outcome
    assert len(kept.message) < LONGEST_MESSAGE
    judgement = Judgement(group_of(2), "fp", "q", transcript=transcript)
    record = failed_record(judgement, kept, Setup("ropd", {}, [endpoint]))
    line = seal(record)
    assert unseal(line) == record
    assert len(line) < LONGEST_RECORD * len(transcript)
    assert all(len(exchange.fault or "") < LONGEST_MESSAGE for exchange in transcript)
    assert all(len(sent) < 300_000 for sent in scheduler.sent)
    for exchange in transcript:
        if exchange.reply is not None:
            check_types(exchange.reply)
    return outcome


def done(judge: Judge, transcript: Transcript) -> Rubric | JudgeFailure:
    """Runs the question without an event loop: `OneBody` waits for nothing."""
    question = judge.ask(QUERY, cast(Deadline, None), transcript)
    try:
        question.send(None)
    except StopIteration as ended:
        return ended.value
    except JudgeFailure as failure:
        return failure
    raise AssertionError("the question waits for something")


def check_types(reply: Reply) -> None:
    for text in (reply.text, reply.finish_reason, reply.model):
        text.encode()
    assert len(reply.finish_reason) <= 100
    assert len(reply.model) <= 100
    for tokens in (reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens):
        assert tokens is None or (type(tokens) is int and 0 <= tokens < 2**40)


@settings(max_examples=8_000, deadline=None)
@given(SEEDS, APIS)
def test_any_structure_is_a_reply_or_a_counted_failure(seed: int, api: str) -> None:
    asked(api, odd_body(random.Random(seed), api))


@settings(max_examples=5_000, deadline=None)
@given(SEEDS, APIS)
def test_any_bytes_are_a_reply_or_a_counted_failure(seed: int, api: str) -> None:
    drawn = random.Random(seed)
    asked(api, odd_bytes(drawn, odd_body(drawn, api)))


@given(st.binary(max_size=300), APIS)
def test_any_noise_is_a_counted_failure(body: bytes, api: str) -> None:
    failure = asked(api, body)
    assert isinstance(failure, JudgeFailure)
    assert failure.kind is FailureKind.TRANSPORT


@settings(max_examples=7_000, deadline=None)
@given(SEEDS, st.booleans())
def test_any_text_has_an_answer_or_none(seed: int, cut_off: bool) -> None:
    text = odd_text(random.Random(seed), written(RUBRIC))
    with contextlib.suppress(NoJson, InvalidReply):
        found = extract_object(text, RUBRIC_SCHEMA, cut_off=cut_off)
        assert found in (RUBRIC, {"schema_version": RUBRIC_SCHEMA})


def test_the_builder_makes_good_replies_too() -> None:
    """Else the tests above would say nothing of what comes after the first reading."""
    drawn = random.Random(0)
    made = [asked("chat_completions", odd_body(drawn, "chat_completions")) for _ in range(400)]
    assert sum(isinstance(each, Rubric) for each in made) > 60
    kinds = {each.kind for each in made if isinstance(each, JudgeFailure)}
    assert kinds >= {FailureKind.TRANSPORT, FailureKind.INVALID, FailureKind.UNPARSEABLE}


def chat(text: str) -> bytes:
    choice = {**CHAT["choices"][0], "message": {"content": text}}
    return written({**CHAT, "choices": [choice]}).encode()


@pytest.mark.parametrize(
    "changed",
    [
        {"schema_version": "v" * 150_000},
        {"schema_version": [1] * 1_000},
        {"rubrics": [{**RUBRIC["rubrics"][0], "criterion_id": "c" * 40_000}] * 4},
        {"rubrics": RUBRIC["rubrics"] * 200},
    ],
)
def test_what_a_reply_says_is_quoted_in_bounds(changed: dict[str, Any]) -> None:
    failure = asked("chat_completions", chat(written({**RUBRIC, **changed})))
    assert isinstance(failure, JudgeFailure)
    assert failure.kind is FailureKind.INVALID
    assert len(failure.message) < 700


def test_a_criterion_of_several_pages_is_none() -> None:
    long = [{**each, "criterion": "x" * 2_001} for each in RUBRIC["rubrics"]]
    failure = asked("chat_completions", chat(written({**RUBRIC, "rubrics": long})))
    assert isinstance(failure, JudgeFailure)
    assert "a criterion has more than 2000 characters" in failure.message


def test_a_control_token_in_a_reply_ends_no_turn_of_the_next_request() -> None:
    scheduler = OneBody(chat(written({**RUBRIC, "schema_version": "<|im_end|>"})))
    done(Judge(ENDPOINTS["chat_completions"], cast(RequestScheduler, scheduler), 0), [])
    assert len(scheduler.sent) == 2
    assert b"<|im_end|>" not in scheduler.sent[1]


def loop_s(work: Callable[[], object]) -> float:
    """The time that `work` holds the event loop, of three tries on a machine that does more."""
    taken = []
    for _ in range(3):
        started = time.thread_time()
        work()
        taken.append(time.thread_time() - started)
    return min(taken)


def searched(text: str) -> None:
    with contextlib.suppress(NoJson, InvalidReply):
        extract_object(text, RUBRIC_SCHEMA)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [*'{}[]":,\\ \nab01', '{"k":[', '{"k":{', '{"":0}', '"\\"', '\\"', "</think>", "```"]
        ),
        min_size=1,
        max_size=6,
    ).map("".join),
    st.sampled_from(["", "{", '{"', '{"a":[', '{"schema_version":"ropd.rubric.v1","a":[' * 40]),
    st.sampled_from([190_000, 3_000_000]),
)
@example('{"k":[', "", 3_000_000)
@example("0,", '{"k":[' * 40, 199_000)
@example("0,", '{"k":[' * 400, 3_000_000)
@example("{},", '{"schema_version":"ropd.rubric.v1","a":[', 199_000)
@example(" ", '{"k":[' * 300, 3_000_000)
@example('{"', "", 3_000_000)
@example('{"":', "", 199_000)
@example('{"a":1,"a":1}', "", 199_000)
@example('{"schema_version":0}', "", 199_000)
def test_no_text_holds_the_event_loop(unit: str, start: str, size: int) -> None:
    text = start + unit * (size // len(unit))
    assert loop_s(lambda: searched(text)) < LOOP_S


@pytest.mark.parametrize(
    "unit",
    ["[],", "{},", '{"a":0},', "1.5,", '"a",', "[", '{"a":', '"\\u00e9",', "NaN,", "\\ud800", " "],
)
@pytest.mark.parametrize("size", [190_000, 4_000_000])
def test_no_body_holds_the_event_loop(unit: str, size: int) -> None:
    many = unit * (size // len(unit))
    for body in (f'{{"choices": [{many}0]}}', f'{{"x": "{many}"}}', many):
        encoded = body.encode()

        def read(encoded: bytes = encoded) -> None:
            with contextlib.suppress(Fault):
                parse_reply(ENDPOINTS["chat_completions"], encoded, 0.0, 1)

        assert loop_s(read) < LOOP_S


@pytest.mark.parametrize("part", ["1", "{}", '{"criterion_id":1}', '"a"', "[]"])
def test_no_wrong_answer_holds_the_event_loop(part: str) -> None:
    """Every wrong part is a fault that is found before the first five are told."""
    for count in (1_600, 4_900, 100_000 // len(part)):
        body = chat(
            written({**RUBRIC, "rubrics": []}).replace("[]", f"[{','.join([part] * count)}]")
        )
        # A record, a repair turn and a second reply: more than one reply's share.
        assert loop_s(lambda body=body: asked("chat_completions", body)) < 3 * LOOP_S
