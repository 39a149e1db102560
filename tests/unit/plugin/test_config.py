"""Command line and composition: what the user gets, and one line for each mistake."""

import pytest
from omegaconf import OmegaConf

from algo.errors import ConfigurationError
from algo.ropd.settings import RopdSettings
from ropd_verl import train
from ropd_verl.config import KEY_LINES, compose_config, key_lines


@pytest.mark.parametrize("name", ["ropd", "ropd_cpu"])
def test_shipped_configurations_compose_and_validate(name):
    config = compose_config(name, [])
    node = OmegaConf.to_container(config.ropd, resolve=True)
    assert isinstance(node, dict)
    settings = RopdSettings.from_node({str(k): v for k, v in node.items()})
    assert settings.teacher_answers == 4
    assert len(key_lines(config)) == len(KEY_LINES)


def test_overrides_are_hydras():
    config = compose_config("ropd_cpu.yaml", ["trainer.total_training_steps=5", "seed=2"])
    assert config.trainer.total_training_steps == 5
    assert config.data.seed == config.example.seed == config.ropd.verification.seed == 2


@pytest.mark.parametrize(
    ("name", "overrides", "said"),
    [
        ("ropd_cpu", ["trainer.no_such_key=1"], "trainer.no_such_key"),
        ("ropd_cpu", ["data.train_batch_size=[1"], "input '\\[1'"),
        ("no_such_config", [], "ropd_cpu"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(name, overrides, said):
    with pytest.raises(ConfigurationError, match=said) as caught:
        compose_config(name, overrides)
    assert "\n" not in str(caught.value)


def test_command_line():
    assert train.parse(["--config-name", "ropd_cpu", "a=1", "b=2"]) == ("ropd_cpu", ["a=1", "b=2"])
    assert train.parse(["--config-name=ropd_cpu"]) == ("ropd_cpu", [])
    assert train.parse(["a=1"]) == ("ropd", ["a=1"])
    with pytest.raises(ConfigurationError, match="--cfg"):
        train.parse(["--cfg", "job"])


def test_dry_run_starts_nothing(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("ROPD_DRYRUN", "true")
    monkeypatch.setattr("algo.env_file.ENV_FILE", tmp_path / ".env")  # not the checkout's own
    monkeypatch.setattr(train, "_start", lambda *_: pytest.fail("a dry run started something"))
    assert train.main(["--config-name", "ropd", "trainer.n_gpus_per_node=4"]) == 0
    out = capsys.readouterr().out
    assert "python -m ropd_verl.train --config-name ropd" in out
    assert "trainer.n_gpus_per_node: 4" in out


def test_settings_of_ropd_that_no_file_sets_need_no_plus():
    overrides = ["ropd.verification.overflow=fail", "++ropd.gate.action=pause"]
    config = compose_config("ropd", overrides)
    assert config.ropd.verification.overflow == "fail"
    assert config.ropd.gate.action == "pause"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ropd.verification.overflo=cut", r"ropd\.verification\.overflo: no such setting"),
        ("ropd.verification.overflow=cutt", r"ropd\.verification\.overflow='cutt': .*'cut'"),
    ],
)
def test_a_wrong_setting_of_ropd_is_named_before_anything_is_made(override, message):
    with pytest.raises(ConfigurationError, match=message):
        compose_config("ropd", [override])
