"""What the engine's seam does for a method: panels on disk and back, its options, its gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from algo.errors import ConfigurationError
from algo.judge.engine import open_engine
from algo.judge.group import Group, Rollout
from algo.judge.method import Judgement, Method, Panel, Resources
from algo.judge.replay import replay
from algo.llm.settings import RoleSettings, Settings
from algo.methods import registry
from algo.ropd.settings import RopdSettings
from ropd_verl.checks.finding import Level, Subject
from ropd_verl.checks.inputs import teacher_index
from ropd_verl.config import compose_config


class Options(Settings):
    top: int = 10
    """The best grade."""


@dataclass(frozen=True)
class Grades(Panel):
    students: tuple[int, ...]
    grades: tuple[int, ...]
    top: int
    weights: dict[str, float]

    def scores(self) -> tuple[float, ...]:
        return tuple(grade / self.top for grade in self.grades)


class Lengths(Method[RopdSettings]):
    """Grades an answer by its length, without a judge."""

    name = "lengths"
    panel = Grades
    options = Options

    def __init__(self, settings: RopdSettings, resources: Resources) -> None:
        self._top = settings.method.read(Options).top

    @classmethod
    def roles(cls, settings: RopdSettings) -> Mapping[str, RoleSettings]:
        return {}

    @classmethod
    def needs_teachers(cls, settings: RopdSettings) -> bool:
        return False

    async def panels(self, judgement: Judgement) -> Sequence[Grades]:
        students = tuple(judgement.judged)
        answers = [judgement.group.rollouts[index].answer for index in students]
        return [Grades(students, tuple(map(len, answers)), self._top, {"length": 0.1 + 0.2})]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.METHODS, "lengths", Lengths)


def settings(folder: Path, **method: Any) -> RopdSettings:
    node = {"journal_dir": folder, "method": {"name": "lengths", **method}}
    return registry.load_settings({**node, "gate": {"window": 4, "max_failed_fraction": 0.5}})


def group(*answers: str) -> Group:
    rollouts = [Rollout(answer, True) for answer in answers]
    return Group("g", [{"role": "user", "content": "?"}], rollouts, step=0)


async def test_a_panel_is_recorded_by_its_fields_and_read_back_to_the_bit(tmp_path: Path) -> None:
    async with open_engine(Lengths, settings(tmp_path, top=7), {}) as engine:
        scored = await engine.score_group(group("abc", "", "abcde"))
    assert scored.scores == (3 / 7, 0.0, 5 / 7)
    [replayed] = replay(tmp_path, registry.METHODS)
    assert replayed.exact
    assert replayed.panels == scored.panels
    assert replayed.record["panels"] == [
        {"students": [0, 2], "grades": [3, 5], "top": 7, "weights": {"length": 0.1 + 0.2}}
    ]


def test_a_panel_that_lacks_a_field_is_not_read() -> None:
    with pytest.raises(ValueError, match="top"):
        Grades.of({"students": [0], "grades": [1], "weights": {}})


async def test_a_group_that_no_judge_saw_does_not_open_a_paused_gate(tmp_path: Path) -> None:
    async with open_engine(Lengths, settings(tmp_path), {}) as engine:
        for _ in range(4):
            await engine.score_group(group("", ""))
        assert list(engine._gate._outcomes) == []
        await engine.score_group(group("a", ""))
        assert list(engine._gate._outcomes) == [None]


@pytest.mark.parametrize(
    ("options", "said"),
    [({"top": "x"}, r"ropd\.method\.top='x'"), ({"best": 1}, r"ropd\.method\.best: no such")],
)
def test_a_wrong_option_is_one_line_that_names_it(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        settings(tmp_path, **options)


def test_a_method_without_teachers_needs_no_index() -> None:
    config = compose_config("ropd", ["ropd.method.name=lengths", "ropd.teacher_index=null"])
    [finding] = teacher_index(Subject(config, {}))
    assert finding.level is Level.NOTE
    assert "lengths shows no teacher answers" in finding.what
