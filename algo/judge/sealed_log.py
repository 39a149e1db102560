"""Files of sealed JSON lines: `<stem>-00000.jsonl`, `-00001`, ... in one folder, rotated by size.

A line is on disk when `SealedLog.write` returns. A line torn by a crash is cut off when the log is
opened again. One process writes to a folder, which `journal.py` sees to; what the lines say is
`record.py`'s and `books.py`'s part.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from algo.errors import JournalError
from algo.sealed_lines import BrokenLine, unseal


class SealedLog:
    """The writer of one stem's files. A file is made with its first line, or by `begin`."""

    def __init__(self, folder: Path, stem: str, rotate_bytes: int) -> None:
        self._folder = folder
        self._stem = stem
        self._rotate_bytes = rotate_bytes
        self._file: BinaryIO | None = None
        self._closed = False
        files = log_files(folder, stem)
        self._number = _number(files[-1]) if files else 0
        if files:
            _cut_torn_tail(files[-1])

    def begin(self) -> None:
        """Make the file that is written to, so that a log without a line can be told from none."""
        if self._file is None:
            self._file = self._open()

    def write(self, lines: Sequence[bytes]) -> None:
        """Append sealed lines with one fsync; raises `OSError`, or `ValueError` once closed."""
        if self._closed:
            raise ValueError("write to closed file")
        if self._file is not None and self._file.tell() >= self._rotate_bytes:
            self._file.close()
            self._file = None
            self._number += 1
        self.begin()
        assert self._file is not None
        self._file.write(b"".join(lines))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._closed = True
        if self._file is not None:
            self._file.close()

    def _open(self) -> BinaryIO:
        file = (self._folder / f"{self._stem}-{self._number:05d}.jsonl").open("ab")
        sync_folder(self._folder)
        return file


def sync_folder(folder: Path) -> None:
    """A file is only safe on disk once its folder's entry is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def log_files(folder: Path, stem: str) -> list[Path]:
    """The files of one stem in the order of writing."""
    return sorted(folder.glob(f"{stem}-*.jsonl"), key=_number)


def read_lines(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """All records of `files`, in the order of writing.

    A torn last line of the last file (a writer that crashed, or still writes) is left out; any
    other damaged line raises `JournalError` with its place.
    """
    for file in files:
        try:
            with file.open("rb") as lines:
                for number, line in enumerate(lines, start=1):
                    if not line.endswith(b"\n") and file == files[-1]:
                        return
                    yield _record(file, number, line)
        except OSError as error:
            raise JournalError(f"cannot read {file}: {error.strerror}") from None


def _record(file: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        return unseal(line)
    except BrokenLine as error:
        raise JournalError(f"{file}:{number}: the record is damaged: {error}") from None


def _cut_torn_tail(path: Path) -> None:
    """Cut the last line of `path` off if a crash left it torn; the lines before it were synced."""
    with path.open("r+b") as file:
        end = start_of_last = 0
        last = b""
        for line in file:
            start_of_last, last = end, line
            end += len(line)
        if not _is_whole(last):
            file.truncate(start_of_last)
            os.fsync(file.fileno())


def _is_whole(line: bytes) -> bool:
    try:
        unseal(line)
    except BrokenLine:
        return False
    return line.endswith(b"\n")


def _number(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])
