"""Times a training step of the CPU example beside the same arithmetic without a framework.

    python -m benchmarks.step               # two tables: the floor and the step, by part
    python -m benchmarks.step --json        # one line of JSON
    python -m benchmarks.step --workdir runs/ropd_cpu/example-seed0 --steps 30

The step is the real trainer's: a run of `ropd_cpu` as a process of its own, without validation and
checkpoints, timed from the end of one step to the end of the next. The floor is what a step cannot
do without, in one process with the same student, prompts, group size, micro-batches and threads:
generate (`benchmarks.lean_decoder`), log-probabilities, forward, backward, AdamW
(`benchmarks.step_floor`). Half of it is
measured before the run and half after it, so that both meet the same machine. Figures are medians.

`generate` of the step holds all between a batch's dispatch and its last judgement but
`judge_wait`, in which the trainer waited for the judge alone; `storage` is advantages through the
TransferQueue and weights to the rollout; `other` is the rest: dispatch, metrics, logging.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from algo.runs.judge_time import WAITED
from algo.runs.step_times import STEP
from algo.runs.summary import SINCE_START, read_metrics

PARTS = ("generate", "log_probs", "update", "judge_wait", "storage", "other")
_TIMERS: Mapping[str, tuple[str, ...]] = {
    "generate": ("timing_s/gen",),
    "log_probs": ("timing_s/old_log_prob", "timing_s/ref"),
    "update": ("timing_s/update_actor",),
    "storage": ("timing_s/adv", "timing_s/update_weights"),
}
# The first steps of a process allocate, load and compile.
WARM_UP = 4
LEAST_STEPS = 15
_LIMIT_S = 900

Parts = Mapping[str, float]


def step_parts(steps: Mapping[int, Mapping[str, float]]) -> list[Parts]:
    """Seconds of each part, a mapping a step; together the time since the step before it.

    Leaves out what has no step right before it, and the first `WARM_UP` steps.
    """
    timed = {number: data for number, data in steps.items() if data.keys() >= {STEP, SINCE_START}}
    found: list[Parts] = []
    for number, data in sorted(timed.items()):
        if number - 1 not in timed or number <= WARM_UP:
            continue
        wall = data[SINCE_START] - timed[number - 1][SINCE_START]
        parts = {part: sum(data.get(name, 0.0) for name in _TIMERS[part]) for part in _TIMERS}
        parts["judge_wait"] = data.get(WAITED, 0.0)
        parts["generate"] -= parts["judge_wait"]
        found.append(parts | {"other": wall - sum(parts.values())})
    return found


def medians(parts: Sequence[Parts]) -> dict[str, float]:
    return {part: statistics.median(one.get(part, 0.0) for one in parts) for part in PARTS}


def figures(floor: Sequence[Parts], step: Sequence[Parts]) -> dict[str, Any]:
    """What is printed. ``ratio`` is of the whole times' medians.

    Raises:
        ValueError: where there is nothing to take a median of.
    """
    if not floor or not step:
        raise ValueError(f"{len(floor)} floors and {len(step)} steps were timed: no ratio")
    floor_s, step_s = (statistics.median(sum(p.values()) for p in parts) for parts in (floor, step))
    return {
        "floor_s": floor_s,
        "step_s": step_s,
        "ratio": step_s / floor_s,
        "floor_parts_s": medians(floor),
        "step_parts_s": medians(step),
        "floors": len(floor),
        "steps": len(step),
    }


def timed_run(workdir: Path, root: Path, steps: int) -> list[Parts]:
    """The parts of ``steps`` steps of a run below ``root``, of the example in ``workdir``."""
    command = [
        *(sys.executable, "-P", "-m", "ropd_verl.train", "--config-name=ropd_cpu"),
        *(f"run_root={root}", f"example.workdir={workdir}"),
        f"trainer.total_training_steps={WARM_UP + steps}",
        *("trainer.val_before_train=false", "trainer.test_freq=-1", "trainer.save_freq=-1"),
    ]
    log = root / "trainer.log"
    with log.open("w") as out:
        code = subprocess.run(
            command, stdout=out, stderr=subprocess.STDOUT, timeout=_LIMIT_S, check=False
        ).returncode
    if code:
        raise SystemExit(f"the run ended with code {code}:\n{log.read_text()[-2000:]}")
    return step_parts(read_metrics(sorted(root.glob("*/metrics/*.jsonl"))))


def timed_floor(workdir: Path, repetitions: int) -> list[Parts]:
    """In a process of its own, so that its memory and threads are gone when the run starts."""
    command = [sys.executable, "-m", "benchmarks.step_floor", str(workdir), str(repetitions)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    if done.returncode:
        raise SystemExit(f"the floor ended with code {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def prepare(workdir: Path) -> None:
    """Make the example's student and prompts where they are not there yet."""
    from examples.arithmetic import prepare as make
    from ropd_verl.config import compose_config

    config = compose_config("ropd_cpu", [f"example.workdir={workdir}"])
    settings: Any = OmegaConf.to_container(config.example, resolve=True)
    with contextlib.redirect_stdout(sys.stderr):
        make({key: value for key, value in settings.items() if key != "hook"})


def table(found: Mapping[str, Any]) -> str:
    lines = [f"{'seconds, median':<18}{'floor':>9}{'step':>9}"]
    for part in PARTS:
        floor, step = found["floor_parts_s"][part], found["step_parts_s"][part]
        lines.append(f"{part:<18}{floor:>9.3f}{step:>9.3f}")
    lines.append(f"{'together':<18}{found['floor_s']:>9.3f}{found['step_s']:>9.3f}")
    lines.append(f"ratio {found['ratio']:.2f}, of {found['steps']} steps")
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Times a step of the CPU example and its floor.")
    parser.add_argument("--workdir", type=Path, help="of an example made before; else made anew")
    parser.add_argument("--steps", type=int, default=20, help="timed after the warm-up, 15 or more")
    parser.add_argument("--json", action="store_true", help="print one line of JSON alone")
    chosen = parser.parse_args(arguments)
    if chosen.steps < LEAST_STEPS:
        parser.error(f"--steps={chosen.steps}: a median of fewer than {LEAST_STEPS} says little")
    return chosen


def main() -> None:
    options = parse()
    root = Path(tempfile.mkdtemp(prefix="ropd-step-benchmark-"))
    workdir = (options.workdir or root / "example").resolve()
    try:
        prepare(workdir)
        half = -(-options.steps // 2)
        before = timed_floor(workdir, half)
        steps = timed_run(workdir, root, options.steps)
        found = figures([*before, *timed_floor(workdir, half)], steps)
    finally:
        shutil.rmtree(root)
    print(json.dumps(rounded(found)) if options.json else table(found))


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return round(value, 4)


if __name__ == "__main__":
    main()
