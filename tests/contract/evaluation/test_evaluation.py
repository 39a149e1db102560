"""`ropd eval` against a model over real HTTP: every figure right, nothing failed counted wrong."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from algo.evaluation.log import read_evaluation
from algo.testing import FakeOpenAI, FaultKind, Reply, Request
from tests.builders.evaluating import command, evaluate, run_words, write_set
from tests.builders.patience import patience, wait_until
from tests.builders.teaching import environment

RIGHT_OF_FOUR = {"one": 1, "two": 2, "three": 3, "four": 4}
QUICK = ("limits.backoff_s=0.01", "limits.max_backoff_s=0.02", "limits.retries.transport=2")


def figures(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())["sets"]["own"]


def outcomes(folder: Path) -> dict[str, int]:
    return {outcome: count for outcome, count in figures(folder)["outcomes"].items() if count}


def by_question(folder: Path) -> dict[str, float]:
    problems = read_evaluation(folder).problems["own"]
    means = figures(folder)["by_problem"]
    return {problems[key].messages[-1]["content"]: mean for key, mean in means.items()}


def nth_right(right: str = "answer 7", wrong: str = "answer 8") -> Callable[[Request], str]:
    """Right for a problem's first samples, as many as it is named after."""

    def answer(request: Request) -> str:
        # The engine's own trial request has neither a seed nor one of the questions.
        sample = request.body.get("seed", 100) - 100
        return right if sample < RIGHT_OF_FOUR.get(request.question, 0) else wrong

    return answer


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_set(tmp_path / "own.parquet", dict.fromkeys(RIGHT_OF_FOUR, "7"))


def test_scores_intervals_and_pass_at_k(file: Path, tmp_path: Path) -> None:
    endpoint = FakeOpenAI(nth_right())
    with endpoint.serve_in_thread():
        done = evaluate(*run_words(endpoint, file, tmp_path / "out", "seed=100"))
    assert done.returncode == 0, done.stderr
    assert by_question(tmp_path / "out") == {"one": 0.25, "two": 0.5, "three": 0.75, "four": 1.0}
    own = figures(tmp_path / "out")
    assert own["score"]["mean"] == 0.625
    # sd 0.3227 over 4 problems: t(3) = 3.1824
    assert own["score"]["high"] - 0.625 == pytest.approx(3.1824 * 0.32275 / 2, rel=1e-3)
    assert own["pass_at"] == {
        "1": 0.625,
        "2": pytest.approx((1 / 2 + 5 / 6 + 1 + 1) / 4),
        "4": 1.0,
    }
    assert own["majority"] == (0 + 0.5 + 1 + 1) / 4
    assert outcomes(tmp_path / "out") == {"right": 10, "wrong": 6}
    assert "62.5 % ± 51.4" in done.stdout
    assert "4/4 problems, 16/16 answers" in done.stdout


