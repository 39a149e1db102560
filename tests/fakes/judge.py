"""A judge over real HTTP whose verdicts are known beforehand, with the faults of `algo.testing`.

It reads only the rendered prompt, as a model would. Its rubric, its verdicts and its grades are
functions of the texts alone (`expected_rubric`, `expected_verdict`, `expected_grade`), so a test
can compute what every answer must score, whatever the order, the chunking, the retries and the
faults were.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from algo.ropd.rubric import Criterion, Rubric
from algo.testing import PASSING, FakeOpenAI, Fault, FaultKind, Reply, Request, Usage
from algo.testing.wire import messages_of

_BLOCK = re.compile(
    r"<<<BEGIN (?P<label>[A-Z]+(?: [A-Z0-9]+)*) (?P<nonce>[0-9a-f]{16})>>>\n"
    r"(?P<text>.*?)\n<<<END (?P=label) (?P=nonce)>>>",
    re.DOTALL,
)

FAULTS = (*map(Fault, PASSING), Fault(FaultKind.HTTP_429, seconds=0.05))
"""Every fault that the next attempt may be spared; of a 429, with and without `Retry-After`."""

Planned = Fault | str
"""A fault, a kind by its name, or "" for none."""


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


def expected_grade(question: str, answer: str, top: int) -> int:
    return hashlib.sha256(f"{question}\n{answer}".encode()).digest()[0] % (top + 1)


ONE_CRITERION = json.dumps(
    {
        "schema_version": "ropd.rubric.v1",
        "rubrics": [{"category": "Task Completion", "criterion": "It says 2.", "points": 5}],
    }
)


class FakeJudge(FakeOpenAI):
    """`fault(role, number)` names the fault of the role's number-th request, counted from 0.

    A request without anything to judge is of the role `trial`; under a
    schema it is the doctor's. `refuses` is a key of the body that is rejected by name.
    """

    def __init__(
        self,
        fault: Callable[[str, int], Planned] = lambda role, number: "",
        delay_s: Callable[[str], float] = lambda role: 0.0,
        json_schema: bool = True,
        refuses: str = "",
        trial_reply: tuple[str, str] = ("yes", "stop"),
        schema_reply: tuple[str, str] = (ONE_CRITERION, "stop"),
        models: tuple[str, ...] = ("fake",),
        key: str | None = None,
        keep_bodies: bool = True,
    ) -> None:
        super().__init__(
            answer=self._said,
            plan=self._planned_fault,
            delay_s=lambda request: delay_s(request.role),
            role_of=role_of,
            usage=lambda request, replies: Usage(100, 20, cached_tokens=40),
            models=models,
            key=key,
            refuses=[refuses] if json_schema else [refuses, "response_format"],
            record=keep_bodies,
        )
        self.fault = fault
        self.trial_reply = Reply(*trial_reply)
        self.schema_reply = Reply(*schema_reply)

    def _planned_fault(self, request: Request) -> Fault | None:
        fault = self.fault(request.role, request.number)
        if isinstance(fault, Fault):
            return fault
        return Fault(FaultKind(fault)) if fault else None

    def _said(self, request: Request) -> Reply:
        if request.role == "trial":
            under_schema = "response_format" in request.body or "text" in request.body
            return self.schema_reply if under_schema else self.trial_reply
        prompt = request.messages[0]["content"]
        if request.role == "rubricator":
            return Reply(json.dumps(self.rubric(prompt)))
        graded = "ropd.grade.v1" in prompt.partition("<<<BEGIN QUESTION ")[0]
        return Reply(json.dumps(self.grade(prompt) if graded else self.verdicts(prompt)))

    def rubric(self, prompt: str) -> dict[str, Any]:
        question = next(text for label, text in blocks(prompt) if label == "QUESTION")
        criteria = expected_rubric(question).criteria
        return {
            "schema_version": "ropd.rubric.v1",
            "rubrics": [criterion.model_dump() for criterion in criteria],
            "maximum_score": sum(criterion.points for criterion in criteria),
        }

    def grade(self, prompt: str) -> dict[str, Any]:
        shown = dict(blocks(prompt))
        scale = re.search(r"from 0 to (\d+)", prompt)
        assert scale is not None
        grade = expected_grade(shown["QUESTION"], shown["ANSWER"], int(scale[1]))
        return {"schema_version": "ropd.grade.v1", "score": grade}

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


def role_of(body: Mapping[str, Any]) -> str:
    prompt = messages_of(body)[0]["content"]
    if "<<<BEGIN " not in prompt:
        return "trial"
    return "rubricator" if "ropd.rubric.v1" in prompt else "verifier"
