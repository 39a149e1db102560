"""The trainer's entry: ``python -m ropd_verl.train [--config-name NAME] [hydra overrides]``.

`training/train.sh` sets up the environment and calls this. In order: compose the configuration,
prepare the embedded example when the configuration names one, check everything that can be
checked, start Ray and verl's V1 trainer, write the summary. Exit codes: 0 finished, 2 wrong
input (nothing was started), 1 the run stopped; the last line then says why and how to resume.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from omegaconf import DictConfig, OmegaConf, open_dict

from algo.env_file import load_env_file
from algo.errors import BudgetSpent, ConfigurationError, JudgeOutage, RopdError
from algo.methods.registry import is_judged, method_of, roles_of, ropd_settings
from algo.paths import absolute
from algo.report import write_report
from algo.ropd.settings import RopdSettings
from algo.runs import summary as summaries
from ropd_verl import ray_cluster
from ropd_verl.checks.inputs import check_example
from ropd_verl.config import compose_config, key_lines
from ropd_verl.installation import require_verl
from ropd_verl.run_directory import SUMMARY, RunDirectory, open_run_directory
from ropd_verl.terminal import output_to, progress

INTERRUPTED = 130
"""Exit code after SIGINT or SIGTERM."""

_PATHS = (
    "data.train_files",
    "data.val_files",
    "ropd.teacher_index",
    "ropd.prompts.rubricator",
    "ropd.prompts.verifier",
    "ropd.method.prompt",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("ROPD_STARTED_AT", str(time.time()))
    signal.signal(signal.SIGTERM, _terminate)
    try:
        load_env_file()  # before the configuration, which reads variables; Ray's workers inherit it
        config_name, overrides = parse(arguments)
        config = compose_config(config_name, overrides)
        check_example(config)  # first: verl takes gigabytes to install
        require_verl("a run trains with verl")
        if os.environ.get("ROPD_DRYRUN", "").lower() in ("1", "true", "yes"):
            print("python -m ropd_verl.train " + shlex.join(arguments))
            print("\n".join([*key_lines(config), *_what_is_missing(config)]))
            return 0
        return _start(config, shlex.join(arguments))
    except ConfigurationError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RopdError as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, SystemExit):  # Ray turns SIGTERM into the latter
        print("interrupted; the same command resumes from the last checkpoint", file=sys.stderr)
        return INTERRUPTED


def _what_is_missing(config: DictConfig) -> list[str]:
    """What a start would stumble over here; neither model hub nor judge are asked."""
    from ropd_verl.checks.doctor import examine
    from ropd_verl.checks.finding import Level, Reach

    found = list(examine(config, os.environ, Reach.MACHINE))
    return [d.line for d in found if d.finding.level in (Level.ERROR, Level.WARNING)]


def _terminate(signum: int, frame: Any) -> None:
    raise KeyboardInterrupt


def parse(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Split the command line into the configuration's name and Hydra overrides."""
    name, overrides = "ropd", []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--config-name":
            name = next(rest, "")
        elif argument.startswith("--config-name="):
            name = argument.partition("=")[2]
        elif argument.startswith("-"):
            raise ConfigurationError(
                f"unknown option {argument}: give --config-name NAME and overrides (key=value)"
            )
        else:
            overrides.append(argument)
    return name, overrides


def _start(config: DictConfig, command: str) -> int:
    run = open_run_directory(
        absolute(config.run_root), config, may_continue=config.trainer.resume_mode != "disable"
    )
    _announce(run)
    _prune(run, config)
    with open_dict(config):
        config.run_dir = str(run.path)
        if config.get("example") is not None:
            config.example.workdir = str(absolute(config.example.workdir))
        for key in _PATHS:
            if (value := OmegaConf.select(config, key)) is not None:
                OmegaConf.update(config, key, _absolute(value))
    with _example(config):
        from ropd_verl import plugin
        from ropd_verl.checks import start

        plugin.check_registered()
        start.check(config, os.environ)
        failure = _train(config, run)
    if failure is not None:
        print(_why_it_stopped(failure, run, command), file=sys.stderr)
        return 1
    _summarise(run, ropd_settings(config))
    return 0


def _absolute(value: Any) -> Any:
    if isinstance(value, str):
        return str(absolute(value))
    return [str(absolute(v)) for v in value]


def _announce(run: RunDirectory) -> None:
    if not run.continued:
        print(f"run {run.path}: new ({run.reason})")
        return
    step = run.last_checkpoint()
    start = "from the beginning, for it has no checkpoint" if step is None else f"at step {step}"
    print(f"run {run.path}: continues {start} ({run.reason})")


def _prune(run: RunDirectory, config: DictConfig) -> None:
    """Keep the run's checkpoints within their number over its starts as well."""
    trainer = config.trainer
    # resume_path names a checkpoint by hand, which may be an old one.
    if not run.continued or trainer.resume_mode != "auto":
        return
    keep = trainer.get("max_actor_ckpt_to_keep")
    if removed := run.prune_checkpoints(keep):
        steps = ", ".join(map(str, removed))
        print(
            f"removed the old checkpoints of steps {steps} (trainer.max_actor_ckpt_to_keep={keep})"
        )


