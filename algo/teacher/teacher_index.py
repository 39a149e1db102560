"""The offline teacher index: the m stored answers of every prompt, found by prompt fingerprint.

An index is one append-only file of sealed JSON lines (`sealed_lines`): a header that names the
teacher, then one line an answer. Beside it lies ``<index>.table``, a sorted table of fingerprints
and places, which is derived: it is rebuilt whenever it does not belong to the file, and only the
lines added since it was written are read. Lookups read single lines by place, so that processes
share them through the page cache and memory does not grow with the index.

Answers that a teacher cut short, refused or left empty are kept in the file and never served.

This module owns the record and reading. Writing is `writer`'s part, asking the teacher is
`build`'s, care for an index is `repair`'s.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from algo.errors import TeacherIndexError, TeacherMissing
from algo.sealed_lines import BrokenLine, unseal
from algo.teacher.table import Row, Table, row_key
from algo.thinking import holds_answer, without_thinking

SCHEMA_VERSION = "ropd.teacher_answers.v1"
OFFICIAL_SCHEMA_VERSIONS = ("ropd.teacher_index.v1", "ropd.teacher_index.v2")
# Bytes read at a time: many lines a system call, little memory.
_CHUNK = 1 << 20


class AnswerStatus(StrEnum):
    """Whether an answer may be served to training, and if not, why."""

    USABLE = "usable"
    TRUNCATED = "truncated"
    REFUSED = "refused"
    EMPTY = "empty"


_NOTHING: Mapping[str, Any] = {}


class TeacherAnswer(NamedTuple):
    """One answer of the teacher to one prompt, as it was received.

    `fingerprint` is `prompt_fingerprint` of the messages the student sees. `sampling` holds what
    was sent beside the messages (temperature, top_p, seed, ...). `created` is ISO 8601, UTC.
    Tokens and `latency_s` are None where the endpoint did not say. `extra` keeps keys of imported
    records that have no field of their own. `thinks` is false where the teacher was asked not to:
    think tags in its text are words. A tuple, for a lookup makes m of them.
    """

    fingerprint: str
    text: str
    model: str
    status: AnswerStatus = AnswerStatus.USABLE
    finish_reason: str | None = None
    sampling: Mapping[str, Any] = _NOTHING
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    latency_s: float | None = None
    created: str | None = None
    extra: Mapping[str, Any] = _NOTHING
    thinks: bool = True

    @property
    def shown(self) -> str:
        """What a judge is shown of it: the text without its thinking."""
        return without_thinking(self.text, self.thinks).strip()


@dataclass(frozen=True, slots=True)
class Teacher:
    """What makes two answers answers of the same teacher: model, instructions and sampling.

    URL, timeout, seed and token limit are absent on purpose: they do not change what a finished
    answer is drawn from.
    """

    model: str
    system: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    reasoning_effort: str | None = None
    extra_body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of an index. `teachers` has several entries only after a merge or import."""

    teachers: tuple[Teacher, ...]
    created: str
    provenance: Mapping[str, Any] = field(default_factory=dict)


