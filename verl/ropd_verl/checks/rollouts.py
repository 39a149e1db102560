"""The student's rollouts: what becomes of unfinished ones, and what would cut them off."""

from __future__ import annotations

from collections.abc import Iterable

from algo.errors import ConfigurationError
from algo.thinking import Thinking
from ropd_verl.checks.finding import Finding, Subject, note, ok

ESTIMATOR = "ropd_grpo"
"""`ropd_verl.advantages.NAME`, without importing verl."""
_KEY = "algorithm.adv_estimator"


def unfinished(subject: Subject) -> Iterable[Finding]:
    """Rollouts are left out of a group only by an estimator that knows of it."""
    chosen = subject.settings.rollouts.unfinished
    estimator = subject.select(_KEY)
    if chosen == "drop" and estimator != ESTIMATOR:
        raise ConfigurationError(
            f"ropd.rollouts.unfinished=drop and {_KEY}={estimator}: a rollout that is left "
            f"out would still count in its group's mean; set {_KEY}={ESTIMATOR}, or "
            "ropd.rollouts.unfinished=judge or zero"
        )
    yield ok(f"ropd.rollouts.unfinished={chosen}")


def room(subject: Subject) -> Iterable[Finding]:
    """The student's positions hold a prompt and a response at their limits, and its template says
    what think tags are."""
    from transformers import AutoConfig, AutoTokenizer

    from ropd_verl.student_text import student_thinking

    model, data = subject.config.actor_rollout_ref.model, subject.config.data
    text = AutoConfig.from_pretrained(model.path).get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    needed = subject.sequence_tokens
    if positions is None:
        yield note(f"{model.path} does not say how many positions it has: not compared")
    elif positions < needed:
        raise ConfigurationError(
            f"data.max_prompt_length + data.max_response_length = {needed} and {model.path} has "
            f"{positions} positions: responses would be cut off before their limit; lower one of "
            "the two, or take a student with more"
        )
    else:
        yield ok(f"{needed:,} tokens at most of the student's {positions:,} positions")
    tokenizer = AutoTokenizer.from_pretrained(model.path)
    if template := model.get("custom_chat_template"):
        tokenizer.chat_template = template
    chosen = subject.settings.rollouts.thinking
    thinking = student_thinking(tokenizer, data.get("apply_chat_template_kwargs"), chosen)
    by = "its chat template" if chosen is None else "ropd.rollouts.thinking"
    yield ok(f"think tags in a response: {_MEANING[thinking]}, by {by}")


_MEANING = {
    Thinking.OFF: "the student's own text, shown to the judge",
    Thinking.ON: "thinking, where a response begins with it",
    Thinking.OPENED: "thinking, which the prompt opens",
}
