"""Recomputes every reward from a journal, without a judge.

Each judged record's scores are taken anew from its panels' evidence, bit for bit what the run used.
Which methods there are, this module is told: `algo/methods/registry.py` has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from algo.errors import JournalError
from algo.judge.journal import read_records
from algo.judge.method import Method, Panel, student_scores, teacher_scores
from algo.judge.record import FIRST_SCHEMA, JUDGEMENT_SCHEMA, sha256

Methods = Mapping[str, type[Method[Any]]]
"""By name."""


@dataclass(frozen=True)
class Replayed:
    """One judged record with the scores recomputed from its panels.

    `exact` says whether they equal the recorded ones bit for bit, and the texts their hashes.
    """

    record: Mapping[str, Any]
    panels: tuple[Panel, ...]
    scores: tuple[float, ...]
    teacher_scores: tuple[float, ...]
    exact: bool

    @property
    def uid(self) -> str:
        return self.record["uid"]

    @property
    def judgement_id(self) -> str:
        return self.record["judgement_id"]


def read_judgements(path: Path) -> Iterator[dict[str, Any]]:
    """Each record of a journal folder or file, failed ones too; raises `JournalError` for one that
    is damaged or of a schema that this version does not know."""
    for record in read_records(path):
        schema = record.get("schema_version")
        if schema not in (FIRST_SCHEMA, JUDGEMENT_SCHEMA):
            raise JournalError(
                f"{path}: a record of schema {schema!r}, not {JUDGEMENT_SCHEMA!r} or "
                f"{FIRST_SCHEMA!r}: read it with the version that wrote it"
            )
        yield record


def replay(path: Path, methods: Methods) -> Iterator[Replayed]:
    """Each judged record of a journal folder or file; failed ones have no score to replay."""
    for record in read_judgements(path):
        if record["status"] == "judged":
            yield replay_record(record, methods)


def replay_record(record: Mapping[str, Any], methods: Methods) -> Replayed:
    """The scores of one judged record, from nothing but its panels' evidence."""
    name = method_of(record)
    if name not in methods:
        raise JournalError(
            f"judgement {record['judgement_id']} was made by the method {name!r}, which is not "
            f"among {', '.join(methods)}: install what brought it, or read it with that version"
        )
    panels = tuple(methods[name].panel.of(entry) for entry in record["panels"])
    students = student_scores(panels, len(record["rollouts"]))
    teachers = teacher_scores(panels)
    exact = (
        list(students) == record["scores"]
        and list(teachers) == record["teacher_scores"]
        and all(sha256(rollout["text"]) == rollout["sha256"] for rollout in record["rollouts"])
    )
    return Replayed(record, panels, students, teachers, exact)


def method_of(record: Mapping[str, Any]) -> str:
    """The name of the method that a record was judged by."""
    return record.get("method", "ropd")