class TeacherIndex:
    """Read access to an index. Safe to use from many threads and after a fork.

    Sees what was on disk when it was opened; a builder that goes on appending does not disturb it.
    """

    def __init__(self, path: Path, descriptor: int, header: Header, table: Table) -> None:
        self.path = path
        self.header = header
        self._descriptor = descriptor
        self._table = table

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open the index at `path`. Raises `TeacherIndexError` (missing, damaged, not an index)."""
        path = Path(path)
        descriptor = open_for_reading(path)
        try:
            header, header_end = read_header(path, descriptor)
            table = current_table(path, descriptor, header_end)
            return cls(path, descriptor, header, table)
        except BaseException:
            os.close(descriptor)
            raise

    def answers(self, fingerprint: str, m: int) -> tuple[TeacherAnswer, ...]:
        """The first `m` usable answers of a prompt, in the order they were stored.

        Raises `TeacherMissing` when there are fewer, `TeacherIndexError` when a record is damaged.
        """
        return self._usable(fingerprint, m, m)

    def usable(self, fingerprint: str, at_least: int = 0) -> tuple[TeacherAnswer, ...]:
        """All usable answers of a prompt, in the order they were stored; raises as `answers`
        does."""
        return self._usable(fingerprint, at_least, None)

    def count(self, fingerprint: str) -> int:
        """How many usable answers a prompt has."""
        return sum(row.usable for row in self._table.rows(fingerprint))

    def all_answers(self, fingerprint: str) -> tuple[TeacherAnswer, ...]:
        """Every stored answer of a prompt, those never served included."""
        return tuple(self._of(fingerprint, self._table.rows(fingerprint)))

    def __iter__(self) -> Iterator[TeacherAnswer]:
        """Every stored answer in file order, those never served included."""
        for row in self._table.in_file_order():
            yield self._read(row)

    def __len__(self) -> int:
        """The number of stored answers, those never served included."""
        return len(self._table)

    def close(self) -> None:
        os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _usable(
        self, fingerprint: str, at_least: int, at_most: int | None
    ) -> tuple[TeacherAnswer, ...]:
        rows = (row for row in self._table.rows(fingerprint) if row.usable)
        held = tuple(islice(self._of(fingerprint, rows), at_most))
        if len(held) < at_least:
            raise TeacherMissing(fingerprint, at_least, len(held))
        return held

    def _of(self, fingerprint: str, rows: Iterable[Row]) -> Iterator[TeacherAnswer]:
        # The table's key is a part of the fingerprint: the record has the last word.
        answers = (self._read(row) for row in rows)
        return (answer for answer in answers if answer.fingerprint == fingerprint)

    def _read(self, row: Row) -> TeacherAnswer:
        line = os.pread(self._descriptor, row.length, row.offset)
        try:
            return decode_answer(unseal(line))
        except BrokenLine as error:
            raise damaged(self.path, self._descriptor, row.offset, str(error)) from None


def open_for_reading(path: Path) -> int:
    """A file descriptor; raises `TeacherIndexError` when there is no such file or no access."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise TeacherIndexError(
            f"no teacher index at {path}: build one with "
            f"`ropd teacher build --data FILE.parquet --out {path} ...`"
        ) from None
    except OSError as error:
        raise TeacherIndexError(f"teacher index {path}: {error.strerror}") from None


def encode_answer(answer: TeacherAnswer) -> dict[str, Any]:
    """The stored form of an answer; fields that say nothing are left out."""
    record: dict[str, Any] = {
        "fingerprint": answer.fingerprint,
        "status": str(answer.status),
        "text": answer.text,
        "model": answer.model,
    }
    for name in _OPTIONAL:
        value = getattr(answer, name)
        if value is not None and value != _NOTHING:
            record[name] = dict(value) if isinstance(value, Mapping) else value
    if not answer.thinks:
        record["thinks"] = False
    return record


_OPTIONAL = (
    "finish_reason",
    "sampling",
    "prompt_tokens",
    "completion_tokens",
    "latency_s",
    "created",
    "extra",
)
_STATUSES = {status.value: status for status in AnswerStatus}


def decode_answer(record: dict[str, Any]) -> TeacherAnswer:
    """The answer of a stored record. Raises `BrokenLine` when a key is missing or unknown."""
    try:
        record["status"] = _STATUSES[record["status"]]
        return TeacherAnswer(**record)
    except KeyError as error:
        raise BrokenLine(f"no status, or an unknown one: {error}") from None
    except TypeError as error:
        raise BrokenLine(f"keys that do not fit: {error}") from None


def teachers_of(answers: Iterable[TeacherAnswer]) -> tuple[Teacher, ...]:
    """The teachers of answers without a header, as far as the answers themselves tell."""
    return distinct(
        Teacher(
            model=answer.model,
            temperature=answer.sampling.get("temperature"),
            top_p=answer.sampling.get("top_p"),
            reasoning_effort=answer.sampling.get("reasoning_effort"),
        )
        for answer in answers
    )


def distinct(teachers: Iterable[Teacher]) -> tuple[Teacher, ...]:
    found: list[Teacher] = []
    for teacher in teachers:
        if teacher not in found:
            found.append(teacher)
    return tuple(found)


