"""A finished run made up on disk: journal, metrics, configuration, summary and teacher index."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from algo.judge.journal import Journal
from algo.judge.record import sha256
from algo.paths import REPOSITORY
from algo.teacher.teacher_index import Teacher, TeacherAnswer
from algo.teacher.writer import TeacherIndexWriter
from ropd_verl.config import compose_config

CRITERIA, ROLLOUTS, TEACHERS = 8, 8, 4
ROLES = ("rubricator", "verifier")
TEMPLATES = {role: (REPOSITORY / "prompts" / f"{role}.txt").read_text() for role in ROLES}
# As in the record of a run: a column addition and what two judges say about it.
REPLY = json.dumps([f"The digit of column {k} is right and its carry is named" for k in range(12)])


def write_run(run: Path, *, steps: int = 40, groups: int = 16) -> Path:
    """A run of ``steps`` steps of ``groups`` groups, started from ``ropd_cpu``; returns ``run``."""
    run.mkdir(parents=True)
    asyncio.run(_write_journal(run / "journal", steps, groups))
    write_index(run / "teacher_index", steps * groups)
    (run / "metrics").mkdir()
    lines = [
        json.dumps({"step": step, "data": _metrics(step, groups)}) for step in range(steps + 1)
    ]
    (run / "metrics/001.jsonl").write_text("\n".join(lines) + "\n")
    overrides = [f"trainer.total_training_steps={steps}", f"data.train_batch_size={groups}"]
    config = compose_config("ropd_cpu", [*overrides, f"ropd.teacher_index={run / 'teacher_index'}"])
    (run / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=False))
    (run / "summary.json").write_text(json.dumps({"steps": steps, "accuracy_after": 0.75}))
    return run


def write_index(file: Path, prompts: int) -> Path:
    with TeacherIndexWriter.open(file, Teacher(model="made-up")) as writer:
        for number in range(prompts):
            answer = TeacherAnswer(f"{number:064x}", f"answer {number + number}", "made-up")
            writer.append([answer] * TEACHERS)
    return file


async def _write_journal(folder: Path, steps: int, groups: int) -> None:
    journal = Journal(folder, 64 << 20)
    for template in TEMPLATES.values():
        journal.keep_file(template.encode(), ".txt")
    draw = random.Random(0)
    await asyncio.gather(
        *(journal.append(_record(k, 1 + k // groups, draw)) for k in range(steps * groups))
    )
    await journal.aclose()


def _record(number: int, step: int, draw: random.Random) -> dict[str, Any]:
    points = [draw.randint(1, 5) for _ in range(CRITERIA)]
    verdicts = [[draw.random() < 0.6 for _ in points] for _ in range(ROLLOUTS)]
    texts = [f"{number} + {number}: ones, then tens; answer {number + k}" for k in range(ROLLOUTS)]
    taught = sha256(f"answer {number + number}")

    def score(verdict: list[bool]) -> float:
        return sum(p for p, met in zip(points, verdict, strict=True) if met) / sum(points)

    return {
        "schema_version": "ropd.judgement.v2",
        "method": "ropd",
        "judgement_id": f"{number:032x}",
        "uid": f"uid-{number}",
        "step": step,
        "fingerprint": f"{number:064x}",
        "time": "2026-01-01T00:00:00.000+00:00",
        "latency_s": 0.2,
        "question": f"{number}+{number}=?",
        "teachers": [{"sha256": taught}] * TEACHERS,
        "rollouts": [{"text": text, "sha256": sha256(text), "finished": True} for text in texts],
        "rubric_mode": "shared",
        "verification_mode": "joint_blind",
        "shuffle_seed": 0,
        "templates": {role: sha256(text) for role, text in TEMPLATES.items()},
        "roles": {role: {"model": f"made-up {role}", "temperature": 0.0} for role in ROLES},
        "calls": [_call(role) for role in ROLES],
        "status": "judged",
        "rules": [None] * ROLLOUTS,
        "panels": [
            {
                "rubric": [
                    {
                        "criterion_id": f"c{k}",
                        "category": "correctness",
                        "criterion": f"The digit of column {k} is right and its carry is named",
                        "points": worth,
                    }
                    for k, worth in enumerate(points, start=1)
                ],
                "students": list(range(ROLLOUTS)),
                "order": list(range(ROLLOUTS + TEACHERS)),
                "teacher_verdicts": [[True] * CRITERIA] * TEACHERS,
                "student_verdicts": verdicts,
            }
        ],
        "scores": [score(verdict) for verdict in verdicts],
        "teacher_scores": [1.0] * TEACHERS,
    }


def _call(role: str) -> dict[str, Any]:
    return {
        "stage": role,
        "fault": None,
        "cut_characters": 0,
        "raw": REPLY,
        "length": len(REPLY),
        "finish_reason": "stop",
        "model": f"made-up {role}",
        "prompt_tokens": 1000,
        "completion_tokens": 250,
        "cached_tokens": None,
        "latency_s": 0.1,
        "attempts": 1,
    }


def _metrics(step: int, groups: int) -> dict[str, float]:
    """What verl writes a step is some 200 figures, of which these are read."""
    others = {f"perf/figure_{k}": 0.1 * k for k in range(200)}
    if step == 0:
        return {**others, "val-core/sums/acc/mean@1": 0.25}
    return {
        **others,
        "critic/score/mean": 0.5,
        "timing_s/step": 3.5,
        "timing_s/gen": 2.0,
        "ropd/groups_judged": float(groups),
        "ropd/judge/rubricator_latency_p50_s": 0.25,
        "ropd/judge/verifier_latency_p50_s": 0.125,
        "ropd/judge/tokens_in": 2000.0 * groups,
        "ropd/judge/tokens_out": 500.0 * groups,
        "ropd/judge/busy_s": 1.0,
        "ropd/judge/waited_s": 0.1,
    }
