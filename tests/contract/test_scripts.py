"""The shell scripts, run for real with stand-ins for what they start (python, uv, vllm)."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

import pytest
from dotenv import dotenv_values

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(
    path
    for path in [*ROOT.glob(".ci/*"), *ROOT.rglob("*.sh")]
    if not path.relative_to(ROOT).parts[0].startswith((".venv", ".cache", ".git"))
)

# Appends its arguments as one JSON line, then exits with $EXIT_CODE.
RECORDING_PYTHON = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["RECORD"], "a") as record:
    record.write(json.dumps(sys.argv[1:]) + "\\n")
sys.exit(int(os.environ.get("EXIT_CODE", "0")))
"""

# `uv venv` makes a folder with the recording python in it; $UV_RESOLVES is what torch resolves to;
# $UV_FAILS makes the installation fail.
FAKE_UV = """#!/bin/bash
[[ $* == "venv --help" ]] && { echo "      --clear"; exit 0; }
[[ $1 == --directory ]] && shift 2
printf '%s\\n' "$*" >>"$RECORD_UV"
case "$1 $2" in
  "venv "*) mkdir -p "${@: -1}/bin" && cp "$PYTHON_STUB" "${@: -1}/bin/python" ;;
  "pip compile") cat >/dev/null; printf '%s\\n' "${UV_RESOLVES:-torch==2.13.0+cpu}" ;;
  "pip install") [[ -z ${UV_FAILS:-} ]] || { echo "uv: no such package" >&2; exit 2; } ;;
esac
"""


@dataclass
class Checkout:
    """A copy of the scripts under a path with spaces, and the folder that stands first on PATH."""

    root: Path
    stubs: Path
    elsewhere: Path
    environ: dict[str, str] = field(default_factory=dict)

    def stub(self, name: str, text: str) -> Path:
        path = self.stubs / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def start(self, script: str, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(self.root / script), *arguments],
            cwd=self.elsewhere,
            env=self.environ | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        process = self.start(script, *arguments, **environ)
        stdout, stderr = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def recorded(self) -> list[list[str]]:
        record = Path(self.environ["RECORD"])
        return [json.loads(line) for line in record.read_text().splitlines()]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    base = tmp_path / "a path with spaces"
    checkout = Checkout(base / "repo", base / "stubs", base / "elsewhere")
    for folder in ("training", "constraints"):
        shutil.copytree(ROOT / folder, checkout.root / folder)
    shutil.copy(ROOT / "pyproject.toml", checkout.root)
    checkout.stubs.mkdir()
    checkout.elsewhere.mkdir()
    python = checkout.stub("python", RECORDING_PYTHON)
    checkout.stub("nvidia-smi", "#!/bin/sh\nexit 9\n")
    checkout.environ = {
        "PATH": f"{checkout.stubs}:/usr/bin:/bin",
        "HOME": str(base),
        "RECORD": str(base / "python.jsonl"),
        "RECORD_UV": str(base / "uv.txt"),
        "PYTHON_STUB": str(python),
    }
    return checkout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    command = [str(Path(sys.executable).parent / "shellcheck"), "-x", "-s", "bash", str(script)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stdout


# --- .env ---------------------------------------------------------------------------------------


def read_env(checkout: Checkout, text: str, **environ: str) -> dict[str, str]:
    """What `ropd_read_env` exports of the lines for KEY and SET..."""
    (checkout.root / ".env").write_text(text)
    script = checkout.root / "load.sh"
    script.write_text(
        'set -euo pipefail; source "$(dirname "$0")/training/environment.sh"\n'
        "ropd_read_env 'KEY|SET|EMPTY|UNSET'; env -0\n"
    )
    loaded = checkout.run("load.sh", **environ)
    assert loaded.returncode == 0, loaded.stderr
    pairs = (entry.partition("=") for entry in loaded.stdout.split("\0") if entry)
    return {name: value for name, _, value in pairs}


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("KEY=plain", "plain"),
        ("  export KEY = spaced out  ", "spaced out"),
        ("KEY=a=b==", "a=b=="),
        ("KEY=", ""),
        ("KEY= # nothing", ""),
        ("KEY=before # after", "before"),
        ("KEY=with#hash", "with#hash"),
        ("KEY=it's", "it's"),
        (r"KEY=back\slash", r"back\slash"),
        ("KEY='single $HOME # kept \"'  # comment", 'single $HOME # kept "'),
        ('KEY="double # kept"', "double # kept"),
        (
            "KEY=$(touch executed) `touch executed` $HOME",
            "$(touch executed) `touch executed` $HOME",
        ),
        ("KEY=carriage return\r", "carriage return"),
    ],
)
def test_env_file_value(checkout: Checkout, line: str, value: str) -> None:
    text = f"# a comment\n\n{line}"
    assert read_env(checkout, text)["KEY"] == value
    # Python reads the whole file with python-dotenv, and must find the same in it.
    assert dotenv_values(stream=StringIO(text), interpolate=False)["KEY"] == value
    assert not (checkout.elsewhere / "executed").exists()


