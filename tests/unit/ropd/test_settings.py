"""The typed settings of the node `ropd`."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from algo.errors import ConfigurationError
from algo.ropd.settings import RopdSettings
from ropd_verl.config import compose_config


def test_the_defaults_are_the_papers() -> None:
    settings = RopdSettings.from_node({})
    assert settings.teacher_answers == 4
    assert (settings.rubric.min_criteria, settings.rubric.max_criteria) == (4, 12)
    assert (settings.judge.rubricator.temperature, settings.judge.verifier.temperature) == (0.7, 0)
    assert (settings.rubric.mode, settings.verification.mode) == ("shared", "joint_blind")


def test_naming_one_key_of_a_role_keeps_the_others() -> None:
    settings = RopdSettings.from_node({"judge": {"rubricator": {"model": "m"}}})
    assert settings.judge.rubricator.temperature == 0.7
    assert settings.judge.rubricator.max_tokens == 8192


@pytest.mark.parametrize("judge", ["openai", "local_vllm", "embedded"])
def test_the_shipped_judges_compose_and_validate(judge: str) -> None:
    config = compose_config("ropd", [f"judge={judge}"])
    node = OmegaConf.to_container(config.ropd, resolve=True)
    assert isinstance(node, dict)
    roles = RopdSettings.from_node({str(key): value for key, value in node.items()}).judge
    assert (roles.rubricator.temperature, roles.verifier.temperature) == (0.7, 0.0)
    assert roles.rubricator.base_url == roles.verifier.base_url
    assert (roles.verifier.context_tokens is not None) == (judge == "local_vllm")


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ({"teacher_anwsers": 4}, "ropd.teacher_anwsers: no such setting"),
        ({"judge": {"limits": {"concurrency": 0}}}, "ropd.judge.limits.concurrency=0"),
        ({"judge": {"limits": {"concurrency": 512}}}, "max_concurrency is below concurrency"),
        ({"rubric": {"min_criteria": 13}}, "max_criteria is below min_criteria"),
        ({"verification": {"mode": "blind"}}, "'joint_blind', 'joint_named', 'isolated'"),
        ({"gate": {"max_failed_fraction": 1.5}}, "ropd.gate.max_failed_fraction=1.5"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(node: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        RopdSettings.from_node(node)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