def encode_header(header: Header) -> dict[str, Any]:
    teachers = [
        {name: value for name in Teacher.__slots__ if (value := getattr(teacher, name)) is not None}
        for teacher in header.teachers
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "created": header.created,
        "teachers": teachers,
        "provenance": dict(header.provenance),
    }


def decode_header(record: Mapping[str, Any]) -> Header:
    try:
        teachers = tuple(Teacher(**teacher) for teacher in record["teachers"])
        return Header(teachers, record["created"], record["provenance"])
    except (KeyError, TypeError) as error:
        raise BrokenLine(f"not a header: {error}") from None


def read_header(path: Path, descriptor: int) -> tuple[Header, int]:
    """The header and the offset of the first answer. Raises `TeacherIndexError`."""
    start = b""
    while b"\n" not in start and (chunk := os.pread(descriptor, _CHUNK, len(start))):
        start += chunk
    line, newline, _ = start.partition(b"\n")
    if not newline:
        raise TeacherIndexError(f"teacher index {path} holds no header: it is empty or cut short")
    try:
        record = unseal(line)
        if record.get("schema_version") != SCHEMA_VERSION:
            raise BrokenLine(f"schema_version is {record.get('schema_version')!r}")
        return decode_header(record), len(line) + 1
    except BrokenLine as error:
        if any(version.encode() in line for version in OFFICIAL_SCHEMA_VERSIONS):
            raise TeacherIndexError(
                f"{path} is an official teacher index: convert it with "
                f"`ropd teacher import {path} --out INDEX`"
            ) from None
        raise TeacherIndexError(
            f"{path} is not a teacher index ({SCHEMA_VERSION}), line 1: {error}"
        ) from None


def current_table(path: Path, descriptor: int, header_end: int) -> Table:
    """The table of every whole line: the saved one, extended by what was appended since.

    Saved again when lines were added and the directory can be written; an index on read-only
    storage is read all the same, only slower to open.
    """
    saved = Table.load(path, descriptor)
    known = saved if saved is not None else Table.empty(covers=header_end)
    added = scan_rows(path, descriptor, known.covers)
    first = next(added, None)
    if saved is not None and first is None:
        return saved
    table = known.extended(added if first is None else chain((first,), added))
    if table.save(path, descriptor) and (mapped := Table.load(path, descriptor)) is not None:
        return mapped
    return table


def scan_rows(path: Path, descriptor: int, start: int) -> Iterator[Row]:
    """The row of every whole line from `start` on. A last line without newline is not there yet.

    Raises `TeacherIndexError` with the place of the first damaged line.
    """
    for offset, line in scan_lines(descriptor, start):
        if not line.endswith(b"\n"):
            return
        try:
            answer = decode_answer(unseal(line))
        except BrokenLine as error:
            raise damaged(path, descriptor, offset, str(error)) from None
        # Earlier versions stored imported answers without looking at them.
        usable = answer.status is AnswerStatus.USABLE and holds_answer(answer.text, answer.thinks)
        yield Row(row_key(answer.fingerprint), offset, len(line), usable)


def scan_lines(descriptor: int, start: int) -> Iterator[tuple[int, bytes]]:
    """(offset, line) from `start` to the end of the file; the last may lack its newline."""
    rest, offset, position = b"", start, start
    while chunk := os.pread(descriptor, _CHUNK, position):
        position += len(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield offset, line + b"\n"
            offset += len(line) + 1
    if rest:
        yield offset, rest


def damaged(path: Path, descriptor: int, offset: int, reason: str) -> TeacherIndexError:
    """The error for a record that is not whole, with its place and the command that repairs."""
    newlines = sum(chunk.count(b"\n") for chunk in _chunks_until(descriptor, offset))
    return TeacherIndexError(
        f"{path}, line {newlines + 1} (byte {offset}): damaged record: {reason}; "
        f"keep what is whole with `ropd teacher verify {path} --repair`"
    )


def _chunks_until(descriptor: int, end: int) -> Iterator[bytes]:
    position = 0
    while position < end and (chunk := os.pread(descriptor, min(_CHUNK, end - position), position)):
        yield chunk
        position += len(chunk)
