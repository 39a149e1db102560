"""A judge over real HTTP whose verdicts are known beforehand, with faults on demand.

It reads only the rendered prompt, as a model would. Its rubric and its verdicts are functions of
the texts alone (`expected_rubric`, `expected_verdict`), so a test can compute what every answer
must score, whatever the order, the chunking, the retries and the faults were.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web
from aiohttp.test_utils import TestServer

from algo.ropd.rubric import Criterion, Rubric

_BLOCK = re.compile(
    r"<<<BEGIN (?P<label>[A-Z]+(?: [A-Z0-9]+)*) (?P<nonce>[0-9a-f]{16})>>>\n"
    r"(?P<text>.*?)\n<<<END (?P=label) (?P=nonce)>>>",
    re.DOTALL,
)

Fault = str
"""One of `FAULTS`, `HARMLESS` or `REJECTIONS`, `401`, `404`, `429_long`, or "" for none."""

FAULTS = (
    "429",
    "429_retry_after",
    "500",
    "503",
    "reset",
    "hang",
    "drip",
    "half_body",
    "truncated_json",
    "wrong_schema",
    "wrong_count",
    "missing_index",
    "double_index",
    "whitespace",
    "empty",
    "refusal",
    "draft_cut_off",
    "draft_unclosed",
)
REJECTIONS = {
    "400": {"message": "Bad request"},
    "400_filter": {"message": "The response was filtered", "code": "content_filter"},
}
"""Faults of single requests that no retry mends, with the error in their body."""
HARMLESS = ("lying_totals", "prose_and_fences")
"""Faults of style that must cost nothing."""


def blocks(prompt: str) -> list[tuple[str, str]]:
    """(label, text) of every block of the prompt, by the nonce that the first one carries."""
    found = [(match["label"], match["text"], match["nonce"]) for match in _BLOCK.finditer(prompt)]
    data = [entry for entry in found if entry[0] != "LABEL"]
    return [(label, text) for label, text, nonce in data if nonce == data[0][2]]


def expected_rubric(question: str) -> Rubric:
    rng = random.Random(hashlib.sha256(question.encode()).digest())
    return Rubric(
        criteria=tuple(
            Criterion(
                criterion_id=f"c{k}",
                category=rng.choice(("Task Completion", "Observable Quality")),
                criterion=f"criterion {k} of {question[:40]}",
                points=rng.randint(1, 5),
            )
            for k in range(1, rng.randint(4, 12) + 1)
        )
    )


def expected_verdict(criteria: Sequence[str], answer: str) -> list[bool]:
    digest = hashlib.sha256("\n".join(criteria).encode() + answer.encode()).digest()
    return [bool(digest[k] & 1) for k in range(len(criteria))]


@dataclass
class FakeJudge:
    """`fault(role, number)` names the fault of the role's number-th request, counted from 0.

    A request without anything to judge is of the role `trial`. `refuses` is a key of the body
    that is rejected by name.
    """

    fault: Callable[[str, int], Fault] = lambda role, number: ""
    delay_s: Callable[[str], float] = lambda role: 0.0
    json_schema: bool = True
    refuses: str = ""
    trial_reply: tuple[str, str] = ("yes", "stop")
    models: tuple[str, ...] = ("fake",)
    key: str | None = None
    keep_bodies: bool = True
    requests: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    in_flight: int = 0
    peak_in_flight: int = 0

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """Serve on a loopback port; gives the base URL."""
        app = web.Application(client_max_size=1 << 28)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/responses", self._chat)
        server = TestServer(app)
        await server.start_server()
        try:
            yield str(server.make_url("/v1"))
        finally:
            await server.close()

    async def _models(self, request: web.Request) -> web.Response:
        if self._refuses_key(request):
            return web.Response(status=401)
        return web.json_response({"data": [{"id": model} for model in self.models]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            return await self._answer(request)
        finally:
            self.in_flight -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if self._refuses_key(request):
            return web.Response(status=401)
        body = await request.json()
        if self.keep_bodies:
            self.bodies.append(body)
        responses = request.path.endswith("/responses")
        prompt = body["input" if responses else "messages"][0]["content"]
        role = "rubricator" if "ropd.rubric.v1" in prompt else "verifier"
        if "<<<BEGIN " not in prompt:
            role = "trial"
        number = self.requests[role]
        self.requests[role] += 1
        if "response_format" in body and not self.json_schema:
            return web.json_response({"error": "response_format is not supported"}, status=400)
        if self.refuses in body:
            return web.json_response({"error": f"Unsupported: '{self.refuses}'"}, status=400)
        await asyncio.sleep(self.delay_s(role))
        fault = self.fault(role, number)
        spoiled = await self._spoil_transport(request, fault)
        if spoiled is not None:
            return spoiled
        style = _response if responses else _completion
        if role == "trial":
            return web.json_response(style(body["model"], *self.trial_reply))
        payload = self.rubric(prompt) if role == "rubricator" else self.verdicts(prompt)
        text, finish_reason = spoil(payload, fault)
        return web.json_response(style(body["model"], text, finish_reason))

    async def _spoil_transport(
        self, request: web.Request, fault: Fault
    ) -> web.StreamResponse | None:
        if fault == "429":
            return web.Response(status=429, text="slow down")
        if fault == "429_retry_after":
            return web.Response(status=429, headers={"Retry-After": "0.05"})
        if fault == "429_long":
            return web.Response(status=429, headers={"Retry-After": "3600"})
        if fault in REJECTIONS:
            return web.json_response({"error": REJECTIONS[fault]}, status=400)
        if fault in ("401", "404", "500", "503"):
            return web.Response(status=int(fault), text="broken")
        if fault == "reset":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "drip":
            response = web.StreamResponse()
            await response.prepare(request)
            with contextlib.suppress(ConnectionError):
                while True:
                    await response.write(b" ")
                    await asyncio.sleep(0.02)
        if fault == "half_body":
            response = web.StreamResponse(headers={"Content-Length": "4000"})
            await response.prepare(request)
            await response.write(b'{"choices": [{"message": {"content": "{')
            assert request.transport is not None
            request.transport.abort()
            return response
        return None

    def _refuses_key(self, request: web.Request) -> bool:
        return self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}"

    def rubric(self, prompt: str) -> dict[str, Any]:
        question = next(text for label, text in blocks(prompt) if label == "QUESTION")
        criteria = expected_rubric(question).criteria
        return {
            "schema_version": "ropd.rubric.v1",
            "rubrics": [criterion.model_dump() for criterion in criteria],
            "maximum_score": sum(criterion.points for criterion in criteria),
        }

    def verdicts(self, prompt: str) -> dict[str, Any]:
        shown = blocks(prompt)
        rubric = orjson.loads(next(text for label, text in shown if label == "RUBRIC"))
        criteria = [entry["criterion"] for entry in rubric]
        answers = [text for label, text in shown if label.startswith("ANSWER ")]
        return {
            "schema_version": "ropd.batch_verifier.v2",
            "answers": [
                {"answer_index": index, "judgement": expected_verdict(criteria, answer)}
                for index, answer in enumerate(answers, start=1)
            ],
        }


def spoil(payload: dict[str, Any], fault: Fault) -> tuple[str, str]:
    """The reply's text and finish reason under a fault of content."""
    entries = payload["rubrics"] if "rubrics" in payload else payload["answers"]
    if fault == "wrong_schema":
        payload["schema_version"] = "ropd.other.v9"
    elif fault == "wrong_count":
        if "rubrics" in payload:
            del entries[2:]
        else:
            entries[0]["judgement"].append(True)
    elif fault == "missing_index":
        del entries[0]
    elif fault == "double_index":
        entries.append(dict(entries[-1]))
    elif fault == "lying_totals":
        payload["maximum_score"] = 99
        for entry in entries:
            entry["final_score"] = 99
    text = json.dumps(payload)
    if fault == "draft_cut_off":  # as where a chat template has written the opening tag
        return f"Draft: {_draft(payload)} Hmm wait, let me recheck", "length"
    if fault == "draft_unclosed":
        return f"<think> Draft: {_draft(payload)} Hmm wait, let me recheck", "stop"
    if fault == "truncated_json":
        return text[: len(text) // 2], "length"
    if fault == "whitespace":
        return text[:40] + " \n" * 50_000, "length"
    if fault == "empty":
        return "", "stop"
    if fault == "refusal":
        return "I'm sorry, but I can't help with that.", "stop"
    if fault == "prose_and_fences":
        return (
            f"<think>{{maybe}}</think>Here it is:\n```json\n{text}\n```\nHope it helps {{}}!",
            "stop",
        )
    return text, "stop"


def _draft(payload: dict[str, Any]) -> str:
    """A valid object that says something else than the answer."""
    if "rubrics" in payload:
        return json.dumps({**payload, "rubrics": [{**e, "points": 1} for e in payload["rubrics"]]})
    turned = [{**e, "judgement": [not met for met in e["judgement"]]} for e in payload["answers"]]
    return json.dumps({**payload, "answers": turned})


def _completion(model: str, text: str, finish_reason: str) -> dict[str, Any]:
    return {
        "model": model,
        "choices": [
            {"message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
        ],
        "usage": {
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "prompt_tokens_details": {"cached_tokens": 40},
        },
    }


def _response(model: str, text: str, finish_reason: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text}]
    return {
        "model": model,
        "output": [{"type": "message", "content": content}],
        "incomplete_details": {"reason": "max_output_tokens"}
        if finish_reason == "length"
        else None,
        "usage": {"input_tokens": 100, "output_tokens": 20},
    }