def test_shell_wins_over_env_file_even_with_an_empty_value(checkout: Checkout) -> None:
    text = "SET=file\nEMPTY=file\nUNSET=file\n"
    loaded = read_env(checkout, text, SET="shell", EMPTY="")
    assert (loaded["SET"], loaded["EMPTY"], loaded["UNSET"]) == ("shell", "", "file")


def test_what_only_python_needs_is_left_to_it(checkout: Checkout) -> None:
    text = 'OTHER=1\nMY_KEY=2\nOTHER="a \\"quote\\""\nno assignment\nKEY=found\n'
    loaded = read_env(checkout, text)
    assert loaded["KEY"] == "found"
    assert not {"OTHER", "MY_KEY"} & loaded.keys()


@pytest.mark.parametrize("value", ['"secret', "'secret' x", r'"sec\"secret"'])
def test_a_value_that_bash_cannot_read_names_the_line_and_stays_secret(
    checkout: Checkout, value: str
) -> None:
    (checkout.root / ".env").write_text(f"GOOD=1\nROPD_VENV={value}\n")
    failed = checkout.run("training/train.sh", ROPD_SKIP_SETUP="1", ROPD_EXTRA="cpu")
    assert failed.returncode == 1
    assert "line 2: give ROPD_VENV" in failed.stderr
    assert "secret" not in failed.stderr


def test_the_setup_takes_its_settings_from_the_env_file(checkout: Checkout) -> None:
    checkout.stub("uv", FAKE_UV.replace("shift 2\n", 'shift 2; env >"$RECORD_UV.env"\n'))
    (checkout.root / ".env").write_text(
        "ROPD_EXTRA=cpu\nROPD_VENV='an environment'\nPIP_INDEX_URL=https://mirror.invalid/simple\n"
        "OPENAI_API_KEY=for-python\n"
    )
    done = checkout.run("training/train.sh")
    assert done.returncode == 0, done.stderr
    assert (checkout.elsewhere / "an environment/.ropd-setup").exists()
    environ = Path(checkout.environ["RECORD_UV"] + ".env").read_text()
    assert "UV_DEFAULT_INDEX=https://mirror.invalid/simple" in environ
    assert "for-python" not in environ


# --- train.sh -----------------------------------------------------------------------------------


def test_train_passes_arguments_and_exit_code_from_another_directory(checkout: Checkout) -> None:
    arguments = ["--config-name", "ropd_cpu", "trainer.total_training_steps=5", "x='a b'", ""]
    done = checkout.run("training/train.sh", *arguments, ROPD_SKIP_SETUP="1", EXIT_CODE="37")
    assert done.returncode == 37
    assert done.stderr == ""
    assert checkout.recorded() == [["-P", "-m", "ropd_verl.train", *arguments]]


