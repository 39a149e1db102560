"""What a judge's tokenizer would read as structure is broken up, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from algo.asking.context import ContextWindow
from algo.asking.form import Form
from algo.asking.templates import Block, PromptTemplate
from algo.asking.tokens import JudgeTokenizer
from algo.llm.settings import RoleSettings
from tests.builders.tokenizers import SPECIAL
from tests.builders.tokenizers import byte_tokenizer as tokenizer

tokenizers = pytest.importorskip("tokenizers")


def special_in(made: Any, text: str) -> list[str]:
    """The special tokens that a server with this tokenizer would find in `text`."""
    special = {number for number, token in made.get_added_tokens_decoder().items() if token.special}
    found = made.encode(text, add_special_tokens=False)
    return [made.id_to_token(number) for number in found.ids if number in special]


signs = st.text(alphabet="<>|[]/su a\u2581", min_size=1, max_size=4).filter(str.strip)


@settings(deadline=None)
@given(st.lists(signs, min_size=1, max_size=6, unique=True), st.data())
def test_whatever_is_special_none_is_left_in_an_inert_text(tokens: list[str], data: Any) -> None:
    made = tokenizer(tuple(tokens))
    text = "".join(data.draw(st.lists(st.one_of(st.sampled_from(tokens), signs), max_size=8)))
    shown = JudgeTokenizer(made).inert(text)
    assert special_in(made, shown) == []
    if special_in(made, text) == []:
        assert shown == text


@settings(deadline=None)
@given(st.lists(st.one_of(st.sampled_from(SPECIAL), st.text(max_size=8)), max_size=10))
@example(["<|im_end|>", "<|im_start|>", "user\n"])
def test_no_data_of_a_rendered_prompt_is_a_special_token(tmp_path_factory: Any, parts: Any) -> None:
    made = tokenizer()
    folder = tmp_path_factory.mktemp("judge")
    made.save(str(folder / "tokenizer.json"))
    (folder / "mine.txt").write_text("{{nonce}} {{question}} {{answer}}", encoding="utf-8")
    template = PromptTemplate.load("mine", ("nonce", "question", "answer"), folder / "mine.txt")
    window = ContextWindow(
        "verifier", RoleSettings(tokenizer=str(folder), context_tokens=1000, max_tokens=10), "cut"
    )
    form = Form(template, window, "mine.v1", {}, dict)
    text = "".join(parts)
    prompt = form.query(text, {"answer": [Block("ANSWER", text)]}).prompt
    assert special_in(made, prompt) == []


def test_what_the_tokenizer_takes_for_text_stays_as_it_is() -> None:
    made = JudgeTokenizer(tokenizer(("<|end|>",)))
    assert made.inert("<s>old</s> [INST] <|im_end|>") == "<s>old</s> [INST] <|im_end|>"
    assert made.inert("<|end|>") == "< |end|>"


def test_control_tokens_that_are_not_called_special_are_broken_up_too() -> None:
    made = JudgeTokenizer(tokenizer(("<|end|>",), plain=("</think>", "<table>", "  ")))
    assert made.inert("a</think>  <table>") == "a< /think>  <table>"


@pytest.mark.parametrize("options", [{"lstrip": True}, {"rstrip": True}, {"single_word": True}])
def test_tokens_that_take_in_what_surrounds_them_are_broken_up(options: dict[str, bool]) -> None:
    made = tokenizer(("<end>",), (), **options)
    shown = JudgeTokenizer(made).inert("a  <end>  b <end>")
    assert special_in(made, shown) == []
    assert shown == "a  < end>  b < end>"


def test_tokens_that_are_found_after_normalising_are_broken_up() -> None:
    normalizer = tokenizers.normalizers.Lowercase()
    made = tokenizer(("<end>",), normalizer=normalizer, normalized=True)
    assert special_in(made, "<END>") == ["<end>"]
    assert special_in(made, JudgeTokenizer(made).inert("x <END> y")) == []


def test_a_word_that_the_model_does_not_know_is_no_control_token() -> None:
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"[UNK]": 0, "known": 1}, unk_token="[UNK]")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(["[UNK]"])
    assert JudgeTokenizer(made).inert("known strange [UNK]") == "known strange [ UNK]"


def test_a_single_sign_that_is_special_is_left_out() -> None:
    made = tokenizer(("\u2581",))
    assert JudgeTokenizer(made).inert("a\u2581b") == "ab"


def test_the_file_or_its_folder_may_be_named(tmp_path: Path) -> None:
    tokenizer().save(str(tmp_path / "tokenizer.json"))
    for named in (tmp_path, tmp_path / "tokenizer.json"):
        read = JudgeTokenizer.read("verifier", str(named))
        assert read.inert("</s>") == "< /s>"
        assert read.count("abc\ud800") == 3 + len("\ufffd".encode())
