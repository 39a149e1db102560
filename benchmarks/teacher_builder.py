"""How many requests a teacher build keeps in flight, and how soon an answer is on disk.

    python benchmarks/teacher_builder.py
    python benchmarks/teacher_builder.py --answers 10000 --concurrency 256 --latency 0.2 --json

A mock teacher (its own process) answers 3 kB after LATENCY seconds; the builder (another process)
runs `ropd teacher build`. The mock counts requests in flight; this process watches the index file
and compares when an answer was sent with when it stood in the file. With --json the last line is
one object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
TEXT = "x" * 2980
MARK = re.compile(rb'"text":"(\d+) ')


async def serve(pipe: Connection, latency_s: float) -> None:
    from aiohttp import web

    in_flight, sent, samples = 0, {}, []

    async def complete(request: web.Request) -> web.Response:
        nonlocal in_flight
        in_flight += 1
        await request.read()
        await asyncio.sleep(latency_s)
        number = len(sent)
        sent[number] = time.time()
        in_flight -= 1
        choice: dict[str, Any] = {"message": {"content": f"{number} {TEXT}"}}
        choice["finish_reason"] = "stop"
        usage = {"prompt_tokens": 10, "completion_tokens": 800}
        return web.json_response({"model": "m", "choices": [choice], "usage": usage})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    pipe.send(runner.addresses[0][1])
    while not pipe.poll():
        samples.append((time.time(), in_flight))
        await asyncio.sleep(0.05)
    pipe.send((sent, samples))


def mock(pipe: Connection, latency_s: float) -> None:
    asyncio.run(serve(pipe, latency_s))


def watch(process: subprocess.Popen[bytes], index: Path) -> dict[int, float]:
    """When each answer was first seen in the file."""
    seen: dict[int, float] = {}
    position, rest = 0, b""
    while True:
        ended = process.poll() is not None
        if index.exists():
            with index.open("rb") as file:
                file.seek(position)
                added = file.read()
            now = time.time()
            position += len(added)
            *lines, rest = (rest + added).split(b"\n")
            for line in lines:
                if match := MARK.search(line):
                    seen[int(match[1])] = now
        if ended:
            return seen
        time.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a teacher build.")
    parser.add_argument("--answers", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    here, there = multiprocessing.Pipe()
    server = multiprocessing.Process(target=mock, args=(there, options.latency), daemon=True)
    server.start()
    port = here.recv()
    with tempfile.TemporaryDirectory() as folder:
        data, index = Path(folder) / "prompts.parquet", Path(folder) / "index"
        questions = (f"q{i}" for i in range(options.answers // 4))
        prompts = [{"prompt": [{"role": "user", "content": q}]} for q in questions]
        pq.write_table(pa.Table.from_pylist(prompts), data)
        command = [sys.executable, "-m", "algo.cli", "teacher", "build", "--model", "m"]
        command += ["--data", str(data), "--out", str(index)]
        command += ["--base-url", f"http://127.0.0.1:{port}/v1"]
        command += ["--concurrency", str(options.concurrency)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        seen = watch(process, index)
    here.send("stop")
    sent, samples = here.recv()
    server.join()
    first, last = min(sent.values()) - options.latency, max(sent.values())
    busy = sorted(n for at, n in samples if first + 1 < at < last - 2 * options.latency)
    delays = sorted(seen[number] - at for number, at in sent.items())
    result = {
        "answers": len(sent),
        "answers_per_s": round(len(sent) / (last - first)),
        "median_in_flight": busy[len(busy) // 2] if busy else None,
        "p05_in_flight": busy[len(busy) // 20] if busy else None,
        "median_to_disk_s": round(delays[len(delays) // 2], 3),
        "longest_to_disk_s": round(delays[-1], 3),
    }
    print(
        f"{result['answers']:,} answers, {result['answers_per_s']}/s; in flight: median "
        f"{result['median_in_flight']}, 5 % below {result['p05_in_flight']}; on disk after "
        f"{result['median_to_disk_s']} s (median), {result['longest_to_disk_s']} s (longest)"
    )
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
