"""The tests stand in the rooms of what they test, in files of one idea, and import no other test.

`tests/README.md` says what each folder is.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import TIMEOUT_S

TESTS = Path(__file__).parents[2]
REPOSITORY = TESTS.parent
MOST_LINES = 420
KINDS_WITH_ROOMS = ("unit", "contract")
SHARED = ("builders", "fakes", "fixtures", "real")
OTHER_ROOMS = {
    "benchmarks": "benchmarks",
    "docs": "docs",
    "example": "examples/arithmetic",
    "plugin": "verl/ropd_verl",
    "project": ".",
    "scripts": "training",
}
"""Rooms beside those of `algo/`, and the folder that each is about."""


def rooms() -> set[str]:
    packages = {file.parent.name for file in (REPOSITORY / "algo").glob("*/__init__.py")}
    return packages | OTHER_ROOMS.keys()


def problems(tests: Path) -> Iterator[str]:
    """What is out of place under a folder of tests."""
    for file in sorted(tests.rglob("*.py")):
        place = file.relative_to(tests)
        if (fault := misplaced(place)) is not None:
            yield f"{place}: {fault}"
        source = file.read_text(encoding="utf-8")
        if (lines := source.count("\n")) > MOST_LINES:
            yield f"{place}: {lines} lines, over {MOST_LINES}"
        for name in imported_tests(source):
            yield f"{place}: imports the test module {name}"
        if not (file.parent / "__init__.py").exists():
            yield f"{place}: its folder has no __init__.py"


def misplaced(place: Path) -> str | None:
    kind, *folders = place.parts[:-1] or ("",)
    is_test = place.name.startswith("test_")
    if kind and kind not in (*TIMEOUT_S, *SHARED):
        return f"{kind}/ is none of {', '.join((*TIMEOUT_S, *SHARED))}"
    if is_test and kind not in TIMEOUT_S:
        return "a test module outside the folders of tests"
    if kind not in KINDS_WITH_ROOMS:
        return None
    if folders and folders[0] not in rooms():
        return f"{folders[0]}/ names no room"
    if is_test and not folders:
        return "a test module in no room"
    if not is_test and place.stem not in ("__init__", "conftest"):
        return "a builder among the tests: it belongs in tests/builders/ or tests/fakes/"
    return None


def imported_tests(source: str) -> Iterator[str]:
    """The test modules that a source imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names):
                found = [alias.name for alias in names if alias.name.startswith("tests.")]
            case ast.ImportFrom(module, names, level) if level or (module or "").startswith(
                "tests"
            ):
                found = [f"{module or ''}.{alias.name}" for alias in names]
            case _:
                continue
        for name in found:
            parts = name.split(".")
            tests = [k for k, part in enumerate(parts, start=1) if part.startswith("test_")]
            if tests:
                yield ".".join(parts[: tests[0]]).lstrip(".")


def test_every_test_has_its_place() -> None:
    assert list(problems(TESTS)) == []


@pytest.mark.parametrize("room", OTHER_ROOMS)
def test_every_room_is_about_a_folder_that_exists(room: str) -> None:
    assert (REPOSITORY / OTHER_ROOMS[room]).is_dir()


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("unit/judge/test_a.py", "", None),
        ("e2e/test_a.py", "", None),
        ("builders/a.py", "", None),
        ("contract/conftest.py", "", None),
        ("unit/judge/test_a.py", "from tests.e2e.conftest import Start", None),
        ("unit/judge/test_a.py", "from aiohttp.test_utils import TestServer", None),
        ("unit/test_a.py", "", "a test module in no room"),
        ("test_a.py", "", "outside the folders of tests"),
        ("fakes/test_a.py", "", "outside the folders of tests"),
        ("unit/kitchen/test_a.py", "", "kitchen/ names no room"),
        ("smoke/judge/test_a.py", "", "smoke/ is none of"),
        ("unit/judge/made_up.py", "", "a builder among the tests"),
        ("unit/judge/test_a.py", "x = 1\n" * (MOST_LINES + 1), "421 lines, over 420"),
        ("unit/judge/test_a.py", "from tests.unit.ropd.test_b import c", "tests.unit.ropd.test_b"),
        ("unit/judge/test_a.py", "from tests.unit.ropd import test_b", "tests.unit.ropd.test_b"),
        ("unit/judge/test_a.py", "import tests.unit.ropd.test_b", "tests.unit.ropd.test_b"),
        ("builders/a.py", "def f():\n    from .test_b import c", "imports the test module test_b"),
        ("builders/a.py", "from . import test_b", "imports the test module test_b"),
    ],
)
def test_what_is_out_of_place_is_named(
    tmp_path: Path, file: str, content: str, said: str | None
) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    (path.parent / "__init__.py").touch()
    found = [problem for problem in problems(tmp_path) if problem.startswith(f"{file}: ")]
    if said is None:
        assert found == []
    else:
        [problem] = found
        assert said in problem


def test_a_folder_that_is_no_package_is_named(tmp_path: Path) -> None:
    (tmp_path / "e2e").mkdir()
    (tmp_path / "e2e/test_a.py").touch()
    assert list(problems(tmp_path)) == ["e2e/test_a.py: its folder has no __init__.py"]
