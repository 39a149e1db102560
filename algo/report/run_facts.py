"""What a run's directory says of the run beside its journal: figures, accuracies, settings.

Every part is optional: a run that was stopped has no `summary.json`, a pipeline used without the
trainer has a journal and nothing else. Paths of the machine are left out of the page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from algo.errors import ConfigurationError
from algo.methods.registry import SIGNALS
from algo.paths import absolute
from algo.ropd.pipeline import Ropd
from algo.runs.configuration import CONFIG, recorded_config, unreadable
from algo.runs.step_times import StepTimes, step_times
from algo.runs.summary import Steps, accuracies, read_metrics, rewards

_FIGURES: Final[Mapping[str, str]] = {
    "accuracy_before": "accuracy before, sampled",
    "accuracy_after": "accuracy after, sampled",
    "greedy_accuracy_before": "accuracy before, greedy",
    "greedy_accuracy_after": "accuracy after, greedy",
    "reward_first_step": "reward, first step",
    "reward_last_step": "reward, last step",
    "steps": "steps",
    "median_step_s": "median step, s",
    "first_step_after_s": "first step done after, s",
}
_SETTINGS: Final = (
    "actor_rollout_ref.model.path",
    "data.train_batch_size",
    "data.max_response_length",
    "actor_rollout_ref.rollout.n",
    "actor_rollout_ref.rollout.temperature",
    "actor_rollout_ref.actor.optim.lr",
    "actor_rollout_ref.actor.ppo_mini_batch_size",
    "actor_rollout_ref.actor.clip_ratio_low",
    "actor_rollout_ref.actor.clip_ratio_high",
    "actor_rollout_ref.actor.use_kl_loss",
    "actor_rollout_ref.actor.loss_agg_mode",
    "algorithm.adv_estimator",
    "algorithm.norm_adv_by_std_in_grpo",
    "trainer.total_training_steps",
    "trainer.v1.trainer_mode",
    "seed",
    "ropd.method.name",
    "ropd.method.reference",
    "ropd.teacher_answers",
    "ropd.rubric.mode",
    "ropd.rubric.weights",
    "ropd.rubric.min_criteria",
    "ropd.rubric.max_criteria",
    "ropd.verification.mode",
)
_TEACHER_INDEX: Final = "ropd.teacher_index"


@dataclass(frozen=True)
class RunFacts:
    """`accuracies` are shares in [0, 1] by step, one series a way of decoding.

    `teacher_index` is the file that the run's configuration names, if it is still there.
    """

    name: str
    figures: tuple[tuple[str, str], ...]
    settings: tuple[tuple[str, str], ...]
    accuracies: Mapping[str, Mapping[int, float]]
    times: StepTimes | None = None
    teacher_index: Path | None = None
    method: str = Ropd.name
    rewards: Mapping[int, float] = field(default_factory=dict)
    """Mean reward of a step, as trained on."""

    @property
    def judged(self) -> bool:
        """Whether the method asks a judge, and so keeps a journal."""
        return self.method not in SIGNALS


def read_facts(run_dir: Path) -> RunFacts:
    """Raises `ConfigurationError` where a file of the run cannot be read."""
    config = _config(run_dir)
    steps = read_metrics(sorted((run_dir / "metrics").glob("*.jsonl")))
    method = config.get("ropd.method.name", Ropd.name)
    return RunFacts(
        name="/".join(run_dir.resolve().parts[-2:]),
        figures=_figures(run_dir / "summary.json"),
        settings=tuple((key, _setting(config[key])) for key in _SETTINGS if key in config),
        accuracies=_accuracies(steps),
        times=step_times(steps),
        teacher_index=_existing(config.get(_TEACHER_INDEX)),
        method=method,
        rewards=rewards(steps),
    )


def _figures(file: Path) -> tuple[tuple[str, str], ...]:
    if not file.is_file():
        return ()
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise ConfigurationError(f"{file} is not JSON: remove or restore it") from None
    return tuple(
        (label, _number(summary[key]))
        for key, label in _FIGURES.items()
        if summary.get(key) is not None
    )


def _config(run_dir: Path) -> Mapping[str, Any]:
    """The resolved values of the keys that the page uses, where they are set."""
    file = run_dir / CONFIG
    if not file.is_file():
        return {}
    config = recorded_config(run_dir)
    try:
        found = {key: OmegaConf.select(config, key) for key in (*_SETTINGS, _TEACHER_INDEX)}
    except OmegaConfBaseException as error:
        raise unreadable(file, error) from None
    method = found.get("ropd.method.name") or Ropd.name
    return {key: value for key, value in found.items() if value is not None and _is_of(method, key)}


def _is_of(method: str, key: str) -> bool:
    """Whether the method reads a setting of the page at all."""
    if key.startswith(("ropd.rubric.", "ropd.verification.")):
        return method == Ropd.name
    return method not in SIGNALS or not key.startswith("ropd.teacher_")


def _existing(configured: str | None) -> Path | None:
    if configured is None:
        return None
    index = absolute(configured)
    return index if index.is_file() else None


def _accuracies(steps: Steps) -> Mapping[str, Mapping[int, float]]:
    if not steps:
        return {}
    return {
        "accuracy, sampled (held out)": accuracies(steps, greedy=False),
        "accuracy, greedy (held out)": accuracies(steps, greedy=True),
    }


def _setting(value: Any) -> str:
    """The value; of an absolute path, which names the machine's folders, the last part."""
    text = str(value)
    return Path(text).name if text.startswith("/") else text


def _number(value: float) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
