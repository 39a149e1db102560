"""What the journal keeps of one judgement: `ropd.judgement.v2`.

A record holds everything that the reward was made of: the rollouts' texts, each panel's evidence
(for ROPD the rubric, the shuffle and every boolean), every raw reply. A failed judgement has a
record too, with its failure and without scores. Pure functions; `journal.py` writes the records,
`replay.py` recomputes their scores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final

from algo.asking.query import Exchange
from algo.errors import JudgeFailure, JudgeOutage, MethodError
from algo.judge.method import Judgement, ScoredGroup
from algo.llm.endpoint import Endpoint

JUDGEMENT_SCHEMA: Final = "ropd.judgement.v2"
FIRST_SCHEMA: Final = "ropd.judgement.v1"
"""The same without `method`, which was always ROPD."""
# Characters kept of one raw reply, several times what a judge is allowed to write; more is a flood,
# of which `length` still tells the size.
_LONGEST_RAW: Final = 200_000


COMMON_KEYS: Final = frozenset(
    (
        *("schema_version", "method", "judgement_id", "uid", "step", "fingerprint", "time"),
        *("latency_s", "question", "teachers", "rollouts", "roles", "calls", "status", "failure"),
        *("rules", "panels", "scores", "teacher_scores"),
    )
)
"""The keys that every method's records have; what else stands in one is the method's `setup`."""


@dataclass(frozen=True)
class Setup:
    """What all judgements of a run have in common, as it stands in each record."""

    method: str
    method_setup: Mapping[str, Any]
    """The method's own keys (`Method.setup`)."""
    endpoints: Sequence[Endpoint]

    @cached_property
    def roles(self) -> dict[str, dict[str, Any]]:
        return {endpoint.role: _role(endpoint) for endpoint in self.endpoints}

    def __post_init__(self) -> None:
        if taken := COMMON_KEYS & self.method_setup.keys():
            raise MethodError(
                f"the method {self.method} records {', '.join(sorted(taken))}, which every record "
                "has already: choose another name"
            )


def judged_record(judgement: Judgement, scored: ScoredGroup, setup: Setup) -> dict[str, Any]:
    return {
        **_common(judgement, setup),
        "status": "judged",
        "rules": [None if rule is None else rule.value for rule in scored.rules],
        "panels": [panel.record() for panel in judgement.panels],
        "scores": list(scored.scores),
        "teacher_scores": list(scored.teacher_scores),
    }


def failed_record(
    judgement: Judgement, failure: JudgeFailure | JudgeOutage, setup: Setup
) -> dict[str, Any]:
    return {
        **_common(judgement, setup),
        "status": "failed",
        "failure": {
            "kind": failure.kind.value,
            "stage": failure.stage if isinstance(failure, JudgeFailure) else "outage",
            "endpoint": failure.endpoint,
            "message": failure.message,
        },
    }


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _common(judgement: Judgement, setup: Setup) -> dict[str, Any]:
    group = judgement.group
    return {
        "schema_version": JUDGEMENT_SCHEMA,
        "method": setup.method,
        "judgement_id": judgement.judgement_id,
        "uid": group.uid,
        "step": group.step,
        "fingerprint": judgement.fingerprint,
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "latency_s": judgement.seconds,
        "question": judgement.question,
        "teachers": [{"sha256": sha256(text)} for text in judgement.teachers],
        "rollouts": [
            {"text": rollout.text, "sha256": sha256(rollout.text), "finished": rollout.finished}
            for rollout in group.rollouts
        ],
        **setup.method_setup,
        "roles": setup.roles,
        "calls": [_call(exchange) for exchange in judgement.transcript],
    }


def _role(endpoint: Endpoint) -> dict[str, Any]:
    kept = ("api", "temperature", "top_p", "seed", "reasoning_effort", "max_tokens")
    settings = endpoint.settings.model_dump(include=set(kept))
    return {"model": endpoint.model, "base_url": endpoint.base_url, **settings}


def _call(exchange: Exchange) -> dict[str, Any]:
    if exchange.reply is None:
        return {"stage": exchange.stage, "fault": exchange.fault}
    reply = dict(vars(exchange.reply))
    raw = reply.pop("text")
    return {
        "stage": exchange.stage,
        "fault": exchange.fault,
        "cut_characters": exchange.cut_characters,
        "raw": raw[:_LONGEST_RAW],
        "length": len(raw),
        **reply,
    }
