"""Times the judging of training steps against a mock judge, or against any endpoint.

    python -m benchmarks.judge                          # step latency, concurrency 64
    python -m benchmarks.judge --stream-s 10            # rollouts of a step land over 10 s
    python -m benchmarks.judge --groups 256             # the limit grows within the first step
    python -m benchmarks.judge --groups 1000 --concurrency 1000 --steps 2     # CPU a request
    python -m benchmarks.judge --refuses-above 8        # HTTP 429 to all beyond 8 in flight
    python -m benchmarks.judge --endpoint http://host:8000/v1 --model NAME --json

Every figure stands beside its bound: no step can be judged faster than its slowest group's
rubricator and verifier replies, nor faster than a server that refuses above N in flight can do all
its requests, N at a time. Against the mock, whose latencies are log-normal (median 0.8 s and
0.5 s) and drawn beforehand, that bound is known exactly; against a real endpoint it is what the
endpoint's own replies took. The mock runs in a process of its own, so that CPU time is the
client's: rendering, HTTP, validation, scoring and the journal with its fsync included.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import multiprocessing
import os
import random
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from aiohttp import web

from algo.judge.journal import read_records
from algo.ropd.pipeline import Engine, Group, Rollout, build_pipeline
from algo.ropd.settings import RopdSettings
from algo.teacher.teacher_index import TeacherAnswer

MEDIAN_S = {"rubricator": 0.8, "verifier": 0.5}
SIGMA = 0.35
"""Of the logarithm of a latency: p95 is 1.8 times the median."""
CRITERIA = 7
TEACHERS = 4
STUDENTS = 8


@dataclass(frozen=True)
class Step:
    """One step's figures; seconds from the landing of its last rollout where rollouts stream."""

    wall_s: float
    bound_s: float
    judged: int

    @property
    def ratio(self) -> float:
        return self.wall_s / self.bound_s


def latency_s(role: str, uid: str) -> float:
    """The mock's latency for a group's call, the same wherever it is computed."""
    seed = hashlib.sha256(f"{role} {uid}".encode()).digest()
    return MEDIAN_S[role] * math.exp(random.Random(seed).gauss(0.0, SIGMA))


class Teachers:
    def __init__(self, characters: int) -> None:
        self._texts = [prose(f"teacher {k}: ", characters) for k in range(TEACHERS)]

    def answers(self, fingerprint: str, m: int) -> Sequence[TeacherAnswer]:
        return [TeacherAnswer(fingerprint, text, "teacher") for text in self._texts[:m]]


