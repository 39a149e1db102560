"""The append-only log of judgements: a record is on disk before its reward is used.

One sealed JSON line (`sealed_lines.py`) a record, in files `judgements-00000.jsonl`, `-00001`, ...
rotated by size. One process writes to a folder, which a lock guarantees; a line torn by a crash is
cut off when the folder is opened again. Records that arrive together share one fsync. What a record
holds is `record.py`'s part. The answers of an evaluation are kept the same way, under another name.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from algo.errors import JournalError
from algo.sealed_lines import BrokenLine, seal, unseal

_STEM: Final = "judgements"
_SETTING: Final = "ropd.journal_dir"
_ROTATE_BYTES: Final = 256 << 20
"""A file that has grown past this is closed and a new one begun, so that an editor opens each."""


_Waiting = tuple[bytes, asyncio.Future[None]]
"""A sealed line and what its writer waits for."""


class Journal:
    """The writer of one folder."""

    def __init__(
        self,
        folder: Path,
        rotate_bytes: int = _ROTATE_BYTES,
        *,
        stem: str = _STEM,
        setting: str = _SETTING,
    ) -> None:
        """`stem` begins the files' names; `setting` chose the folder, for errors."""
        self._folder = folder
        self._stem = stem
        self._rotate_bytes = rotate_bytes
        self._pending: list[_Waiting] = []
        self._flusher: asyncio.Task[None] | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder / "lock", setting)
            files = journal_files(folder, stem)
            if files:
                _cut_torn_tail(files[-1])
            self._number = _number(files[-1]) if files else 0
            self._file = self._open()
        except OSError as error:
            raise JournalError(
                f"cannot open the journal: {error.strerror}: {error.filename} "
                f"(set {setting} to a folder that can be written)"
            ) from None

    async def append(self, record: Mapping[str, Any]) -> None:
        """Return once `record` is on disk; raises `JournalError` when it cannot be written."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append((seal(record), written))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        await written

    async def _flush(self) -> None:
        while self._pending:
            batch, self._pending = self._pending, []
            lines = [line for line, _ in batch]
            try:
                await asyncio.to_thread(self.write, lines)
            except JournalError as error:
                _fail(batch, str(error))
            except BaseException as error:
                # The flusher ends here, and nobody may wait for it; who came meanwhile, neither.
                left, self._pending = batch + self._pending, []
                _fail(left, f"the journal's writer in {self._folder} ended: {error!r}")
                raise
            else:
                for _, written in batch:
                    if not written.done():
                        written.set_result(None)

    def write(self, lines: Sequence[bytes]) -> None:
        """Write sealed lines with one fsync, in the calling thread."""
        try:
            if self._file.tell() >= self._rotate_bytes:
                self._file.close()
                self._number += 1
                self._file = self._open()
            self._file.write(b"".join(lines))
            self._file.flush()
            os.fsync(self._file.fileno())
        except (OSError, ValueError) as error:  # ValueError: the file is closed
            raise JournalError(f"cannot write to the journal in {self._folder}: {error}") from None

    async def aclose(self) -> None:
        try:
            if self._flusher is not None:
                await self._flusher
        finally:
            self._file.close()
            self._lock.close()

    def _open(self) -> BinaryIO:
        path = self._folder / f"{self._stem}-{self._number:05d}.jsonl"
        file = path.open("ab")
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)  # a file is only safe once its folder's entry is
        finally:
            os.close(folder)
        return file


def _fail(lines: Sequence[_Waiting], message: str) -> None:
    """An error for each that waits: one raised in several tasks would mix their tracebacks."""
    for _, written in lines:
        if not written.done():
            written.set_exception(JournalError(message))


def journal_files(folder: Path, stem: str = _STEM) -> list[Path]:
    """The folder's journal files in the order of writing."""
    return sorted(folder.glob(f"{stem}-*.jsonl"), key=_number)


def read_records(path: Path, stem: str = _STEM) -> Iterator[dict[str, Any]]:
    """All records of a journal folder or of one file, in the order of writing.

    A torn last line of the last file (a writer that crashed, or still writes) is left out; any
    other damaged line raises `JournalError` with its place.
    """
    files = journal_files(path, stem) if path.is_dir() else [path]
    if not files:
        raise JournalError(f"no journal in {path}: it holds no {stem}-*.jsonl")
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


def _locked(path: Path, setting: str) -> BinaryIO:
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise JournalError(
            f"another process writes to the journal in {path.parent}: give each run its own "
            f"{setting} (in training, keep reward.num_workers=1)"
        ) from None
    return file


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
