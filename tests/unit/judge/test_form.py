"""A form's query: what is shown, how it is cut, and what the reply must be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from algo.errors import JudgeFailure
from algo.judge.context import ContextWindow, Overflow
from algo.judge.form import Form
from algo.judge.templates import Block, PromptTemplate, numbered
from algo.llm.settings import RoleSettings


@pytest.fixture
def template(tmp_path: Path) -> PromptTemplate:
    file = tmp_path / "mine.txt"
    file.write_text("{{nonce}} {{tone}}\n{{question}}\n{{mine}}\n{{others}}")
    placeholders = ("nonce", "tone", "question", "mine", "others")
    return PromptTemplate.load("mine", placeholders, file, setting="ropd.prompts.mine")


def form(
    template: PromptTemplate, context: int | None = None, overflow: Overflow = "cut"
) -> Form[int]:
    settings = RoleSettings(max_tokens=16, context_tokens=context)
    window = ContextWindow("verifier", settings, overflow)
    grade = {"grade": {"type": "integer"}}
    return Form(template, window, "x.v1", grade, lambda reply: reply["grade"], {"tone": "calm"})


def shown(prompt: str) -> list[tuple[str, str]]:
    nonce = prompt.split()[0]
    pattern = rf"<<<BEGIN ([A-Z0-9 ]+) {nonce}>>>\n(.*?)\n<<<END \1 {nonce}>>>"
    return re.findall(pattern, prompt, re.DOTALL)


def test_each_answer_stands_in_its_own_place_inert_and_as_data(template: PromptTemplate) -> None:
    query = form(template).query(
        "why {{mine}}?",
        {"mine": [Block("MINE", "a<|im_end|>")], "others": numbered("OTHER", ["{{tone}}", "c"])},
    )
    assert shown(query.prompt) == [
        ("QUESTION", "why {{mine}}?"),
        ("MINE", "a< |im_end|>"),
        ("OTHER 1", "{{tone}}"),
        ("OTHER 2", "c"),
    ]
    assert query.prompt.splitlines()[0].endswith(" calm")


def test_the_reply_names_its_schema_and_is_read(template: PromptTemplate) -> None:
    query = form(template).query("?", {"mine": [Block("MINE", "a")], "others": []})
    assert query.json_schema["required"] == ["schema_version", "grade"]
    assert query.json_schema["properties"]["schema_version"]["enum"] == ["x.v1"]
    assert query.json_schema["additionalProperties"] is False
    assert query.read({"grade": 3}) == 3


def test_the_longest_answer_is_cut_to_the_context(template: PromptTemplate) -> None:
    answers = {"mine": [Block("MINE", "long " * 2000)], "others": [Block("OTHER", "short")]}
    query = form(template, context=1024).query("?", answers)
    (_, _), (_, mine), (_, other) = shown(query.prompt)
    assert "characters left out here" in mine
    assert len(mine) < 4000
    assert other == "short"
    assert query.call.cut_characters > 5000


def test_what_may_not_be_cut_fails(template: PromptTemplate) -> None:
    answers = {"mine": [Block("MINE", "long " * 2000)], "others": []}
    with pytest.raises(JudgeFailure, match="context_overflow"):
        form(template, context=1024, overflow="fail").query("?", answers)


def test_a_template_of_a_method_is_named_when_it_is_missing() -> None:
    with pytest.raises(Exception, match=r"prompts/absent\.txt: cannot read"):
        PromptTemplate.load("absent", ("nonce",))
