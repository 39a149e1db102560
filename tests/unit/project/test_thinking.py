"""Whether think tags are thinking follows the chat template; in a judge's reply, the tags."""

from __future__ import annotations

import pytest

from algo.thinking import is_unclosed, thinking_of

QWEN = "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %} </think>"
ALWAYS = "{{ '<think>' }} </think>"
KNOWS = "{% set content = content.split('</think>')[-1] %}"
PLAIN = "{{ message.content }}"


@pytest.mark.parametrize(
    ("template", "opening", "switch", "thinking"),
    [
        (QWEN, "<|im_start|>assistant\n<think>\n\n</think>\n\n", False, "off"),
        (QWEN, "<|im_start|>assistant\n", True, "on"),
        (QWEN, "<|im_start|>assistant\n", None, "on"),
        (ALWAYS, "<|im_start|>assistant\n<think>\n", None, "opened"),
        (ALWAYS, "<|im_start|>assistant\n<think>\n", False, "opened"),
        # Without an empty block: the switch counts where the template knows it.
        ("{% if enable_thinking %}think{% endif %}</think>", "assistant:", False, "off"),
        (KNOWS, "assistant:", False, "on"),
        (KNOWS, "assistant:", None, "on"),
        (PLAIN, "assistant:", True, "off"),
        (PLAIN, "assistant:", None, "off"),
        (ALWAYS, "<think></think><think>", None, "opened"),
    ],
)
def test_thinking_follows_the_template(
    template: str, opening: str, switch: object, thinking: str
) -> None:
    assert thinking_of(template, opening, switch) == thinking


def test_a_mention_of_the_tag_is_no_thought() -> None:
    assert is_unclosed("<think>so")
    assert is_unclosed(" \n<think>so")
    assert is_unclosed("<think>a</think>\n<think>b")
    assert not is_unclosed("use <think> to think")
    assert not is_unclosed("<think>a</think>use <think> to think")
