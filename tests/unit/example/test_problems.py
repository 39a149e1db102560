"""The example's problems, solutions and data files."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.arithmetic.dataset import SCHEMA, train_rows, validation_rows, write_parquet
from examples.arithmetic.problems import (
    Problem,
    columns,
    draw_problem_sets,
    is_correct,
    parse_question,
    problems_outside,
)
from examples.arithmetic.solutions import STYLES, canonical, solve
from examples.arithmetic.statements import read_statement

PROBLEMS = st.builds(Problem, st.integers(100, 9999), st.integers(100, 9999))


def test_canonical_solution_writes_one_equation_a_column() -> None:
    expected = "1+7+0=8;2+3+0=5;8+9+0=17;4+0+1=5;answer 5758"
    assert solve(Problem(4821, 937)) == expected


@given(PROBLEMS)
def test_columns_spell_the_sum(problem: Problem) -> None:
    steps = columns(problem)
    digits = sum(step.total % 10 * 10**i for i, step in enumerate(steps))
    assert digits + steps[-1].carry_out * 10 ** len(steps) == problem.a + problem.b


@given(PROBLEMS, st.sampled_from(sorted(STYLES)))
def test_every_style_states_the_same_facts_in_short_ascii(problem: Problem, style: str) -> None:
    text = solve(problem, STYLES[style])
    plain, styled = read_statement(solve(problem)), read_statement(text)
    assert sorted(styled.equations) == sorted(plain.equations)
    assert styled.final_answers == (problem.answer,)
    assert styled.closes_with_answer
    assert is_correct(text, problem)
    assert all(c == "\n" or " " <= c <= "~" for c in text)
    assert len(text) < 160


@given(PROBLEMS)
def test_styles_differ_in_wording(problem: Problem) -> None:
    assert len({solve(problem, style) for style in STYLES.values()}) == len(STYLES)


@given(PROBLEMS, st.integers(0, 20000))
def test_only_the_right_closing_answer_is_correct(problem: Problem, stated: int) -> None:
    text = canonical(columns(problem), str(stated))
    assert is_correct(text, problem) == (stated == problem.a + problem.b)
    assert not is_correct(text + " or so", problem)


@given(PROBLEMS)
def test_question_reads_back(problem: Problem) -> None:
    assert parse_question(f"Please: {problem.question}") == problem


def test_drawn_sets_are_distinct_in_either_order_and_reproducible() -> None:
    sets = draw_problem_sets(seed=3, train=1024, held_out=256)
    pairs = [p.unordered for p in (*sets.train, *sets.held_out)]
    assert len(set(pairs)) == 1024 + 256
    assert draw_problem_sets(3, 1024, 256) == sets
    assert draw_problem_sets(4, 1024, 256).held_out != sets.held_out
    assert draw_problem_sets(3, 64, 256).held_out == sets.held_out


def test_problems_outside_skips_both_orders() -> None:
    unguarded = problems_outside(random.Random(0), frozenset())
    first = next(unguarded)
    second = next(unguarded)
    guarded = problems_outside(random.Random(0), frozenset({Problem(first.b, first.a).unordered}))
    assert next(guarded) == second


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    sets = draw_problem_sets(seed=0, train=8, held_out=4)
    write_parquet(train_rows(sets.train), tmp_path / "train.parquet")
    write_parquet(validation_rows(sets.held_out), tmp_path / "val.parquet")
    return tmp_path / "train.parquet", tmp_path / "val.parquet"


def test_both_files_have_one_schema(files: tuple[Path, Path]) -> None:
    for path in files:
        assert pq.read_schema(path).remove_metadata() == SCHEMA
    assert sorted(p.name for p in files[0].parent.iterdir()) == ["train.parquet", "val.parquet"]


def test_validation_asks_each_problem_sampled_and_greedy(files: tuple[Path, Path]) -> None:
    rows = pq.read_table(files[1]).to_pylist()
    by_source = {"arithmetic": 1.0, "arithmetic_greedy": 0.0}
    for source, temperature in by_source.items():
        chosen = [row for row in rows if row["data_source"] == source]
        assert len(chosen) == 4
        assert {r["extra_info"]["sampling"]["temperature"] for r in chosen} == {temperature}
        assert {r["extra_info"]["sampling"]["top_p"] for r in chosen} == {1.0}
    assert len({row["extra_info"]["index"] for row in rows}) == 8
    assert len({row["prompt"][0]["content"] for row in rows}) == 4


def test_ground_truth_is_the_sum_and_training_leaves_sampling_to_the_run(
    files: tuple[Path, Path],
) -> None:
    for row in pq.read_table(files[0]).to_pylist():
        problem = parse_question(row["prompt"][0]["content"])
        assert problem is not None
        assert row["reward_model"] == {"style": "rule", "ground_truth": problem.answer}
        assert row["extra_info"]["sampling"] is None
        assert row["extra_info"]["split"] == "train"


def test_files_load_with_datasets(files: tuple[Path, Path], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    loaded = [
        datasets.load_dataset(
            "parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
        )
        for path in files
    ]
    assert loaded[0].features == loaded[1].features
