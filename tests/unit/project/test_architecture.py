"""docs/architecture.md names every room of the product and the floors of the import contract, and
what it and the drawing call by name exists."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib.util import find_spec

from algo.paths import REPOSITORY

PAGE = (REPOSITORY / "docs/architecture.md").read_text(encoding="utf-8")
DRAWING = (REPOSITORY / "docs/architecture.svg").read_text(encoding="utf-8")
SOURCES = [
    path for root in ("algo", "verl/ropd_verl") for path in (REPOSITORY / root).rglob("*.py")
]
FLOORS = [line.split() for line in PAGE.split("```text\n")[1].split("```")[0].splitlines()]
"""From the top down."""
CLASSES = {
    node.name
    for path in SOURCES
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.ClassDef)
}


def test_every_folder_of_the_product_has_its_row_and_no_other() -> None:
    folders = {str(path.parent.relative_to(REPOSITORY)) for path in SOURCES} - {"algo"}
    rows = re.findall(r"^\| `((?:algo|verl)/[\w/]+)` \|", PAGE, re.MULTILINE)
    assert sorted(rows) == sorted(folders)


def test_every_room_and_every_loose_module_has_its_floor() -> None:
    plugins = {f"verl/ropd_verl/{inner}" for inner in ("checks", "cpu", "methods")}
    inner = {"algo/llm/http", *plugins}
    folders = {str(path.parent.relative_to(REPOSITORY)) for path in SOURCES} - {"algo"} - inner
    loose = {f"algo/{path.name}" for path in (REPOSITORY / "algo").glob("*.py")}
    named = sorted(room for floor in FLOORS for room in floor)
    assert named == sorted(folders | loose - {"algo/__init__.py"})


def test_the_floors_are_those_of_the_import_contract() -> None:
    linter = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]
    [contract] = [each for each in linter["contracts"] if each["id"] == "floors"]
    layers = [re.findall(r"\w+", layer) for layer in contract["layers"]]
    in_page = [
        [room.removeprefix("algo/").removesuffix(".py") for room in floor]
        for floor in FLOORS
        if floor != ["verl/ropd_verl"]
    ]
    there = [[room for room in layer if find_spec(f"algo.{room}")] for layer in layers]
    assert in_page == there


def marked(text: str) -> set[str]:
    """What stands in code marks outside of blocks."""
    return set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)))


def test_files_that_it_names_exist() -> None:
    folders = ("algo", "verl", "configs", "prompts", "training", "examples", "benchmarks", "tests")
    named = {name for name in marked(PAGE) if name.split("/")[0] in folders and "/" in name}
    assert len(named) > 25
    assert [name for name in named if not (REPOSITORY / name).exists()] == []


def test_classes_that_it_or_the_drawing_names_exist() -> None:
    camel = re.compile(r"[A-Z][a-z]+(?:[A-Z][a-z]+)+")
    in_page = {name for name in marked(PAGE) if re.fullmatch(r"[A-Z][a-z]+(?:[A-Z][a-z]+)*", name)}
    in_drawing = {
        word for text in re.findall(r">([^<]+)</text>", DRAWING) for word in camel.findall(text)
    }
    assert len(in_page) > 15
    assert len(in_drawing) > 5
    assert (in_page | in_drawing) - CLASSES == set()


def test_files_that_the_list_of_verls_doors_names_exist() -> None:
    plugin = REPOSITORY / "verl/ropd_verl"
    rows = re.findall(r"^\|.*\|$", (plugin.parent / "UPSTREAM.md").read_text(), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([\w/]+\.(?:py|md))`", row)}
    assert len(named) > 12
    assert [n for n in named if not ((plugin / n).exists() or (REPOSITORY / n).exists())] == []
