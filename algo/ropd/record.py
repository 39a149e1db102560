"""What the journal keeps of one judgement (`ropd.judgement.v1`), and the scores read back from it.

A record holds everything that the reward was made of: the rollouts' texts, the rubric, the shuffle,
every boolean, every raw reply. A failed judgement has a record too, with its failure and without
scores. Pure functions; `journal.py` writes the records.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, Final
from uuid import uuid4

from algo.ropd.client import Exchange, Transcript
from algo.ropd.endpoint import Endpoint
from algo.ropd.errors import JudgeFailure, JudgeOutage
from algo.ropd.group import Group, ScoredGroup
from algo.ropd.scoring import Panel

JUDGEMENT_SCHEMA: Final = "ropd.judgement.v1"
_LONGEST_RAW: Final = 200_000
"""Characters kept of one raw reply; more is a flood, of which `length` still tells the size."""


@dataclass
class Judgement:
    """One judgement in the making: what is known so far, for its record."""

    group: Group
    fingerprint: str
    question: str
    judgement_id: str = field(default_factory=lambda: uuid4().hex)
    started: float = field(default_factory=perf_counter)
    teachers: tuple[str, ...] = ()
    """The distinct teacher answers, as shown to the judge."""
    panels: tuple[Panel, ...] = ()
    transcript: Transcript = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long the judgement has taken so far."""
        return perf_counter() - self.started


@dataclass(frozen=True)
class Setup:
    """What all judgements of a run have in common, as it stands in each record."""

    rubric_mode: str
    verification_mode: str
    shuffle_seed: int
    templates: Mapping[str, str]
    endpoints: Sequence[Endpoint]


def judged_record(judgement: Judgement, scored: ScoredGroup, setup: Setup) -> dict[str, Any]:
    return {
        **_common(judgement, setup),
        "status": "judged",
        "rules": [None if rule is None else rule.value for rule in scored.rules],
        "panels": [_panel(panel) for panel in judgement.panels],
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
        "rubric_mode": setup.rubric_mode,
        "verification_mode": setup.verification_mode,
        "shuffle_seed": setup.shuffle_seed,
        "templates": dict(setup.templates),
        "roles": {endpoint.role: _role(endpoint) for endpoint in setup.endpoints},
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


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "rubric": [criterion.model_dump() for criterion in panel.rubric.criteria],
        "students": list(panel.students),
        "order": list(panel.order),
        "teacher_verdicts": [list(verdict) for verdict in panel.teacher_verdicts],
        "student_verdicts": [list(verdict) for verdict in panel.student_verdicts],
    }
