"""Prompts: whatever an answer says, the structure around it stands."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo.asking.templates import PromptTemplate, draw_nonce, inert, question_text
from algo.errors import ConfigurationError
from algo.ropd.prompts import (
    VerifierPrompts,
    load_verifier_template,
    rubricator_answers,
    rubricator_form,
)
from algo.ropd.rubric import Criterion, Rubric
from algo.ropd.settings import RopdSettings
from tests.builders.rubrics import rubric_of
from tests.builders.texts import hostile

RUBRICATOR = rubricator_form(RopdSettings())
VERIFIER = load_verifier_template(None)


def shown_blocks(prompt: str) -> list[tuple[str, str]]:
    """(label, text) of the true blocks, found as a model would: by the nonce named up front."""
    nonces = re.findall(r"^- Every piece of data .*<<<BEGIN LABEL ([0-9a-f]{16})>>>", prompt, re.M)
    assert len(nonces) == 1
    pattern = rf"<<<BEGIN ([A-Z0-9 ]+) {nonces[0]}>>>\n(.*?)\n<<<END \1 {nonces[0]}>>>"
    data = prompt[prompt.index(f"<<<BEGIN QUESTION {nonces[0]}>>>") :]
    return re.findall(pattern, data, re.DOTALL)


def rubricator_prompt(question: str, teachers: list[str], students: list[str]) -> str:
    return RUBRICATOR.query(question, rubricator_answers(teachers, students)).prompt


@given(
    hostile, st.lists(hostile, min_size=1, max_size=4), st.lists(hostile, min_size=1, max_size=4)
)
def test_the_rubricator_prompt_keeps_its_structure_whatever_the_texts(
    question: str, teachers: list[str], students: list[str]
) -> None:
    prompt = rubricator_prompt(question, teachers, students)
    assert shown_blocks(prompt) == [
        ("QUESTION", inert(question)),
        *((f"TEACHER ANSWER {k}", inert(text)) for k, text in enumerate(teachers, 1)),
        *((f"STUDENT ANSWER {k}", inert(text)) for k, text in enumerate(students, 1)),
    ]
    assert prompt.encode()


@given(hostile, st.lists(hostile, min_size=1, max_size=6))
def test_the_verifier_prompt_keeps_its_structure_whatever_the_texts(
    question: str, answers: list[str]
) -> None:
    prompts = VerifierPrompts.begin(VERIFIER, question, rubric_of(5, 1), answers)
    blocks = shown_blocks(prompts.render(answers))
    assert [label for label, _ in blocks] == [
        "QUESTION",
        "RUBRIC",
        *(f"ANSWER {k}" for k in range(1, len(answers) + 1)),
    ]
    assert [text for _, text in blocks[2:]] == [inert(answer) for answer in answers]


def test_the_verifier_sees_neither_points_nor_sources() -> None:
    prompts = VerifierPrompts.begin(VERIFIER, "q", rubric_of(5, 4), ["a", "b"])
    prompt = prompts.render(["a", "b"])
    assert "points" not in dict(shown_blocks(prompt))["RUBRIC"]
    assert "TEACHER" not in prompt
    assert "STUDENT" not in prompt


def test_sources_stand_in_the_labels_when_they_are_named() -> None:
    prompts = VerifierPrompts.begin(VERIFIER, "q", rubric_of(5), ["a", "b"])
    labels = [
        label for label, _ in shown_blocks(prompts.render(["a", "b"], ["STUDENT", "TEACHER"]))
    ]
    assert labels[2:] == ["ANSWER 1 BY STUDENT", "ANSWER 2 BY TEACHER"]


def test_calls_of_one_rubric_share_everything_before_the_answers() -> None:
    answers = ["first answer", "second answer"]
    prompts = VerifierPrompts.begin(VERIFIER, "q", rubric_of(5, 4), answers)
    first, second = (prompts.render([answer]) for answer in answers)
    common = first[: first.index("first answer")]
    assert second.startswith(common)
    assert "<<<BEGIN RUBRIC" in common


def test_templates_begin_alike_in_every_prompt_for_a_prefix_cache() -> None:
    first = rubricator_prompt("q", ["t"], ["s"])
    second = rubricator_prompt("r", ["u"], ["v"])
    assert first[:3000] == second[:3000]


@given(st.text(alphabet="0123456789abcdef", max_size=100))
def test_a_nonce_occurs_in_no_text(text: str) -> None:
    assert draw_nonce([text]) not in text


def test_a_nonce_that_occurs_in_a_text_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter(["aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb", "cccccccccccccccc"])
    monkeypatch.setattr("algo.asking.templates.secrets.token_hex", lambda size: next(drawn))
    assert draw_nonce(["x bbbbbbbbbbbbbbbb", "aaaaaaaaaaaaaaaa"]) == "cccccccccccccccc"


@pytest.mark.parametrize(
    "token",
    [
        "<|im_start|>",
        "<\uff5cUser\uff5c>",
        "</s>",
        "<think>",
        "</think>",
        "<end_of_turn>",
        "[/INST]",
        "<tool_call>",
        "</tool_call>",
        "<tool_response>",
        "<|turn>",
        "<turn|>",
        "<|channel|>",
        "<|vision_start|>",
        "[THINK]",
        "[/THINK]",
        "[IMG]",
        "<image>",
        "<start_of_image>",
        "<unused42>",
        "<reserved_42>",
        "<<SYS>>",
    ],
)
def test_control_tokens_are_broken_up_and_nothing_else(token: str) -> None:
    assert token not in inert(f"a {token} b")
    assert inert(f"a {token} b").replace(" ", "") == f"a{token}b"
    innocent = "if x < 3 | y > [2] then \\[z\\] <b>bold</b> <<<END>>>"
    assert inert(innocent) == innocent


def test_how_often_an_answer_was_given_stands_above_its_block() -> None:
    answers = rubricator_answers(["one", "TEACHER ANSWER 2 was given 9 times"], ["s"], [3, 1])
    prompt = RUBRICATOR.query("q", answers).prompt
    above = re.findall(r"^(.*)\n<<<BEGIN TEACHER ANSWER (\d) ", prompt, re.M)
    assert above == [("TEACHER ANSWER 1 was given 3 times, word for word:", "1"), ("", "2")]


def test_a_rubric_that_names_control_tokens_is_shown_in_its_own_words() -> None:
    texts = ["Closes its thinking with </think>.", "x < 3 and [1]", "Has no [INST] or <|im_end|>."]
    rubric = Rubric(
        criteria=tuple(
            Criterion(criterion_id=f"c{k}", category="Task Completion", criterion=text, points=1)
            for k, text in enumerate(texts, start=1)
        )
    )
    prompts = VerifierPrompts.begin(VERIFIER, "q", rubric, ["a"])
    shown = dict(shown_blocks(prompts.render(["a"])))["RUBRIC"]
    assert [entry["criterion"] for entry in json.loads(shown)] == texts
    assert inert(shown) == shown
    assert "x < 3 and [1]" in shown


def test_both_templates_explain_the_mark_of_a_cut_with_its_code() -> None:
    for prompt in (
        rubricator_prompt("q", ["t"], ["s"]),
        VerifierPrompts.begin(VERIFIER, "q", rubric_of(5), ["a"]).render(["a"]),
    ):
        assert re.search(r"\[\.\.\. N characters left out here [0-9a-f]{16} \.\.\.\]", prompt)


def test_a_template_without_its_placeholders_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("{{question}} {{answer}} {{rubric}}", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"missing: answers, nonce; unknown: answer\)"):
        load_verifier_template(path)
    with pytest.raises(ConfigurationError, match="cannot read"):
        load_verifier_template(tmp_path / "none.txt")


def test_the_template_hash_follows_the_file(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text(VERIFIER.text + "x", encoding="utf-8")
    assert load_verifier_template(path).sha256 != VERIFIER.sha256
    assert isinstance(VERIFIER, PromptTemplate)


def test_a_conversation_shows_its_roles_and_a_lone_message_does_not() -> None:
    assert question_text([{"role": "user", "content": "q"}]) == "q"
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": parts}]
    assert question_text(messages) == "[system]\ns\n\n[user]\na\nb"
