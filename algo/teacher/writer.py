"""Appends to a teacher index, durably, by one writer at a time.

`append` returns when the answers are on disk (one fsync a call, so callers batch). The writer holds
an exclusive lock on the index file, which the kernel drops with the process, however it dies. A
half-written last line, left by a process or machine that died, is cut at opening: its answer was
never reported as stored. Nothing before it is ever written again.

This module does not own what is asked of a teacher, or repair (`repair`).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from algo.errors import TeacherIndexError
from algo.sealed_lines import seal
from algo.teacher.teacher_index import (
    SCHEMA_VERSION,
    Header,
    Teacher,
    TeacherAnswer,
    current_table,
    encode_answer,
    encode_header,
    read_header,
)


def utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class TeacherIndexWriter:
    """The one writer of an index; made with `open` or `create`, used as a context manager."""

    def __init__(self, path: Path, descriptor: int, header: Header, header_end: int) -> None:
        self.path = path
        self.header = header
        self._descriptor = descriptor
        self._header_end = header_end
        self._end = os.fstat(descriptor).st_size

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        teacher: Teacher,
        provenance: Mapping[str, Any] | None = None,
    ) -> Self:
        """Continue the index at `path`, or start it.

        Raises `TeacherIndexError` when another writer holds it, when it cannot be written, when it
        is damaged, or when it belongs to a different teacher.
        """
        path = Path(path)
        descriptor = _open_locked(path)
        try:
            if _is_unborn(descriptor):
                os.ftruncate(descriptor, 0)
                _start(path, descriptor, Header((teacher,), utc_now(), dict(provenance or {})))
            header, header_end = read_header(path, descriptor)
            _same_teacher(path, header, teacher)
            _cut_torn_tail(descriptor)
            return cls(path, descriptor, header, header_end)
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def create(cls, path: str | os.PathLike[str], header: Header) -> Self:
        """Start a new index with a given header. Raises `TeacherIndexError` if the file exists."""
        path = Path(path)
        descriptor = _open_locked(path)
        try:
            if os.fstat(descriptor).st_size:
                raise TeacherIndexError(f"{path} exists already: choose another --out")
            _start(path, descriptor, header)
            return cls(path, descriptor, header, os.fstat(descriptor).st_size)
        except BaseException:
            os.close(descriptor)
            raise

    def append(self, answers: Iterable[TeacherAnswer]) -> None:
        """Store the answers; they are on disk on return.

        Raises `TeacherIndexError` when the disk takes no more; what was stored before stays whole.
        """
        stamped = (a if a.created else a._replace(created=utc_now()) for a in answers)
        lines = b"".join(seal(encode_answer(answer)) for answer in stamped)
        if lines:
            _append_durably(self.path, self._descriptor, lines, self._end)
            self._end += len(lines)

    def close(self) -> None:
        """Bring the table beside the index up to date and release the lock."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            try:
                current_table(self.path, descriptor, self._header_end)
            finally:
                os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@contextmanager
def locked_file(path: Path) -> Iterator[int]:
    """The existing index file at `path`, under the writer's lock; raises `TeacherIndexError`."""
    if not path.exists():
        raise TeacherIndexError(f"no teacher index at {path}")
    descriptor = _open_locked(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _open_locked(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise TeacherIndexError(f"cannot write teacher index {path}: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise TeacherIndexError(
            f"another process is writing teacher index {path}: wait for it, or stop it"
        ) from None
    except OSError as error:
        os.close(descriptor)
        raise TeacherIndexError(
            f"cannot lock teacher index {path}: {error.strerror}; "
            "put it on a file system with file locks"
        ) from None
    if not os.path.samestat(os.fstat(descriptor), os.stat(path)):
        os.close(descriptor)  # a repair put another file there before the lock was taken
        return _open_locked(path)
    return descriptor


def _start(path: Path, descriptor: int, header: Header) -> None:
    _append_durably(path, descriptor, seal(encode_header(header)), 0)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _is_unborn(descriptor: int) -> bool:
    """True for a file that is empty, or was cut short while its header was written."""
    held = os.pread(descriptor, 1 << 20, 0)
    opening = b'{"schema_version":"%b"' % SCHEMA_VERSION.encode()
    return b"\n" not in held and held[: len(opening)] == opening[: len(held)]


def _append_durably(path: Path, descriptor: int, lines: bytes, end: int) -> None:
    try:
        written = 0
        while written < len(lines):
            written += os.pwrite(descriptor, lines[written:], end + written)
        os.fsync(descriptor)
    except OSError as error:
        os.ftruncate(descriptor, end)
        raise TeacherIndexError(
            f"cannot write teacher index {path}: {error.strerror}; the {end} bytes before are "
            "whole: make room or repair the disk, then run the same command again"
        ) from None


def _cut_torn_tail(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    end = size
    while end > 0:
        start = max(0, end - (1 << 16))
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(descriptor, end)
        os.fsync(descriptor)


def _same_teacher(path: Path, header: Header, teacher: Teacher) -> None:
    if teacher in header.teachers:
        return
    held = header.teachers[0] if header.teachers else None
    differs = ", ".join(
        f"{name} {getattr(held, name)!r} there, {getattr(teacher, name)!r} here"
        for name in Teacher.__slots__
        if getattr(held, name, None) != getattr(teacher, name)
    )
    raise TeacherIndexError(
        f"teacher index {path} holds another teacher's answers ({differs}): "
        "choose another --out, and `ropd teacher merge` if both shall serve"
    )
