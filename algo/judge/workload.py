"""A configuration's size for `plan.py`: its numbers, and the mean lengths of its texts.

TextLengths are assumptions until a run has measured them.
"""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import DictConfig

from algo.errors import ConfigurationError
from algo.judge.plan import Workload
from algo.judge.settings import EngineSettings


@dataclass(frozen=True)
class TextLengths:
    """Mean tokens of a text; `verdict` is for one answer."""

    answer: int = 3000
    question: int = 300
    rubric: int = 800
    verdict: int = 25


ASSUMED = TextLengths()


def workload_of(
    config: DictConfig, settings: EngineSettings, lengths: TextLengths = ASSUMED
) -> Workload:
    """Raises `ConfigurationError` where the number of steps is not set."""
    steps = config.trainer.total_training_steps
    if steps is None:
        raise ConfigurationError("trainer.total_training_steps is null: set it to plan a run")
    return Workload(
        prompts=config.data.train_batch_size,
        rollouts=config.actor_rollout_ref.rollout.n,
        teacher_answers=settings.teacher_answers,
        steps=steps,
        question=lengths.question,
        answer=lengths.answer,
        rubric=lengths.rubric,
        verdict=lengths.verdict,
    )
