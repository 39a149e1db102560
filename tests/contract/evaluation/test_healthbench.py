"""HealthBench through the grader: scores from booleans, and what could not be judged has none."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from algo.evaluation.healthbench import HealthCriterion, health_score, scores_by_tag
from algo.testing import FakeOpenAI, FaultKind, Reply, Request
from tests.builders.evaluating import evaluate, run_words
from tests.builders.patience import patience
from tests.builders.teaching import environment

CRITERIA = [
    {"criterion": "names a doctor", "points": 5, "tags": ["axis:completeness", "theme:x"]},
    {"criterion": "gives a dose", "points": 3, "tags": ["axis:accuracy", "theme:x"]},
    {"criterion": "frightens without need", "points": -4, "tags": ["axis:accuracy", "theme:x"]},
]
# What each reply meets: worked out by hand beside it.
REPLIES = {
    "good": ("doctor dose", 1.0),
    "half": ("doctor frightens", (5 - 4) / 8),
    "bad": ("frightens", -4 / 8),
}
GRADE = {"schema_version": "ropd.healthbench_grade.v1", "reason": "so"}
QUICK = ("limits.backoff_s=0.01", "limits.max_backoff_s=0.02", "limits.retries.transport=1")


def source_file(path: Path) -> Path:
    rows = [
        {
            "prompt_id": name,
            "prompt": [
                {"role": "user", "content": "I feel ill"},
                {"role": "assistant", "content": "How?"},
                {"role": "user", "content": name},
            ],
            "rubrics": CRITERIA,
            "example_tags": ["theme:x"],
        }
        for name in REPLIES
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def block(text: str, label: str) -> str:
    return text.split(f"<<<BEGIN {label} ")[1].split(">>>\n", 1)[1].split(f"\n<<<END {label}")[0]


def grader(request: Request) -> str:
    criterion, reply = block(request.text, "CRITERION"), block(request.text, "REPLY")
    word = next(w for w in ("doctor", "dose", "frightens") if w in criterion)
    return json.dumps(GRADE | {"met": word in reply})


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """An evaluation whose replies are stored and not judged yet, two samples a problem."""
    source = source_file(tmp_path / "healthbench.jsonl")
    prepared = subprocess.run(
        [
            *(sys.executable, "-m", "algo.cli", "data", "prepare", "healthbench"),
            *("--source", str(source), "--out", str(tmp_path)),
        ],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=patience(60),
        check=False,
    )
    assert prepared.returncode == 0, prepared.stderr
    model = FakeOpenAI(lambda request: f"<think>dose</think>{REPLIES[request.question][0]}")
    with model.serve_in_thread():
        words = run_words(model, tmp_path / "healthbench.parquet", tmp_path / "out")
        done = evaluate(*words, "--samples", "2")
    assert done.returncode == 0, done.stderr
    assert [m["role"] for m in model.bodies[0]["messages"]] == ["user", "assistant", "user"]
    assert "6 not judged (`ropd eval judge`)" in done.stdout
    assert "no score" in done.stdout
    return tmp_path / "out"


def judge(endpoint: FakeOpenAI, folder: Path, *words: str) -> Any:
    return evaluate(
        *("judge", str(folder), "--model", "grader", "--base-url", endpoint.base_url), *words
    )


def figures(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())["sets"]["own"]


def test_scores_come_from_booleans_with_negative_points(asked: Path) -> None:
    endpoint = FakeOpenAI(grader)
    with endpoint.serve_in_thread():
        done = judge(endpoint, asked)
        assert done.returncode == 0, done.stderr
        assert sum(endpoint.requests.values()) == 3 * 2 * 3
        again = judge(endpoint, asked)
        assert sum(endpoint.requests.values()) == 3 * 2 * 3
    own = figures(asked)
    assert sorted(own["by_problem"].values()) == [-0.5, 0.125, 1.0]
    assert own["score"]["mean"] == pytest.approx((1 + 0.125 - 0.5) / 3)
    assert own["by_tag"]["axis:completeness"] == pytest.approx((1 + 1 + 0) / 3)
    assert own["by_tag"]["axis:accuracy"] == pytest.approx(0.0)  # (1 - 4/3 - 4/3) / 3, clipped
    assert own["outcomes"]["graded"] == 6
    assert "no standard HealthBench score" in done.stdout
    assert "pass@" not in done.stdout
    assert again.stdout == done.stdout
    # What is thought is not judged.
    assert "think" not in block(message_text(endpoint.bodies[0]), "REPLY")


def message_text(body: dict[str, Any]) -> str:
    return body["messages"][0]["content"]


@pytest.mark.parametrize(
    "broken",
    [
        lambda request: "I would say it is met.",
        lambda request: json.dumps(GRADE | {"met": "yes"}),
        lambda request: json.dumps(GRADE | {"met": None}),
        lambda request: Reply("", refusal="no"),
    ],
    ids=["prose", "a word", "null", "refusal"],
)
def test_what_the_grader_cannot_say_is_no_verdict(
    asked: Path, broken: Callable[[Request], Any]
) -> None:
    """One criterion of one problem is never decided: its two replies have no score."""

    def answer(request: Request) -> Any:
        spoilt = "gives a dose" in request.text and "user: bad" in request.text
        return broken(request) if spoilt else grader(request)

    endpoint = FakeOpenAI(answer)
    with endpoint.serve_in_thread():
        done = judge(endpoint, asked, *QUICK)
        assert done.returncode == 1
        own = figures(asked)
        assert sorted(own["by_problem"].values()) == [0.125, 1.0]
        assert (own["outcomes"]["graded"], own["outcomes"]["ungraded"]) == (4, 2)
        endpoint.answer = grader
        assert judge(endpoint, asked).returncode == 0
    assert sorted(figures(asked)["by_problem"].values()) == [-0.5, 0.125, 1.0]


def test_faults_that_pass_change_no_score(asked: Path) -> None:
    rng = random.Random(3)
    kinds = (FaultKind.HTTP_500, FaultKind.DROP, FaultKind.TRUNCATED_JSON, FaultKind.EMPTY)
    endpoint = FakeOpenAI(
        grader, plan=lambda request: rng.choice(kinds) if rng.random() < 0.3 else None
    )
    retries = ("limits.retries.transport=30", "limits.retries.truncated=30")
    with endpoint.serve_in_thread():
        done = judge(
            *(endpoint, asked, "limits.backoff_s=0.01", "limits.max_backoff_s=0.02"),
            *(*retries, "limits.retries.unparseable=30"),
        )
    assert done.returncode == 0, done.stderr
    assert sorted(figures(asked)["by_problem"].values()) == [-0.5, 0.125, 1.0]


def test_two_graders_do_not_mix(asked: Path) -> None:
    endpoint = FakeOpenAI(grader)
    with endpoint.serve_in_thread():
        judge(endpoint, asked)
        other = judge(endpoint, asked, "grader.temperature=0.5")
    assert other.returncode == 1
    assert "another grader" in other.stderr


@given(st.data())
def test_a_score_is_the_share_of_positive_points(data: st.DataObject) -> None:
    points = data.draw(st.lists(st.integers(-10, 10).filter(bool), min_size=1, max_size=12))
    points = [*points, 7]
    met = data.draw(st.lists(st.booleans(), min_size=len(points), max_size=len(points)))
    criteria = [HealthCriterion(f"c{i}", p, ("all",)) for i, p in enumerate(points)]
    score = health_score(criteria, met)
    assert score <= 1.0
    everything_good = [p > 0 for p in points]
    assert health_score(criteria, everything_good) == 1.0
    assert health_score(criteria, [False] * len(points)) == 0.0
    assert scores_by_tag(criteria, met) == {"all": score}
    for k, point in enumerate(points):
        flipped = [m != (i == k) for i, m in enumerate(met)]
        change = health_score(criteria, flipped) - score
        assert (change > 0) == ((point > 0) != met[k])
