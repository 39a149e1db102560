"""Preparation of every data set, on small files with the real sets' columns and oddities."""

from __future__ import annotations

import csv
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from algo.cli import app
from algo.data.prepare import Recipe, prepare
from algo.data.prompt_file import read_prompts
from algo.data.sources import SOURCES, Question, Source, source_named, source_rows
from algo.errors import ConfigurationError
from algo.grading.ground_truth import grade

OPENING = (
    "Solve the following math problem step by step. The last line of your response should be of "
    "the form Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
CLOSING = '\n\nRemember to put your answer on its own line after "Answer:".'


def dapo(problem: str | None, answer: str | None, index: str) -> dict[str, Any]:
    content = None if problem is None else OPENING + problem + CLOSING
    return {
        "data_source": "math_dapo",
        "prompt": [{"content": content, "role": "user"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": answer, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": index},
    }


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def ropd(*words: object) -> str:
    result = CliRunner().invoke(app, ["data", *map(str, words)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return f"{result.exit_code} {result.output}"


def rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


@pytest.fixture
def raw_math(tmp_path: Path) -> Path:
    problems = [
        dapo("Find $\\frac{a}{b}$ if\n\n$a=\\{1\\}$.", "34", "u1"),
        dapo("求 $x$ 的值。", "7", "u2"),
        dapo("No answer known", None, "u3"),
        dapo(None, "1", "u4"),
        dapo("Disputed", "1", "u5"),
        dapo("Disputed", "2", "u6"),
        dapo("Long " * 5000, "5", "u7"),
    ]
    shuffled = problems * 100
    random.Random(0).shuffle(shuffled)
    return write(tmp_path / "raw.parquet", [problems[4], *shuffled])


def test_math_is_deduplicated_counted_and_held_out(raw_math: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    output = ropd("prepare", "math", "--source", raw_math, "--out", out, "--holdout", 2)
    record = json.loads((out / "provenance.json").read_text())
    assert record["files"] == {str(raw_math): hashlib.sha256(raw_math.read_bytes()).hexdigest()}
    assert record["counts"] == {
        "rows": 701,
        "without_question": 100,
        "not_unicode": 0,
        "duplicates": 596,
        "conflicting_answers": 100,
        "excluded": 0,
        "too_long": 0,
        "without_answer": 1,
        "train": 3,
        "validation": 2,
        "longest_chars": 25062,
    }
    assert "duplicates: 596" in output
    assert "Apache-2.0" in output
    train, held_out = rows(out / "train.parquet"), rows(out / "val.parquet")
    assert {"u3", "u5"} <= {row["extra_info"]["id"] for row in train}
    assert not {row["extra_info"]["id"] for row in held_out} & {"u3", "u5"}
    assert [row["extra_info"]["index"] for row in train] == [0, 1, 2]
    by_id = {row["extra_info"]["id"]: row for row in train + held_out}
    assert by_id["u1"] == {
        "data_source": "dapo_math",
        "prompt": [
            {
                "role": "user",
                "content": "Find $\\frac{a}{b}$ if\n\n$a=\\{1\\}$.\n\n"
                "Reason step by step and put the final answer within \\boxed{}.",
            }
        ],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "34"},
        "extra_info": {
            "index": by_id["u1"]["extra_info"]["index"],
            "id": "u1",
            "split": by_id["u1"]["extra_info"]["split"],
            "question": "Find $\\frac{a}{b}$ if\n\n$a=\\{1\\}$.",
        },
    }
    assert all(prompt.messages for prompt in read_prompts(out / "train.parquet"))


def test_held_out_questions_do_not_depend_on_the_order(raw_math: Path, tmp_path: Path) -> None:
    reordered = write(tmp_path / "r.parquet", rows(raw_math)[::-1])
    held_out = []
    for source in (raw_math, reordered):
        ropd("prepare", "math", "--source", source, "--out", tmp_path / "o", "--holdout", 1)
        held_out.append(rows(tmp_path / "o" / "val.parquet")[0]["prompt"])
    assert held_out[0] == held_out[1]


def test_limits_templates_and_exclusion(raw_math: Path, tmp_path: Path) -> None:
    benchmark = write(
        tmp_path / "bench.parquet",
        [
            {
                "prompt": [{"role": "user", "content": "x"}],
                "extra_info": {"question": "求 $x$  的值。"},
            }
        ],
    )
    options = ["--max-chars", 1000, "--exclude", benchmark, "--system", "Be {brief}."]
    template = ["--template", "Q: {question} {as it is}"]
    ropd("prepare", "math", "--source", raw_math, "--out", tmp_path / "o", *options, *template)
    made = rows(tmp_path / "o" / "train.parquet")
    assert {row["extra_info"]["id"] for row in made} == {"u1", "u3", "u5"}
    assert made[0]["prompt"][0] == {"role": "system", "content": "Be {brief}."}
    assert made[0]["prompt"][1]["content"] == "Q: Disputed {as it is}"
    with pytest.raises(ConfigurationError, match="exactly once"):
        ropd("prepare", "math", "--source", raw_math, "--out", tmp_path / "p", "--template", "no")
    with pytest.raises(ConfigurationError, match="holdout 9 is more than the 3"):
        ropd("prepare", "math", "--source", raw_math, "--out", tmp_path / "p", "--holdout", 9)


@pytest.mark.parametrize(
    ("name", "data_source"), [("science", "rar_science"), ("medical", "rar_medicine")]
)
def test_rubric_sets_take_question_and_reference(
    tmp_path: Path, name: str, data_source: str
) -> None:
    raw = [
        {
            "question": question,
            "reference_answer": answer,
            "question_source": "natural_reasoning",
            "rubric": [{"description": "d", "title": "t", "weight": 5}],
            "rubric_list": ["x"],
            "rubric_count": 1,
        }
        for question, answer in (
            ("What is ΔG°?\u2028", "\u22125 kJ"),
            ("What is ΔG°?", "\u22125 kJ"),
            ("", "no question"),
            (None, "no question"),
            ("No reference", None),
        )
    ]
    source = write(tmp_path / "raw.parquet", raw)
    ropd("prepare", name, "--source", source, "--out", tmp_path / "o", "--holdout", 1)
    [train] = rows(tmp_path / "o" / "train.parquet")
    [held_out] = rows(tmp_path / "o" / "val.parquet")
    assert train["prompt"] == [{"role": "user", "content": "No reference"}]
    assert train["reward_model"]["ground_truth"] is None
    assert held_out["reward_model"]["ground_truth"] == "\u22125 kJ"
    assert held_out["data_source"] == data_source


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("aime24", {"ID": "2024-I-1", "Problem": "Find it.", "Solution": "s", "Answer": 204}),
        ("aime25", {"problem_idx": 1, "problem": "Find it.", "answer": 204}),
        ("hmmt25_feb", {"problem_idx": 1, "problem": "Find it.", "answer": "204"}),
        ("hmmt25_nov", {"problem_idx": 1, "problem": "Find it.", "answer": "204"}),
    ],
)
def test_benchmarks_become_one_gradable_file(
    tmp_path: Path, name: str, row: dict[str, Any]
) -> None:
    source = write(tmp_path / "raw.parquet", [row])
    ropd("prepare", name, "--source", source, "--out", tmp_path / "o")
    [made] = rows(tmp_path / "o" / f"{name}.parquet")
    assert not (tmp_path / "o" / "train.parquet").exists()
    assert made["data_source"] == name
    truth = made["reward_model"]["ground_truth"]
    assert grade(name, r"\boxed{204}", truth) == 1.0
    assert ropd("check", "--validation", tmp_path / "o" / f"{name}.parquet").startswith("0 ")
    record = json.loads((tmp_path / "o" / f"{name}.json").read_text())
    assert record["license"] == SOURCES[name].license


def test_gpqa_options_are_shuffled_once_and_for_all(tmp_path: Path) -> None:
    columns = ["Record ID", "Question", "Correct Answer"]
    columns += [f"Incorrect Answer {i}" for i in (1, 2, 3)]
    file = tmp_path / "gpqa.csv"
    with file.open("w", newline="", encoding="utf-8-sig") as opened:
        writer = csv.writer(opened)
        writer.writerow(columns)
        for i in range(40):
            writer.writerow([f"rec{i}", f'Q{i},\n"quoted"', "right", "w1", "w2", "w3"])
        writer.writerow(["rec41", "no options", "right", "", "w2", "w3"])
    ropd("prepare", "gpqa_diamond", "--source", file, "--out", tmp_path / "o")
    made = rows(tmp_path / "o" / "gpqa_diamond.parquet")
    assert len(made) == 40
    letters = [row["reward_model"]["ground_truth"] for row in made]
    assert set(letters) == set("ABCD")
    for row, letter in zip(made, letters, strict=True):
        assert f"{letter}) right" in row["prompt"][0]["content"]
        assert grade(row["data_source"], f"Answer: {letter}", letter) == 1.0


def test_own_data_takes_text_or_chat_and_keeps_ids(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    lines = [
        {"question": "1+1?", "answer": 2, "id": "first"},
        {"prompt": "2+2?", "answer": "4"},
        {"prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "3+3?"}]},
        {"prompt": [{"role": "user", "content": " "}]},
        {"question": "broken \ud800"},
        {"nothing": 1},
    ]
    file.write_text("\n".join(json.dumps(line) for line in lines))
    out = tmp_path / "o"
    ropd("prepare", "own", "--source", file, "--out", out, "--data-source", "math_own")
    made = rows(out / "train.parquet")
    assert [row["prompt"][-1]["content"] for row in made] == ["1+1?", "2+2?", "3+3?"]
    assert made[2]["prompt"][0] == {"role": "system", "content": "S"}
    assert made[0]["extra_info"]["id"] == "first"
    assert made[0]["reward_model"]["ground_truth"] == "2"
    assert {row["data_source"] for row in made} == {"math_own"}
    counts = json.loads((out / "provenance.json").read_text())["counts"]
    assert (counts["without_question"], counts["not_unicode"]) == (2, 1)
    with pytest.raises(ConfigurationError, match="--source FILE"):
        ropd("prepare", "own", "--out", out)


def test_a_file_of_another_set_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "raw.parquet", [{"text": "x"}])
    with pytest.raises(ConfigurationError, match=r"no column prompt but text.*DAPO"):
        ropd("prepare", "math", "--source", source, "--out", tmp_path)
    with pytest.raises(ConfigurationError, match="no data set 'poetry'"):
        source_named("poetry")


def test_hub_rows_are_read_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[object] = []

    def load(hub: str, subset: str | None, split: str, revision: str | None) -> Any:
        asked.append((hub, subset, split, revision))
        return datasets.Dataset.from_list([{"question": "q", "reference_answer": "a"}] * 3)

    monkeypatch.setattr(datasets, "load_dataset", load)
    science = source_named("science")
    assert len(list(source_rows(science, [], "v1"))) == 3
    assert asked == [("ScaleAI/RaR-Science", None, "train", "v1")]

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(ConfigurationError, match=r"cannot load .*--source FILE"):
        list(source_rows(science, []))


def test_every_source_says_where_it_is_from() -> None:
    for source in SOURCES.values():
        assert isinstance(source, Source)
        assert source.hub or source.name == "own"
        assert source.license
        Recipe(template=source.template)


def test_questions_are_told_apart_by_their_whole_prompt() -> None:
    questions = [Question("a", "1"), Question(" a\n", "1"), Question("A", "1")]
    made = prepare(SOURCES["science"], questions, Recipe(template="{question}"))
    assert made.counts.duplicates == 1
    assert len(made.train) == 2
