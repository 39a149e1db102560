"""What a finished run says of itself: `summary.json` and a table; its curves are the report's.

Reads the metric files that verl's ``file`` tracker wrote (one a start of the run; where a
restart repeated a step, the later record counts). Knows no process and starts nothing.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from algo.runs.step_times import STEP, step_times

Steps = Mapping[int, Mapping[str, float]]

REWARD = "critic/score/mean"
SINCE_START = "ropd/since_start_s"
METRICS: Final[dict[str, str]] = {
    SINCE_START.removeprefix("ropd/"): "Seconds from the call of `training/train.sh` to the end of "
    "the step.",
}
"""What a training step adds: name under `ropd/`, and what it says."""
GREEDY_SUFFIX = "_greedy"


@dataclass(frozen=True)
class Summary:
    """Figures of a run's completed steps; None where the run has no such measurement.

    Accuracies are shares in [0, 1] on the validation set, sampled and greedy, before the first
    step and after the last; rewards are the mean over a step's rollouts; times are seconds.
    ``first_step_after_s`` counts from the call of `training/train.sh` of the start that made the
    first step listed.
    ``judge_busy_s`` is how long a group was at the judge while a training step ran,
    ``judge_waited_s`` how long the trainer had nothing else to wait for (`judge_time`).
    """

    method: str
    accuracy_before: float | None
    accuracy_after: float | None
    greedy_accuracy_before: float | None
    greedy_accuracy_after: float | None
    reward_first_step: float | None
    reward_last_step: float | None
    steps: int
    groups_judged: int | None
    groups_failed: int | None
    median_step_s: float | None
    first_step_after_s: float | None
    judge_busy_s: float | None
    judge_waited_s: float | None
    checkpoints: str
    metrics: str
    log: str
    journal: str | None = None
    """None for a method that asks no judge."""


def read_metrics(files: Sequence[Path]) -> dict[int, dict[str, float]]:
    """Metrics by step (0 holds the validation before training) from tracker files, in order.

    A line cut off by a kill is skipped: its step was not complete and was repeated.
    """
    steps: dict[int, dict[str, float]] = {}
    for file in files:
        for line in file.read_text().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            known = steps.setdefault(int(record["step"]), {})
            known.update({k: v for k, v in record["data"].items() if isinstance(v, int | float)})
    return dict(sorted(steps.items()))


def rewards(steps: Steps) -> dict[int, float]:
    """Mean reward of the trained rollouts by step."""
    return {step: data[REWARD] for step, data in steps.items() if REWARD in data}


def accuracies(steps: Steps, *, greedy: bool) -> dict[int, float]:
    """Validation accuracy by step, averaged over the sampled or the greedy data sources."""
    found: dict[int, float] = {}
    for step, data in steps.items():
        values = [
            value
            for key, value in data.items()
            if key.startswith("val-core/")
            and "/mean@" in key
            and key.split("/")[1].endswith(GREEDY_SUFFIX) == greedy
        ]
        if values:
            found[step] = statistics.fmean(values)
    return found


def summarise(steps: Steps, *, paths: Mapping[str, str], method: str = "ropd") -> Summary:
    """The figures of a run from its metrics; ``paths`` fills the fields that name places."""
    trained = {step: data for step, data in steps.items() if REWARD in data}
    last = max(trained, default=None)
    sampled, greedy = (accuracies(steps, greedy=g) for g in (False, True))
    rewarded = list(rewards(trained).values())
    seconds = [data[STEP] for data in trained.values() if STEP in data]
    times = step_times(trained)
    starts = [data[SINCE_START] for data in trained.values() if SINCE_START in data]

    def total(name: str) -> int | None:
        found = [data[name] for data in trained.values() if name in data]
        return int(sum(found)) if found else None

    return Summary(
        method=method,
        accuracy_before=sampled.get(0),
        accuracy_after=None if last is None else sampled.get(last),
        greedy_accuracy_before=greedy.get(0),
        greedy_accuracy_after=None if last is None else greedy.get(last),
        reward_first_step=_first(rewarded),
        reward_last_step=_last(rewarded),
        steps=last or 0,
        groups_judged=total("ropd/groups_judged"),
        groups_failed=total("ropd/groups_failed"),
        median_step_s=statistics.median(seconds) if seconds else None,
        first_step_after_s=_first(starts),
        judge_busy_s=times and times.judge_busy_s,
        judge_waited_s=times and times.judge_waited_s,
        **paths,
    )


def _first(values: Sequence[float]) -> float | None:
    return values[0] if values else None


def _last(values: Sequence[float]) -> float | None:
    return values[-1] if values else None


def table(summary: Summary) -> str:
    """A short table for the terminal."""

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    s = summary
    rows = [
        ("", "before", "after"),
        ("accuracy, sampled", shown(s.accuracy_before), shown(s.accuracy_after)),
        ("accuracy, greedy", shown(s.greedy_accuracy_before), shown(s.greedy_accuracy_after)),
        ("reward (first, last step)", shown(s.reward_first_step), shown(s.reward_last_step)),
    ]
    if s.groups_judged is not None:
        rows.append(("groups (judged, failed)", str(s.groups_judged), str(s.groups_failed or 0)))
    lines = [f"{name:<28}{before:>10}{after:>10}" for name, before, after in rows]
    seconds = "-" if s.median_step_s is None else f"{s.median_step_s:.2f} s"
    lines.append(f"{s.method}: {s.steps} steps, median {seconds} a step")
    if s.judge_busy_s is not None:
        lines.append(
            f"judge at work for {s.judge_busy_s:.1f} s of them, waited for {s.judge_waited_s:.1f} s"
        )
    places = {name: getattr(s, name) for name in _PLACES}
    lines += [f"{name + ':':<13}{place}" for name, place in places.items() if place is not None]
    return "\n".join(lines)


_PLACES = ("checkpoints", "journal", "metrics", "log")


def write(summary: Summary, path: Path) -> None:
    """Write `summary.json` in one piece: its presence means that the run is finished."""
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(asdict(summary), indent=2) + "\n")
    partial.rename(path)
