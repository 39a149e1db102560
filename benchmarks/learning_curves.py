"""Whether training modes learn alike, and how much of the judge's time each of them hides.

    for seed in 0 1 2; do for mode in sync colocate_async; do
      bash training/train.sh --config-name ropd_cpu seed=$seed mode=$mode
    done; done
    python benchmarks/learning_curves.py runs/ropd_cpu/[0-9]*

Takes finished runs that differ in mode and seed, and prints a table a mode, over its runs: mean and
sample standard deviation of the reward in four equal parts of the run and of the accuracies after
it. The last line of each figure compares the modes: the difference of two means in units of its
standard error (Welch's t). Differences beyond 3 on three seeds would say more than noise.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from algo.runs.step_times import StepTimes, step_times
from algo.runs.summary import REWARD, read_metrics

PARTS = 4


def curve(steps: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """Mean reward of each part of the run's steps."""
    rewards = {step: data[REWARD] for step, data in steps.items() if REWARD in data}
    last = max(rewards)
    size = -(-last // PARTS)
    return {
        f"reward, steps {low + 1} to {min(low + size, last)}": statistics.fmean(
            reward for step, reward in rewards.items() if low < step <= low + size
        )
        for low in range(0, last, size)
    }


def figures(run: Path) -> dict[str, float]:
    """What is compared of one run."""
    summary = json.loads((run / "summary.json").read_text())
    after = {
        f"accuracy after, {decoding}": summary[key]
        for decoding, key in (
            ("sampled", "accuracy_after"),
            ("greedy", "greedy_accuracy_after"),
        )
        if summary[key] is not None
    }
    return curve(metrics(run)) | after


def metrics(run: Path) -> dict[int, dict[str, float]]:
    return read_metrics(sorted((run / "metrics").glob("*.jsonl")))


def mode_of(run: Path) -> str:
    return OmegaConf.load(run / "config.yaml").trainer.v1.trainer_mode


def described(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.3f}"
    return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"


def welch_t(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Difference of the means over its standard error; None where there is no spread to tell."""
    if min(len(a), len(b)) < 2:
        return None
    error = (statistics.variance(a) / len(a) + statistics.variance(b) / len(b)) ** 0.5
    return (statistics.fmean(a) - statistics.fmean(b)) / error if error else None


def hidden(times: StepTimes | None) -> str:
    if times is None or times.hidden is None:
        return "-"
    return (
        f"{times.step_s:.2f} s a step, judge at work {times.judge_busy_s:.1f} s, waited for "
        f"{times.judge_waited_s:.1f} s, {100 * times.hidden:.0f} % hidden"
    )


def table(by_mode: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """Rows of a Markdown table: a figure, then mean and deviation of each mode, then t."""
    modes = list(by_mode)
    pairs = list(itertools.combinations(modes, 2))
    head = ["", *modes, *(f"t({a}, {b})" for a, b in pairs)]
    rows = [head, ["---"] * len(head)]
    names = [
        name for name in by_mode[modes[0]][0] if all(name in r for m in modes for r in by_mode[m])
    ]
    for name in names:
        values = {mode: [run[name] for run in by_mode[mode]] for mode in modes}
        compared = [welch_t(values[a], values[b]) for a, b in pairs]
        rows.append(
            [
                name,
                *(described(values[mode]) for mode in modes),
                *("-" if t is None else f"{t:+.1f}" for t in compared),
            ]
        )
    return [f"| {' | '.join(row)} |" for row in rows]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("runs", nargs="+", type=Path, help="directories of finished runs")
    runs: list[Path] = parser.parse_args(arguments).runs
    finished = [run for run in runs if (run / "summary.json").is_file()]
    if not finished:
        parser.error("none of these is the directory of a finished run")
    by_mode: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in finished:
        mode = mode_of(run)
        by_mode[mode].append(figures(run))
        print(f"{run.name}  {mode}, seed {OmegaConf.load(run / 'config.yaml').seed}: ", end="")
        print(hidden(step_times(metrics(run))))
    print()
    print("\n".join(table(by_mode)))


if __name__ == "__main__":
    main()
