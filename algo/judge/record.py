"""What the journal keeps of one judgement: `ropd.judgement.v2`.

A record holds everything that the reward was made of: the rollouts' texts, each panel's evidence
(for ROPD the rubric, the shuffle and every boolean), every raw reply. A failed judgement has a
record too, with its failure and without scores. Pure functions; `journal.py` writes the records,
`replay.py` recomputes their scores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final

from algo.asking.query import Exchange, Transcript
from algo.errors import JudgeFailure, JudgeOutage, MethodError
from algo.judge.group import Rollout
from algo.judge.method import Judgement, ScoredGroup
from algo.llm.endpoint import Endpoint

JUDGEMENT_SCHEMA: Final = "ropd.judgement.v2"
FIRST_SCHEMA: Final = "ropd.judgement.v1"
"""The same without `method`, which was always ROPD."""
EXPENSE_SCHEMA: Final = "ropd.expense.v1"
"""Of what the judge was asked beside the groups. It is in files of its own and no judgement."""
# Characters kept of one raw reply, several times what a judge is allowed to write; more is a flood,
# of which `length` still tells the size.
_LONGEST_RAW: Final = 200_000


COMMON_KEYS: Final = frozenset(
    (
        *("schema_version", "method", "judgement_id", "uid", "step", "fingerprint", "occurrence"),
        *("time", "latency_s", "question", "teachers", "rollouts", "roles", "calls", "status"),
        *("failure", "rules", "panels", "scores", "teacher_scores"),
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
    tokenizers: Mapping[str, str] = field(default_factory=dict)
    """The sha256 of the tokenizer that fits and guards a role's prompts, where it has one."""

    @cached_property
    def roles(self) -> dict[str, dict[str, Any]]:
        return {
            each.role: {**_role(each), "tokenizer": self.tokenizers.get(each.role)}
            for each in self.endpoints
        }

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


def expense_record(
    kind: str, transcript: Transcript, setup: Setup, evidence: Mapping[str, Any]
) -> dict[str, Any]:
    """What was asked beside the groups; `kind` is `probe`, `trial` or `empty`."""
    asked = {exchange.stage for exchange in transcript}
    return {
        "schema_version": EXPENSE_SCHEMA,
        "kind": kind,
        "method": setup.method,
        "time": _now(),
        **evidence,
        "roles": {role: held for role, held in setup.roles.items() if role in asked},
        "calls": [_call(exchange) for exchange in transcript],
    }


def recorded_rollout(entry: Mapping[str, Any]) -> Rollout:
    """The rollout of an entry of a record's `rollouts`; earlier records took every student to
    think."""
    return Rollout(entry["text"], entry["finished"], entry.get("thinks", True))


def record_texts(judgement: Judgement) -> dict[str, str]:
    """The texts that a judgement's record names by hash."""
    return {sha256(text): text for text in judgement.teachers}


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
        "occurrence": judgement.occurrence,
        "time": _now(),
        "latency_s": judgement.seconds,
        "question": judgement.question,
        "teachers": _teachers(judgement),
        "rollouts": [
            {
                "text": rollout.text,
                "sha256": sha256(rollout.text),
                "finished": rollout.finished,
                **({} if rollout.thinks else {"thinks": False}),
            }
            for rollout in group.rollouts
        ],
        **setup.method_setup,
        "roles": setup.roles,
        "calls": [_call(exchange) for exchange in judgement.transcript],
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _teachers(judgement: Judgement) -> list[dict[str, Any]]:
    named: list[dict[str, Any]] = [{"sha256": sha256(text)} for text in judgement.teachers]
    for entry, votes in zip(named, judgement.votes, strict=False):
        if votes > 1:
            entry["votes"] = votes
    return named


SENT: Final = (
    *("api", "temperature", "top_p", "seed", "reasoning_effort", "max_tokens"),
    *("context_tokens", "structured", "extra_body"),
)
"""The settings of a role that decide what its model is shown and how it answers."""


def _role(endpoint: Endpoint) -> dict[str, Any]:
    settings = endpoint.settings.model_dump(mode="json", include=set(SENT))
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
        "prompt_characters": exchange.prompt_characters,
        "raw": raw[:_LONGEST_RAW],
        "length": len(raw),
        **reply,
    }