def test_faults_that_pass_change_nothing(file: Path, tmp_path: Path) -> None:
    """Every other request meets a fault of the server; the retry brings the answer."""
    plan = random.Random(1)
    kinds = (FaultKind.HTTP_500, FaultKind.DROP, FaultKind.HALF_BODY)
    endpoint = FakeOpenAI(
        nth_right(), plan=lambda request: plan.choice(kinds) if plan.random() < 0.5 else None
    )
    with endpoint.serve_in_thread():
        words = run_words(endpoint, file, tmp_path / "out", "seed=100", "limits.backoff_s=0.01")
        done = evaluate(*words, "limits.max_backoff_s=0.02", "limits.retries.transport=40")
    assert done.returncode == 0, done.stderr
    assert by_question(tmp_path / "out") == {"one": 0.25, "two": 0.5, "three": 0.75, "four": 1.0}


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        (FaultKind.HTTP_500, "transport"),
        (FaultKind.CONTEXT_OVERFLOW, "context_overflow"),
        (FaultKind.CONTENT_FILTER, "refusal"),
    ],
)
def test_a_problem_that_always_fails_is_no_wrong_answer(
    file: Path, tmp_path: Path, kind: FaultKind, named: str
) -> None:
    endpoint = FakeOpenAI(
        nth_right(), plan=lambda request: kind if request.question == "one" else None
    )
    out = tmp_path / "out"
    with endpoint.serve_in_thread():
        done = evaluate(*run_words(endpoint, file, out, "seed=100", *QUICK))
        assert done.returncode == 1  # 4 of 16 failed
        assert by_question(out) == {"two": 0.5, "three": 0.75, "four": 1.0}
        own = figures(out)
        assert (own["answered"], own["failed"], own["failures"]) == (12, 4, {named: 4})
        assert own["score"]["mean"] == 0.75
        assert f"3/4 problems, 12/16 answers, 4 failed: 4 {named}" in done.stdout
        # What failed is asked for again, and what was answered is not.
        endpoint.plan = lambda request: None
        before = sum(endpoint.requests.values())
        again = evaluate(*run_words(endpoint, file, out, "seed=100"))
        assert sum(endpoint.requests.values()) - before == 4
    assert again.returncode == 0, again.stderr
    assert by_question(out)["one"] == 0.25
    assert figures(out)["failed"] == 0


