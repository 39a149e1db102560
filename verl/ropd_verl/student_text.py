"""What of verl's output of a rollout is judged: its text, whether it ended, what its tags mean.

A rollout is finished by its end token alone. Length tells nothing: the model's positions, a long
prompt or an abort cut one off below `data.max_response_length`, and one that ends with its last
allowed token has ended. verl hands on no finish reason (vLLM's "stop" and "length" are both
"completed" by then).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import takewhile
from operator import eq
from typing import Any

from algo.judge.group import Rollout
from algo.thinking import OPENING_TAG, SWITCH, Thinking, thinking_of

_MESSAGE = {"role": "user", "content": "?"}


def student_thinking(
    tokenizer: Any, template_kwargs: Mapping[str, Any] | None, chosen_thinks: bool | None = None
) -> Thinking:
    """Whether a student thinks, by its chat template.

    `template_kwargs` is the run's ``data.apply_chat_template_kwargs``, `chosen_thinks` its
    ``ropd.rollouts.thinking``, which goes before the template.
    """
    told = _told(tokenizer, template_kwargs)
    if chosen_thinks is None or chosen_thinks is (told is not Thinking.OFF):
        return told
    return Thinking.ON if chosen_thinks else Thinking.OFF


def _told(tokenizer: Any, template_kwargs: Mapping[str, Any] | None) -> Thinking:
    chosen = dict(template_kwargs or {})

    def rendered(add_generation_prompt: bool) -> str:
        return tokenizer.apply_chat_template(
            [_MESSAGE], tokenize=False, add_generation_prompt=add_generation_prompt, **chosen
        )

    prompt = rendered(True)
    shared = sum(1 for _ in takewhile(bool, map(eq, prompt, rendered(False))))
    opening = prompt[shared:]
    return thinking_of(tokenizer.get_chat_template(), opening, chosen.get(SWITCH))


def rollout_of(
    tokenizer: Any, response_ids: Sequence[int], eos: Collection[int], thinking: Thinking
) -> Rollout:
    """The rollout as it is judged; `eos` are the tokens that end an answer.

    Where the prompt has opened the think block, its tag is put before the text that goes on in it.
    """
    ids = list(response_ids)
    finished = bool(ids) and ids[-1] in eos
    text = tokenizer.decode(ids, skip_special_tokens=True)
    opened = OPENING_TAG if thinking is Thinking.OPENED else ""
    return Rollout(opened + text, finished, thinking is not Thinking.OFF)
