"""Journals made up for the tests of the report, and its page read back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from algo.judge.journal import Journal
from algo.judge.record import sha256
from algo.report import write_report
from algo.report.census import Entry
from algo.report.run_facts import RunFacts

NO_FACTS = RunFacts("example/001", (), (), {})


def entry(
    position: int, step: int, scores: Sequence[float] | None = None, failure: str | None = None
) -> Entry:
    judged = None if scores is None else tuple(scores)
    return Entry(position, step, judged, failure, latency_s=1.0, exact=True)


def record(
    texts: Sequence[str] = ("answer 5", "<think>so</think>answer 6", "cut"),
    *,
    step: int = 1,
    failure: dict[str, Any] | None = None,
    word: str = "word",
) -> dict[str, Any]:
    """A judged record of criteria worth 5, 3, 2 and 1: the last rollout is scored by a rule."""
    count = len(texts) - 1
    student = [[True, k % 2 == 0, False, False] for k in range(count)]
    common = {
        "schema_version": "ropd.judgement.v1",
        "judgement_id": f"judgement {word}",
        "uid": f"uid {word}",
        "step": step,
        "fingerprint": "f" * 64,
        "time": "2026-01-01T00:00:00.000+00:00",
        "latency_s": 2.5,
        "question": f"question {word}",
        "teachers": [{"sha256": "a" * 64}],
        "rollouts": [
            {"text": text, "sha256": sha256(text), "finished": k < count}
            for k, text in enumerate(texts)
        ],
        "rubric_mode": "shared",
        "verification_mode": "joint_blind",
        "shuffle_seed": 0,
        "templates": {"rubricator": "b" * 64, "verifier": "c" * 64},
        "roles": {role: {"model": f"model {word}"} for role in ("rubricator", "verifier")},
        "calls": [
            {
                "stage": "rubricator",
                "fault": f"unparseable: {word}",
                "cut_characters": 0,
                "raw": f"raw {word}",
                "length": len(f"raw {word}"),
                "finish_reason": "stop",
                "model": f"model {word}",
                "prompt_tokens": 10,
                "completion_tokens": None,
                "latency_s": 1.5,
                "attempts": 2,
            },
            {"stage": "verifier", "fault": f"timeout: {word}"},
        ],
    }
    if failure is not None:
        return {**common, "status": "failed", "failure": failure}
    whole = word.encode(
        "utf-8", "replace"
    ).decode()  # pydantic lets no lone surrogate into a rubric
    criteria = [
        {
            "criterion_id": f"c{k}",
            "category": f"category {whole}",
            "criterion": f"criterion {k} {whole}",
            "points": points,
        }
        for k, points in enumerate((5, 3, 2, 1), start=1)
    ]
    panel = {
        "rubric": criteria,
        "students": list(range(count)),
        "order": [*range(1, count + 1), 0],
        "teacher_verdicts": [[True, True, True, False]],
        "student_verdicts": student,
    }
    points = (5, 3, 2, 1)
    scores = [sum(p for p, v in zip(points, verdict, strict=True) if v) / 11 for verdict in student]
    return {
        **common,
        "status": "judged",
        "rules": [None] * count + ["unfinished"],
        "panels": [panel],
        "scores": [*scores, 0.0],
        "teacher_scores": [10 / 11],
    }


def failed(kind: str = "timeout", *, step: int = 1, word: str = "word") -> dict[str, Any]:
    failure = {"kind": kind, "stage": "verifier", "endpoint": "e", "message": f"gave up {word}"}
    return record(step=step, failure=failure, word=word)


def write_journal(run: Path, *records: dict[str, Any]) -> Path:
    async def write() -> None:
        journal = Journal(run / "journal", 20_000)
        for each in records:
            await journal.append(each)
        await journal.aclose()

    asyncio.run(write())
    return run


def report(run: Path, **options: Any) -> Page:
    out = run / "page" / "report.html"
    write_report(run, out, **options)
    return parsed(out.read_bytes().decode())


@dataclass
class Page:
    html: str
    tags: list[tuple[str, tuple[tuple[str, str | None], ...]]]
    texts: list[str]
    numbers: list[float]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page("", [], [], [])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.page.tags.append((tag, tuple(attrs)))
        if tag == "data":
            self.page.numbers.append(float(dict(attrs)["value"] or "nan"))

    def handle_data(self, data: str) -> None:
        self.page.texts.append(data)


def parsed(html: str) -> Page:
    reader = _Reader()
    reader.feed(html)
    reader.close()
    reader.page.html = html
    return reader.page