def test_what_is_no_final_answer_scores_zero_and_is_counted_apart(tmp_path: Path) -> None:
    replies = {
        "thought never ended": Reply("<think> answer 7", "length"),
        "stop within a thought": Reply("<think>I say answer 7"),
        "cut off behind a draft": Reply("answer 7", "length"),
        "nothing stated": Reply("I do not know."),
        "thought, then right": Reply("<think>answer 8</think>answer 7"),
        "thought, then wrong": Reply("<think>answer 7</think>answer 8"),
    }
    file = write_set(tmp_path / "own.parquet", dict.fromkeys(replies, "7"))
    endpoint = FakeOpenAI(lambda request: replies[request.question])
    with endpoint.serve_in_thread():
        done = evaluate(*run_words(endpoint, file, tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert {question for question, mean in by_question(tmp_path / "out").items() if mean} == {
        "thought, then right"
    }
    assert outcomes(tmp_path / "out") == {
        "right": 4,
        "wrong": 4,
        "no_answer": 4,
        "cut_off": 12,
    }
    assert "24/24 answers, 4 no answer, 12 cut off" in done.stdout


@pytest.mark.parametrize(
    ("data_source", "truth", "right", "wrong"),
    [
        ("aime24", "204", "So \\boxed{204}.", "So \\boxed{240}."),
        ("hmmt25_feb", "\\frac{1}{2}", "Thus $\\boxed{0.5}$", "Thus $\\boxed{2}$"),
        ("gpqa_diamond", "C", "Answer: C", "Answer: D"),
        ("arithmetic", "7", "answer 7", "answer 17"),
    ],
)
def test_every_rule_is_that_of_validation(
    tmp_path: Path, data_source: str, truth: str, right: str, wrong: str
) -> None:
    file = write_set(tmp_path / "own.parquet", dict.fromkeys(RIGHT_OF_FOUR, truth), data_source)
    endpoint = FakeOpenAI(nth_right(right, wrong))
    with endpoint.serve_in_thread():
        done = evaluate(*run_words(endpoint, file, tmp_path / "out", "seed=100"))
    assert done.returncode == 0, done.stderr
    assert by_question(tmp_path / "out") == {"one": 0.25, "two": 0.5, "three": 0.75, "four": 1.0}


def test_the_model_is_asked_as_the_paper_samples(file: Path, tmp_path: Path) -> None:
    endpoint = FakeOpenAI(nth_right())
    with endpoint.serve_in_thread():
        evaluate(*run_words(endpoint, file, tmp_path / "a", "seed=100"))
        evaluate(*run_words(endpoint, file, tmp_path / "b", "seed=100", "--no-think"))
    plain, thoughtless = endpoint.bodies[0], endpoint.bodies[-1]
    assert (plain["temperature"], plain["top_p"], plain["max_tokens"]) == (1.0, 0.95, 32_768)
    assert "chat_template_kwargs" not in plain
    assert thoughtless["chat_template_kwargs"] == {"enable_thinking": False}
    assert {body["seed"] for body in endpoint.bodies} == {100, 101, 102, 103}


def test_another_protocol_does_not_mix_into_the_same_folder(file: Path, tmp_path: Path) -> None:
    endpoint = FakeOpenAI(nth_right())
    out = tmp_path / "out"
    with endpoint.serve_in_thread():
        evaluate(*run_words(endpoint, file, out, "seed=100"))
        asked = sum(endpoint.requests.values())
        for other in (("model.temperature=0.6", "seed=100"), ("seed=7",), ("--think", "seed=100")):
            refused = evaluate(*run_words(endpoint, file, out, *other))
            assert refused.returncode == 1
            assert "asked for differently" in refused.stderr
            assert "choose another --out" in refused.stderr
        more = evaluate(*run_words(endpoint, file, out, "seed=100", "--samples", "2"))
        assert "0 answers to ask for" in more.stderr
        assert sum(endpoint.requests.values()) == asked


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "aime24"), "data/aime24.parquet does not exist: make it with `ropd data"),
        (("--set", "a,a"), "give each set once"),
        (("model.seed=3",), "set seed, without `model.`"),
        (("model.tokenizer=x",), "no effect on an evaluated model"),
        (("limits.concurrency=3",), "give --concurrency"),
        (("--think", "model.extra_body={chat_template_kwargs: {}}"), "give one of them"),
    ],
)
def test_mistakes_name_the_setting(
    file: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    endpoint = FakeOpenAI(nth_right())
    endpoint.base_url = "http://127.0.0.1:1/v1"
    done = evaluate(*run_words(endpoint, file, tmp_path / "out", *words))
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("truths", "source", "said"),
    [
        ({"a": ""}, "arithmetic", "row 0: no ground truth"),
        ({"a": "7"}, "poetry", "'poetry', which no rule grades"),
    ],
)
def test_rows_that_cannot_be_graded_are_said_before_anything_is_asked(
    tmp_path: Path, truths: dict[str, str], source: str, said: str
) -> None:
    file = write_set(tmp_path / "own.parquet", truths, source)
    endpoint = FakeOpenAI(nth_right())
    with endpoint.serve_in_thread():
        done = evaluate(*run_words(endpoint, file, tmp_path / "out"))
    assert done.returncode == 1
    assert said in done.stderr
    assert not endpoint.requests


def test_a_server_that_is_down_leaves_a_summary_and_a_way_to_go_on(
    file: Path, tmp_path: Path
) -> None:
    endpoint = FakeOpenAI(
        nth_right(),
        plan=lambda request: FaultKind.HTTP_503 if request.number >= 6 else None,
        role_of=lambda body: "model",
    )
    out = tmp_path / "out"
    with endpoint.serve_in_thread():
        words = run_words(endpoint, file, out, "seed=100", "--concurrency", "1")
        done = evaluate(*words, *QUICK, "limits.outage_s=1")
        assert done.returncode == 1
        assert "run the same command again to go on" in done.stderr
        own = figures(out)
        assert own["answered"] == 6
        assert own["outcomes"]["wrong"] + own["outcomes"]["right"] == 6
        endpoint.plan = lambda request: None
        assert evaluate(*run_words(endpoint, file, out, "seed=100")).returncode == 0
    assert by_question(out) == {"one": 0.25, "two": 0.5, "three": 0.75, "four": 1.0}


