"""The texts of the teacher answers that a record names by hash, from the run's journal.

A journal of an earlier version keeps hashes only: there the texts come from the teacher index that
the run's configuration names, as far as it is still there and still holds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from algo.judge.journal import read_texts
from algo.judge.record import sha256
from algo.teacher.teacher_index import TeacherIndex


def teacher_texts(
    journal: Path, index: Path | None, records: Iterable[Mapping[str, Any]]
) -> dict[str, str]:
    """Text by hash, as the judge saw it; raises `JournalError` or `TeacherIndexError` when journal
    or index is damaged."""
    records = list(records)
    named = {teacher["sha256"] for record in records for teacher in record["teachers"]}
    kept = {name: text for name, text in read_texts(journal).items() if name in named}
    if index is None or kept.keys() == named:
        return kept
    with TeacherIndex.open(index) as opened:
        shown = (
            answer.shown
            for fingerprint in dict.fromkeys(record["fingerprint"] for record in records)
            for answer in opened.all_answers(fingerprint)
        )
        return {sha256(text): text for text in shown} | kept
