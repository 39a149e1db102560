"""The builder's settings: what docs/data.md lists is what there is, and defaults that follow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from algo.llm.settings import validated
from algo.teacher.settings import TeacherBuildSettings

DOC = (Path(__file__).parents[3] / "docs/data.md").read_text()
# Of the roles and limits that judges have too, the page names only the builder's own defaults.
SHARED = ("limits.", "teacher.model", "teacher.base_url", "teacher.prices.cached", "teacher.seed")
FOR_JUDGES = ("teacher.context_tokens", "teacher.tokenizer", "teacher.structured")


def keys(node: BaseModel, prefix: str = "") -> Iterator[str]:
    for name in type(node).model_fields:
        value = getattr(node, name)
        if isinstance(value, BaseModel):
            yield from keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_every_setting_stands_in_the_docs_and_every_one_there_exists() -> None:
    table = DOC.partition("| key | default | |\n")[2].partition("\n\n")[0]
    cells = [row.split("|")[1] for row in table.splitlines()]
    named = {key.removesuffix(".KEY") for cell in cells for key in re.findall(r"`([\w.]+)`", cell)}
    known = set(keys(TeacherBuildSettings()))
    assert named <= known
    assert {k for k in known - named if not k.startswith((*SHARED, *FOR_JUDGES))} == set()


def test_a_request_has_four_timeouts_unless_told_otherwise() -> None:
    slow = validated(TeacherBuildSettings, {"teacher": {"timeout_s": 100}})
    limits = slow.request_limits(512)
    assert (limits.concurrency, limits.max_concurrency) == (512, 512)
    assert limits.stage_deadline_s == 400
    told = {"teacher": {"timeout_s": 100}, "limits": {"stage_deadline_s": 50}}
    assert validated(TeacherBuildSettings, told).request_limits(8).stage_deadline_s == 50
