"""Every command in docs/ is one that exists: parsed by its own program, composed or dry-run.

Nothing is downloaded, started or asked. A command of a kind that this test does not know fails.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import subprocess
import tomllib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from algo.cli import app
from algo.llm.settings import validated
from algo.methods.registry import METHODS, SIGNALS
from algo.overrides import read_overrides
from algo.paths import REPOSITORY
from algo.teacher.settings import TeacherBuildSettings
from ropd_verl import train
from ropd_verl.checks.doctor import examine
from ropd_verl.checks.finding import Level, Reach
from ropd_verl.checks.machine import _optional_packages
from ropd_verl.config import compose_config
from tests.builders.patience import patience

DOCS = sorted((REPOSITORY / "docs").glob("*.md"))
ASSIGNMENT = re.compile(r"[A-Z][A-Z0-9_]*=")


@dataclass(frozen=True)
class Command:
    """A line of a bash block: variables set for it, and its words."""

    file: str
    text: str

    @property
    def parts(self) -> tuple[dict[str, str], list[str]]:
        words = shlex.split(self.text, comments=True)
        environ: dict[str, str] = {}
        while words and ASSIGNMENT.match(words[0]):
            name, _, value = words.pop(0).partition("=")
            environ[name] = value
        return environ, words


def commands() -> list[Command]:
    found = []
    for file in DOCS:
        for block in re.findall(r"```bash\n(.*?)```", file.read_text(), re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [Command(file.name, line) for line in lines if line.strip()]
    return found


@pytest.mark.parametrize("command", commands(), ids=lambda c: f"{c.file}:{c.text[:60]}")
def test_a_command_exists(command: Command) -> None:
    environ, words = command.parts
    match words:
        case ["bash", "training/train.sh", *arguments]:
            check_configuration(tuple(arguments))
        case ["bash", "training/slurm.sh", *arguments]:
            check_configuration(tuple(arguments))
            assert "training/train.sh" in dry_run(environ, words)
        case ["sbatch", nodes, "training/slurm.sh", *arguments] if nodes.startswith("--nodes="):
            check_configuration(tuple(arguments))
            count = {"SLURM_JOB_NUM_NODES": nodes.partition("=")[2]}
            assert f"--nodes={int(nodes[-1]) - 1}" in dry_run(
                count, ["bash", "training/slurm.sh", *arguments]
            )
        case ["bash", "training/launch_judge_vllm.sh"]:
            assert "vllm serve" in dry_run(environ, words)
        case ["ropd", *arguments]:
            context = parsed(typer.main.get_command(app), arguments)
            if {"overrides", "config_name"} <= context.params.keys():
                name, overrides = (context.params[k] for k in ("config_name", "overrides"))
                compose_config(name, overrides or [])
            elif "overrides" in context.params:
                validated(TeacherBuildSettings, read_overrides(context.params["overrides"] or []))
        case ["ray", *arguments]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Ray's own, at its import
                from ray.scripts.scripts import cli

            parsed(cli, arguments)
        case ["source", script]:
            # What training/environment.sh makes.
            assert script in (".venv-gpu/bin/activate", ".venv/bin/activate")
        case ["export", *assignments]:
            assert all(ASSIGNMENT.match(word) for word in assignments)
        case ["uv", "build", "--wheel"] | ["uv", "venv", ".venv-light"]:
            pass  # tests/contract/project/test_wheel.py does both
        case ["uv", "pip", "install", "--python", ".venv-light/bin/python", "dist/ropd-*.whl"]:
            pass  # and this
        case [
            "uv",
            "pip",
            "install",
            "--python",
            ".venv-gpu/bin/python",
            "-e",
            extra,
            "-c",
            pins,
            *_,
        ]:
            assert extra.strip(".[]") in offered_extras()
            assert (REPOSITORY / pins).is_file()
        case _:
            pytest.fail(f"{command.file}: no way to check `{command.text}`")


@functools.cache
def check_configuration(arguments: tuple[str, ...]) -> None:
    """The command line composes and passes the static checks."""
    name, overrides = train.parse(arguments)
    found = examine(compose_config(name, overrides), {}, Reach.STATIC)
    assert [d.line for d in found if d.finding.level is Level.ERROR] == []


def dry_run(environ: dict[str, str], words: Sequence[str]) -> str:
    done = subprocess.run(
        words,
        cwd=REPOSITORY,
        env={**os.environ, "ROPD_SKIP_SETUP": "1", **environ, "ROPD_DRYRUN": "true"},
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def parsed(command: Any, arguments: Sequence[str]) -> Any:
    """The context that a command's own parser makes of its arguments; runs nothing.

    A click command of Ray's, or one of typer, which brings a click of its own.
    """
    rest, context = list(arguments), None
    while hasattr(command, "get_command"):
        context = command.make_context(command.name, rest[:1], parent=context)
        found = command.get_command(context, rest.pop(0))
        assert found is not None, arguments
        command = found
    return command.make_context(command.name, rest, parent=context)


def offered_extras() -> set[str]:
    """What `ropd doctor` tells to install, and `pyproject.toml` defines."""
    from ropd_verl.checks.finding import Subject

    config = compose_config("ropd", ["mode=separate_async", "attention=flash"])
    fixes = [fix for *_, fix in _optional_packages(Subject(config, {}))]
    offered = {m[1] for fix in fixes if (m := re.search(r"the extra `([\w-]+)`", fix))}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    return offered & project["optional-dependencies"].keys()


@pytest.mark.parametrize(
    ("file", "heading"), [("README.md", "## On GPUs"), ("docs/first-run.md", "# A first real run")]
)
def test_the_commands_of_a_first_run_come_after_what_they_need(file: str, heading: str) -> None:
    section = (REPOSITORY / file).read_text().partition(f"{heading}\n")[2]
    blocks = re.findall(r"^(?:```bash\n(.*?)```|## )", section, re.DOTALL | re.MULTILINE)
    if file == "README.md":
        blocks = blocks[: blocks.index("")]  # up to the next heading
    lines = [line for block in blocks for line in block.splitlines()]

    def first(pattern: str) -> int:
        return next(i for i, line in enumerate(lines) if re.search(pattern, line))

    made = first(r"^ROPD_DRYRUN=true bash training/train\.sh( |$)")
    assert made < first(r"^source \.venv-gpu/bin/activate( |$)") < first(r"^ropd ")
    assert first(r"^export .*\bOPENAI_API_KEY=") < first("^ropd teacher build")
    assert first(r"^export .*\bROPD_VERIFIER_MODEL=") < first("^ropd doctor")
    assert first("^ropd doctor") < first(r"^bash training/train\.sh")


def test_a_wrong_option_would_be_noticed() -> None:
    for text in ("ropd doctor --no-such-option", "ropd export somewhere"):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - typer's click is private
            parsed(typer.main.get_command(app), shlex.split(text)[1:])
        assert "UsageError" in {kind.__name__ for kind in type(caught.value).__mro__}


@pytest.mark.parametrize("file", DOCS, ids=lambda f: f.name)
def test_links_lead_somewhere(file: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", file.read_text()):
        assert target.startswith("https://") or (file.parent / target).exists(), target


@pytest.mark.parametrize("file", DOCS, ids=lambda f: f.name)
def test_groups_and_choices_named_in_the_text_exist(file: Path) -> None:
    groups = [p.name for p in (REPOSITORY / "configs").iterdir() if p.is_dir()]
    text = file.read_text()
    for group, choice in re.findall(rf"(?<![.\w])({'|'.join(groups)})=(\w+)", text):
        made = f"configs/{group}/{choice}.yaml"
        # What a page adds itself is run by test_adding_a_method.py.
        assert (REPOSITORY / made).is_file() or f"`{made}`:\n\n```yaml" in text, made


@pytest.mark.parametrize("file", DOCS, ids=lambda f: f.name)
def test_keys_named_in_the_text_exist(file: Path) -> None:
    """Dotted keys in code marks, apart from file names, metrics and placeholders."""
    config = compose_config("ropd", [])
    roots = "|".join(["actor_rollout_ref", "algorithm", "data", "ropd", "trainer", "ray_kwargs"])
    text = re.sub(r"```.*?```", "", file.read_text(), flags=re.DOTALL)
    for key in re.findall(rf"`((?:{roots})\.[\w.]+)(?:=[^`]*)?`", text):
        check_key(config, key)


def check_key(config: object, key: str) -> None:
    from omegaconf import OmegaConf

    from algo.ropd.settings import RopdSettings

    if re.fullmatch(r"ropd\.\w+\.v\d", key):
        return  # a wire format's name
    if key.startswith("ropd.method.") and key != "ropd.method.name":
        options = [method.options.model_fields for method in (METHODS | SIGNALS).values()]
        assert any(key.removeprefix("ropd.method.") in each for each in options), key
        return
    if key.startswith("ropd."):
        node: object = RopdSettings()
        for part in key.split(".")[1:]:
            assert hasattr(node, part), key
            node = getattr(node, part)
        return
    parent, _, leaf = key.rpartition(".")
    assert leaf in OmegaConf.select(config, parent), key  # pyright: ignore[reportArgumentType]
