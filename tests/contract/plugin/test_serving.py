"""A model directory behind the OpenAI API: its words, refusals by name, nothing left running."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from aiohttp import ClientSession
from aiohttp.test_utils import TestServer
from transformers import AutoModelForCausalLM

from algo.paths import REPOSITORY
from examples.arithmetic.student import WarmStart, build_model, build_tokenizer
from ropd_verl.cpu.serve import ChatServer
from ropd_verl.serving import server_command
from tests.builders.evaluating import write_set
from tests.builders.patience import patience, wait_until
from tests.builders.teaching import environment

QUESTION = [{"role": "user", "content": "12+34"}]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("serving") / "model"
    torch.manual_seed(0)
    build_model(WarmStart()).save_pretrained(path)
    build_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
async def url(model_dir: Path) -> AsyncIterator[str]:
    server = TestServer(ChatServer(str(model_dir), "tiny").application())
    await server.start_server()
    yield str(server.make_url("")).rstrip("/")
    await server.close()


async def ask(url: str, **body: Any) -> tuple[int, dict[str, Any]]:
    body = {"model": "tiny", "messages": QUESTION, **body}
    async with (
        ClientSession() as session,
        session.post(f"{url}/v1/chat/completions", json=body) as response,
    ):
        return response.status, await response.json()


async def test_greedy_words_are_the_models(url: str, model_dir: Path) -> None:
    status, reply = await ask(url, temperature=0.0, max_tokens=12)
    assert status == 200
    tokenizer: Any = build_tokenizer()
    prompt = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, tokenize=False)
    ids = tokenizer.encode(prompt, add_special_tokens=False, return_tensors="pt")
    model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    expected = model.generate(ids, do_sample=False, max_new_tokens=12)[0, ids.shape[1] :]
    [choice] = reply["choices"]
    assert choice["message"]["content"] == tokenizer.decode(expected, skip_special_tokens=True)
    assert reply["usage"] == {
        "prompt_tokens": ids.shape[1],
        "completion_tokens": len(expected),
        "total_tokens": ids.shape[1] + len(expected),
    }
    assert choice["finish_reason"] == "length"


async def test_seeds_repeat_and_differ(url: str) -> None:
    async def said(seed: int) -> str:
        _, reply = await ask(url, seed=seed, max_tokens=12)
        return reply["choices"][0]["message"]["content"]

    assert await said(1) == await said(1)
    assert len({await said(seed) for seed in range(5)}) > 1


@pytest.mark.parametrize(
    ("body", "said", "code"),
    [
        ({"stream": True}, "stream=True is not supported", None),
        ({"n": 3}, "n=3 is not supported", None),
        ({"response_format": {"type": "json_object"}}, "response_format", None),
        ({"tools": []}, "tools", None),
        ({"stop": ["x"]}, "stop", None),
        ({"model": "other"}, "no model 'other', only 'tiny'", None),
        ({"messages": []}, "no chat message", None),
        ({"temperature": -1}, "temperature must not be negative", None),
        ({"max_tokens": 0}, "max_tokens must be at least 1", None),
        ({"max_tokens": 100_000}, "maximum context length", "context_length_exceeded"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(
    url: str, body: dict[str, Any], said: str, code: str | None
) -> None:
    status, reply = await ask(url, **body)
    assert status == 400
    assert said in reply["error"]["message"]
    assert reply["error"]["code"] == code


def test_vllm_serves_under_the_same_name_and_ends_with_its_parent(tmp_path: Path) -> None:
    command = server_command(tmp_path, "ropd_cpu/001 step 3", 8123, vllm=True)
    assert command[:2] == [sys.executable, "-c"]
    assert command[3:6] == ["vllm", "serve", str(tmp_path)]
    served = dict(zip(command[6::2], command[7::2], strict=True))
    assert served["--served-model-name"] == "ropd_cpu/001 step 3"
    assert served["--port"] == "8123"
    # The same wrapper around another program: killed with the process that started it.
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys, time; p = subprocess.Popen(sys.argv[1:]); print(p.pid, "
            "flush=True); time.sleep(60)",
            *(*command[:3], "sleep", "60"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    wait_until(lambda: child.name() == "sleep", 30)
    parent.kill()
    parent.wait(patience(30))
    child.wait(patience(30))


def eval_words(model: Path, file: Path, out: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "algo.cli", "eval", "run", "--set", f"own={file}"),
        *("--checkpoint", str(model), "--out", str(out), "--samples", "4"),
        *("model.max_tokens=8", "model.temperature=1.0", "seed=0"),
    ]


def plugin_environment() -> dict[str, str]:
    path = f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'verl'}"
    return environment() | {"PYTHONPATH": path}


def servers_of(file: Path) -> list[psutil.Process]:
    """The servers of the model directory `file`."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if "ropd_verl.cpu.serve" in words and str(file) in words:
            found.append(process)
    return found


def test_a_model_directory_is_evaluated_and_its_server_ends(
    model_dir: Path, tmp_path: Path
) -> None:
    file = write_set(tmp_path / "own.parquet", {"12+34": "46", "1+1": "2"})
    out = tmp_path / "out"
    done = subprocess.run(
        eval_words(model_dir, file, out),
        env=plugin_environment(),
        capture_output=True,
        text=True,
        timeout=patience(150),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "2/2 problems, 8/8 answers" in done.stdout
    assert json.loads((out / "results.json").read_text())["protocol"]["model"] == "model"
    assert not servers_of(model_dir)
    assert re.search(r'"model": "model"', (out / "server.log").read_text())


def test_a_killed_evaluation_leaves_no_server(model_dir: Path, tmp_path: Path) -> None:
    file = write_set(tmp_path / "own.parquet", {f"{i}+34": "46" for i in range(400)})
    process = subprocess.Popen(
        eval_words(model_dir, file, tmp_path / "out"),
        env=plugin_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: servers_of(model_dir) or process.poll() is not None, 120)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait(patience(30))
    wait_until(lambda: not servers_of(model_dir), 60, "the server outlives its evaluation")


def test_what_is_no_checkpoint_is_said_in_one_line(tmp_path: Path) -> None:
    file = write_set(tmp_path / "own.parquet", {"1+1": "2"})
    done = subprocess.run(
        eval_words(tmp_path, file, tmp_path / "out"),
        env=plugin_environment(),
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )
    assert done.returncode == 1
    assert "neither a run" in done.stderr
    assert done.stderr.count("\n") == 1
