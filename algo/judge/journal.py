"""The append-only log of judgements: a record is on disk before its reward is used.

    journal/judgements-*.jsonl   a sealed line a judgement
    journal/expenses-*.jsonl     what else the judge was asked and paid for (`books.py`)
    journal/texts-*.jsonl        each text that records name by hash, once
    journal/files/<sha256>.*     each file that they name by hash: prompt templates, tokenizers

So a copy of the folder is complete: nothing that a judgement was made of lies elsewhere. A text is
on disk before the record that names it. One process writes to a folder, which a lock guarantees.
Records that arrive together share one fsync a kind. What a record holds is `record.py`'s part, the
files of lines are `sealed_log.py`'s. The answers of an evaluation are kept the same way, under
another name than `judgements`.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

from algo.errors import JournalError
from algo.judge.sealed_log import SealedLog, log_files, read_lines, sync_folder
from algo.sealed_lines import seal

_STEM: Final = "judgements"
_SETTING: Final = "ropd.journal_dir"
TEXTS: Final = "texts"
EXPENSES: Final = "expenses"
TEXT_SCHEMA: Final = "ropd.text.v1"
_FILES: Final = "files"
_ROTATE_BYTES: Final = 256 << 20
"""A file that has grown past this is closed and a new one begun, so that an editor opens each."""


class _Waiting(NamedTuple):
    """A sealed line, the stem of its files, the texts that it names by hash, and what its writer
    waits for."""

    stem: str
    line: bytes
    texts: Mapping[str, str]
    written: asyncio.Future[None]


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
        self._pending: list[_Waiting] = []
        self._flusher: asyncio.Task[None] | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder / "lock", setting)
            # In the order of writing a batch: what a record names stands before it.
            stems = (TEXTS, EXPENSES, stem)
            self._logs = {each: SealedLog(folder, each, rotate_bytes) for each in stems}
            self._logs[stem].begin()
        except OSError as error:
            raise JournalError(
                f"cannot open the journal: {error.strerror}: {error.filename} "
                f"(set {setting} to a folder that can be written)"
            ) from None
        self._kept = {line["sha256"] for line in read_lines(log_files(folder, TEXTS))}

    @property
    def folder(self) -> Path:
        return self._folder

    async def append(
        self,
        record: Mapping[str, Any],
        texts: Mapping[str, str] | None = None,
        stem: str | None = None,
    ) -> None:
        """Return once `record`, and of `texts` by hash those that the folder lacks, are on disk.

        `stem` is `EXPENSES` for what is no record of the journal's own kind.
        Raises `JournalError` when it cannot be written.
        """
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append(_Waiting(stem or self._stem, seal(record), texts or {}, written))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        await written

    def keep_file(self, data: bytes, suffix: str) -> str:
        """Put a file into the folder, once, and return the sha256 that names it."""
        name = hashlib.sha256(data).hexdigest()
        path = self._folder / _FILES / f"{name}{suffix}"
        try:
            if not path.is_file() or path.read_bytes() != data:
                path.parent.mkdir(exist_ok=True)
                partial = path.with_suffix(".part")
                with partial.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                partial.rename(path)
                sync_folder(path.parent)
        except OSError as error:
            raise JournalError(f"cannot write to the journal in {self._folder}: {error}") from None
        return name

    async def _flush(self) -> None:
        while self._pending:
            batch, self._pending = self._pending, []
            try:
                await asyncio.to_thread(self.write_batch, batch)
            except JournalError as error:
                _fail(batch, str(error))
            except BaseException as error:
                # The flusher ends here, and nobody may wait for it; who came meanwhile, neither.
                left, self._pending = batch + self._pending, []
                _fail(left, f"the journal's writer in {self._folder} ended: {error!r}")
                raise
            else:
                for each in batch:
                    if not each.written.done():
                        each.written.set_result(None)

    def write(self, lines: Sequence[bytes]) -> None:
        """Write sealed lines of the journal's own kind with one fsync, in the calling thread."""
        self._write({self._stem: lines})

    def write_batch(self, batch: Sequence[_Waiting]) -> None:
        """Write a batch with one fsync a stem, in the calling thread."""
        named = {name: text for each in batch for name, text in each.texts.items()}
        new = {name: text for name, text in named.items() if name not in self._kept}
        lines: dict[str, list[bytes]] = {stem: [] for stem in self._logs}
        for name, text in new.items():
            lines[TEXTS].append(seal({"schema_version": TEXT_SCHEMA, "sha256": name, "text": text}))
        for each in batch:
            lines[each.stem].append(each.line)
        self._write(lines)
        self._kept.update(new)

    def _write(self, lines: Mapping[str, Sequence[bytes]]) -> None:
        try:
            for stem, log in self._logs.items():
                if lines.get(stem):
                    log.write(lines[stem])
        except (OSError, ValueError) as error:  # ValueError: the file is closed
            raise JournalError(f"cannot write to the journal in {self._folder}: {error}") from None

    async def aclose(self) -> None:
        try:
            if self._flusher is not None:
                await self._flusher
        finally:
            for log in self._logs.values():
                log.close()
            self._lock.close()


def _fail(batch: Sequence[_Waiting], message: str) -> None:
    """An error for each that waits: one raised in several tasks would mix their tracebacks."""
    for each in batch:
        if not each.written.done():
            each.written.set_exception(JournalError(message))


def journal_folder(path: Path) -> Path:
    """The journal in `path`: a run's directory, a journal's folder, or one of its files."""
    if path.is_dir():
        return path / "journal" if (path / "journal").is_dir() else path
    return path.parent


def journal_files(folder: Path, stem: str = _STEM) -> list[Path]:
    """The folder's files of records in the order of writing."""
    return log_files(folder, stem)


def read_records(path: Path, stem: str = _STEM) -> Iterator[dict[str, Any]]:
    """The records of a journal folder or of one file, in the order of writing.

    A torn last line of the last file (a writer that crashed, or still writes) is left out; any
    other damaged line raises `JournalError` with its place.
    """
    files = journal_files(path, stem) if path.is_dir() else [path]
    if not files:
        raise JournalError(f"no journal in {path}: it holds no {stem}-*.jsonl")
    yield from read_lines(files)


def read_expenses(folder: Path) -> Iterator[dict[str, Any]]:
    """What the judge was asked beside the groups; nothing in a journal of an earlier version."""
    yield from read_lines(log_files(folder, EXPENSES))


def read_texts(folder: Path) -> dict[str, str]:
    """The texts of a journal folder by sha256; none in a journal of an earlier version."""
    return {line["sha256"]: line["text"] for line in read_lines(log_files(folder, TEXTS))}


def kept_file(folder: Path, name: str, suffix: str) -> Path | None:
    """The file that `Journal.keep_file` named so, or `None`; raises `JournalError` where it is not
    what its name says any more."""
    path = folder / _FILES / f"{name}{suffix}"
    if not path.is_file():
        return None
    try:
        data = path.read_bytes()
    except OSError as error:
        raise JournalError(f"cannot read {path}: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != name:
        raise JournalError(f"{path} was changed: its sha256 is not its name; restore it")
    return path


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
