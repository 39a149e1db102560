"""What judging adds to a training step beside the judge's own time: CPU example, real trainer.

    python -m benchmarks.overhead --json
    python -m benchmarks.overhead --steps 30 --rounds 5

Trains the CPU example in two ways by turns, each in its own process: `verl`, with verl's own reward
manager and a reward function in place of the judge pipeline, and `ropd`, the pipeline as it is,
asking a judge that answers at once. `ratio` is that of the median steps; at most 1.03 is what is
aimed at. Trainer and configuration are the same but for the keys of `VERL`; the learning rate is 0,
so that all steps generate and update alike; nothing validates or saves. A round runs both ways one
after the other, so that what else the machine does meets both; the ratios of the rounds are
told too, for on a busy machine they differ.

The first steps of a run are left out: they load, compile and connect.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from algo.paths import REPOSITORY
from algo.runs.step_times import STEP
from algo.runs.summary import read_metrics
from benchmarks.judge import RUBRIC, verdicts

WARM_UP: Final = 3
"""Steps of each run that are not counted."""
WAYS: Final = ("verl", "ropd")
VERL: Final = (
    "method=rlvr",  # rollouts do not wait for their group
    "reward.reward_manager.name=VerlsOwn",
    f"reward.reward_manager.module.path={REPOSITORY / 'benchmarks' / 'verl_reward.py'}",
    f"reward.custom_reward_function.path={REPOSITORY / 'benchmarks' / 'verl_reward.py'}",
    "reward.custom_reward_function.name=compute_score",
)
"""What the run `verl` has of its own."""
_LIMIT_S: Final = 1800.0
_START_LIMIT_S: Final = 60.0


def overrides(way: str, folder: Path, steps: int) -> list[str]:
    """The command line of one run below `folder`; both ways share the example's artefacts."""
    return [
        "--config-name=ropd_cpu",
        "example.hook=benchmarks.overhead",
        f"example.workdir={folder / 'example'}",
        f"run_root={folder / way}",
        f"trainer.total_training_steps={steps + WARM_UP}",
        "actor_rollout_ref.actor.optim.lr=0",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        "trainer.save_freq=-1",
        "trainer.resume_mode=disable",
        *(VERL if way == "verl" else ()),
    ]


def counted(steps: Mapping[int, Mapping[str, float]]) -> list[float]:
    """Seconds of a run's steps, those of the warm-up left out."""
    return [data[STEP] for step, data in steps.items() if step > WARM_UP and STEP in data]


def figures(rounds: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, float]:
    """From the step seconds of each round, by way: medians over all, and their ratio."""
    pooled = {way: [s for one in rounds for s in one[way]] for way in WAYS}
    if not all(pooled.values()):
        raise ValueError("a way has no step that counts")
    medians = {way: statistics.median(seconds) for way, seconds in pooled.items()}
    each = [statistics.median(one["ropd"]) / statistics.median(one["verl"]) for one in rounds]
    return {
        "ratio": medians["ropd"] / medians["verl"],
        "ratio_lowest": min(each),
        "ratio_highest": max(each),
        "ropd_s": medians["ropd"],
        "verl_s": medians["verl"],
        "rounds": float(len(rounds)),
        "steps": float(len(pooled["ropd"])),
    }


def order(number: int) -> tuple[str, ...]:
    """Which way goes first in a round: by turns, so that a drift of the machine meets both."""
    return WAYS if number % 2 == 0 else WAYS[::-1]


# --- the example's hook: its own artefacts, and a judge that answers at once ----------------------


def prepare(settings: Mapping[str, Any]) -> None:
    from examples import arithmetic

    arithmetic.prepare(settings)


@contextmanager
def serve(settings: Mapping[str, Any]) -> Iterator[str]:
    """A judge in a process of its own that says yes to everything."""
    receive, send = multiprocessing.Pipe(duplex=False)
    judge = multiprocessing.get_context("spawn").Process(target=_judge, args=(send,), daemon=True)
    judge.start()
    try:
        if not receive.poll(_START_LIMIT_S):
            raise TimeoutError(f"the judge did not start within {_START_LIMIT_S:g} s")
        yield f"http://127.0.0.1:{receive.recv()}/v1"
    finally:
        judge.terminate()
        judge.join()


_ANSWER = re.compile(r"<<<BEGIN ANSWER ")


def reply(prompt: str) -> str:
    """The rubric, the verdicts, or a word for the trial request."""
    if "<<<BEGIN " not in prompt:
        return "yes"
    if "ropd.rubric.v1" in prompt:
        return RUBRIC
    return verdicts(len(_ANSWER.findall(prompt)))


def _judge(port_to: Connection) -> None:
    import asyncio

    from algo.testing import FakeOpenAI

    async def run() -> None:
        judge = FakeOpenAI(lambda request: reply(request.messages[-1]["content"]), record=False)
        async with judge.serve() as url:
            port_to.send(url.removesuffix("/v1").rpartition(":")[2])
            await asyncio.Event().wait()  # the parent ends this process

    asyncio.run(run())


# --- running --------------------------------------------------------------------------------------


def run(way: str, folder: Path, steps: int) -> list[float]:
    """Train once; the seconds of the steps that count. Raises `SystemExit` where it fails."""
    output = folder / f"{way}.txt"
    with output.open("w") as out:
        code = subprocess.run(
            [sys.executable, "-m", "ropd_verl.train", *overrides(way, folder, steps)],
            cwd=REPOSITORY,  # for the example's hook
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=_LIMIT_S,
            check=False,
        ).returncode
    latest = max((p for p in (folder / way).glob("[0-9]*")), default=None)
    if code or latest is None:
        raise SystemExit(f"the run {way} ended with exit code {code}:\n{output.read_text()}")
    return counted(read_metrics(sorted((latest / "metrics").glob("*.jsonl"))))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=12, help="that count, of each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one line of JSON alone")
    parser.add_argument("--folder", type=Path, help="keep runs and the example's artefacts here")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="ropd-overhead-") as scratch:
        folder = (options.folder or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        rounds = []
        for number in range(options.rounds):
            rounds.append({way: run(way, folder, options.steps) for way in order(number)})
            if not options.json:
                found = figures(rounds[-1:])
                print(
                    f"round {number + 1}: verl {found['verl_s']:.3f} s, ropd "
                    f"{found['ropd_s']:.3f} s a step, ratio {found['ratio']:.3f}",
                    flush=True,
                )
    found = figures(rounds)
    if options.json:
        print(json.dumps({name: round(value, 4) for name, value in found.items()}))
        return
    print(
        f"medians: verl {found['verl_s']:.3f} s, ropd {found['ropd_s']:.3f} s a step, ratio "
        f"{found['ratio']:.3f} (rounds from {found['ratio_lowest']:.3f} to "
        f"{found['ratio_highest']:.3f})"
    )


if __name__ == "__main__":
    main()
