"""A class name stands for one thing in the whole product, so that a reader need not ask which."""

from __future__ import annotations

import ast
from collections import defaultdict

from algo.paths import REPOSITORY

# The other side of the wire: `algo.testing` calls a request and a reply what its users call them.
_OTHER_SIDE = REPOSITORY / "algo/testing"


def test_no_two_public_classes_have_one_name() -> None:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for folder in ("algo", "verl/ropd_verl", "examples"):
        for file in (REPOSITORY / folder).rglob("*.py"):
            if _OTHER_SIDE in file.parents:
                continue
            for node in ast.parse(file.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places[node.name].append(str(file.relative_to(REPOSITORY)))
    assert len(places) > 150
    assert {name: files for name, files in places.items() if len(files) > 1} == {}