def test_a_budget_stops_before_it_and_the_next_run_goes_on(file: Path, tmp_path: Path) -> None:
    from algo.testing import Usage

    endpoint = FakeOpenAI(nth_right(), usage=lambda request, replies: Usage(10, 20))
    out = tmp_path / "out"
    with endpoint.serve_in_thread():
        words = run_words(endpoint, file, out, "seed=100", "--concurrency", "1")
        done = evaluate(*words, "budget_tokens=170")
        assert done.returncode == 1
        assert "budget_tokens=170 is used up" in done.stderr
        assert sum(endpoint.requests.values()) == 170 // 30
        assert evaluate(*words).returncode == 0
    assert sum(endpoint.requests.values()) == 16


def test_two_models_are_compared_problem_by_problem(file: Path, tmp_path: Path) -> None:
    weak, strong = FakeOpenAI(nth_right()), FakeOpenAI(lambda request: "answer 7")
    for name, endpoint in (("weak", weak), ("strong", strong)):
        with endpoint.serve_in_thread():
            evaluate(*run_words(endpoint, file, tmp_path / name, "seed=100"))
    said = evaluate("compare", str(tmp_path / "weak"), str(tmp_path / "strong"))
    assert said.returncode == 0, said.stderr
    # differences .75 .5 .25 0: mean .375, sd .3227
    assert "own: 62.5 % -> 100.0 %, +37.5 ± 51.4 points" in said.stdout
    assert "over 4 problems" in said.stdout
    with strong.serve_in_thread():
        evaluate(*run_words(strong, file, tmp_path / "cold", "model.temperature=0.1"))
    refused = evaluate("compare", str(tmp_path / "weak"), str(tmp_path / "cold"))
    assert refused.returncode == 1
    assert "temperature 1.0 and 0.1" in refused.stderr


def test_show_and_regrade_ask_nothing(file: Path, tmp_path: Path) -> None:
    endpoint = FakeOpenAI(nth_right())
    out = tmp_path / "out"
    with endpoint.serve_in_thread():
        ran = evaluate(*run_words(endpoint, file, out, "seed=100"))
    assert evaluate("show", str(out)).stdout == ran.stdout
    moved = out.rename(tmp_path / "elsewhere")
    file.unlink()
    (moved / "results.json").unlink()
    missing = evaluate("show", str(moved))
    assert "ropd eval regrade" in missing.stderr
    assert evaluate("regrade", str(moved)).stdout == ran.stdout
    fewer = evaluate("regrade", str(moved), "--samples", "1")
    assert "100.0 % ± 0.0 (4/4 problems, 4/4 answers)" in fewer.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ten_kills_lose_nothing_and_ask_little_again(tmp_path: Path) -> None:
    names = [f"problem {i}" for i in range(40)]
    file = write_set(tmp_path / "own.parquet", dict.fromkeys(names, "7"))
    rng, kills, in_flight = random.Random(5), 10, 8

    def answer(request: Request) -> str:
        return f"answer {7 if (len(request.question) + request.body['seed']) % 3 else 8}"

    endpoint = FakeOpenAI(answer, delay_s=lambda request: 0.1)
    extra = ("seed=100", "--concurrency", str(in_flight))
    with endpoint.serve_in_thread():
        words = run_words(endpoint, file, tmp_path / "out", *extra)
        for _ in range(kills):
            before = sum(endpoint.requests.values())
            process = subprocess.Popen(
                command(*words),
                env=environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            wait_until(
                lambda: sum(endpoint.requests.values()) > before or process.poll() is not None,  # noqa: B023
                60,
            )
            time.sleep(rng.uniform(0.0, 0.3))
            os.kill(process.pid, signal.SIGKILL)
            process.wait(patience(30))
        assert evaluate(*words).returncode == 0
        asked = sum(endpoint.requests.values())
        assert evaluate(*run_words(endpoint, file, tmp_path / "calm", *extra)).returncode == 0
    assert 160 <= asked <= 160 + in_flight * kills
    assert len(read_evaluation(tmp_path / "out").answers) == 160
    assert figures(tmp_path / "out") == figures(tmp_path / "calm")
