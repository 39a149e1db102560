"""The pins fit what pyproject.toml asks for, and name no place to fetch from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PROFILES = {"cpu": ("cpu", "batch", "math", "dev"), "gpu": ("gpu", "batch", "math")}


def pins(profile: str) -> dict[str, str]:
    lines = (ROOT / f"constraints/{profile}.txt").read_text().splitlines()
    pinned = (line.partition("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): version for name, _, version in pinned}


@pytest.mark.parametrize("profile", PROFILES)
def test_every_requirement_is_pinned_to_a_version_it_admits(profile: str) -> None:
    extras = PROJECT["optional-dependencies"]
    lines = PROJECT["dependencies"] + [
        line for extra in PROFILES[profile] for line in extras[extra]
    ]
    pinned = pins(profile)
    for requirement in map(Requirement, lines):
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), requirement


@pytest.mark.parametrize("profile", PROFILES)
def test_pins_are_plain_versions_without_addresses_or_paths(profile: str) -> None:
    assert len(pins(profile)) > 100
    for name, version in pins(profile).items():
        assert re.fullmatch(r"[0-9a-z.]+", version), f"{name}=={version}"


def test_flash_attn_comes_with_what_its_setup_imports() -> None:
    """It is built without isolation, and its sdist declares no build requirements."""
    extra = [Requirement(line) for line in PROJECT["optional-dependencies"]["flash-attn"]]
    names = {requirement.name for requirement in extra}
    assert names >= {"flash-attn", "ninja", "packaging", "psutil", "setuptools", "wheel"}
    for requirement in extra:
        pinned = pins("gpu").get(requirement.name)
        assert pinned is None or requirement.specifier.contains(pinned), requirement


def test_cpu_pins_bring_no_cuda() -> None:
    assert not [name for name in pins("cpu") if name.startswith("nvidia-")]


def test_verl_source_root_is_no_package() -> None:
    assert not (ROOT / "verl/__init__.py").exists()
