"""`training/launch_judge_vllm.sh`: a judge that is checked, then serves until it is ended."""

from __future__ import annotations

import json
import shlex
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from algo.paths import REPOSITORY
from tests.builders.checkout import Checkout, is_running
from tests.builders.patience import patience

# Serves what judge_ready.py asks for, and starts a worker process as vLLM does.
FAKE_VLLM = f"""#!{sys.executable}
import json, os, subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

option = dict(zip(sys.argv, sys.argv[1:]))
worker = subprocess.Popen(["sleep", "60"])
with open(os.environ["RECORD"], "w") as record:
    record.write(json.dumps({{"argv": sys.argv[1:], "pids": [os.getpid(), worker.pid]}}))

class Handler(BaseHTTPRequestHandler):
    def reply(self, body):
        authorised = self.headers["Authorization"] == "Bearer " + os.environ["VLLM_API_KEY"]
        self.send_response(200 if authorised or self.path == "/health" else 401)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def do_GET(self):
        self.reply({{"data": [{{"id": option["--served-model-name"]}}]}})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert request["response_format"]["type"] == "json_schema"
        self.reply({{"choices": [{{"message": {{"content": os.environ["REPLY"]}}}}]}})

    def log_message(self, *arguments):
        pass

HTTPServer((option["--host"], int(option["--port"])), Handler).serve_forever()
"""


@pytest.fixture
def judge(checkout: Checkout) -> Iterator[Checkout]:
    """A checkout whose vLLM is a stand-in; afterwards nothing of it may be left."""
    checkout.stub("vllm", FAKE_VLLM)
    checkout.stub("python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    checkout.environ |= {
        "ROPD_SKIP_SETUP": "1",
        "ROPD_JUDGE_MODEL_PATH": "/models/a judge",
        "ROPD_JUDGE_PORT": str(free_port()),
        "ROPD_JUDGE_API_KEY": "sk-secret",
        "REPLY": '{"judgement": [true]}',
    }
    yield checkout
    record = Path(checkout.environ["RECORD"])
    if record.exists():
        assert not [pid for pid in json.loads(record.read_text())["pids"] if is_running(pid)]


def test_judge_dry_run_prints_the_command_and_no_key(judge: Checkout) -> None:
    done = judge.run("training/launch_judge_vllm.sh", "--seed", "1", ROPD_DRYRUN="true")
    assert done.returncode == 0, done.stderr
    command = done.stdout.splitlines()[0]
    assert command.startswith(r"vllm serve /models/a\ judge --served-model-name a\ judge ")
    assert " --host 127.0.0.1 " in command
    assert command.rstrip().endswith("--enable-prefix-caching --seed 1")
    assert "sk-secret" not in done.stdout + done.stderr
    assert not (judge.root / ".venv-judge").exists()


def test_judge_settings_may_stand_in_the_env_file(judge: Checkout) -> None:
    del judge.environ["ROPD_JUDGE_MODEL_PATH"]
    (judge.root / ".env").write_text('ROPD_JUDGE_MODEL_PATH="/models/another judge"  # big\n')
    done = judge.run("training/launch_judge_vllm.sh", ROPD_DRYRUN="true")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(r"vllm serve /models/another\ judge ")


def test_judge_context_holds_every_answer_at_full_length(judge: Checkout) -> None:
    done = judge.run("training/launch_judge_vllm.sh", ROPD_DRYRUN="true")
    words = done.stdout.split()
    context = int(words[words.index("--max-model-len") + 1])
    assert context > 12 * 8192 + 2048 + 8192
    # The run reckons with as much, unless the same variable says otherwise.
    run = (REPOSITORY / "configs/judge/local_vllm.yaml").read_text()
    assert f"context_tokens: ${{oc.env:ROPD_JUDGE_MAX_MODEL_LEN,{context}}}" in run


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"ROPD_JUDGE_MODEL_PATH": ""}, "ROPD_JUDGE_MODEL_PATH"),
        ({"ROPD_JUDGE_HOST": "0.0.0.0", "ROPD_JUDGE_API_KEY": ""}, "ROPD_JUDGE_API_KEY"),
    ],
)
def test_judge_settings_that_cannot_work_are_named(
    judge: Checkout, environ: dict[str, str], named: str
) -> None:
    failed = judge.run("training/launch_judge_vllm.sh", ROPD_DRYRUN="true", **environ)
    assert failed.returncode == 1
    assert named in failed.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_judge_is_checked_then_serves_until_a_signal_ends_all_of_it(
    judge: Checkout, number: signal.Signals
) -> None:
    process = judge.start("training/launch_judge_vllm.sh")
    assert process.stderr is not None
    line = process.stderr.readline()
    assert "the judge answers" in line, line + process.stderr.read()
    told = shlex.split(line.partition("judge=local_vllm:")[2].partition(";")[0])
    url = f"http://127.0.0.1:{judge.environ['ROPD_JUDGE_PORT']}/v1"
    assert told == [f"ROPD_VLLM_BASE_URL={url}", "ROPD_VLLM_MODEL=a judge"]
    assert "ropd.judge.rubricator.api_key_env=ROPD_JUDGE_API_KEY" in line
    assert "sk-secret" not in line
    process.send_signal(number)
    process.communicate(timeout=patience(30))
    assert process.returncode == 128 + number
    record = json.loads(Path(judge.environ["RECORD"]).read_text())
    assert "sk-secret" not in " ".join(record["argv"])


def test_judge_with_another_context_tells_the_run(judge: Checkout) -> None:
    process = judge.start("training/launch_judge_vllm.sh", ROPD_JUDGE_MAX_MODEL_LEN="32768")
    assert process.stderr is not None
    line = process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=patience(30))
    assert " ROPD_JUDGE_MAX_MODEL_LEN=32768" in line


@pytest.mark.parametrize(
    ("reply", "named"), [("<think>hm</think> yes", "--reasoning-parser"), ("[true]", "JSON schema")]
)
def test_judge_that_ignores_the_schema_is_refused(judge: Checkout, reply: str, named: str) -> None:
    failed = judge.run("training/launch_judge_vllm.sh", REPLY=reply)
    assert failed.returncode == 1
    assert named in failed.stderr


def test_judge_that_dies_while_starting_ends_the_wait(judge: Checkout) -> None:
    judge.stub("vllm", "#!/bin/sh\necho 'no GPU' >&2\nexit 3\n")
    failed = judge.run("training/launch_judge_vllm.sh")
    assert failed.returncode == 1
    assert "ended while starting" in failed.stderr


def test_judge_that_never_answers_is_ended(judge: Checkout) -> None:
    judge.stub("vllm", "#!/bin/sh\nexec sleep 60\n")
    failed = judge.run("training/launch_judge_vllm.sh", ROPD_JUDGE_STARTUP_TIMEOUT_S="2")
    assert failed.returncode == 1
    assert "ROPD_JUDGE_STARTUP_TIMEOUT_S" in failed.stderr


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
