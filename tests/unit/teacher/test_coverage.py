"""The check before a run: how many prompts lack answers, and the command that completes them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from algo.data.prompt_file import distinct_prompts, read_prompts
from algo.errors import ConfigurationError, TeacherIndexError
from algo.teacher.coverage import missing_answers, require_answers
from algo.teacher.teacher_index import Teacher, TeacherAnswer, TeacherIndex
from algo.teacher.writer import TeacherIndexWriter

TEACHER = Teacher(model="gpt 5", system="Be brief.", temperature=0.5, extra_body={"top_k": 5})


def prompts(*texts: str) -> list[dict[str, object]]:
    return [{"prompt": [{"role": "user", "content": text}]} for text in texts]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "train set.parquet"
    pq.write_table(pa.Table.from_pylist(prompts("one", "two", "three", "one", "long " * 50)), path)
    return path


@pytest.fixture
def index_path(tmp_path: Path, data: Path) -> Path:
    path = tmp_path / "index"
    provenance = {"base_url": "http://teacher:8000/v1"}
    with TeacherIndexWriter.open(path, TEACHER, provenance) as writer:
        for prompt in list(distinct_prompts([data]).values())[:2]:
            writer.append(TeacherAnswer(prompt.fingerprint, f"{i}", "gpt 5") for i in range(2))
    return path


def test_prompts_without_answers_are_counted_once_and_shown(data: Path, index_path: Path) -> None:
    with TeacherIndex.open(index_path) as index:
        count, examples = missing_answers(index, [data], 2)
        assert count == 2
        assert examples[0] == "row 2 ('three') has 0 of 2"
        assert len(examples[1]) < 100
        assert missing_answers(index, [data], 3)[0] == 4


def test_complete_index_passes(data: Path, index_path: Path, tmp_path: Path) -> None:
    subset = tmp_path / "subset.parquet"
    pq.write_table(pa.Table.from_pylist(prompts("one", "two")), subset)
    require_answers(index_path, [subset], 2)


def test_error_holds_the_command_that_completes_the_index(data: Path, index_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        require_answers(index_path, [data], 2)
    message = str(caught.value)
    assert "lacks answers for 2 training prompts" in message
    assert (
        f"`ropd teacher build --data '{data}' --out {index_path} --answers 2 "
        "--base-url http://teacher:8000/v1 --model 'gpt 5' teacher.temperature=0.5 "
        """'teacher.extra_body={"top_k": 5}' 'system=Be brief.'`"""
    ) in message


def test_another_prompt_column_stands_in_the_command(index_path: Path, tmp_path: Path) -> None:
    data = tmp_path / "chats.parquet"
    pq.write_table(pa.Table.from_pylist([{"chat": prompts("new")[0]["prompt"]}]), data)
    with pytest.raises(ConfigurationError, match="prompt_key=chat"):
        require_answers(index_path, [data], 2, prompt_key="chat")


def test_damaged_answer_stops_the_start(data: Path, index_path: Path) -> None:
    content = index_path.read_bytes()
    index_path.write_bytes(content.replace(b'"text":"1"', b'"text":"2"', 1))
    with pytest.raises(TeacherIndexError, match="line 3"):
        require_answers(index_path, [data], 2)


def test_files_that_hold_no_prompts_are_named(tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"text": ["x"]}), other)
    with pytest.raises(ConfigurationError, match=r"no column 'prompt', only text"):
        list(read_prompts(other))
    with pytest.raises(ConfigurationError, match="does not exist"):
        list(read_prompts(tmp_path / "none.parquet"))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        list(read_prompts(tmp_path / "broken.parquet"))
    (tmp_path / "lines.jsonl").write_text('{"prompt": [{"role": "user"}]}\n{"prompt": "bare"}\n')
    with pytest.raises(ConfigurationError, match="row 1: column 'prompt' holds no chat messages"):
        list(read_prompts(tmp_path / "lines.jsonl"))
    (tmp_path / "bad.jsonl").write_text('{"prompt": []}\n{"prompt": \n')
    with pytest.raises(ConfigurationError, match="row 0"):
        list(read_prompts(tmp_path / "bad.jsonl"))
    with pytest.raises(ConfigurationError, match=r"\.parquet or \.jsonl"):
        list(read_prompts(tmp_path / "x.csv"))
