"""Verifies, repairs and merges indexes. Repair never changes the damaged file: it sets it aside.

`verify` reads every byte and names every damaged place. `repair` writes what is whole to a new file
and puts that in the index's place; a record is lost only if its own bytes are damaged.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from algo.sealed_lines import BrokenLine, seal, unseal, whole_lines
from algo.teacher.table import table_path
from algo.teacher.teacher_index import (
    SCHEMA_VERSION,
    Header,
    TeacherAnswer,
    TeacherIndex,
    decode_answer,
    decode_header,
    distinct,
    encode_answer,
    open_for_reading,
    scan_lines,
    teachers_of,
)
from algo.teacher.writer import TeacherIndexWriter, locked_file, utc_now

# Answers stored with one fsync: some MB at a time.
_BATCH = 1000


@dataclass(frozen=True)
class Damage:
    """A stretch that is not a whole record; lines count from 1, bytes from 0."""

    line: int
    byte: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line} (byte {self.byte}): {self.reason}"


@dataclass(frozen=True)
class Verification:
    """What a full read of an index found."""

    answers: int
    """Whole records, those that stand inside a damaged line included."""
    damage: tuple[Damage, ...]


def verify(path: Path) -> Verification:
    """Read every record of the index. Raises `TeacherIndexError` when it cannot be read at all."""
    answers, damage = 0, []
    descriptor = open_for_reading(path)
    try:
        for item in _contents(descriptor):
            if isinstance(item, Damage):
                damage.append(item)
            else:
                answers += isinstance(item, TeacherAnswer)
    finally:
        os.close(descriptor)
    return Verification(answers, tuple(damage))


def repair(path: Path) -> Path | None:
    """Keep what is whole; returns where the damaged file was put, None if nothing was damaged.

    Raises `TeacherIndexError` when another process writes the index.
    """
    with locked_file(path) as descriptor:
        found = [item for item in _contents(descriptor) if not isinstance(item, TeacherAnswer)]
        if not any(isinstance(item, Damage) for item in found):
            return None
        header = next((item for item in found if isinstance(item, Header)), None)
        if header is None:
            teachers = teachers_of(_whole_answers(descriptor))
            header = Header(teachers, utc_now(), {"header": "lost, told from the answers"})
        repaired = path.with_name(f"{path.name}.repaired")
        repaired.unlink(missing_ok=True)
        with TeacherIndexWriter.create(repaired, header) as writer:
            _append_all(writer, _whole_answers(descriptor))
        aside = _free_name(path)
        os.link(path, aside)
        os.replace(table_path(repaired), table_path(path))
        os.replace(repaired, path)
        return aside


def merge(sources: Sequence[Path], out: Path) -> int:
    """Write the answers of all `sources` to the new index `out`; returns how many.

    An answer that two sources share, equal in every field, is written once.
    """
    indexes = [TeacherIndex.open(source) for source in sources]
    try:
        teachers = distinct(t for index in indexes for t in index.header.teachers)
        header = Header(teachers, utc_now(), {"merged": [str(source) for source in sources]})
        with TeacherIndexWriter.create(out, header) as writer:
            return _append_all(writer, _unrepeated(a for index in indexes for a in index))
    finally:
        for index in indexes:
            index.close()


def _contents(descriptor: int) -> Iterator[Header | TeacherAnswer | Damage]:
    """Everything in the file in order: its header, its answers, and what is neither."""
    header_seen = False
    for number, (offset, line) in enumerate(scan_lines(descriptor, 0), start=1):
        try:
            if not line.endswith(b"\n"):
                raise BrokenLine("the file ends within this record")
            found = [_record(unseal(line))]
        except BrokenLine as error:
            yield Damage(number, offset, str(error))
            found = list(_salvaged(line))
        header_seen = header_seen or any(isinstance(record, Header) for record in found)
        yield from found
    if not header_seen:
        yield Damage(1, 0, "no header")


def _record(fields: dict[str, Any]) -> Header | TeacherAnswer:
    if fields.get("schema_version") == SCHEMA_VERSION:
        return decode_header(fields)
    return decode_answer(fields)


def _salvaged(line: bytes) -> Iterator[Header | TeacherAnswer]:
    for whole in whole_lines(line):
        try:
            yield _record(unseal(whole))
        except BrokenLine:
            continue  # sealed, but no record of an index


def _whole_answers(descriptor: int) -> Iterator[TeacherAnswer]:
    return (item for item in _contents(descriptor) if isinstance(item, TeacherAnswer))


def _append_all(writer: TeacherIndexWriter, answers: Iterable[TeacherAnswer]) -> int:
    batch: list[TeacherAnswer] = []
    written = 0
    for answer in answers:
        batch.append(answer)
        if len(batch) == _BATCH:
            writer.append(batch)
            written += len(batch)
            batch = []
    writer.append(batch)
    return written + len(batch)


def _unrepeated(answers: Iterable[TeacherAnswer]) -> Iterator[TeacherAnswer]:
    seen: set[bytes] = set()
    for answer in answers:
        key = hashlib.sha256(seal(encode_answer(answer))).digest()
        if key not in seen:
            seen.add(key)
            yield answer


def _free_name(path: Path) -> Path:
    """`<index>.damaged`, or with the first number that is free."""
    number = 0
    while True:
        aside = path.with_name(f"{path.name}.damaged{number or ''}")
        if not aside.exists():
            return aside
        number += 1
