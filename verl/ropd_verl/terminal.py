"""What a person sees while a run goes on, and where everything else goes.

verl, Ray and their workers print thousands of lines. They go to the run's log file; the
terminal shows one line a step, read from the metric files as they grow. ``ROPD_VERBOSE=true``
leaves everything on the terminal.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from algo.runs.judge_time import WAITED
from algo.runs.step_times import STEP
from algo.runs.summary import REWARD, accuracies, read_metrics

# A step takes seconds at least.
_LOOK_EVERY_S = 1.0


@contextmanager
def output_to(log: Path, *, verbose: bool) -> Iterator[TextIO]:
    """Send this process's standard streams to ``log``; yields a stream to the terminal.

    File descriptors are redirected, so that child processes follow. Restored at the end.
    """
    terminal = os.fdopen(os.dup(1), "w", buffering=1)
    if verbose:
        yield terminal
        terminal.close()
        return
    sys.stdout.flush()
    sys.stderr.flush()
    kept = (os.dup(1), os.dup(2))
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield terminal
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        os.close(kept[0])
        os.close(kept[1])
        terminal.close()


@contextmanager
def progress(metrics: Path, last_step: int | None, out: TextIO) -> Iterator[None]:
    """Print one line to ``out`` for each step that appears in the ``metrics`` file."""
    done = threading.Event()
    thread = threading.Thread(target=_follow, args=(metrics, last_step, out, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=10)


def _follow(metrics: Path, last_step: int | None, out: TextIO, done: threading.Event) -> None:
    shown: set[int] = set()
    while True:
        last_look = done.wait(_LOOK_EVERY_S)
        if metrics.is_file():
            for step, data in read_metrics([metrics]).items():
                if step not in shown:
                    shown.add(step)
                    print(step_line(step, data, last_step), file=out)
        if last_look:
            return


def step_line(step: int, data: Mapping[str, float], last_step: int | None) -> str:
    """One step in one line."""
    parts = [f"step {step:>3}" + (f"/{last_step}" if last_step else "")]
    if REWARD in data:
        parts.append(f"reward {data[REWARD]:.3f}")
    for label, greedy in (("accuracy", False), ("greedy", True)):
        parts += [f"{label} {v:.3f}" for v in accuracies({step: data}, greedy=greedy).values()]
    if data.get("ropd/groups_failed"):
        parts.append(f"groups replaced: {data['ropd/groups_failed']:.0f}")
    if STEP in data:
        parts.append(f"{data[STEP]:.1f} s")
    if WAITED in data:
        parts.append(f"waited {data[WAITED]:.1f} s for the judge")
    return "  ".join(parts)
