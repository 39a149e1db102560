"""The journal: durable, whole, rotated, one writer."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from algo.errors import JournalError
from algo.judge.journal import Journal, journal_files, read_expenses, read_records, read_texts
from algo.judge.sealed_log import log_files, read_lines
from tests.builders.patience import patience


async def write(folder: Path, *records: dict[str, Any], rotate_bytes: int = 1 << 20) -> None:
    journal = Journal(folder, rotate_bytes)
    try:
        await asyncio.gather(*(journal.append(record) for record in records))
    finally:
        await journal.aclose()


def numbers(folder: Path) -> list[int]:
    return [record["n"] for record in read_records(folder)]


async def test_records_come_back_in_order_over_files_and_runs(tmp_path: Path) -> None:
    for start in (0, 40):
        journal = Journal(tmp_path, 1000)
        for number in range(start, start + 40):
            await journal.append({"n": number, "text": "\u2028 \U0001f600 \ud800"})
        await journal.aclose()
    assert numbers(tmp_path) == list(range(80))
    assert len(journal_files(tmp_path)) > 3
    assert all(file.stat().st_size < 1200 for file in journal_files(tmp_path))


async def test_an_append_returns_only_when_the_record_is_on_disk(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 1 << 20)
    for number in range(5):
        await journal.append({"n": number})
        assert numbers(tmp_path) == list(range(number + 1))
    await journal.aclose()


async def test_every_cut_of_the_last_line_is_healed(tmp_path: Path) -> None:
    await write(tmp_path, {"n": 0}, {"n": 1})
    file = journal_files(tmp_path)[0]
    whole = file.read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole)):
        file.write_bytes(whole[:end])
        assert numbers(tmp_path) == [0]
        await write(tmp_path, {"n": 2})
        assert numbers(tmp_path) == [0, 2]


async def test_a_damaged_line_in_the_middle_is_reported_with_its_place(tmp_path: Path) -> None:
    await write(tmp_path, {"n": 0}, {"n": 1}, {"n": 2})
    file = journal_files(tmp_path)[0]
    file.write_bytes(file.read_bytes().replace(b'"n":1', b'"n":7'))
    with pytest.raises(JournalError, match=r"judgements-00000\.jsonl:2"):
        numbers(tmp_path)


async def test_a_second_writer_is_refused_by_name(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 1 << 20)
    with pytest.raises(JournalError, match=r"ropd\.journal_dir"):
        Journal(tmp_path, 1 << 20)
    await journal.aclose()
    await Journal(tmp_path, 1 << 20).aclose()


async def test_a_failed_write_fails_every_record_of_its_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, 1 << 20)

    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("algo.judge.journal.os.fsync", no_space)
    outcomes = await asyncio.gather(
        *(journal.append({"n": n}) for n in range(3)), return_exceptions=True
    )
    assert all(isinstance(outcome, JournalError) for outcome in outcomes)
    assert "No space left" in str(outcomes[0])
    monkeypatch.undo()
    await journal.aclose()


@pytest.mark.parametrize("broken", [MemoryError("no room"), RuntimeError("cannot schedule")])
async def test_a_writer_that_dies_leaves_nobody_waiting(
    broken: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, 1 << 20)
    late: list[asyncio.Task[None]] = []

    async def dies(*_: object) -> None:
        if not late:
            late.append(asyncio.create_task(journal.append({"n": 3})))
            await asyncio.sleep(0)  # it comes while the others are being written
        raise broken

    monkeypatch.setattr("algo.judge.journal.asyncio.to_thread", dies)
    first = [journal.append({"n": n}) for n in range(3)]
    async with asyncio.timeout(10):
        outcomes = await asyncio.gather(*first, return_exceptions=True)
        outcomes += await asyncio.gather(*late, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [JournalError] * 4
    assert repr(broken) in str(outcomes[0])
    monkeypatch.undo()
    await journal.append({"n": 4})
    assert numbers(tmp_path) == [4]
    await journal.aclose()


async def test_a_writer_that_died_gives_the_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, 1 << 20)

    def dies(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(journal, "write_batch", dies)
    with pytest.raises(JournalError, match="MemoryError"):
        await journal.append({"n": 1})
    with pytest.raises(MemoryError):
        await journal.aclose()
    await Journal(tmp_path, 1 << 20).aclose()


async def test_a_record_that_comes_after_the_end_is_an_error_not_a_wait(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 1 << 20)
    await journal.aclose()
    with pytest.raises(JournalError, match="cannot write"):
        await asyncio.wait_for(journal.append({"n": 1}), patience(5.0))


def test_a_folder_that_cannot_be_written_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(JournalError, match=r"ropd\.journal_dir"):
        Journal(tmp_path / "file" / "journal", 1)


WRITER = """
import asyncio, sys
from pathlib import Path
from algo.judge.journal import Journal

async def main():
    journal = Journal(Path(sys.argv[1]), 20_000)
    async def one(worker):
        number = 0
        while True:
            key = f"{sys.argv[2]}-{worker}-{number}"
            stem = "expenses" if number % 5 == 4 else "judgements"
            await journal.append({"id": key, "text": "x" * 700}, {key: f"words of {key}"}, stem)
            print(f"{sys.argv[2]}-{worker}-{number}", flush=True)
            number += 1
    await asyncio.gather(*(one(worker) for worker in range(8)))

asyncio.run(main())
"""


def test_a_killed_writer_leaves_no_torn_record_and_loses_none_that_was_used(
    tmp_path: Path,
) -> None:
    used: set[str] = set()
    for life in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(life)],
            stdout=subprocess.PIPE,
            text=True,
        ) as writer:
            assert writer.stdout is not None
            for _ in range(20 + 13 * life):
                used.add(writer.stdout.readline().strip())
            writer.send_signal(signal.SIGKILL)
            used.update(line.strip() for line in writer.stdout if line.endswith("\n"))
    both = (read_records(tmp_path), read_expenses(tmp_path))
    kept = [record["id"] for records in both for record in records]
    texts = read_texts(tmp_path)
    assert all(texts[each] == f"words of {each}" for each in kept)
    assert used <= set(kept)
    assert len(kept) == len(set(kept))
    assert len(journal_files(tmp_path)) > 1


async def test_a_text_is_written_once_over_batches_and_runs(tmp_path: Path) -> None:
    for start in (0, 10):
        journal = Journal(tmp_path, 1000)
        texts = {f"hash {k}": f"text {k}" for k in range(3)}
        await asyncio.gather(*(journal.append({"n": start + n}, texts) for n in range(10)))
        await journal.append({"n": -1}, texts)
        await journal.aclose()
    assert len(list(read_lines(log_files(tmp_path, "texts")))) == 3
    assert read_texts(tmp_path) == {f"hash {k}": f"text {k}" for k in range(3)}


async def test_a_text_whose_write_failed_is_written_with_the_next_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, 1 << 20)

    def no_space(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("algo.judge.journal.os.fsync", no_space)
    with pytest.raises(JournalError, match="No space left"):
        await journal.append({"n": 1}, {"hash": "text"})
    monkeypatch.undo()
    await journal.append({"n": 2}, {"hash": "text"})
    await journal.aclose()
    assert read_texts(tmp_path) == {"hash": "text"}


async def test_a_kept_file_survives_being_kept_again_and_a_torn_copy(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 1 << 20)
    name = journal.keep_file(b"template", ".txt")
    file = tmp_path / "files" / f"{name}.txt"
    file.write_bytes(b"temp")
    assert journal.keep_file(b"template", ".txt") == name
    assert file.read_bytes() == b"template"
    await journal.aclose()
