"""The presets are what docs/fidelity.md says, and the groups touch what they are for."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from algo.paths import REPOSITORY
from ropd_verl.config import CONFIG_DIR, compose_config

FIDELITY = REPOSITORY / "docs/fidelity.md"
PRESETS = ("paper", "official")


class Row(NamedTuple):
    item: str
    paper: str
    release: str
    overrides: str
    key: str
    in_paper: str
    in_official: str


def rows() -> list[Row]:
    table = FIDELITY.read_text().partition("\n## ")[0]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("|")
    ]
    return [Row(*row) for row in cells[2:]]


@functools.cache
def composed(preset: str, overrides: str) -> DictConfig:
    return compose_config("ropd", [f"preset={preset}", *overrides.split()])


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.item)
def test_a_row_of_the_table_is_what_composes(row: Row) -> None:
    for preset, said in zip(PRESETS, (row.in_paper, row.in_official), strict=True):
        found = OmegaConf.select(
            composed(preset, row.overrides), row.key.strip("`"), throw_on_missing=True
        )
        plain = OmegaConf.to_container(found) if OmegaConf.is_config(found) else found
        assert plain == yaml.safe_load(said), f"preset={preset}: {row.key}"


def leaves(node: object, path: str = "") -> set[str]:
    if not isinstance(node, dict):
        return {path}
    return set().union(*(leaves(v, f"{path}.{k}".strip(".")) for k, v in node.items()), set())


def set_by(group: str) -> set[str]:
    """Every key that some choice of the group sets, apart from Hydra's own."""
    keys: set[str] = set()
    for file in (CONFIG_DIR / group).glob("*.yaml"):
        node = yaml.safe_load(file.read_text()) or {}
        node.pop("defaults", None)
        prefix = "ropd.judge" if group == "judge" else ""
        keys |= leaves(node, prefix)
    return keys


def test_every_key_that_the_presets_set_stands_in_the_table() -> None:
    described = {row.key.strip("`") for row in rows()}
    plumbing = {
        "actor_rollout_ref.actor.clip_ratio",  # read by verl where low or high is null
        "actor_rollout_ref.rollout.top_k",
        "actor_rollout_ref.rollout.val_kwargs.do_sample",
    }
    assert set_by("preset") - described - plumbing == set()


def test_tracks_set_data_and_length_of_a_run_only() -> None:
    """What test_configurations.py relies on when it does not cross tracks with everything."""
    assert {key.split(".")[0] for key in set_by("track")} == {"ropd", "data", "trainer"}
    assert {k for k in set_by("track") if k.startswith("ropd")} == {"ropd.teacher_index"}


def test_judges_set_the_judge_only() -> None:
    assert all(key.startswith("ropd.judge.") for key in set_by("judge"))


@pytest.mark.parametrize("file", sorted(CONFIG_DIR.glob("*/*.yaml")), ids=lambda f: f.stem)
def test_a_group_file_says_what_it_is_and_where_it_belongs(file: Path) -> None:
    package, comment = file.read_text().splitlines()[:2]
    assert package in ("# @package _global_", "# @package ropd.judge")
    assert comment.startswith("# ")


def test_thinking_is_one_override() -> None:
    config = compose_config("ropd", ["data.apply_chat_template_kwargs.enable_thinking=true"])
    assert config.data.apply_chat_template_kwargs.enable_thinking is True


def test_another_student_needs_its_path_only() -> None:
    config = compose_config("ropd", ["actor_rollout_ref.model.path=org/student"])
    assert config.actor_rollout_ref.rollout.prometheus.served_model_name == "org/student"
