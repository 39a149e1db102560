"""What the trainer's entry calls for the embedded default: `prepare`, then `serve`.

`prepare` makes the problems, the warm-started student and the teacher index under `workdir`, each
once: an artefact whose settings and code are unchanged is reused. `serve` runs the judge for as
long as the training lasts. Neither imports torch: the student is made in a process of its own.

    workdir/train.parquet  workdir/val.parquet  workdir/student/  workdir/teacher_index
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from algo.errors import ConfigurationError, RopdError
from algo.llm.settings import Settings, validated
from examples.arithmetic.dataset import train_rows, validation_rows, write_parquet
from examples.arithmetic.impairments import Impairments
from examples.arithmetic.judge_process import module_command, module_environment, running_judge
from examples.arithmetic.problems import draw_problem_sets

TEACHER_MODEL = "arithmetic-teacher"
_STEP_LIMIT_S = 3600.0
_STUDENT_REPORT = "warm_start.json"


class ExampleSettings(Settings):
    """The configuration node `example`, without its `hook`."""

    workdir: Path
    seed: int = 0
    """Of the problems, the student's weights and its warm start."""
    train_prompts: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    val_prompts: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Held-out problems; each is validated once sampled and once greedily."""
    warm_start_steps: Annotated[int, Field(ge=1)] = 600
    teacher_answers: Annotated[int, Field(ge=0)] = 4
    """0 makes no teacher index."""
    judge: Impairments = Impairments()
    """Delays and faults of the judge while training runs; the teacher index is built without."""


def prepare(settings: Mapping[str, Any]) -> None:
    """Make what `workdir` lacks, and print one line an artefact.

    Raises `ConfigurationError` for a wrong setting or a workdir in use, `RopdError` when a step
    fails; what was finished before is kept.
    """
    chosen = _validated(settings)
    chosen.workdir.mkdir(parents=True, exist_ok=True)
    with _locked(chosen.workdir):
        _make_once(chosen, "problems", _problems_key(chosen), _make_problems)
        _make_once(chosen, "student", _student_key(chosen), _make_student)
        if chosen.teacher_answers:
            _make_once(chosen, "teacher index", _index_key(chosen), _make_index)


def serve(settings: Mapping[str, Any]) -> AbstractContextManager[str]:
    """Run the judge on a free loopback port while the context lasts; yields its base URL."""
    chosen = _validated(settings)
    chosen.workdir.mkdir(parents=True, exist_ok=True)
    return running_judge(chosen.judge, chosen.workdir / "judge.log")


def _validated(settings: Mapping[str, Any]) -> ExampleSettings:
    return validated(ExampleSettings, settings, "example")


@contextmanager
def _locked(workdir: Path) -> Iterator[None]:
    with (workdir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"example.workdir: another process is preparing {workdir}; wait for it to end or "
                "choose another directory"
            ) from None
        yield


def _make_once(
    chosen: ExampleSettings,
    artefact: str,
    key: Mapping[str, Any],
    make: Callable[[ExampleSettings], str],
) -> None:
    stamp = chosen.workdir / f".{artefact.replace(' ', '_')}.json"
    outputs = [chosen.workdir / name for name in _OUTPUTS[artefact]]
    if all(path.exists() for path in outputs) and _read_json(stamp) == key:
        print(f"{artefact}: reused from {chosen.workdir}", flush=True)
        return
    started = time.monotonic()
    stamp.unlink(missing_ok=True)
    made = make(chosen)
    _write_whole(stamp, json.dumps(key))
    print(f"{artefact}: {made} ({time.monotonic() - started:.1f} s)", flush=True)


_OUTPUTS: Mapping[str, tuple[str, ...]] = {
    "problems": ("train.parquet", "val.parquet"),
    "student": (f"student/{_STUDENT_REPORT}", "student/config.json"),
    "teacher index": ("teacher_index",),
}


def _problems_key(chosen: ExampleSettings) -> dict[str, Any]:
    return {
        "seed": chosen.seed,
        "train_prompts": chosen.train_prompts,
        "val_prompts": chosen.val_prompts,
        "code": _digest("problems.py", "dataset.py"),
    }


def _student_key(chosen: ExampleSettings) -> dict[str, Any]:
    return {
        "seed": chosen.seed,
        "val_prompts": chosen.val_prompts,
        "warm_start_steps": chosen.warm_start_steps,
        "code": _digest("problems.py", "solutions.py", "student.py"),
    }


def _index_key(chosen: ExampleSettings) -> dict[str, Any]:
    code = _digest("problems.py", "dataset.py", "solutions.py", "replies.py")
    return {**_problems_key(chosen), "teacher_answers": chosen.teacher_answers, "code": code}


def _make_problems(chosen: ExampleSettings) -> str:
    sets = draw_problem_sets(chosen.seed, chosen.train_prompts, chosen.val_prompts)
    write_parquet(train_rows(sets.train), chosen.workdir / "train.parquet")
    write_parquet(validation_rows(sets.held_out), chosen.workdir / "val.parquet")
    return f"{len(sets.train)} to train on, {len(sets.held_out)} held out"


def _make_student(chosen: ExampleSettings) -> str:
    partial, final = chosen.workdir / ".student.partial", chosen.workdir / "student"
    shutil.rmtree(partial, ignore_errors=True)
    command = module_command(
        "examples.arithmetic.student",
        *("--out", str(partial)),
        *("--seed", str(chosen.seed)),
        *("--held-out", str(chosen.val_prompts)),
        *("--steps", str(chosen.warm_start_steps)),
    )
    print(f"student: warm start of {chosen.warm_start_steps} steps ...", flush=True)
    _run(command, chosen.workdir / "student.log")
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
    report = json.loads((final / _STUDENT_REPORT).read_text())
    return (
        f"{report['parameters'] / 1e6:.2f} M parameters, right on held-out problems: "
        f"{report['sampled_accuracy']:.3f} sampled, {report['greedy_accuracy']:.3f} greedy"
    )


def _make_index(chosen: ExampleSettings) -> str:
    """Ask the embedded teacher through the project's own index builder."""
    partial, final = chosen.workdir / ".teacher_index.partial", chosen.workdir / "teacher_index"
    _remove_index(partial)
    log = chosen.workdir / "teacher_index.log"
    with running_judge(Impairments(), chosen.workdir / "judge.log") as base_url:
        command = module_command(
            *("algo.cli", "teacher", "build"),
            *("--data", str(chosen.workdir / "train.parquet")),
            *("--out", str(partial)),
            *("--model", TEACHER_MODEL),
            *("--answers", str(chosen.teacher_answers)),
            *("--base-url", base_url),
            *("seed=0", "teacher.timeout_s=30", "limits.outage_s=30"),
        )
        _run(command, log)
    _remove_index(final)
    os.replace(partial, final)
    _remove_index(partial)
    return f"{chosen.teacher_answers} answers for each of {chosen.train_prompts} prompts"


def _remove_index(path: Path) -> None:
    """Remove an index with the table that is derived from it."""
    path.unlink(missing_ok=True)
    path.with_name(f"{path.name}.table").unlink(missing_ok=True)


def _run(command: list[str], log: Path) -> None:
    with log.open("wb") as out:
        try:
            subprocess.run(
                command,
                # Threads that wait for each other give up the core soon: by default they spin on
                # it, which on a busy machine costs several times the work itself.
                env=module_environment() | {"GOMP_SPINCOUNT": "2000"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=_STEP_LIMIT_S,
                check=True,
            )
        except subprocess.SubprocessError as error:
            reason = type(error).__name__
            raise RopdError(f"{command[2]} failed ({reason}): see {log}") from None


def _digest(*files: str) -> str:
    """Of the source files that decide an artefact: changed code makes it anew."""
    here = Path(__file__).parent
    return hashlib.sha256(b"".join((here / name).read_bytes() for name in files)).hexdigest()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)
