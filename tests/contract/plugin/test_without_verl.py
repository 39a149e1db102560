"""Without verl, configurations compose over a stand-in, and checks and plans say the same."""

from __future__ import annotations

import shlex
import sys

import pytest
from typer.testing import CliRunner

from algo.cli import app
from algo.errors import ConfigurationError
from ropd_verl import train
from ropd_verl.checks import doctor, inputs
from ropd_verl.checks.finding import Level, Reach
from ropd_verl.config import CONFIG_DIR, compose_config
from ropd_verl.installation import require_verl

GROUPS = {
    folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
    for folder in CONFIG_DIR.iterdir()
    if folder.is_dir()
}
ABLATIONS = GROUPS.pop("ablation")  # of the method ROPD: no other takes their settings
# Every choice of every group at least once.
CHOICES = [
    [f"{group}={choices[k % len(choices)]}" for group, choices in GROUPS.items()]
    for k in range(max(map(len, GROUPS.values())))
]
CASES = [
    *(("ropd", choice) for choice in CHOICES),
    *(("ropd", [f"ablation={ablation}"]) for ablation in ABLATIONS),
    ("ropd_cpu", []),
]


@pytest.fixture
def without_verl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "verl", None)


def found(name: str, overrides: list[str]) -> list[str]:
    """What the checks say that need neither verl nor files."""
    examined = doctor.examine(compose_config(name, overrides), {}, Reach.STATIC)
    return [d.line for d in examined if not d.check.needs_verl]


@pytest.mark.parametrize(("name", "overrides"), CASES, ids=str)
def test_checks_that_need_no_verl_say_the_same(
    name: str, overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_verl = found(name, overrides)
    monkeypatch.setitem(sys.modules, "verl", None)
    assert found(name, overrides) == with_verl
    assert len(with_verl) >= 5


def test_what_is_left_out_is_one_line(without_verl: None) -> None:
    diagnoses = list(doctor.examine(compose_config("ropd", []), {}, Reach.STATIC))
    notes = [d.line for d in diagnoses if "not checked" in d.line]
    assert len(notes) == 1
    assert notes[0].startswith("note     verl: not checked: sequences, rollout, verl, ")
    assert "training/train.sh" in notes[0]
    assert {d.finding.level for d in diagnoses} == {Level.OK, Level.NOTE}


def test_nothing_is_left_out_with_verl() -> None:
    lines = [d.line for d in doctor.examine(compose_config("ropd", []), {}, Reach.STATIC)]
    assert not [line for line in lines if "not checked" in line]


def test_a_machine_without_verl_cannot_train(without_verl: None) -> None:
    diagnoses = doctor.examine(compose_config("ropd", []), {}, Reach.MACHINE)
    errors = {d.check.name: d.finding.what for d in diagnoses if d.finding.level is Level.ERROR}
    assert errors["environment"].startswith("a run trains with verl, and verl is not installed: ")


def test_a_start_says_so_in_one_line(without_verl: None, capsys: pytest.CaptureFixture) -> None:
    assert train.main(["trainer.n_gpus_per_node=4"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: a run trains with verl, and verl is not installed: ")
    assert len(said.splitlines()) == 1


def test_keys_of_verls_can_be_overridden(without_verl: None) -> None:
    given = ["actor_rollout_ref.rollout.max_model_len=9000", "mode=colocate_async", "+a.b=1"]
    config = compose_config("ropd", given)
    assert config.actor_rollout_ref.rollout.max_model_len == 9000
    assert config.trainer.v1.trainer_mode == "colocate_async"
    with pytest.raises(ConfigurationError, match=r"ropd\.rubric\.modus"):
        compose_config("ropd", ["ropd.rubric.modus=shared"])


def test_a_plan_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    command = shlex.split("plan --rubricator-s 26 --verifier-s 10 --parameters 4 adapter=lora")
    with_verl = CliRunner().invoke(app, command)
    monkeypatch.setitem(sys.modules, "verl", None)
    without = CliRunner().invoke(app, command)
    assert (with_verl.exit_code, without.exit_code) == (0, 0)
    assert without.stdout == with_verl.stdout
    assert "whether overridden keys of verl's exist" in without.stderr
    assert with_verl.stderr == ""


def test_verl_is_found_where_it_is() -> None:
    require_verl("this test")


@pytest.mark.parametrize("hook", ["examples.nothing", "no_such_package.hook"])
def test_an_example_that_is_not_here_is_named(hook: str) -> None:
    config = compose_config("ropd_cpu", [f"example.hook={hook}"])
    with pytest.raises(ConfigurationError, match=f"example.hook={hook} .*clone the repository"):
        inputs.check_example(config)


def test_the_embedded_example_is_here() -> None:
    inputs.check_example(compose_config("ropd_cpu", []))
    inputs.check_example(compose_config("ropd", []))
