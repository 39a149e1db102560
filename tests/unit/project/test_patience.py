"""No test is failed by a slow or busy machine: what it waits for gets longer there."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders import patience as module
from tests.builders.patience import patience, wait_until

TESTS = Path(__file__).parents[2]
BOUNDED = {"check_call", "check_output", "communicate", "run", "urlopen", "wait", "wait_for"}
"""Functions that wait for another process or task, by `timeout` or a last argument."""


def fixed_bounds(source: str) -> Iterator[int]:
    """The lines on which something is waited for a fixed number of seconds."""
    for node in ast.walk(ast.parse(source)):
        match node:
            # Returns when the time is over, which is no error.
            case ast.Call(ast.Attribute(ast.Name("asyncio"), "wait")):
                continue
            case ast.Call(ast.Attribute(_, name) | ast.Name(name)) if name in BOUNDED:
                bounds = [key.value for key in node.keywords if key.arg == "timeout"]
                if name == "wait_for" or (name == "wait" and len(node.args) == 1):
                    bounds += node.args[-1:]
            case _:
                continue
        for bound in bounds:
            if isinstance(bound, ast.Constant) and isinstance(bound.value, int | float):
                yield node.lineno


def test_every_wait_is_by_patience() -> None:
    fixed = [
        f"{file.relative_to(TESTS)}:{line}: write patience(...) around the seconds"
        for kind in ("builders", "contract", "e2e", "fakes", "unit")
        for file in sorted((TESTS / kind).rglob("*.py"))
        for line in fixed_bounds(file.read_text(encoding="utf-8"))
    ]
    assert fixed == []


@pytest.mark.parametrize(
    ("line", "fixed"),
    [
        ("subprocess.run(words, timeout=60)", True),
        ("process.communicate(timeout=0.5)", True),
        ("process.wait(30)", True),
        ("await asyncio.wait_for(task, 5.0)", True),
        ("process.wait(patience(30))", False),
        ("subprocess.run(words, timeout=patience(60))", False),
        ("await asyncio.wait_for(task, timeout=limit)", False),
        ("await asyncio.wait([task], timeout=0.5)", False),
        ("await event.wait()", False),
    ],
)
def test_a_fixed_bound_is_told_from_a_patient_one(line: str, fixed: bool) -> None:
    source = f"async def f():\n    {line}\n"
    assert list(fixed_bounds(source)) == [2] * fixed


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(module, "_slowness", lambda: 1.0)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    return monkeypatch


def test_an_idle_machine_of_the_suites_size_waits_as_written(machine: pytest.MonkeyPatch) -> None:
    assert patience(30) == 30


def test_a_slow_and_a_busy_machine_wait_longer(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(module, "_slowness", lambda: 3.0)
    assert patience(30) == 90
    machine.setattr(os, "getloadavg", lambda: (20.0, 0.0, 0.0))
    assert patience(30) == 900


def test_a_load_that_comes_up_while_waiting_counts(machine: pytest.MonkeyPatch) -> None:
    now = [0.0]
    machine.setattr(module.time, "monotonic", lambda: now[0])
    machine.setattr(module.time, "sleep", lambda seconds: None)

    def happened() -> bool:
        now[0] += 1.0
        if now[0] > 5:
            machine.setattr(os, "getloadavg", lambda: (8.0, 0.0, 0.0))
        return now[0] > 35

    wait_until(happened, 10)
    with pytest.raises(AssertionError, match="not within 40 s: the reply"):
        wait_until(lambda: now.append(now.pop() + 1.0), 10, "the reply")
