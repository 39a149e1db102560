"""A configuration's size for `plan.py`: its numbers, and the mean lengths of its texts.

Lengths are assumptions until a run has measured them.
"""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import DictConfig

from algo.asking.context import estimated_tokens
from algo.errors import ConfigurationError
from algo.ropd.plan import Workload
from algo.ropd.prompts import load_rubricator_template, load_verifier_template
from algo.ropd.settings import RopdSettings


@dataclass(frozen=True)
class TextLengths:
    """Mean tokens of a text; `verdict` is for one answer."""

    answer: int = 3000
    question: int = 300
    rubric: int = 800
    verdict: int = 25


ASSUMED = TextLengths()


def workload_of(
    config: DictConfig, settings: RopdSettings, lengths: TextLengths = ASSUMED
) -> Workload:
    """Raises `ConfigurationError` where the number of steps is not set."""
    steps = config.trainer.total_training_steps
    if steps is None:
        raise ConfigurationError("trainer.total_training_steps is null: set it to plan a run")
    rubricator = load_rubricator_template(settings.prompts.rubricator)
    verifier = load_verifier_template(settings.prompts.verifier)
    return Workload(
        prompts=config.data.train_batch_size,
        rollouts=config.actor_rollout_ref.rollout.n,
        teacher_answers=settings.teacher_answers,
        steps=steps,
        question=lengths.question,
        answer=lengths.answer,
        rubricator_template=estimated_tokens(rubricator.text),
        verifier_template=estimated_tokens(verifier.text),
        rubric=lengths.rubric,
        rubric_text=lengths.rubric,
        verdict=lengths.verdict,
        rubric_mode=settings.rubric.mode,
        verification_mode=settings.verification.mode,
    )
