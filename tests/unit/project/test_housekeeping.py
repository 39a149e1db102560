"""What CONTRIBUTING.md, CHANGELOG.md, the Makefile, the hooks and the workflow name is there."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from importlib.util import find_spec

import pytest
import yaml

from algo.paths import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
MAKEFILE = (REPOSITORY / "Makefile").read_text()
TARGETS = re.findall(r"^(\w+):", MAKEFILE, re.MULTILINE)
CONTRIBUTING = (REPOSITORY / "CONTRIBUTING.md").read_text()
CHANGELOG = (REPOSITORY / "CHANGELOG.md").read_text()


def exists(word: str) -> bool:
    """A path of the repository, or one inside the environment that set-up makes."""
    return word.startswith((".venv/", "$(BIN)/")) or (REPOSITORY / word).exists()


def test_every_target_is_explained_and_runs_what_exists() -> None:
    assert set(TARGETS) == set(re.findall(r"^#   make (\w+) ", MAKEFILE, re.MULTILINE))
    recipes = re.findall(r"^\t(.+)$", MAKEFILE, re.MULTILINE)
    paths = [word for line in recipes for word in line.split() if "/" in word]
    assert len(paths) > 6
    assert [path for path in paths if not exists(path)] == []
    modules = re.findall(r" -m ([\w.]+)", "\n".join(recipes))
    assert [module for module in modules if find_spec(module) is None] == []


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
def test_make_reads_the_makefile() -> None:
    command = ["make", "--dry-run", *TARGETS]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "training/train.sh --config-name ropd_cpu" in done.stdout


def test_the_hooks_fetch_nothing_and_run_the_environments_own_tools() -> None:
    config = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())
    [local] = config["repos"]
    assert local["repo"] == "local"
    assert {hook["language"] for hook in local["hooks"]} == {"system"}
    tools = [re.search(r"\.venv/bin/([\w-]+)", hook["entry"]) for hook in local["hooks"]]
    assert [tool and tool[1] for tool in tools] == ["ruff", "ruff", "lint-imports"]


def test_the_workflow_runs_what_ci_runs_on_every_supported_python() -> None:
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())
    job = workflow["jobs"]["checks"]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands[0] == "bash .ci/run"
    assert (REPOSITORY / ".ci/run").is_file()
    supported = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if "Python :: 3." in c]
    assert job["strategy"]["matrix"]["python"] == supported


def test_contributing_is_one_screen_whose_commands_exist() -> None:
    assert len(CONTRIBUTING.splitlines()) <= 60
    assert set(re.findall(r"`make (\w+)`", CONTRIBUTING)) <= set(TARGETS)
    scripts = re.findall(r"\bbash ([\w./]+)", CONTRIBUTING)
    assert len(scripts) > 2
    named = re.findall(r"`((?:algo|docs|tests|verl|configs)/[\w./]*)`", CONTRIBUTING)
    assert [path for path in (*scripts, *named) if not (REPOSITORY / path).exists()] == []


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(file: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (REPOSITORY / file).read_text()):
        assert target.startswith("https://") or (REPOSITORY / target).exists(), target


def test_what_was_moved_can_be_imported_from_where_it_is_said_to_be() -> None:
    rows = re.findall(r"^\| (.*) \| (.*) \|$", CHANGELOG, re.MULTILINE)[1:]
    assert len(rows) > 15
    for old, new in rows:
        places = re.findall(r"`((?:algo|ropd_verl)\.[\w.]+)`", new)
        if new.startswith("the same under"):
            [room] = places
            places = [f"{room}.{name}" for name in re.findall(r"`(?:algo\.ropd\.)?(\w+)`", old)]
        assert places, new
        assert [module for module in places if find_spec(module) is None] == []
