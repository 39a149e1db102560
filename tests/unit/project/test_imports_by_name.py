"""Nothing under algo is imported by name: the import contract reads import statements only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3] / "algo"
BY_NAME = {"__import__", "exec_module", "find_loader", "import_module", "importlib", "run_module"}


def names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name):
                yield name
            case ast.ImportFrom(module=str(name)):
                yield name


@pytest.mark.parametrize(
    "source",
    [
        "import importlib",
        "from importlib import import_module as load",
        "__import__('verl')",
        "import runpy; runpy.run_module('verl')",
    ],
)
def test_an_import_by_name_is_noticed(source: str) -> None:
    assert BY_NAME & set(names(ast.parse(source)))


def test_nothing_under_algo_imports_by_name() -> None:
    files = sorted(ROOT.rglob("*.py"))
    assert len(files) > 50
    found = {
        str(file.relative_to(ROOT)): used
        for file in files
        if (used := BY_NAME & set(names(ast.parse(file.read_text()))))
    }
    assert found == {}
