"""What a run's directory says of the run beside its journal: figures, accuracies, settings.

Every part is optional: a run that was stopped has no `summary.json`, a pipeline used without the
trainer has a journal and nothing else. Paths of the machine are left out of the page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from algo.errors import ConfigurationError
from algo.paths import absolute
from algo.runs.configuration import CONFIG, recorded_config, unreadable
from algo.runs.step_times import StepTimes, step_times
from algo.runs.summary import accuracies, read_metrics

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
    "ropd.teacher_answers",
    "ropd.rubric.mode",
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


def read_facts(run_dir: Path) -> RunFacts:
    """Raises `ConfigurationError` where a file of the run cannot be read."""
    config = _config(run_dir)
    accuracies, times = _measured(run_dir / "metrics")
    return RunFacts(
        name="/".join(run_dir.resolve().parts[-2:]),
        figures=_figures(run_dir / "summary.json"),
        settings=tuple((key, _setting(config[key])) for key in _SETTINGS if key in config),
        accuracies=accuracies,
        times=times,
        teacher_index=_existing(config.get(_TEACHER_INDEX)),
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
    return {key: value for key, value in found.items() if value is not None}


def _existing(configured: str | None) -> Path | None:
    if configured is None:
        return None
    index = absolute(configured)
    return index if index.is_file() else None


def _measured(folder: Path) -> tuple[Mapping[str, Mapping[int, float]], StepTimes | None]:
    """Accuracies and times from the trainer's metric files."""
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        return {}, None
    steps = read_metrics(files)
    shares = {
        "accuracy, sampled (held out)": accuracies(steps, greedy=False),
        "accuracy, greedy (held out)": accuracies(steps, greedy=True),
    }
    return shares, step_times(steps)


def _setting(value: Any) -> str:
    """The value; of an absolute path, which names the machine's folders, the last part."""
    text = str(value)
    return Path(text).name if text.startswith("/") else text


def _number(value: float) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
