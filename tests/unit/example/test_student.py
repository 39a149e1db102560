"""The tiny student: its tokenizer, its flaw, and a warm start that can be repeated."""

from __future__ import annotations

import json
import random
import statistics
from itertools import pairwise
from pathlib import Path

import pytest

pytest.importorskip("torch")
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.arithmetic.problems import (
    Problem,
    columns,
    draw_problem_sets,
    is_correct,
    problems_outside,
)
from examples.arithmetic.solutions import STYLES, solve
from examples.arithmetic.statements import read_statement
from examples.arithmetic.student import (
    FORGOTTEN_CARRY,
    MAX_RESPONSE_TOKENS,
    WarmStart,
    build_model,
    build_tokenizer,
    flawed_solution,
    render_prompt,
    warm_start,
)

TINY = WarmStart(seed=1, steps=3, batch_size=4, hidden_size=32, layers=1, threads=1)


def test_tokenizer_gives_one_token_a_character_and_reads_back() -> None:
    tokenizer = build_tokenizer()
    texts = [solve(Problem(9999, 101), style) for style in STYLES.values()]
    texts.append("".join(map(chr, range(32, 127))) + "\n")
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert len(ids) == len(text)
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_prompts_and_answers_are_short() -> None:
    tokenizer = build_tokenizer()
    longest = Problem(9999, 9999)
    assert len(tokenizer(render_prompt(tokenizer, longest))["input_ids"]) <= 20
    assert len(solve(longest)) + 1 <= MAX_RESPONSE_TOKENS


def test_the_default_student_has_about_a_million_parameters() -> None:
    assert 0.8e6 < sum(p.numel() for p in build_model(WarmStart()).parameters()) < 1.2e6


def test_the_flaw_acts_per_step() -> None:
    """Single carries survive at the intended rate, whole answers in 10 to 20 % of cases."""
    rng = random.Random(0)
    kept, right = [], []
    problems = problems_outside(rng, frozenset())
    for problem, _ in zip(problems, range(4000), strict=False):
        text = flawed_solution(problem, rng)
        written = read_statement(text).equations
        right.append(is_correct(text, problem))
        for before, after in pairwise(written):
            if before.total >= 10:
                kept.append(after.carry == 1)
        assert len(written) == len(columns(problem))
        assert all(e.is_true for e in written)
    assert statistics.mean(kept) == pytest.approx(1 - FORGOTTEN_CARRY, abs=0.03)
    assert 0.10 < statistics.mean(right) < 0.20


def test_a_warm_start_is_saved_reported_and_repeatable(tmp_path: Path) -> None:
    held_out = draw_problem_sets(1, 0, 8).held_out
    report = warm_start(TINY, held_out, tmp_path / "one")
    warm_start(TINY, held_out, tmp_path / "two")
    one, two = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict()
        for name in ("one", "two")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    saved = json.loads((tmp_path / "one" / "warm_start.json").read_text())
    assert saved["steps"] == report.steps == 3
    assert saved["problems"] == 8
    assert 0.0 <= saved["sampled_accuracy"] <= 1.0


def test_the_saved_tokenizer_renders_the_chat_template(tmp_path: Path) -> None:
    build_tokenizer().save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    rendered = loaded.apply_chat_template(
        Problem(123, 456).messages, add_generation_prompt=True, tokenize=False
    )
    assert rendered == "<|im_start|>u\n123+456=?<|im_end|><|im_start|>a\n"
    assert loaded.decode(loaded("1\n2")["input_ids"]) == "1\n2"
    assert (loaded.pad_token, loaded.eos_token) == ("<pad>", "<|im_end|>")