@contextlib.contextmanager
def _example(config: DictConfig) -> Iterator[None]:
    """Prepare the embedded example and serve its judge, when the configuration names one; both as
    far as the method needs them."""
    if config.get("example") is None:
        yield
        return
    example = OmegaConf.to_container(config.example, resolve=True)
    assert isinstance(example, dict)
    hook = importlib.import_module(example.pop("hook"))
    settings = ropd_settings(config)
    method, roles = method_of(settings), roles_of(settings)
    if not method.needs_teachers(settings):
        example["teacher_answers"] = 0
    hook.prepare(example)
    if not roles:
        yield
        return
    with hook.serve(example) as base_url, open_dict(config):
        for role in roles:
            config.ropd.judge[role].base_url = base_url
        yield


def _train(config: DictConfig, run: RunDirectory) -> BaseException | None:
    """Run verl's trainer to its end; returns what stopped it, or None."""
    metrics = run.next_file("metrics", ".jsonl")
    log = run.next_file("logs", ".log")
    verbose = os.environ.get("ROPD_VERBOSE", "").lower() in ("1", "true", "yes")
    if not verbose:
        print(f"log {log}")
    _prepare_process(config, metrics)
    with output_to(log, verbose=verbose) as terminal, _progress(config, metrics, terminal):
        return _run_ppo(config)


def _progress(
    config: DictConfig, metrics: Path, terminal: TextIO
) -> contextlib.AbstractContextManager[None]:
    return progress(metrics, config.trainer.total_training_steps, terminal)


def _prepare_process(config: DictConfig, metrics: Path) -> None:
    """Set what verl reads from the environment, here and in every Ray worker.

    Keys are not among it: Ray shows a runtime environment to anybody who asks. Workers of a
    local Ray inherit them from this process; on a running cluster they belong into the
    environment in which it was started.
    """
    variables = {
        "VERL_FILE_LOGGER_PATH": str(metrics),
        "ROPD_STARTED_AT": os.environ["ROPD_STARTED_AT"],
        "PYTHONUNBUFFERED": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    if config.trainer.device == "cpu":
        ranks = config.trainer.n_gpus_per_node
        variables["VERL_PLATFORM"] = "cpu"
        threads = str(max(1, (os.cpu_count() or 1) // ranks))
        variables |= {"OMP_NUM_THREADS": threads, "TQ_NUM_THREADS": "1"}
        # Trainer and rollout share the cores: threads that wait for each other give them up soon.
        variables["GOMP_SPINCOUNT"] = "2000"
        variables["HF_HUB_OFFLINE"] = os.environ.get("HF_HUB_OFFLINE", "1")
    os.environ.update(variables)
    with open_dict(config):
        own = OmegaConf.select(config, "ray_kwargs.ray_init.runtime_env.env_vars") or {}
        OmegaConf.update(
            config,
            "ray_kwargs.ray_init.runtime_env.env_vars",
            {**variables, **own},
            force_add=True,
        )


def _run_ppo(config: DictConfig) -> BaseException | None:
    import ray
    from ray.exceptions import RayError
    from verl.trainer.main_ppo import run_ppo
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config
    from verl.utils.device import auto_set_device

    from ropd_verl.trainer import RopdTaskRunner

    ray_cluster.settle(config, os.environ)
    auto_set_device(config)
    validate_config(config, need_reference_policy(config), need_critic(config))
    try:
        run_ppo(config, task_runner_class=ray.remote(RopdTaskRunner))
    except RayError as error:
        traceback.print_exc()
        cause = getattr(error, "cause", None)
        return cause if isinstance(cause, BaseException) else error
    except ConnectionError as error:  # of `ray.init`; a worker's is a RayError too
        raise ray_cluster.unreachable(config, os.environ, error) from error
    finally:
        ray.shutdown()
    return None


def _why_it_stopped(failure: BaseException, run: RunDirectory, command: str) -> str:
    """One line: what happened, what is saved, how to go on."""
    message = " ".join(str(failure).split())
    if not isinstance(failure, RopdError):
        last = str(failure).strip().splitlines()[-1:]  # Ray puts the remote stack trace first
        message = f"{type(failure).__name__}: {''.join(last)[:300]} (see {run.path / 'logs'})"
    message = "; ".join((message, *getattr(failure, "__notes__", ())))
    step = run.last_checkpoint()
    saved = "no checkpoint yet" if step is None else f"checkpoint of step {step} is saved"
    is_down = isinstance(failure, JudgeOutage) and not isinstance(failure, BudgetSpent)
    fix = "fix the endpoint, then " if is_down else ""
    return f"stopped: {message}; {saved}; {fix}resume with: bash training/train.sh {command}"


def _summarise(run: RunDirectory, settings: RopdSettings) -> None:
    judged = is_judged(settings)
    directory = run.path / "metrics"
    steps = summaries.read_metrics(sorted(directory.glob("*.jsonl")))
    summary = summaries.summarise(
        steps,
        paths={
            "checkpoints": str(run.checkpoints),
            "metrics": str(directory),
            "log": str(run.path / "logs"),
            **({"journal": str(run.path / "journal")} if judged else {}),
        },
        method=settings.method.name,
    )
    print(summaries.table(summary))
    summaries.write(summary, run.path / SUMMARY)
    write_report(run.path, run.path / "report.html")
    what = "why each answer got its reward" if judged else "the run on one page"
    print(f"{what}: {run.path / 'report.html'}")
    print(run.path / SUMMARY)


if __name__ == "__main__":
    code = main()
    if code == INTERRUPTED:
        # All is shut down by now. After a SIGTERM Ray's core aborts (SIGABRT) when the interpreter
        # clears up behind it, which would hide the exit code.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
