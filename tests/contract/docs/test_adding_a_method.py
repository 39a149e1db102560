"""The method that docs/methods.md adds is added to a copy of the tree, as written there, and run.

It goes through the engine against a judge over real HTTP, through the journal, `ropd replay` and
`ropd report`, and its configuration composes. Nothing but the files that the page names changes.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from algo.methods.registry import METHODS, SIGNALS
from algo.paths import REPOSITORY

PAGE = (REPOSITORY / "docs/methods.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("\n## Adding a method\n")[2].partition("\n## ")[0]
BLOCKS = {
    file: (language, text)
    for file, language, text in re.findall(
        r"`([\w./]+)`:\n\n```(\w+)\n(.*?)^```$", SECTION, re.DOTALL | re.MULTILINE
    )
}
FILES = ("algo/methods/yesno.py", "configs/method/yesno.yaml", "prompts/yesno.txt")
REGISTRY = "algo/methods/registry.py"


def git(tree: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    command = ["git", "-C", str(tree), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def patched(text: str, diff: str) -> str:
    """`text` with each hunk of `diff` (blank lines between them) put where its context stands."""
    for hunk in diff.split("\n\n"):
        lines = hunk.strip("\n").splitlines()
        old = "\n".join(line[1:] for line in lines if line.startswith(" "))
        assert text.count(old) == 1, f"the context of this hunk is not in the file once:\n{hunk}"
        text = text.replace(old, "\n".join(line[1:] for line in lines))
    return text


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the product to which the page's pieces were added, the copy itself committed."""
    root = tmp_path_factory.mktemp("tree")
    for folder in ("algo", "configs", "prompts", "training", "verl"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / folder, root / folder, ignore=ignored)
    for file in ("pyproject.toml", ".gitignore"):
        shutil.copy(REPOSITORY / file, root / file)
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=before")
    for file in FILES:
        (root / file).write_text(BLOCKS[file][1], encoding="utf-8")
    registry = root / REGISTRY
    registry.write_text(patched(registry.read_text(), BLOCKS[REGISTRY][1]))
    return root


async def run(tree: Path, *command: str, **variables: str) -> str:
    """What a command of the copied tree prints; it finds no other tree's code."""
    source = os.pathsep.join((str(tree), str(tree / "verl")))
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=tree,
        env={**os.environ, "PYTHONPATH": source, **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


@asynccontextmanager
async def verifier() -> AsyncIterator[str]:
    """Says yes to answers that hold the word right, breaks its format once, and refuses refusable
    questions; gives the base URL. It reads nothing but the prompt."""
    garbled = iter(["Yes, I think so."])

    async def chat(request: web.Request) -> web.Response:
        body = await request.json()
        prompt = body["messages"][0]["content"]
        answer = re.search(r"<<<BEGIN ANSWER (\w{16})>>>\n(.*)\n<<<END ANSWER \1>>>", prompt)
        assert answer is not None
        if "refusable" in prompt:
            text = "I'm sorry, but I can't help with that."
        else:
            reply = {"schema_version": "ropd.yesno.v1", "yes": "right" in answer[2]}
            text = next(garbled, json.dumps(reply))
        message = {"message": {"content": text}, "finish_reason": "stop"}
        return web.json_response({"model": body["model"], "choices": [message]})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    server = TestServer(app)
    await server.start_server()
    try:
        yield str(server.make_url("/v1"))
    finally:
        await server.close()


JUDGE_TWO_GROUPS = """
import asyncio, json, os, sys
import algo
from algo.errors import JudgeFailure
from algo.judge.group import Group, Rollout
from algo.methods.registry import build_engine, load_settings

assert algo.__file__.startswith(os.getcwd())
role = {"model": "fake", "base_url": sys.argv[1], "api_key_env": None}
settings = load_settings({
    "method": {"name": "yesno"}, "journal_dir": sys.argv[2],
    "judge": {"verifier": role, "limits": {"backoff_s": 0.01, "retries": {"refusal": 0}}},
})
texts = ("a right answer", "another", "<think>a right")
rollouts = [Rollout(text, True) for text in texts]

async def main():
    async with build_engine(settings, {}) as engine:
        question = [{"role": "user", "content": "2+3=?"}]
        scored = await engine.score_group(Group("g1", question, rollouts, step=1))
        unanswered = [Rollout("", True)] * 2
        await engine.score_group(Group("g2", question, unanswered, step=1))
        try:
            await engine.score_group(
                Group("g3", [{"role": "user", "content": "refusable"}], rollouts, step=1)
            )
        except JudgeFailure as failure:
            print(json.dumps([scored.scores, failure.kind, engine.metrics()]))

asyncio.run(main())
"""


async def test_it_judges_fails_replays_and_is_reported(tree: Path, tmp_path: Path) -> None:
    journal, page = str(tmp_path / "journal"), tmp_path / "report.html"
    async with verifier() as url:
        printed = await run(tree, sys.executable, "-c", JUDGE_TWO_GROUPS, url, journal)
    scores, kind, metrics = json.loads(printed)
    assert scores == [1.0, 0.0, 0.0]  # the third holds no answer: by rule, without a call
    assert kind == "refusal"
    assert metrics["ropd/judge/retries/unparseable"] == 1.0
    assert (metrics["ropd/groups_judged"], metrics["ropd/groups_failed"]) == (2.0, 1.0)
    assert metrics["ropd/judge/verifier_latency_p50_s"] > 0

    ropd = (sys.executable, "-m", "algo.cli")
    replayed = await run(tree, *ropd, "replay", journal)
    assert "2 judged groups replayed, 0 differ; 1 failed groups" in replayed
    await run(tree, *ropd, "report", journal, "--out", str(page))
    shown = page.read_text(encoding="utf-8")
    assert "yesno" in shown
    assert "a right answer" in shown


async def test_its_command_composes_and_finds_nothing_wrong_with_the_method(tree: Path) -> None:
    [line] = re.findall(r"^```sh\n(.*?)\n```$", SECTION, re.MULTILINE)
    variable, *command = line.split()
    name, _, value = variable.partition("=")
    printed = await run(tree, *command, **{name: value, "ROPD_SKIP_SETUP": "1"})
    assert "ropd.method.name: yesno" in printed
    assert not re.search(r"^error +(method|context|teacher index):", printed, re.MULTILINE)
    assert "ropd.judge.verifier.model" in printed


def test_nothing_changes_but_the_files_that_the_page_names(tree: Path) -> None:
    git(tree, "add", "--all")
    changed = git(tree, "diff", "--cached", "--name-status").split("\n")
    assert sorted(filter(None, changed)) == sorted([*(f"A\t{f}" for f in FILES), f"M\t{REGISTRY}"])
    assert BLOCKS.keys() == {*FILES, REGISTRY}
    added = git(tree, "diff", "--cached", "--numstat", "--", REGISTRY).split()[:2]
    assert added == ["2", "0"]


def test_it_is_clean_and_about_thirty_lines(tree: Path) -> None:
    files = [str(tree / file) for file in (FILES[0], REGISTRY)]
    for check in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *check, *files]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
    assert len(own_lines(BLOCKS[FILES[0]][1])) <= 36


def own_lines(code: str) -> Sequence[str]:
    """The lines behind the imports, without blank ones."""
    body = code[code.index("\nclass ") :]
    return [line for line in body.splitlines() if line.strip()]


def test_the_page_names_every_method() -> None:
    table = PAGE.partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [*METHODS, *SIGNALS]
