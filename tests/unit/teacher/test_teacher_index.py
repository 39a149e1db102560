"""The teacher index: fingerprints, storing and finding answers, damage told with its place."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from algo.data.fingerprint import prompt_fingerprint
from algo.errors import TeacherIndexError, TeacherMissing
from algo.teacher.table import table_path
from algo.teacher.teacher_index import AnswerStatus, Teacher, TeacherAnswer, TeacherIndex
from algo.teacher.writer import TeacherIndexWriter

TEACHER = Teacher(model="teacher-1", temperature=0.7)


def fingerprint(i: int) -> str:
    return prompt_fingerprint([{"role": "user", "content": f"question {i}"}])


def answer(i: int, j: int = 0, **fields: object) -> TeacherAnswer:
    return TeacherAnswer(
        fingerprint=fingerprint(i),
        text=str(fields.pop("text", f"answer {i}.{j}")),
        model="teacher-1",
        **fields,  # type: ignore[arg-type]
    )


def build(path: Path, *answers: TeacherAnswer) -> Path:
    with TeacherIndexWriter.open(path, TEACHER) as writer:
        writer.append(answers)
    return path


@pytest.fixture
def index_path(tmp_path: Path) -> Path:
    return build(tmp_path / "index.jsonl", *(answer(i, j) for j in range(3) for i in range(50)))


# Fingerprints

text = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"])})
    | st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant"]), "content": text}
    ),
    min_size=1,
    max_size=4,
)


def test_fingerprint_is_the_official_hash_of_plain_messages() -> None:
    plain = [{"role": "user", "content": "Wie groß ist 1+1?"}]
    official = hashlib.sha256(
        json.dumps(plain, ensure_ascii=False, sort_keys=True).encode()
    ).hexdigest()
    assert prompt_fingerprint(plain) == official
    assert prompt_fingerprint("bare") == hashlib.sha256(b'"bare"').hexdigest()


@settings(deadline=None)
@given(messages)
def test_fingerprint_survives_parquet_numpy_and_tuples(chat: list[dict[str, str]]) -> None:
    expected = prompt_fingerprint(chat)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"prompt": [chat]}), sink)
    table = pq.read_table(pa.BufferReader(sink.getvalue()))
    assert prompt_fingerprint(table["prompt"][0]) == expected
    assert prompt_fingerprint(table["prompt"].to_pylist()[0]) == expected
    assert prompt_fingerprint(table.to_pandas()["prompt"][0]) == expected
    assert prompt_fingerprint(tuple(chat)) == expected
    assert prompt_fingerprint(np.array(chat, dtype=object)) == expected
    assert prompt_fingerprint([dict(reversed(list(m.items()))) for m in chat]) == expected
    # numpy drops trailing NULs from a string scalar: what it holds then counts
    wrapped = [{k: np.str_(v) for k, v in m.items()} for m in chat]
    held = [{k: v.rstrip("\0") for k, v in m.items()} for m in chat]
    assert prompt_fingerprint(wrapped) == prompt_fingerprint(held)


@settings(deadline=None)
@given(messages, messages)
def test_different_messages_have_different_fingerprints(
    one: list[dict[str, str]], other: list[dict[str, str]]
) -> None:
    assert (prompt_fingerprint(one) == prompt_fingerprint(other)) == (one == other)


def test_fingerprint_takes_numpy_scalars_and_refuses_what_is_not_text() -> None:
    assert prompt_fingerprint([{"n": np.int64(3), "b": np.bool_(True)}]) == prompt_fingerprint(
        [{"n": 3, "b": True}]
    )
    with pytest.raises(TeacherIndexError, match="bytes"):
        prompt_fingerprint([{"role": "user", "content": b"image"}])


# Storing and finding


def test_answers_come_back_in_the_order_they_were_stored(index_path: Path) -> None:
    with TeacherIndex.open(index_path) as index:
        assert [a.text for a in index.answers(fingerprint(7), 2)] == ["answer 7.0", "answer 7.1"]
        assert index.count(fingerprint(7)) == 3
        assert index.count(fingerprint(999)) == 0
        assert len(index) == 150
        assert [a.text for a in index][:2] == ["answer 0.0", "answer 1.0"]


def test_too_few_answers_name_the_numbers(index_path: Path) -> None:
    with TeacherIndex.open(index_path) as index, pytest.raises(TeacherMissing) as caught:
        index.answers(fingerprint(7), 4)
    assert (caught.value.needed, caught.value.found) == (4, 3)


def test_every_field_comes_back(tmp_path: Path) -> None:
    full = answer(
        1,
        status=AnswerStatus.USABLE,
        finish_reason="stop",
        sampling={"temperature": 0.7, "seed": 3},
        prompt_tokens=12,
        completion_tokens=34,
        latency_s=1.5,
        created="2026-01-01T00:00:00.000+00:00",
        extra={"uid": "17", "nested": [1, None]},
    )
    with TeacherIndex.open(build(tmp_path / "i", full)) as index:
        assert index.answers(fingerprint(1), 1) == (full,)


@settings(deadline=None)
@given(
    st.lists(st.text(st.characters(), max_size=30), min_size=1, max_size=4),
)
def test_any_unicode_comes_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    odd = ["\u2028\u2029\x85", "\ufeffbom", "\ud800 lone", '","crc32":"00000000"}', "\n\r\n", ""]
    path = tmp_path_factory.mktemp("unicode") / "index.jsonl"
    stored = [*texts, *odd]
    build(path, *(answer(1, text=text) for text in stored))
    with TeacherIndex.open(path) as index:
        assert [a.text for a in index.all_answers(fingerprint(1))] == stored


def test_only_usable_answers_are_served(tmp_path: Path) -> None:
    path = build(
        tmp_path / "i",
        answer(1, status=AnswerStatus.TRUNCATED, text="cut"),
        answer(1, text="whole"),
        answer(1, status=AnswerStatus.REFUSED, text="no"),
    )
    with TeacherIndex.open(path) as index:
        assert index.count(fingerprint(1)) == 1
        assert [a.text for a in index.answers(fingerprint(1), 1)] == ["whole"]
        assert [a.text for a in index.all_answers(fingerprint(1))] == ["cut", "whole", "no"]


def test_prompts_whose_keys_collide_stay_apart(tmp_path: Path) -> None:
    one, other = "ab" * 8 + "0" * 48, "ab" * 8 + "1" * 48
    stored = [TeacherAnswer(one, "1", "m"), TeacherAnswer(other, "2", "m")]
    with TeacherIndex.open(build(tmp_path / "i", *stored)) as index:
        assert [a.text for a in index.answers(one, 1)] == ["1"]
        assert [a.text for a in index.answers(other, 1)] == ["2"]


# The table beside the index


def test_reader_sees_what_was_appended_after_the_table(index_path: Path) -> None:
    TeacherIndex.open(index_path).close()
    stale = table_path(index_path).read_bytes()
    build(index_path, answer(7, 3))
    table_path(index_path).write_bytes(stale)
    with TeacherIndex.open(index_path) as index:
        assert index.count(fingerprint(7)) == 4
    assert table_path(index_path).read_bytes() != stale


@pytest.mark.parametrize("damage", ["missing", "flipped", "cut", "other"])
def test_a_table_that_does_not_fit_is_built_again(
    index_path: Path, tmp_path: Path, damage: str
) -> None:
    table = table_path(index_path)
    good = table.read_bytes()
    other = table_path(build(tmp_path / "other", *(answer(i, 9) for i in range(150))))
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    table.unlink()
    if damage != "missing":
        choices = {"flipped": bytes(flipped), "cut": good[:-3], "other": other.read_bytes()}
        table.write_bytes(choices[damage])
    with TeacherIndex.open(index_path) as index:
        assert [a.text for a in index.answers(fingerprint(49), 1)] == ["answer 49.0"]
    assert table.read_bytes() == good


def test_index_on_read_only_storage_is_read(
    index_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table_path(index_path).unlink()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with TeacherIndex.open(index_path) as index:
        assert index.count(fingerprint(3)) == 3
    assert not table_path(index_path).exists()


# Damage


def test_flipped_byte_is_named_with_its_line_when_read(index_path: Path) -> None:
    content = bytearray(index_path.read_bytes())
    lines = bytes(content).split(b"\n")
    place = sum(len(line) + 1 for line in lines[:9]) + lines[9].index(b"answer")
    content[place] ^= 1
    index_path.write_bytes(content)
    with TeacherIndex.open(index_path) as index:
        with pytest.raises(TeacherIndexError, match=r"line 10 .*--repair"):
            index.answers(fingerprint(8), 3)
        assert len(index.answers(fingerprint(9), 3)) == 3
    table_path(index_path).unlink()
    with pytest.raises(TeacherIndexError, match="line 10 "):
        TeacherIndex.open(index_path)


def test_half_a_last_line_is_ignored_by_readers_and_cut_by_the_writer(index_path: Path) -> None:
    whole = index_path.read_bytes()
    index_path.write_bytes(whole[:-40])
    with TeacherIndex.open(index_path) as index:
        assert len(index) == 149
    build(index_path, answer(0, 5))
    with TeacherIndex.open(index_path) as index:
        assert len(index) == 150
        assert index.count(fingerprint(0)) == 4
        assert index.count(fingerprint(49)) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no header"),
        (b"hello\n", "not a teacher index"),
        (b'{"schema_version":"ropd.teacher_index.v2","uid":"1"}\n', "ropd teacher import"),
    ],
)
def test_what_is_no_index_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "index.jsonl"
    path.write_bytes(content)
    with pytest.raises(TeacherIndexError, match=message):
        TeacherIndex.open(path)


def test_missing_index_names_the_command_that_builds_it(tmp_path: Path) -> None:
    with pytest.raises(TeacherIndexError, match="ropd teacher build"):
        TeacherIndex.open(tmp_path / "none.jsonl")


# The writer


def test_second_writer_is_refused(index_path: Path) -> None:
    with (
        TeacherIndexWriter.open(index_path, TEACHER),
        pytest.raises(TeacherIndexError, match="another process is writing"),
    ):
        TeacherIndexWriter.open(index_path, TEACHER)


def test_another_teacher_is_refused_by_what_differs(index_path: Path) -> None:
    with pytest.raises(TeacherIndexError, match=r"temperature 0\.7 there, 0\.0 here"):
        TeacherIndexWriter.open(index_path, Teacher(model="teacher-1", temperature=0.0))


def test_a_failed_write_leaves_the_index_as_it_was(
    index_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = index_path.read_bytes()
    real = os.pwrite

    def half_then_full(descriptor: int, data: bytes, offset: int) -> int:
        if offset > len(before):
            raise OSError(28, "No space left on device")
        return real(descriptor, data[: len(data) // 2], offset)

    with TeacherIndexWriter.open(index_path, TEACHER) as writer:
        monkeypatch.setattr(os, "pwrite", half_then_full)
        with pytest.raises(TeacherIndexError, match="No space left"):
            writer.append([answer(1, 8)])
        monkeypatch.undo()
        assert index_path.read_bytes() == before
        writer.append([answer(1, 9)])
    with TeacherIndex.open(index_path) as index:
        assert index.count(fingerprint(1)) == 4


@pytest.mark.parametrize("kept", [0, 1, 20, 60, -1])
def test_a_header_cut_short_at_creation_is_written_again(tmp_path: Path, kept: int) -> None:
    whole = build(tmp_path / "a").read_bytes()
    cut = tmp_path / "b"
    cut.write_bytes(whole[:kept])
    build(cut, answer(1))
    with TeacherIndex.open(cut) as index:
        assert index.count(fingerprint(1)) == 1


@pytest.mark.parametrize("content", [b"my notes", b"my\nnotes\n", b"{"])
def test_a_file_that_is_no_index_is_never_written_over(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content * 3)
    with pytest.raises(TeacherIndexError, match=r"header|not a teacher index"):
        build(path, answer(1))
    assert path.read_bytes() == content * 3
