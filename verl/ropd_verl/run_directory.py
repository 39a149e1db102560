"""Which directory a start writes to: a new one, or that of an interrupted run.

``<run_root>/001``, ``002``, ... hold a run each. A start continues the newest run when that run
did not finish, nothing else is writing to it, and its configuration is the same but for
`ropd.judge.budget`; else it opens the next. A run is finished when its `summary.json` is there.
"""

from __future__ import annotations

import fcntl
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from algo.errors import ConfigurationError
from algo.runs.configuration import CONFIG

SUMMARY = "summary.json"
_LOCK = ".lock"
_STEP = "global_step_"


@dataclass(frozen=True)
class RunDirectory:
    """A run's directory, held by this process for as long as `lock` is open."""

    path: Path
    continued: bool
    reason: str
    lock: IO[str]

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def last_checkpoint(self) -> int | None:
        """Step of the newest complete checkpoint, as verl would resume from it."""
        marker = self.checkpoints / "latest_checkpointed_iteration.txt"
        return int(marker.read_text()) if marker.is_file() else None

    def prune_checkpoints(self, keep: int | None) -> list[int]:
        """Remove all but the newest ``keep`` complete checkpoints; returns the steps removed.

        verl counts what the running process saved and forgets it when that ends, so every start
        of an interrupted run would leave up to ``keep`` checkpoints behind for good. None and 0
        keep all, as for verl. The one to resume from always stays, and so does a later folder:
        its save was cut off, and this start writes it again.

        Raises:
            ConfigurationError: when a folder cannot be removed.
        """
        last = self.last_checkpoint()
        if keep is None or keep <= 0 or last is None:
            return []
        found = {
            int(folder.name.removeprefix(_STEP)): folder
            for folder in self.checkpoints.glob(f"{_STEP}*")
            if folder.name.removeprefix(_STEP).isdigit() and not folder.is_symlink()
        }
        # verl writes the data's position behind the weights, and removes the weights only.
        complete = sorted(
            step
            for step, folder in found.items()
            if step <= last and (folder / "actor").is_dir() and (folder / "data.pt").is_file()
        )
        oldest = min([*complete[-keep:], last])
        old = sorted(step for step in found if step < oldest)
        for step in old:
            try:
                shutil.rmtree(found[step])
            except OSError as error:
                raise ConfigurationError(
                    f"trainer.max_actor_ckpt_to_keep={keep}: {found[step]} is older and cannot be "
                    f"removed ({error.strerror or error}); remove or move it yourself"
                ) from None
        return old

    def next_file(self, folder: str, suffix: str) -> Path:
        """A numbered file for this start, so that a restart never overwrites a log."""
        directory = self.path / folder
        directory.mkdir(parents=True, exist_ok=True)
        return directory / f"{len(list(directory.glob(f'*{suffix}'))) + 1:03d}{suffix}"


def open_run_directory(root: Path, config: DictConfig, *, may_continue: bool) -> RunDirectory:
    """Choose and lock the run's directory under ``root``; see the module for the rule.

    Raises:
        ConfigurationError: when ``root`` cannot be written.
    """
    text = OmegaConf.to_yaml(config, resolve=False)
    try:
        root.mkdir(parents=True, exist_ok=True)
        runs = sorted(p for p in root.iterdir() if p.is_dir() and p.name.isdigit())
        newest = runs[-1] if runs else None
        reason = "first run"
        if newest is not None:
            lock = _try_lock(newest)
            reason = _why_not(newest, text, lock, may_continue)
            if not reason and lock is not None:
                _record(newest, text)
                return RunDirectory(newest, True, "it was interrupted", lock)
            if lock is not None:
                lock.close()
        path = root / f"{int(newest.name) + 1 if newest else 1:03d}"
        path.mkdir()
        (path / CONFIG).write_text(text)
        lock = _try_lock(path)
    except OSError as error:
        raise ConfigurationError(f"run_root={root}: {error.strerror or error}") from None
    if lock is None:
        raise ConfigurationError(f"run_root={root}: another start took {path.name} just now")
    return RunDirectory(path, False, reason, lock)


def _why_not(run: Path, text: str, lock: IO[str] | None, may_continue: bool) -> str:
    """Why ``run`` is not continued; empty when it is."""
    if not may_continue:
        return "trainer.resume_mode=disable"
    if lock is None:
        return f"{run.name} is being written by another process"
    if (run / SUMMARY).is_file():
        return f"{run.name} is finished"
    recorded = run / CONFIG
    if not recorded.is_file() or not _equal_but_for_the_budget(recorded.read_text(), text):
        return f"{run.name} has another configuration"
    return ""


def _equal_but_for_the_budget(recorded: str, text: str) -> bool:
    """A run that spent its judge's budget goes on under a higher one."""
    if recorded == text:
        return True
    nodes = []
    for each in (recorded, text):
        try:
            node = OmegaConf.to_container(OmegaConf.create(each), resolve=False)
        except (YAMLError, OmegaConfBaseException):
            return False
        judge = node
        for key in ("ropd", "judge"):
            judge = judge.get(key) if isinstance(judge, dict) else None
        if isinstance(judge, dict):
            judge.pop("budget", None)
        nodes.append(node)
    return nodes[0] == nodes[1]


def _record(run: Path, text: str) -> None:
    """Keep the configuration that the run now has, in one piece."""
    if (run / CONFIG).read_text() != text:
        partial = (run / CONFIG).with_suffix(".part")
        partial.write_text(text)
        partial.rename(run / CONFIG)


def _try_lock(run: Path) -> IO[str] | None:
    lock = (run / _LOCK).open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock
