"""The texts of the teacher answers that a record names by hash, from the run's teacher index.

The journal keeps hashes only, for the index is the texts' one place. An index that has changed
since gives no text for a hash it does not hold any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from algo.judge.group import Rollout
from algo.judge.record import sha256
from algo.teacher.teacher_index import TeacherIndex


def teacher_texts(index: Path | None, records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Text by hash, as the judge saw it; raises `TeacherIndexError` when the index is damaged."""
    if index is None:
        return {}
    with TeacherIndex.open(index) as opened:
        shown = (
            Rollout(answer.text, finished=True).answer
            for fingerprint in dict.fromkeys(record["fingerprint"] for record in records)
            for answer in opened.all_answers(fingerprint)
        )
        return {sha256(text): text for text in shown}
