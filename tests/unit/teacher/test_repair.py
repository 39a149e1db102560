"""Care for an index: damage named with its place, whole records kept, merging, official files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from algo.cli import app
from algo.data.fingerprint import prompt_fingerprint
from algo.errors import ConfigurationError, TeacherIndexError
from algo.teacher.official import export_official, import_official
from algo.teacher.repair import merge, repair, verify
from algo.teacher.teacher_index import Teacher, TeacherAnswer, TeacherIndex
from algo.teacher.writer import TeacherIndexWriter

TEACHER = Teacher("t", temperature=0.7)


def key(i: int) -> str:
    return prompt_fingerprint(f"q{i}")


def answer(i: int, j: int) -> TeacherAnswer:
    sampling = {"temperature": 0.7, "max_tokens": 100}
    return TeacherAnswer(key(i), f"answer {i}.{j}", "t", sampling=sampling, created="2026-01-01")


def build(path: Path, *answers: TeacherAnswer, teacher: Teacher = TEACHER) -> Path:
    with TeacherIndexWriter.open(path, teacher) as writer:
        writer.append(answers)
    return path


def texts(path: Path) -> list[str]:
    with TeacherIndex.open(path) as index:
        return [answer.text for answer in index]


@pytest.fixture
def index_path(tmp_path: Path) -> Path:
    return build(tmp_path / "index", *(answer(i, 0) for i in range(6)))


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x15
    path.write_bytes(content)


def line_start(path: Path, line: int) -> int:
    return sum(len(x) + 1 for x in path.read_bytes().split(b"\n")[: line - 1])


def test_whole_index_has_no_damage_and_needs_no_repair(index_path: Path) -> None:
    found = verify(index_path)
    assert (found.answers, found.damage) == (6, ())
    assert repair(index_path) is None


def test_flipped_bytes_half_lines_and_wrong_json_are_named_and_the_rest_is_kept(
    index_path: Path,
) -> None:
    lines = index_path.read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b"answer 1.0", b"answer 1.1")
    lines[4] = lines[4][:50]
    lines[5] = b'{"fingerprint": broken'
    index_path.write_bytes(b"\n".join(lines)[:-10])
    found = verify(index_path)
    assert [damage.line for damage in found.damage] == [3, 5, 6, 7]
    assert found.damage[0].byte == line_start(index_path, 3)
    before = index_path.read_bytes()
    aside = repair(index_path)
    assert aside is not None
    assert aside.read_bytes() == before
    assert verify(index_path).damage == ()
    assert texts(index_path) == ["answer 0.0", "answer 2.0"]
    with TeacherIndex.open(index_path) as index:
        assert index.header.teachers == (TEACHER,)


def test_a_lost_newline_loses_no_record(index_path: Path) -> None:
    content = bytearray(index_path.read_bytes())
    content[line_start(index_path, 4) - 1] = ord("x")
    index_path.write_bytes(content)
    assert len(verify(index_path).damage) == 1
    assert verify(index_path).answers == 6
    repair(index_path)
    assert texts(index_path) == [f"answer {i}.0" for i in range(6)]


def test_a_lost_header_is_told_from_the_answers(index_path: Path) -> None:
    flip(index_path, 30)
    with pytest.raises(TeacherIndexError, match="line 1"):
        TeacherIndex.open(index_path)
    repair(index_path)
    assert len(texts(index_path)) == 6
    build(index_path, answer(9, 9))
    assert len(texts(index_path)) == 7


def test_an_index_that_is_being_written_is_not_repaired(index_path: Path) -> None:
    with (
        TeacherIndexWriter.open(index_path, TEACHER),
        pytest.raises(TeacherIndexError, match="another process is writing"),
    ):
        repair(index_path)


def test_second_repair_keeps_the_first_damaged_file(index_path: Path) -> None:
    names = set()
    for _ in range(2):
        flip(index_path, index_path.stat().st_size - 30)
        aside = repair(index_path)
        assert aside is not None
        names.add(aside.name)
    assert names == {"index.damaged", "index.damaged1"}


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_single_flipped_byte_is_found_and_costs_one_record_at_most(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = build(tmp_path_factory.mktemp("flip") / "index", *(answer(i, 0) for i in range(3)))
    place = data.draw(st.integers(0, path.stat().st_size - 1))
    content = bytearray(path.read_bytes())
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    found = verify(path)
    assert found.damage
    assert found.answers >= 2
    repair(path)
    assert verify(path).damage == ()
    assert len(texts(path)) == found.answers


def test_merge_unites_answers_and_teachers(tmp_path: Path) -> None:
    shared = answer(0, 0)
    one = build(tmp_path / "one", shared, answer(1, 0))
    other = build(tmp_path / "other", shared, answer(0, 1), teacher=Teacher("u"))
    out = tmp_path / "merged"
    assert merge([one, other], out) == 3
    with TeacherIndex.open(out) as index:
        assert [a.text for a in index.answers(key(0), 2)] == ["answer 0.0", "answer 0.1"]
        assert [t.model for t in index.header.teachers] == ["t", "u"]
    with pytest.raises(TeacherIndexError, match="exists already"):
        merge([one], out)


# Official files


def official(i: int, version: int = 2, **changes: Any) -> dict[str, Any]:
    answers = {"teacher_answers": [f"a{i}\u2028", "b\ud800"]} if version == 2 else {}
    single = {"teacher_answer": f"a{i}"} if version == 1 else {}
    record = {
        "schema_version": f"ropd.teacher_index.v{version}",
        "uid": str(i),
        "raw_prompt_hash": key(i),
        **answers,
        **single,
        "teacher_fingerprint": {"model": "gpt", "temperature": 0.5, "timeout_seconds": 90},
        "unknown": {"kept": [1, None]},
    }
    return {k: v for k, v in {**record, **changes}.items() if v is not None}


def write_lines(path: Path, *records: object) -> Path:
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def test_official_files_come_back_with_unknown_keys(tmp_path: Path) -> None:
    records = [official(0), official(1, version=1), official(2, uid=7), official(0, uid="other")]
    file = write_lines(tmp_path / "official.jsonl", *records)
    out = tmp_path / "index"
    assert import_official([file], out) == 7
    back = tmp_path / "back.jsonl"
    with TeacherIndex.open(out) as index:
        assert index.count(key(0)) == 4
        assert index.answers(key(1), 1)[0].model == "gpt"
        assert index.answers(key(1), 1)[0].sampling == {"temperature": 0.5}
        assert export_official(index, back, {}) == 4
    returned = [json.loads(line) for line in back.read_text().splitlines()]
    assert sorted(returned, key=repr) == sorted(records, key=repr)


def test_imported_answers_pass_the_builders_checks_and_come_back_all_the_same(
    tmp_path: Path,
) -> None:
    texts = ["<think>never ended", "<think>so</think>\n", "<think>so</think>fine", "a <think> tag"]
    record = official(1, teacher_answers=texts)
    file = write_lines(tmp_path / "official.jsonl", record)
    assert import_official([file], tmp_path / "index") == 4
    back = tmp_path / "back.jsonl"
    with TeacherIndex.open(tmp_path / "index") as index:
        assert [answer.status for answer in index] == ["empty", "empty", "usable", "usable"]
        assert [answer.shown for answer in index.usable(key(1))] == ["fine", "a <think> tag"]
        assert export_official(index, back, {}) == 1
    assert json.loads(back.read_text()) == record


def test_built_answers_are_exported_as_version_2(index_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with TeacherIndex.open(index_path) as index:
        export_official(index, out, {key(i): str(i) for i in range(6)})
        record = json.loads(out.read_text().splitlines()[2])
        assert (record["uid"], record["raw_prompt_hash"]) == ("2", key(2))
        assert record["teacher_answers"] == ["answer 2.0"]
        assert record["teacher_fingerprint"]["max_output_tokens"] == 100
        with pytest.raises(ConfigurationError, match="exists already"):
            export_official(index, out, {})
        with pytest.raises(ConfigurationError, match="--data"):
            export_official(index, tmp_path / "none.jsonl", {})
        assert not (tmp_path / "none.jsonl").exists()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{broken", "not JSON"),
        ("[1]", "not a JSON object"),
        (official(1, schema_version="x"), "schema_version is 'x'"),
        (official(1, uid=None), "lacks uid"),
        (official(1, raw_prompt_hash="ABC"), "not the SHA-256"),
        (official(1, teacher_answers=["ok", " "]), "an empty one"),
        (official(1, teacher_answers="text"), "holds no text"),
        (official(1, teacher_answers=[3]), "holds no text"),
        (official(0), "repeats uid and raw_prompt_hash of"),
    ],
)
def test_malformed_official_lines_are_named(tmp_path: Path, line: object, reason: str) -> None:
    file = write_lines(tmp_path / "o.jsonl", official(0), "", line)
    with pytest.raises(TeacherIndexError, match=f"line 3: .*{reason}"):
        import_official([file], tmp_path / "index")
    assert not (tmp_path / "index").exists()


# The commands


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["teacher", *map(str, words)], env={"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_verify_command(index_path: Path) -> None:
    assert run("verify", index_path) == (0, "6 whole answers, 0 damaged places\n")
    flip(index_path, line_start(index_path, 3) + 20)
    code, output = run("verify", index_path)
    assert code == 1
    assert "line 3 " in output
    assert run("verify", index_path, "--repair")[0] == 0
    assert run("verify", index_path)[0] == 0


def test_show_merge_import_export_commands(index_path: Path, tmp_path: Path) -> None:
    assert "answer 3.0" in run("show", index_path, key(3)[:10])[1]
    assert run("show", index_path, "--sample", 2)[1].count("prompt ") == 2
    with pytest.raises(ConfigurationError, match="holds no prompt zz"):
        run("show", index_path, "zz")
    assert "6 answers" in run("merge", index_path, "--out", tmp_path / "m")[1]
    file = write_lines(tmp_path / "o.jsonl", official(0))
    assert "2 answers" in run("import", file, "--out", tmp_path / "i")[1]
    assert "1 records" in run("export", tmp_path / "i", "--out", tmp_path / "e.jsonl")[1]
    assert '"prompts": 6' in run("stats", index_path, "--json")[1]
    assert "usable answers" in run("stats", index_path)[1]