def test_sigterm_and_sigint_reach_the_trainer(checkout: Checkout) -> None:
    checkout.stub(
        "python",
        f"#!{sys.executable}\n"
        "import signal, sys, time\n"
        "for number in (signal.SIGTERM, signal.SIGINT):\n"
        "    signal.signal(number, lambda number, frame: sys.exit(100 + number))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n",
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        process = checkout.start("training/train.sh", ROPD_SKIP_SETUP="1", ROPD_EXTRA="cpu")
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        process.communicate(timeout=30)
        assert process.returncode == 100 + number


def test_without_gpu_the_gpu_configuration_names_the_ways_out(checkout: Checkout) -> None:
    failed = checkout.run("training/train.sh", ROPD_SKIP_SETUP="1")
    assert failed.returncode == 1
    assert all(way in failed.stderr for way in ("ropd_cpu", "ROPD_DRYRUN=true", "ROPD_EXTRA=gpu"))


@pytest.mark.parametrize(
    ("arguments", "environ", "gpu", "extras"),
    [
        (["--config-name", "ropd_cpu"], {}, True, ".[cpu,batch,math,dev]"),
        (["--config-name=ropd_cpu"], {}, False, ".[cpu,batch,math,dev]"),
        (["-cn", "ropd_cpu"], {}, False, ".[cpu,batch,math,dev]"),
        ([], {}, True, ".[gpu,batch,math]"),
        ([], {"ROPD_DRYRUN": "true"}, False, ".[cpu,batch,math,dev]"),
        ([], {"ROPD_DRYRUN": "true"}, True, ".[gpu,batch,math]"),
        ([], {"ROPD_EXTRA": "gpu"}, False, ".[gpu,batch,math]"),
        ([], {"ROPD_EXTRA": "cpu"}, True, ".[cpu,batch,math,dev]"),
    ],
)
def test_environment_follows_configuration_and_machine(
    checkout: Checkout, arguments: list[str], environ: dict[str, str], gpu: bool, extras: str
) -> None:
    checkout.stub("uv", FAKE_UV)
    if gpu:
        checkout.stub("nvidia-smi", "#!/bin/sh\necho 'GPU 0: NVIDIA H200 (UUID: GPU-0)'\n")
    done = checkout.run("training/train.sh", *arguments, **environ)
    assert done.returncode == 0, done.stderr
    assert f"--editable {extras} " in Path(checkout.environ["RECORD_UV"]).read_text()


# --- environment.sh -----------------------------------------------------------------------------


def uv_calls(checkout: Checkout) -> list[str]:
    return Path(checkout.environ["RECORD_UV"]).read_text().splitlines()


def test_second_start_installs_nothing_until_the_pins_change(checkout: Checkout) -> None:
    checkout.stub("uv", FAKE_UV)
    for _ in range(2):
        assert checkout.run("training/train.sh", ROPD_EXTRA="cpu").returncode == 0
    assert [call.split()[:2] for call in uv_calls(checkout)] == [
        ["venv", "--quiet"],
        ["pip", "compile"],
        ["pip", "install"],
    ]
    with (checkout.root / "constraints/cpu.txt").open("a") as pins:
        pins.write("six==1.17.0\n")
    assert checkout.run("training/train.sh", ROPD_EXTRA="cpu").returncode == 0
    assert [call.split()[1] for call in uv_calls(checkout)[3:]] == ["compile", "install"]


def test_two_starts_at_once_install_once(checkout: Checkout) -> None:
    checkout.stub("uv", FAKE_UV.replace('"pip install")', '"pip install") sleep 1;'))
    starts = [checkout.start("training/train.sh", ROPD_EXTRA="cpu") for _ in range(2)]
    for start in starts:
        start.communicate(timeout=60)
    assert [start.returncode for start in starts] == [0, 0]
    assert len([call for call in uv_calls(checkout) if call.startswith("pip install")]) == 1


def test_failed_installation_is_tried_again(checkout: Checkout) -> None:
    checkout.stub("uv", FAKE_UV)
    failed = checkout.run("training/train.sh", ROPD_EXTRA="cpu", UV_FAILS="1")
    assert failed.returncode == 1
    assert "uv: no such package" in failed.stderr
    assert not Path(checkout.environ["RECORD"]).exists()
    assert checkout.run("training/train.sh", ROPD_EXTRA="cpu").returncode == 0


def test_cuda_in_the_cpu_environment_is_an_error(checkout: Checkout) -> None:
    checkout.stub("uv", FAKE_UV)
    failed = checkout.run("training/train.sh", ROPD_EXTRA="cpu", EXIT_CODE="1")
    assert failed.returncode == 1
    assert "PIP_FIND_LINKS" in failed.stderr
    assert not (checkout.root / ".venv/.ropd-setup").exists()


@pytest.mark.parametrize(
    ("resolves", "asks_for_cpu_builds"),
    [("torch==2.13.0+cpu", False), ("nvidia-cublas==13.1.1\ntorch==2.13.0", True)],
)
def test_cpu_builds_of_torch_are_asked_for_where_the_sources_offer_cuda_only(
    checkout: Checkout, resolves: str, asks_for_cpu_builds: bool
) -> None:
    checkout.stub("uv", FAKE_UV)
    assert checkout.run("training/train.sh", ROPD_EXTRA="cpu", UV_RESOLVES=resolves).returncode == 0
    assert ("--torch-backend cpu" in uv_calls(checkout)[-1]) is asks_for_cpu_builds


def test_uv_is_given_the_sources_of_pip(checkout: Checkout) -> None:
    checkout.stub("uv", FAKE_UV.replace("shift 2\n", 'shift 2; env >"$RECORD_UV.env"\n'))
    done = checkout.run(
        "training/train.sh",
        ROPD_EXTRA="cpu",
        PIP_FIND_LINKS="/wheels /more",
        PIP_INDEX_URL="https://mirror.invalid/simple",
        PIP_EXTRA_INDEX_URL="https://extra.invalid/simple",
    )
    assert done.returncode == 0, done.stderr
    environ = Path(checkout.environ["RECORD_UV"] + ".env").read_text().splitlines()
    assert {
        "UV_FIND_LINKS=/wheels,/more",
        "UV_DEFAULT_INDEX=https://mirror.invalid/simple",
        "UV_INDEX=https://extra.invalid/simple",
        "UV_INDEX_STRATEGY=unsafe-best-match",
    } <= set(environ)


def test_a_folder_that_is_no_environment_is_never_cleared(checkout: Checkout) -> None:
    checkout.stub("uv", FAKE_UV)
    checkout.run("training/train.sh", ROPD_EXTRA="cpu", ROPD_VENV=str(checkout.elsewhere))
    assert "--clear" not in uv_calls(checkout)[0].split()


def test_relative_environment_folder_is_the_callers(checkout: Checkout) -> None:
    checkout.stub("uv", FAKE_UV)
    done = checkout.run("training/train.sh", ROPD_EXTRA="cpu", ROPD_VENV="mine")
    assert done.returncode == 0, done.stderr
    assert (checkout.elsewhere / "mine/.ropd-setup").exists()
    assert f"--python {checkout.elsewhere}/mine/bin/python" in uv_calls(checkout)[-1]


def test_sigterm_during_setup_ends_the_installation(checkout: Checkout) -> None:
    installing = checkout.elsewhere / "installing"
    checkout.stub(
        "uv",
        FAKE_UV.replace(
            '"pip install")', f'"pip install") echo $$ >"{installing}"; exec sleep 60;'
        ),
    )
    process = checkout.start("training/train.sh", ROPD_EXTRA="cpu")
    pid = int(wait_for_text(installing))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert not is_running(pid)
    assert not (checkout.root / ".venv/.ropd-setup").exists()


# --- launch_judge_vllm.sh -----------------------------------------------------------------------

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
    run = (ROOT / "configs/judge/local_vllm.yaml").read_text()
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
    process.communicate(timeout=30)
    assert process.returncode == 128 + number
    record = json.loads(Path(judge.environ["RECORD"]).read_text())
    assert "sk-secret" not in " ".join(record["argv"])


def test_judge_with_another_context_tells_the_run(judge: Checkout) -> None:
    process = judge.start("training/launch_judge_vllm.sh", ROPD_JUDGE_MAX_MODEL_LEN="32768")
    assert process.stderr is not None
    line = process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
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


# --- helpers ------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def is_running(pid: int) -> bool:
    """True for a process that still runs; a zombie that nobody has waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, timeout=10
    ).stdout
    return bool(state.strip()) and not state.startswith("Z")


def wait_for_text(path: Path) -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if path.exists() and (text := path.read_text()):
            return text
        time.sleep(0.02)
    raise AssertionError(f"{path} was not written")
