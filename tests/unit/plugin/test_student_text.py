"""What of verl's output is judged: ended by its end token alone, tags by the chat template."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment

from ropd_verl.student_text import rollout_of, student_thinking

EOS = frozenset((1, 2))


class Tokenizer:
    """As much of a tokenizer as is used: a template, and a token's text."""

    def __init__(self, template: str = "") -> None:
        self.chat_template = template

    def get_chat_template(self) -> str:
        return self.chat_template

    def apply_chat_template(self, messages: Any, *, tokenize: bool, **given: Any) -> str:
        assert not tokenize
        return Environment().from_string(self.chat_template).render(messages=messages, **given)

    def decode(self, ids: list[int], *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return " ".join(map(str, (token for token in ids if token not in EOS)))


@given(st.lists(st.integers(0, 9), max_size=12))
def test_a_rollout_is_finished_by_its_end_token_whatever_its_length(ids: list[int]) -> None:
    rollout = rollout_of(Tokenizer(), ids, EOS, student_thinking(Tokenizer(), {}))
    assert rollout.finished == (ids[-1:] in ([1], [2]))
    assert rollout.text == " ".join(str(token) for token in ids if token not in EOS)


CHAT = "{% for m in messages %}<u>{{ m.content }}</u>{% endfor %}"
QWEN3 = (
    CHAT + "{% if add_generation_prompt %}<a>"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
R1 = CHAT + "{% if add_generation_prompt %}<a><think>\n{% endif %}"
GEMMA = CHAT + "{% if add_generation_prompt %}<a>{% endif %}"


@pytest.mark.parametrize("template", [QWEN3, R1, GEMMA])
@pytest.mark.parametrize("thinks", [True, False])
def test_the_runs_own_setting_goes_before_the_template(template: str, thinks: bool) -> None:
    told = student_thinking(Tokenizer(template), {}, thinks)
    assert rollout_of(Tokenizer(), [5, 1], EOS, told).thinks is thinks
    assert student_thinking(Tokenizer(R1), {}, chosen_thinks=True) == "opened"


def test_a_thought_that_the_prompt_opened_is_one() -> None:
    opened = student_thinking(Tokenizer(R1), {})
    rollout = rollout_of(Tokenizer(), [5, 6], EOS, opened)
    assert (rollout.text, rollout.finished) == ("<think>5 6", False)
    assert rollout.rule("judge") == "unclosed_think"


@pytest.mark.parametrize(
    ("template", "chosen", "thinking"),
    [
        (QWEN3, {"enable_thinking": False}, "off"),
        (QWEN3, {"enable_thinking": True}, "on"),
        (QWEN3, {}, "on"),
        (QWEN3, None, "on"),
        (R1, {"enable_thinking": False}, "opened"),
        (R1, {}, "opened"),
        (GEMMA, {}, "off"),
        (GEMMA, {"enable_thinking": True}, "off"),
    ],
)
def test_the_tags_follow_the_template_and_its_switch(
    template: str, chosen: dict[str, Any] | None, thinking: str
) -> None:
    assert student_thinking(Tokenizer(template), chosen) == thinking
