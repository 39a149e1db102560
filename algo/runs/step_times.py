"""Where the time of a run's training steps went, from its metrics. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from algo.runs.judge_time import BUSY, WAITED

STEP: Final = "timing_s/step"
_GENERATE: Final = "timing_s/gen"
# verl's timers by the part of a step that they belong to.
_PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "log-probabilities": ("timing_s/old_log_prob", "timing_s/ref", "timing_s/values"),
    "update": ("timing_s/update_actor", "timing_s/update_critic"),
    "weights to the rollout": ("timing_s/update_weights",),
    "checkpoint": ("timing_s/save_checkpoint",),
}


@dataclass(frozen=True)
class StepTimes:
    """Of all timed training steps; times are seconds."""

    parts: Mapping[str, float]
    """Mean of each part of a step; together they are ``step_s``."""
    step_s: float
    judge_busy_s: float
    """In total, how long at least one group was at the judge while a step ran."""
    judge_waited_s: float
    """In total, how long the trainer waited for the judge alone."""
    busy_share: Mapping[int, float]
    """By step, the judge's time as a share of the step's, in [0, 1]."""
    waited_share: Mapping[int, float]

    @property
    def hidden(self) -> float | None:
        """Share of the judge's time that no one waited for; None where it never worked."""
        return 1.0 - self.judge_waited_s / self.judge_busy_s if self.judge_busy_s else None


def step_times(steps: Mapping[int, Mapping[str, float]]) -> StepTimes | None:
    """None where no step has the figures."""
    timed = {n: data for n, data in steps.items() if data.keys() >= {STEP, BUSY, WAITED}}
    if not timed:
        return None

    def mean(*names: str) -> float:
        return sum(data.get(name, 0.0) for data in timed.values() for name in names) / len(timed)

    step, waited = mean(STEP), mean(WAITED)
    parts = {
        "generation": mean(_GENERATE) - waited,
        "waiting for the judge alone": waited,
        **{part: mean(*names) for part, names in _PARTS.items()},
    }
    parts["the rest"] = step - sum(parts.values())
    return StepTimes(
        parts=parts,
        step_s=step,
        judge_busy_s=sum(data[BUSY] for data in timed.values()),
        judge_waited_s=sum(data[WAITED] for data in timed.values()),
        busy_share={n: data[BUSY] / data[STEP] for n, data in timed.items()},
        waited_share={n: data[WAITED] / data[STEP] for n, data in timed.items()},
    )