def prose(start: str, characters: int) -> str:
    filler = "Let x be the sum of the digits; then 2x + 3 = 17, so x = 7. "
    return (start + filler * (characters // len(filler) + 1))[:characters]


def groups_of(step: int, count: int, characters: int) -> list[Group]:
    return [
        Group(
            uid=(uid := f"{step}-{number}"),
            messages=[{"role": "user", "content": f"[[{uid}]] What is the sum of the digits?"}],
            rollouts=[
                Rollout(prose(f"student {k} of {uid}: ", characters), True) for k in range(STUDENTS)
            ],
            step=step,
        )
        for number in range(count)
    ]


async def judge_step(pipeline: Engine, groups: Sequence[Group], stream_s: float) -> float:
    """Seconds from the landing of the last group to the last score."""
    landing = [stream_s * number / max(1, len(groups) - 1) for number in range(len(groups))]

    async def land(group: Group, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await pipeline.score_group(group)

    started = time.perf_counter()
    await asyncio.gather(*map(land, groups, landing))
    return time.perf_counter() - started - stream_s


def bound_s(groups: Sequence[Group], latencies: Mapping[str, float], stream_s: float) -> float:
    """When the last group could be judged at the earliest, after the last landing."""
    ends = [
        stream_s * number / max(1, len(groups) - 1) + latencies.get(group.uid, 0.0)
        for number, group in enumerate(groups)
    ]
    return max(ends) - stream_s


def full_server_bound_s(latencies: Mapping[str, float], most: int) -> float:
    """When a server that takes `most` requests at once can have done them all, at the earliest."""
    return sum(latencies.values()) / most


def mock_latencies(groups: Sequence[Group]) -> dict[str, float]:
    """Seconds of a group's rubricator call and its verifier call, as the mock draws them."""
    return {
        group.uid: latency_s("rubricator", group.uid) + latency_s("verifier", group.uid)
        for group in groups
    }


def journalled_latencies(folder: Path, step: int) -> dict[str, float]:
    """The same as a real endpoint's replies took, failed attempts left out."""
    return {
        record["uid"]: sum(call["latency_s"] for call in record["calls"] if "latency_s" in call)
        for record in read_records(folder)
        if record["step"] == step
    }


async def measure(options: argparse.Namespace, url: str, folder: Path) -> dict[str, float]:
    role = {
        "model": options.model,
        "base_url": url,
        "api_key_env": options.api_key_env,
        "timeout_s": 300.0,
    }
    settings = RopdSettings.from_node(
        {
            "journal_dir": folder,
            "judge": {
                "rubricator": role,
                "verifier": role,
                "limits": {
                    "concurrency": options.concurrency,
                    "max_concurrency": max(options.concurrency, options.max_concurrency),
                },
            },
        }
    )
    steps: list[Step] = []
    refused: list[float] = []
    peak, cpu_s, requests = 0.0, 0.0, 0.0
    async with build_pipeline(settings, os.environ, Teachers(options.characters)) as pipeline:
        for number in range(options.steps):
            groups = groups_of(number, options.groups, options.characters)
            before = cpu_seconds()
            wall = await judge_step(pipeline, groups, options.stream_s)
            cpu_s += cpu_seconds() - before
            metrics = pipeline.metrics()
            requests += 2 * len(groups) + metrics["ropd/judge/retries"]
            refused.append(metrics["ropd/judge/retries/rate_limit"] / (2 * len(groups)))
            peak = max(peak, metrics["ropd/judge/peak_in_flight"])
            latencies = (
                mock_latencies(groups)
                if options.endpoint is None
                else journalled_latencies(folder, number)
            )
            bound = bound_s(groups, latencies, options.stream_s)
            if options.refuses_above is not None:
                bound = max(bound, full_server_bound_s(latencies, options.refuses_above))
            steps.append(Step(wall, bound, int(metrics["ropd/groups_judged"])))
            if not options.json:
                print(line(number, steps[-1]))
    later = steps[1:] or steps
    return {
        "wall_s": statistics.median(step.wall_s for step in later),
        "bound_s": statistics.median(step.bound_s for step in later),
        "ratio": statistics.median(step.ratio for step in later),
        "ratio_first": steps[0].ratio,
        "refused_per_request": statistics.mean(refused[1:] or refused),
        "refused_per_request_first": refused[0],
        "peak_in_flight": peak,
        "cpu_ms_per_request": 1000 * cpu_s / requests,
        "groups_judged": float(sum(step.judged for step in steps)),
    }


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def line(number: int, step: Step) -> str:
    return (
        f"step {number + 1}: judged {step.judged} groups in {step.wall_s:.3f} s, "
        f"bound {step.bound_s:.3f} s, ratio {step.ratio:.3f}"
    )


class Mock:
    """A judge that waits as long as drawn and says yes to everything; above `most` requests at once
    it says 429."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._at_work = 0

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self._most is not None and self._at_work >= self._most:
            return web.json_response({"error": {"message": "too many requests"}}, status=429)
        self._at_work += 1
        try:
            return await self._answer(body)
        finally:
            self._at_work -= 1

    async def _answer(self, body: bytes) -> web.Response:
        start = body.index(b"[[") + 2
        uid = body[start : body.index(b"]]", start)].decode()
        role = "rubricator" if b"ropd.rubric.v1" in body else "verifier"
        await asyncio.sleep(latency_s(role, uid))
        text = RUBRIC if role == "rubricator" else verdicts(body.count(b"<<<BEGIN ANSWER "))
        return web.json_response(
            {
                "model": "mock",
                "choices": [
                    {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
                ],
                "usage": {"prompt_tokens": len(body) // 4, "completion_tokens": len(text) // 4},
            }
        )


RUBRIC = json.dumps(
    {
        "schema_version": "ropd.rubric.v1",
        "rubrics": [
            {
                "criterion_id": f"c{k}",
                "category": "Task Completion",
                "criterion": f"The answer states result number {k} and shows how it follows.",
                "points": 1 + k % 5,
            }
            for k in range(1, CRITERIA + 1)
        ],
    }
)


def verdicts(answers: int) -> str:
    entries = [
        {"answer_index": index, "judgement": [True] * CRITERIA} for index in range(1, answers + 1)
    ]
    return json.dumps({"schema_version": "ropd.batch_verifier.v2", "answers": entries})


def serve_mock(port_to: Connection, most: int | None = None) -> None:
    """Serve the mock until the parent ends this process."""

    async def serve() -> None:
        app = web.Application(client_max_size=1 << 28)
        app.router.add_post("/v1/chat/completions", Mock(most).answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=4096)
        await site.start()
        port_to.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(serve())


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Times the judging of training steps.")
    parser.add_argument("--endpoint", help="measure this base URL instead of the mock")
    parser.add_argument("--model", default="mock")
    parser.add_argument("--api-key-env", help="variable that holds the endpoint's key")
    parser.add_argument("--groups", type=int, default=32, help="groups a step")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=64, help="in flight at the start")
    parser.add_argument("--max-concurrency", type=int, default=256, help="grown up to")
    parser.add_argument("--characters", type=int, default=3000, help="of every answer")
    parser.add_argument("--refuses-above", type=int, help="the mock refuses more at once")
    parser.add_argument("--stream-s", type=float, default=0.0, help="rollouts land over so long")
    parser.add_argument("--json", action="store_true", help="print one line of JSON alone")
    return parser.parse_args(arguments)


def main() -> None:
    options = parse()
    folder = Path(tempfile.mkdtemp(prefix="ropd-judge-benchmark-"))
    mock = None
    try:
        url = options.endpoint
        if url is None:
            receive, send = multiprocessing.Pipe(duplex=False)
            context = multiprocessing.get_context("spawn")
            mock = context.Process(
                target=serve_mock, args=(send, options.refuses_above), daemon=True
            )
            mock.start()
            url = f"http://127.0.0.1:{receive.recv()}/v1"
        figures = asyncio.run(measure(options, url, folder))
    finally:
        if mock is not None:
            mock.terminate()
            mock.join()
        shutil.rmtree(folder)
    if options.json:
        print(json.dumps({name: round(value, 4) for name, value in figures.items()}))
        return
    print(
        f"from the second step on: {figures['wall_s']:.3f} s, bound {figures['bound_s']:.3f} s, "
        f"ratio {figures['ratio']:.3f}; first step {figures['ratio_first']:.3f}; peak in flight "
        f"{figures['peak_in_flight']:.0f}; CPU {figures['cpu_ms_per_request']:.2f} ms a request"
    )


if __name__ == "__main__":
    main()
