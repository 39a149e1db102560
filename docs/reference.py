"""Writes docs/reference.md: every `ropd.*` setting and every `ropd/*` metric, from the code.

    python docs/reference.py

A setting's meaning is the string under its field, a metric's the entry in its module's dictionary.
`tests/unit/project/test_reference.py` fails while the page is not what this makes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from inspect import cleandoc
from pathlib import Path
from types import UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from algo.judge.metrics import METRICS as OF_THE_ENGINE
from algo.llm.settings import RoleSettings
from algo.methods.registry import METHODS
from algo.ropd.settings import RopdSettings
from algo.runs import judge_time, summary

PAGE: Final = Path(__file__).with_name("reference.md")

_HEAD: Final = """\
# Reference: settings and metrics

Made by `python docs/reference.py` from the descriptions in the code: change those, not this page.

## Settings

The keys of the Hydra node `ropd`, such as `bash training/train.sh ropd.teacher_answers=2`. A
default here is the code's; the files in `configs/` set some of them anew
([fidelity.md](fidelity.md)). A key that is not listed is refused at the start, by name.
"""
_METRICS: Final = """\
## Metrics

What each training step adds to verl's own figures, in `metrics/` of the run's directory and in
every tracker of `trainer.logger`. Shares are in [0, 1]; figures of groups are means over the groups
judged since the last step; counts begin anew with each step. `<kind>`, `<role>` and the like stand
for several names.
"""
_SETTING: Final = ("key", "type", "default", "meaning")
_TYPES: Final[Mapping[Any, str]] = {
    bool: "`true` or `false`",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    type(None): "`null`",
}
_BOUNDS: Final = ((Ge, "ge", ">="), (Gt, "gt", ">"), (Le, "le", "<="), (Lt, "lt", "<"))


@dataclass
class Section:
    """A node's own settings. Roles share one, in which a key has a default for each role."""

    about: list[str] = field(default_factory=list)
    fields: dict[str, FieldInfo] = field(default_factory=dict)
    defaults: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By setting, then by role ("" where there is none)."""


def reference() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_settings(), _METRICS, *_metrics()])


def settings_by_section() -> dict[str, Section]:
    """Every setting of the node `ropd`, by the key of its node."""
    sections: dict[str, Section] = {}
    for key, role, node in _nodes("ropd", "", RopdSettings()):
        section = sections.setdefault(key, Section())
        about = cleandoc(type(node).__doc__ or "").replace("\n", " ")
        about = f"`{role}`: {about}" if isinstance(node, RoleSettings) else about
        if about not in section.about:
            section.about.append(about)
        for name, described in type(node).model_fields.items():
            if not isinstance(value := getattr(node, name), BaseModel):
                section.fields.setdefault(name, described)
                section.defaults.setdefault(name, {})[role] = value
    return {key: section for key, section in sections.items() if section.fields}


def _nodes(key: str, role: str, node: BaseModel) -> Iterator[tuple[str, str, BaseModel]]:
    yield key, role, node
    for name in type(node).model_fields:
        below = getattr(node, name)
        if isinstance(below, RoleSettings):
            yield from _nodes(f"{key}.<role>", name, below)
        elif isinstance(below, BaseModel):
            yield from _nodes(f"{key}.{name}", role, below)


def _settings() -> Iterator[str]:
    for key, section in settings_by_section().items():
        rows = [
            _row(f"{key}.{name}", described, _default(section.defaults[name]))
            for name, described in section.fields.items()
        ]
        yield _table(f"`{key}`", section.about, _SETTING, rows)
    for name, method in METHODS.items():
        rows = [
            _row(f"ropd.method.{own}", described, _shown(described.default))
            for own, described in method.options.model_fields.items()
        ]
        if rows:
            yield _table(f"`ropd.method.name={name}`", [], _SETTING, rows)


def metrics_by_section() -> dict[str, dict[str, str]]:
    """Every metric below `ropd/`, by who reports it."""
    return {
        "Every judged method": dict(OF_THE_ENGINE),
        **{f"`method={name}`": dict(method.metrics) for name, method in METHODS.items()},
        "The trainer": judge_time.METRICS | summary.METRICS,
    }


def _metrics() -> Iterator[str]:
    for title, metrics in metrics_by_section().items():
        rows = [(f"`ropd/{name}`", meaning) for name, meaning in metrics.items()]
        if rows:
            yield _table(title, [], ("metric", "meaning"), rows)


def _table(
    title: str, about: Iterable[str], head: tuple[str, ...], rows: Iterable[tuple[str, ...]]
) -> str:
    lines = [head, ("---",) * len(head), *rows]
    table = "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)
    return "\n\n".join([f"### {title}", *about, table]) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _row(key: str, described: FieldInfo, default: str) -> tuple[str, ...]:
    return f"`{key}`", _type(described), default, described.description or ""


def _default(by_role: Mapping[str, Any]) -> str:
    shown = {role: _shown(value) for role, value in by_role.items()}
    if len(set(shown.values())) == 1:
        return next(iter(shown.values()))
    return ", ".join(f"{value} ({role})" for role, value in shown.items())


def _shown(value: Any) -> str:
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _type(described: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(bound, name):g}"
        for bound in described.metadata
        for kind, name, sign in _BOUNDS
        if isinstance(bound, kind)
    ]
    first, null, _ = _words(described.annotation).partition(" or `null`")
    return " ".join([first, ", ".join(bounds)]).strip() + null


def _words(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    if origin in (Union, UnionType):
        return " or ".join(_words(part) for part in get_args(annotation))
    return _TYPES.get(annotation, "mapping" if origin is dict else "") or str(annotation)


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
