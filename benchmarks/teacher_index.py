"""How fast a teacher index opens and answers, and how much memory a process pays for it.

    python benchmarks/teacher_index.py --prompts 17000
    python benchmarks/teacher_index.py --prompts 200000 --json

Writes an index of PROMPTS x 4 answers of 3 kB, then opens it in a fresh
process, which looks up the 4 answers of prompts in random order. `added_rss_mb` is what that
process gained from before opening to after the lookups. With --json the last line is one object.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from algo.data.fingerprint import prompt_fingerprint  # noqa: E402
from algo.teacher.teacher_index import Teacher, TeacherAnswer, TeacherIndex  # noqa: E402
from algo.teacher.writer import TeacherIndexWriter  # noqa: E402

ANSWERS, CHARACTERS, BATCH, LOOKUPS = 4, 3000, 500, 20_000
SENTENCE = "Let $x_{%d} = \\frac{%d}{2}$; then by symmetry \\(x^2 + y^2 = %d\\).\n"


def fingerprint(i: int) -> str:
    return prompt_fingerprint([{"role": "user", "content": f"question {i}"}])


def text(rng: random.Random) -> str:
    words = "".join(SENTENCE % (k, rng.randrange(999), rng.randrange(999)) for k in range(60))
    return words[:CHARACTERS]


def write(path: Path, prompts: int) -> None:
    rng = random.Random(0)
    texts = [text(rng) for _ in range(64)]
    sampling = {"temperature": 0.7, "max_tokens": 8192}
    with TeacherIndexWriter.open(path, Teacher("teacher", temperature=0.7)) as writer:
        for start in range(0, prompts, BATCH):
            writer.append(
                TeacherAnswer(
                    fingerprint=fingerprint(i),
                    text=f"{i}.{j} {rng.choice(texts)}",
                    model="teacher",
                    finish_reason="stop",
                    sampling=sampling,
                    prompt_tokens=120,
                    completion_tokens=900,
                    latency_s=12.5,
                )
                for i in range(start, min(start + BATCH, prompts))
                for j in range(ANSWERS)
            )


def resident_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("no VmRSS in /proc/self/status: this benchmark needs Linux")


def measure(path: Path, prompts: int) -> dict[str, float]:
    rng = random.Random(1)
    keys = [fingerprint(rng.randrange(prompts)) for _ in range(LOOKUPS)]
    before = resident_mb()
    started = time.perf_counter()
    index = TeacherIndex.open(path)
    opened = time.perf_counter()
    for key in keys:
        index.answers(key, ANSWERS)
    ended = time.perf_counter()
    return {
        "open_s": round(opened - started, 4),
        "added_rss_mb": round(resident_mb() - before, 1),
        "lookups_per_s": round(LOOKUPS / (ended - opened)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a teacher index.")
    parser.add_argument("--prompts", type=int, default=17_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.prompts)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index"
        write(path, options.prompts)
        size_mb = path.stat().st_size / 1e6
        child = [
            sys.executable,
            __file__,
            "--measure",
            str(path),
            "--prompts",
            str(options.prompts),
        ]
        result = json.loads(subprocess.run(child, check=True, stdout=subprocess.PIPE).stdout)
    print(
        f"{options.prompts:,} prompts x {ANSWERS} answers, {size_mb:,.0f} MB on disk: "
        f"opens in {result['open_s']} s, adds {result['added_rss_mb']} MB, "
        f"{result['lookups_per_s']:,} lookups/s"
    )
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
