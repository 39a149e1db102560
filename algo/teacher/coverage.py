"""Whether an index holds the answers that a training run needs; asked before the run starts.

Reads every answer it counts, so that a damaged record stops the start and not the training.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from algo.data.prompt_file import PathLike, PromptRow, distinct_prompts
from algo.errors import ConfigurationError, TeacherMissing
from algo.overrides import override
from algo.teacher.teacher_index import TeacherIndex

# Prompts named in the error: enough to recognise a wrong file by.
_EXAMPLES = 3


def missing_answers(
    index: TeacherIndex, files: Iterable[PathLike], m: int, prompt_key: str = "prompt"
) -> tuple[int, tuple[str, ...]]:
    """How many different prompts of `files` have fewer than `m` usable answers in `index`, and
    what the first few of them are, in words.

    Raises `TeacherIndexError` for a damaged record, `ConfigurationError` for an unreadable file.
    """
    lacking = [
        f"{_excerpt(prompt)} has {held} of {m}"
        for prompt in distinct_prompts(files, prompt_key).values()
        if (held := _held(index, prompt.fingerprint, m)) < m
    ]
    return len(lacking), tuple(lacking[:_EXAMPLES])


def require_answers(
    index_path: PathLike, files: Sequence[PathLike], m: int, prompt_key: str = "prompt"
) -> None:
    """Raise `ConfigurationError`, with the command that completes the index, if answers lack.

    `TeacherIndexError` is raised when the index is missing, damaged or not an index.
    """
    with TeacherIndex.open(index_path) as index:
        count, examples = missing_answers(index, files, m, prompt_key)
        if not count:
            return
        command = build_command(index, files, m, prompt_key)
        raise ConfigurationError(
            f"ropd.teacher_index={index_path} lacks answers for {count} training prompts, such as "
            f"{'; '.join(examples)}: complete it with `{command}`, or lower ropd.teacher_answers"
        )


def build_command(
    index: TeacherIndex, files: Sequence[PathLike], m: int, prompt_key: str = "prompt"
) -> str:
    """The `ropd teacher build` that gives each prompt of `files` its `m` answers."""
    teacher = index.header.teachers[0] if index.header.teachers else None
    words = ["ropd", "teacher", "build"]
    for file in files:
        words += ["--data", str(file)]
    words += ["--out", str(index.path), "--answers", str(m)]
    for name in ("base_url", "backend"):
        if value := index.header.provenance.get(name):
            words += [f"--{name.replace('_', '-')}", value]
    words += ["--model", teacher.model] if teacher is not None else []
    chosen: dict[str, Any] = {"prompt_key": prompt_key} if prompt_key != "prompt" else {}
    if teacher is not None:
        chosen |= {
            "teacher.temperature": teacher.temperature,
            "teacher.top_p": teacher.top_p,
            "teacher.reasoning_effort": teacher.reasoning_effort,
            "teacher.extra_body": teacher.extra_body or None,
            "system": teacher.system,
        }
    words += [override(key, value) for key, value in chosen.items() if value is not None]
    return shlex.join(words)


def _held(index: TeacherIndex, fingerprint: str, m: int) -> int:
    try:
        return len(index.answers(fingerprint, m))
    except TeacherMissing as missing:
        return missing.found


def _excerpt(prompt: PromptRow) -> str:
    text = " ".join(str(prompt.messages[-1].get("content", "")).split())
    shown = text if len(text) <= 60 else text[:57] + "..."
    return f"row {prompt.row} ({shown!r})"
