"""`ropd teacher build` against a teacher over real HTTP: complete, resumable, nothing repaid."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from algo.data.fingerprint import prompt_fingerprint
from algo.data.prompt_file import distinct_prompts
from algo.teacher.coverage import missing_answers
from algo.teacher.teacher_index import AnswerStatus, TeacherIndex
from algo.testing import FakeOpenAI, Fault, FaultKind, Reply, Request
from tests.builders.patience import patience, wait_until
from tests.builders.teaching import build, command, environment, write_prompts
from tests.fakes.teacher import numbered, teacher


def fingerprint(text: str) -> str:
    return prompt_fingerprint([{"role": "user", "content": text}])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_prompts(tmp_path / "train.parquet", ["a", "b", "c", "a"])


def test_every_prompt_gets_its_answers_once(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "index"
    with teacher() as endpoint:
        first = build(endpoint, data, out)
        again = build(endpoint, data, out)
    assert (first.returncode, again.returncode) == (0, 0), first.stderr + again.stderr
    assert endpoint.asked == {"a": 4, "b": 4, "c": 4}
    with TeacherIndex.open(out) as index:
        assert missing_answers(index, [data], 4) == (0, ())
        [answer, *_] = index.answers(fingerprint("b"), 4)
        assert (answer.model, answer.finish_reason) == ("mock", "stop")
        assert answer.sampling == {"temperature": 0.7, "max_tokens": 8192}
        assert (answer.prompt_tokens, answer.completion_tokens) == (10, 20)
        assert index.header.provenance["base_url"] == endpoint.base_url


def test_prompts_with_some_answers_are_topped_up(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "index"
    with teacher() as endpoint:
        build(endpoint, data, out, "--answers", "1", "--limit", "2")
        assert endpoint.asked == {"a": 1, "b": 1}
        build(endpoint, data, out, "--answers", "3")
    assert endpoint.asked == {"a": 3, "b": 3, "c": 3}


def test_truncated_refused_and_empty_answers_are_kept_apart(data: Path, tmp_path: Path) -> None:
    def answer(request: Request) -> Reply:
        if request.question == "a":
            return Reply("cut", "length") if request.before == 0 else Reply("whole")
        if request.question == "b":
            return Reply("no", "content_filter")
        return Reply("<think>endless" if request.before == 0 else "<think>x</think>fine")

    out = tmp_path / "index"
    with teacher(answer) as endpoint:
        result = build(endpoint, data, out, "--answers", "1", "retries=2")
        assert result.returncode == 1
        assert "1 prompts gave more than 2" in result.stderr
        assert endpoint.asked == {"a": 2, "b": 3, "c": 2}
        build(endpoint, data, out, "--answers", "1", "retries=2")
        assert endpoint.asked["b"] == 3, "given up until the order is changed"
    with TeacherIndex.open(out) as index:
        assert [a.text for a in index.answers(fingerprint("a"), 1)] == ["whole"]
        statuses = [a.status for a in index.all_answers(fingerprint("b"))]
        assert statuses == [AnswerStatus.REFUSED] * 3
        assert index.all_answers(fingerprint("c"))[0].status is AnswerStatus.EMPTY


def test_a_larger_token_limit_is_a_new_chance(data: Path, tmp_path: Path) -> None:
    def answer(request: Request) -> Reply:
        return Reply("x", "stop" if request.body["max_tokens"] > 100 else "length")

    out = tmp_path / "index"
    with teacher(answer) as endpoint:
        small = build(endpoint, data, out, "teacher.max_tokens=100", "retries=0")
        large = build(endpoint, data, out, "teacher.max_tokens=200", "retries=0")
    assert (small.returncode, large.returncode) == (1, 0)


def test_rejected_requests_name_the_reason_and_the_rest_is_built(
    data: Path, tmp_path: Path
) -> None:
    def plan(request: Request) -> Fault | None:
        bad = request.question == "b"
        return Fault(FaultKind.HTTP_400, message="prompt is too long") if bad else None

    with teacher(plan=plan) as endpoint:
        result = build(endpoint, data, tmp_path / "index", "--answers", "2")
    assert result.returncode == 1
    assert "2 answers are missing" in result.stderr
    assert "prompt is too long" in result.stderr
    assert endpoint.answered == {"a": 2, "c": 2}


def test_seed_system_and_key_reach_the_teacher(data: Path, tmp_path: Path) -> None:
    with teacher() as endpoint:
        words = ("seed=7", "system=Be brief: no # or {}.", "--limit", "1")
        build(endpoint, data, tmp_path / "i", *words)
    assert sorted(body["seed"] for body in endpoint.bodies) == [7, 8, 9, 10]
    assert endpoint.bodies[0]["messages"] == [
        {"role": "system", "content": "Be brief: no # or {}."},
        {"role": "user", "content": "a"},
    ]


def test_extra_body_reaches_the_teacher_and_is_part_of_who_it_is(
    data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "i"
    thinking = "teacher.extra_body.chat_template_kwargs.enable_thinking="
    with teacher() as endpoint:
        build(endpoint, data, out, "--answers", "1", thinking + "false")
        again = build(endpoint, data, out, "--answers", "1", thinking + "false")
        other = build(endpoint, data, out, "--answers", "2", thinking + "true")
    assert [b["chat_template_kwargs"] for b in endpoint.bodies] == [{"enable_thinking": False}] * 3
    assert (again.returncode, other.returncode) == (0, 1)
    assert "another teacher's answers" in other.stderr


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("teacher.temprature=0.7", "teacher.temprature: no such setting"),
        ("temperature=0.7", "temperature: no such setting"),
        ("teacher.temperature=warm", "teacher.temperature='warm': "),
        ("teacher.top_p=0", "teacher.top_p=0: "),
        ("retries=many", "retries='many': "),
        ("teacher.model=other", "--model"),
        ("teacher.seed=1", "teacher.seed=1: "),
        ("limits.concurrency=8", "--concurrency"),
        ("teacher.prices.cached=1", "teacher.prices="),
        ("0.7", "'0.7' is no setting: write key=value"),
        ("teacher.extra_body={a", "teacher.extra_body: "),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(
    data: Path, tmp_path: Path, word: str, said: str
) -> None:
    result = build(FakeOpenAI(numbered), data, tmp_path / "i", "--dry-run", word)
    assert result.returncode == 1
    assert result.stderr.startswith("ropd: ")
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_what_a_teacher_in_the_cluster_cannot_be_told_is_refused(
    data: Path, tmp_path: Path
) -> None:
    words = ("--backend", "vllm", "teacher.extra_body={chat_template_kwargs: {}, top_k: 5}")
    result = build(FakeOpenAI(numbered), data, tmp_path / "i", *words, "teacher.timeout_s=9")
    assert result.returncode == 1
    assert "ropd: teacher.timeout_s, teacher.extra_body.top_k: --backend vllm" in result.stderr


def test_nulls_that_arrow_adds_are_not_sent(tmp_path: Path) -> None:
    chats = [
        [{"role": "user", "content": "a", "name": "ann"}],
        [{"role": "user", "content": "b"}],
    ]
    data = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist([{"prompt": chat} for chat in chats]), data)
    with teacher() as endpoint:
        build(endpoint, data, tmp_path / "i", "--answers", "1")
    assert [body["messages"] for body in endpoint.bodies] == chats


def test_another_teacher_is_not_mixed_in(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "index"
    with teacher() as endpoint:
        build(endpoint, data, out, "--answers", "1")
        result = build(endpoint, data, out, "system=Think.")
    assert result.returncode == 1
    assert result.stderr.startswith("ropd: ")
    assert "another teacher's answers" in result.stderr
    assert sum(endpoint.asked.values()) == 3


def test_unreachable_teacher_stops_with_one_line(data: Path, tmp_path: Path) -> None:
    with teacher() as endpoint:
        pass
    result = build(endpoint, data, tmp_path / "index", "limits.outage_s=1")
    assert result.returncode == 1
    assert endpoint.base_url in result.stderr
    assert "Traceback" not in result.stderr


def test_missing_key_names_the_variable_and_the_setting(data: Path, tmp_path: Path) -> None:
    with teacher() as endpoint:
        result = build(endpoint, data, tmp_path / "i", "teacher.api_key_env=NOT_THERE")
    assert result.returncode == 1
    assert result.stderr.startswith("ropd: NOT_THERE is not set")
    assert "teacher.api_key_env" in result.stderr


@pytest.mark.parametrize("host", ["eu.api.openai.com/v1", "x.openai.azure.com/openai/v1"])
def test_openai_and_azure_want_a_key_unasked(host: str, data: Path, tmp_path: Path) -> None:
    with teacher() as endpoint:
        result = build(endpoint, data, tmp_path / "i", "--base-url", f"https://{host}")
    assert result.returncode == 1
    assert result.stderr.startswith("ropd: OPENAI_API_KEY is not set")
    assert f"https://{host}" in result.stderr


def test_second_builder_refuses(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "index"
    with teacher(latency_s=20.0) as endpoint:
        first = subprocess.Popen(command(endpoint, data, out), env=environment())
        try:
            wait_until(lambda: endpoint.in_flight > 0, 30)
            second = build(endpoint, data, out)
        finally:
            first.kill()
            first.wait()
    assert second.returncode == 1
    assert "another process is writing" in second.stderr


def test_budget_in_tokens_stops_before_it_and_goes_on_later(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "index"
    # Room for 3 requests at most tokens, and for 5 of the size that they turn out to have.
    budget = ("--concurrency", "64", "teacher.max_tokens=50", "budget_tokens=170")
    with teacher(latency_s=0.2) as endpoint:
        result = build(endpoint, data, out, *budget)
        assert result.returncode == 1
        assert "the budget is used up" in result.stderr
        assert endpoint.peak_in_flight == 3
        assert sum(endpoint.asked.values()) == 170 // 30
        assert build(endpoint, data, out).returncode == 0
    assert sum(endpoint.asked.values()) == 12


def test_budget_in_money_needs_prices_and_holds(data: Path, tmp_path: Path) -> None:
    prices = ("teacher.prices={input: 1000, output: 1000}", "teacher.max_tokens=50")
    with teacher() as endpoint:
        unpriced = build(endpoint, data, tmp_path / "a", "--budget", "1")
        assert "teacher.prices.input" in unpriced.stderr
        build(endpoint, data, tmp_path / "b", "--budget", "0.1", "--concurrency", "1", *prices)
    assert sum(endpoint.asked.values()) == 3


def test_budget_without_reported_tokens_is_refused(data: Path, tmp_path: Path) -> None:
    with teacher(usage=None) as endpoint:
        budget = ("budget_tokens=99999", "--concurrency", "2")
        result = build(endpoint, data, tmp_path / "i", *budget)
    assert "does not report the tokens" in result.stderr


def test_dry_run_counts_prices_and_writes_nothing(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "index"
    prices = ("teacher.prices.output=100", "teacher.max_tokens=1000", "--dry-run")
    with teacher() as endpoint:
        before = build(endpoint, data, out, *prices)
        assert not out.exists()
        build(endpoint, data, out, "--limit", "1")
        after = build(endpoint, data, out, *prices)
        assert sum(endpoint.asked.values()) == 4
    assert "3 prompts lack 12 answers" in before.stdout
    assert "at most 12,000, costs 1.20" in before.stdout
    assert "2 prompts lack 8 answers" in after.stdout
    assert "about 160, costs 0.02" in after.stdout


def test_repetition_is_warned_of_and_counted(data: Path, tmp_path: Path) -> None:
    with teacher(lambda request: "always the same") as endpoint:
        cold = build(endpoint, data, tmp_path / "a", "teacher.temperature=0")
        seeded = build(endpoint, data, tmp_path / "b", "teacher.temperature=0", "seed=1")
    assert "at temperature 0 a teacher repeats itself" in cold.stderr
    assert "repeats itself" not in seeded.stderr
    assert "different answers a prompt: 1.00 on average, 4 asked for" in cold.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_waits_for_the_requests_in_flight(
    data: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "index"
    with teacher(latency_s=1.0) as endpoint:
        words = command(endpoint, data, out, "--concurrency", "3")
        process = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True)
        wait_until(lambda: endpoint.in_flight == 3, 30)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=patience(30))
        assert process.returncode == 1
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    assert sum(endpoint.asked.values()) == 3
    with TeacherIndex.open(out) as index:
        assert len(index) == 3


def test_full_disk_ends_the_build_and_loses_nothing(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "index"
    limited = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limited += "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); "
    limited += "from algo.cli import main; main()"
    with teacher() as endpoint:
        words = command(endpoint, data, out, "--concurrency", "1")
        words[1:3] = ["-c", limited]
        result = subprocess.run(
            words,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=patience(60),
            check=False,
        )
        assert result.returncode == 1
        assert "cannot write teacher index" in result.stderr
        assert "make room" in result.stderr
        with TeacherIndex.open(out) as index:
            stored = len(index)
        assert 0 < stored < 12
        assert build(endpoint, data, out).returncode == 0
    assert sum(endpoint.asked.values()) <= 12 + 1


def test_index_that_cannot_be_written_is_named(data: Path, tmp_path: Path) -> None:
    with teacher() as endpoint:
        result = build(endpoint, data, tmp_path)
    assert result.returncode == 1
    assert f"cannot write teacher index {tmp_path}" in result.stderr
    assert sum(endpoint.asked.values()) == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_twenty_kills_lose_nothing_and_ask_little_again(tmp_path: Path) -> None:
    prompts, kills, in_flight = 150, 20, 8
    data = write_prompts(tmp_path / "train.parquet", [f"prompt {i}" for i in range(prompts)])
    out = tmp_path / "index"
    rng = random.Random(7)
    extra = ("--concurrency", str(in_flight))
    with teacher(latency_s=0.1) as endpoint:
        for _ in range(kills):
            before = sum(endpoint.asked.values())
            process = subprocess.Popen(
                command(endpoint, data, out, *extra),
                env=environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            wait_until(lambda: sum(endpoint.asked.values()) > before, 30)  # noqa: B023
            time.sleep(rng.uniform(0.0, 0.4))
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        final = build(endpoint, data, out, *extra)
        assert final.returncode == 0, final.stderr
    needed = prompts * 4
    asked = sum(endpoint.asked.values())
    assert needed <= asked <= needed + in_flight * kills
    with TeacherIndex.open(out) as index:
        assert missing_answers(index, [data], 4) == (0, ())
        assert len(index) == needed
        for prompt in distinct_prompts([data]).values():
            texts = [answer.text for answer in index.all_answers(prompt.fingerprint)]
            assert len(set(texts)) == 4
