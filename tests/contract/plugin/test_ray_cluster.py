"""A run beside or on a Ray cluster that is running already: what verl hands to `ray.init`."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from algo.errors import ConfigurationError
from ropd_verl import ray_cluster
from ropd_verl.checks import machine
from ropd_verl.config import compose_config
from tests.builders.checking import subject
from tests.builders.patience import patience

_START_S = 60


@pytest.mark.parametrize("environ", [{"RAY_ADDRESS": "10.0.0.1:6379"}, {"RAY_ADDRESS": "auto"}, {}])
@pytest.mark.parametrize("key", [None, "10.0.0.2:6379"])
@pytest.mark.parametrize("name", ["ropd_cpu", "ropd"])
def test_ray_gets_sizes_or_a_cluster_and_never_both(
    environ: dict[str, str], key: str | None, name: str
) -> None:
    config = compose_config(name, [f"+ray_kwargs.ray_init.address={key}"] if key else [])
    ray_cluster.settle(config, environ)
    ray_init = config.ray_kwargs.ray_init
    named = key or environ.get("RAY_ADDRESS")
    if named is not None:
        assert ray_init.get("address") == key  # RAY_ADDRESS is Ray's own to read
        assert {"num_cpus", "num_gpus"}.isdisjoint(ray_init)
    elif name == "ropd_cpu":
        assert (ray_init.address, ray_init.num_cpus, ray_init.num_gpus) == ("local", 32, 1)
    else:
        assert ray_init.get("address") is None  # as ever: Ray looks for a cluster on this machine


def test_a_run_that_asks_for_a_ray_of_its_own_has_its_size_checked() -> None:
    made = subject("+ray_kwargs.ray_init.address=local", name="ropd_cpu")
    assert not made.on_cluster
    made.config.ray_kwargs.ray_init.num_cpus = 4
    with pytest.raises(ConfigurationError, match=r"ray_kwargs\.ray_init\.num_cpus="):
        machine.check_ray_cpus(made.config)


@pytest.mark.parametrize("lacks", [{"CPU": 2.0}, {"GPU": 0.0}, {"GPU": None}])
def test_a_cluster_that_lacks_resources_is_told_with_the_command_that_has_them(
    lacks: dict[str, float | None],
) -> None:
    config = compose_config("ropd_cpu", [])
    need = machine.ray_cpus_needed(config)
    enough = {"CPU": float(need), "GPU": 1.0}
    ray_cluster.require(enough, config, need)
    resources = {k: v for k, v in (enough | lacks).items() if v is not None}
    with pytest.raises(ConfigurationError, match=rf"--num-cpus={need} --num-gpus=1.*RAY_ADDRESS"):
        ray_cluster.require(resources, config, need)


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """A Ray head of its own with 32 logical CPUs and 1 GPU; gives the variables that find it."""
    folder = tempfile.mkdtemp(prefix="ray")  # sockets lie below it, whose paths must be short
    (Path(folder) / "token").write_text(secrets.token_hex(32))
    variables = os.environ | {
        "RAY_TMPDIR": folder,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": f"{folder}/token",
    }
    variables.pop("RAY_ADDRESS", None)
    command = "--head --block --port=0 --include-dashboard=false --num-cpus=32 --num-gpus=1"
    with open(Path(folder) / "output", "w+") as output:
        head = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", *command.split()],
            env=variables,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            found = Path(folder) / "ray/ray_current_cluster"
            deadline = time.monotonic() + patience(_START_S)
            while not (found.is_file() and found.read_text().strip()):
                assert head.poll() is None, Path(output.name).read_text()
                assert time.monotonic() < deadline, Path(output.name).read_text()
                time.sleep(0.2)
            yield variables | {"CLUSTER": found.read_text().strip()}
        finally:
            _end(head)
            shutil.rmtree(folder, ignore_errors=True)


def _end(head: subprocess.Popen[bytes]) -> None:
    """Stop what `ray start` started, by its process ids."""
    started = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
    with contextlib.suppress(ProcessLookupError):
        head.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        head.wait(patience(15))
    for process in [*started, *([psutil.Process(head.pid)] if head.poll() is None else [])]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


# The run's own way to `ray.init`, through verl's `run_ppo`, with a task that only looks round.
_RUN = """
import json, os
import ray
from ropd_verl import ray_cluster, train, trainer
from ropd_verl.checks.machine import ray_cpus_needed
from ropd_verl.config import compose_config

class Look:
    def run(self, config):
        ray_cluster.require(ray.cluster_resources(), config, ray_cpus_needed(config))
        address = ray.get_runtime_context().gcs_address
        with open(os.environ["LOOKED"], "w") as out:
            json.dump({"address": address, "resources": ray.cluster_resources()}, out)

trainer.RopdTaskRunner = Look
config = compose_config("ropd_cpu", [])
from omegaconf import open_dict
with open_dict(config):
    config.ray_kwargs.ray_init.runtime_env = {"env_vars": {"LOOKED": os.environ["LOOKED"]}}
failure = train._run_ppo(config)
assert failure is None, failure
"""


def _run(variables: dict[str, str], looked: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _RUN],
        env=variables | {"LOOKED": str(looked), "VERL_PLATFORM": "cpu"},
        capture_output=True,
        text=True,
        timeout=patience(100),
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("joins", [True, False])
def test_the_cpu_example_starts_where_a_cluster_runs(
    cluster: dict[str, str], tmp_path: Path, joins: bool
) -> None:
    looked = tmp_path / "looked.json"
    variables = cluster | ({"RAY_ADDRESS": cluster["CLUSTER"]} if joins else {})
    done = _run(variables, looked)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(looked.read_text())
    assert (seen["address"] == cluster["CLUSTER"]) is joins
    assert (seen["resources"]["CPU"], seen["resources"]["GPU"]) == (32.0, 1.0)


@pytest.mark.slow
def test_a_cluster_that_refuses_the_run_is_named_with_the_variables(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    variables = cluster | {"RAY_ADDRESS": cluster["CLUSTER"]}
    variables.pop("RAY_AUTH_MODE")  # Ray turns it on by itself for no named address
    done = _run(variables, tmp_path / "looked.json")
    assert done.returncode != 0
    said = done.stderr.splitlines()[-1]
    assert f"the Ray cluster at {cluster['CLUSTER']} cannot be joined" in said
    assert "RAY_AUTH_MODE=token" in said
