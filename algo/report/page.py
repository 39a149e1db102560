"""Renders the page and fits it into its bound: the one function of this package that writes.

Autoescape is on for the whole template, and every string passes `visible` first, so a text from a
model or a rollout can be nothing on the page but text. A content security policy in the page bars
scripts and requests all the same. Texts are cut shorter, then fewer groups shown, until the page
keeps its bound; the page says what it left out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from algo.errors import ConfigurationError
from algo.report import chart as drawing
from algo.report.census import Census, Entry, percentile, records_at, take_census
from algo.report.group_view import GroupView, view
from algo.report.run_facts import RunFacts, read_facts
from algo.report.selection import Selection, select
from algo.report.teachers import teacher_texts
from algo.report.text import visible

DEFAULT_MAX_MB: Final = 3.0
"""Small enough to be sent by mail and opened on a phone."""
_TEXT_LIMITS: Final = (20_000, 8_000, 3_000, 1_000, 300)
"""Characters shown of one text, tried from the first on until the page is small enough."""


def write_report(
    run_dir: Path,
    out: Path,
    *,
    steps: str | None = None,
    groups: int | None = None,
    max_mb: float = DEFAULT_MAX_MB,
) -> None:
    """Write the page of the run in `run_dir` (or of a bare journal folder) to `out`.

    `steps` and `groups` as for `select`; `max_mb` bounds the page in millions of bytes. Raises
    `JournalError`, `TeacherIndexError` or `ConfigurationError`.
    """
    journal = run_dir / "journal" if (run_dir / "journal").is_dir() else run_dir
    facts = read_facts(run_dir)
    census = take_census(journal) if facts.judged else Census((), {})
    selection = select(census, steps, groups)
    records = records_at(journal, (entry.position for entry in selection.entries))
    texts = teacher_texts(journal, facts.teacher_index, records.values())
    page = fitted(census, selection, facts, records, texts, int(max_mb * 1e6))
    partial_file = out.with_name(f"{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial_file.write_bytes(page)
        os.replace(partial_file, out)
    except OSError as error:
        raise ConfigurationError(
            f"cannot write the report: {error.strerror}: {error.filename} (choose another --out)"
        ) from None


def fitted(
    census: Census,
    selection: Selection,
    facts: RunFacts,
    records: Mapping[int, Mapping[str, Any]],
    texts: Mapping[str, str],
    max_bytes: int,
) -> bytes:
    """The page as UTF-8, of at most `max_bytes` unless its head alone is larger.

    `records` by place in the journal, `texts` of teacher answers by hash.
    """
    shown, page = selection, b""
    while True:
        for limit in _TEXT_LIMITS:
            page = _render(census, shown, selection, facts, records, texts, limit).encode()
            if len(page) <= max_bytes:
                return page
        if not shown.entries:
            return page
        shown = selection.first(len(shown.entries) // 2)


def _render(
    census: Census,
    shown: Selection,
    selection: Selection,
    facts: RunFacts,
    records: Mapping[int, Mapping[str, Any]],
    texts: Mapping[str, str],
    limit: int,
) -> str:
    def views(entries: Sequence[Entry]) -> list[GroupView]:
        return [view(entry.position, records[entry.position], texts, limit) for entry in entries]

    rewards = (
        {"reward (mean of the judged rollouts)": census.mean_rewards()}
        if facts.judged
        else {"reward (mean of the rollouts)": facts.rewards}
    )
    latencies = [entry.latency_s for entry in census.entries]
    return _template().render(
        facts=facts,
        census=census,
        chart=drawing.chart(rewards | dict(facts.accuracies)),
        time_chart=_time_chart(facts),
        drawing=drawing,
        latency={share: percentile(latencies, share) for share in (50, 95)},
        ties=fmean(entry.tie for entry in census.judged) if census.judged else None,
        stages={
            name: (stage, percentile(stage.latencies_s, 50), percentile(stage.latencies_s, 95))
            for name, stage in census.stages.items()
        },
        roles=_roles(records),
        steps=shown.steps,
        sections=[
            ("Records that contradict themselves", views(shown.inexact)),
            ("Failed groups", views(shown.failed)),
            ("Judged groups", views(shown.judged)),
        ],
        not_fitting=len(selection.entries) - len(shown.entries),
        limit=limit,
    )


def _time_chart(facts: RunFacts) -> drawing.Chart | None:
    if facts.times is None:
        return None
    return drawing.chart(
        {
            "judge at work, share of the step": facts.times.busy_share,
            "trainer waiting for the judge alone": facts.times.waited_share,
        }
    )


def _roles(records: Mapping[int, Mapping[str, Any]]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The judges of the last of the shown records: set values only, and no address of a server."""
    if not records:
        return []
    roles = records[max(records)]["roles"]
    return [
        (name, [(key, str(v)) for key, v in role.items() if v is not None and key != "base_url"])
        for name, role in roles.items()
    ]


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("algo.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters["share"] = "{:.3f}".format
    environment.filters["grouped"] = "{:,}".format
    return environment.get_template("page.html.j2")


def _shown(value: Any) -> Any:
    """What an expression of the template is printed as; markup of the template's own stays."""
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
