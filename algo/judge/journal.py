"""The append-only log of judgements: a record is on disk before its reward is used.

    journal/judgements-*.jsonl   a sealed line a judgement
    journal/expenses-*.jsonl     what else the judge was asked and paid for (`expenses.py`)
    journal/texts-*.jsonl        each text that records name by hash, once
    journal/files/<sha256>.*     each file that they name by hash: prompt templates, tokenizers

So a copy of the folder is complete: nothing that a judgement was made of lies elsewhere. A text is
on disk before the record that names it. One process writes to a folder, which a lock guarantees.
Records that arrive together share one fsync a kind. What a record holds is `record.py`'s part, the
files of lines are `sealed_log.py`'s.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, NamedTuple

from algo.errors import JournalError
from algo.judge.sealed_log import SealedLog, log_files, read_lines, sync_folder
from algo.sealed_lines import seal

Kind = Literal["texts", "expenses", "judgements"]
_IN_ORDER: Final[tuple[Kind, ...]] = ("texts", "expenses", "judgements")
"""Of writing a batch: what a record names stands before it."""
TEXT_SCHEMA: Final = "ropd.text.v1"
_FILES: Final = "files"
_ROTATE_BYTES: Final = 256 << 20
"""A file that has grown past this is closed and a new one begun, so that an editor opens each."""


class _Waiting(NamedTuple):
    """A sealed line, the texts that it names by hash, and what its writer waits for."""

    kind: Kind
    line: bytes
    texts: Mapping[str, str]
    written: asyncio.Future[None]


class Journal:
    """The writer of one folder."""

    def __init__(self, folder: Path, rotate_bytes: int = _ROTATE_BYTES) -> None:
        self._folder = folder
        self._pending: list[_Waiting] = []
        self._flusher: asyncio.Task[None] | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder / "lock")
            self._logs = {kind: SealedLog(folder, kind, rotate_bytes) for kind in _IN_ORDER}
            self._logs["judgements"].begin()
        except OSError as error:
            raise JournalError(
                f"cannot open the journal: {error.strerror}: {error.filename} "
                "(set ropd.journal_dir to a folder that can be written)"
            ) from None
        self._kept = {line["sha256"] for line in read_lines(log_files(folder, "texts"))}

    @property
    def folder(self) -> Path:
        return self._folder

    async def append(
        self,
        record: Mapping[str, Any],
        texts: Mapping[str, str] | None = None,
        kind: Kind = "judgements",
    ) -> None:
        """Return once `record`, and of `texts` by hash those that the folder lacks, are on disk.

        Raises `JournalError` when it cannot be written.
        """
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pending.append(_Waiting(kind, seal(record), texts or {}, written))
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
                await asyncio.to_thread(self.write, batch)
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

    def write(self, batch: Sequence[_Waiting]) -> None:
        """Write a batch with one fsync a kind, in the calling thread."""
        named = {name: text for each in batch for name, text in each.texts.items()}
        new = {name: text for name, text in named.items() if name not in self._kept}
        lines: dict[Kind, list[bytes]] = {kind: [] for kind in _IN_ORDER}
        for name, text in new.items():
            lines["texts"].append(
                seal({"schema_version": TEXT_SCHEMA, "sha256": name, "text": text})
            )
        for each in batch:
            lines[each.kind].append(each.line)
        try:
            for kind in _IN_ORDER:
                if lines[kind]:
                    self._logs[kind].write(lines[kind])
        except (OSError, ValueError) as error:  # ValueError: the file is closed
            raise JournalError(f"cannot write to the journal in {self._folder}: {error}") from None
        self._kept.update(new)

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


def journal_files(folder: Path) -> list[Path]:
    """The folder's files of judgements in the order of writing."""
    return log_files(folder, "judgements")


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The judgements of a journal folder or of one file, in the order of writing.

    A torn last line of the last file (a writer that crashed, or still writes) is left out; any
    other damaged line raises `JournalError` with its place.
    """
    files = journal_files(path) if path.is_dir() else [path]
    if not files:
        raise JournalError(f"no journal in {path}: it holds no judgements-*.jsonl")
    yield from read_lines(files)


def read_expenses(folder: Path) -> Iterator[dict[str, Any]]:
    """What the judge was asked beside the groups; nothing in a journal of an earlier version."""
    yield from read_lines(log_files(folder, "expenses"))


def read_texts(folder: Path) -> dict[str, str]:
    """The texts of a journal folder by sha256; none in a journal of an earlier version."""
    return {line["sha256"]: line["text"] for line in read_lines(log_files(folder, "texts"))}


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


def _locked(path: Path) -> BinaryIO:
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise JournalError(
            f"another process writes to the journal in {path.parent}: give each run its own "
            "ropd.journal_dir, and keep reward.num_workers=1"
        ) from None
    return file
