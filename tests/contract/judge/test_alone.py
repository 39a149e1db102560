"""`algo` judges a group in ten lines, in a Python that has neither verl nor Ray nor torch."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from algo.data.fingerprint import prompt_fingerprint
from algo.ropd.pipeline import Rollout
from algo.teacher.teacher_index import Teacher, TeacherAnswer
from algo.teacher.writer import TeacherIndexWriter
from tests.builders.judging import group, right_scores
from tests.fakes.judge import FakeJudge

ROOT = Path(__file__).parents[3]
TEN_LINES = """
import asyncio, os
from algo.ropd.pipeline import Group, Rollout, build_pipeline
from algo.ropd.settings import RopdSettings

settings = RopdSettings.from_node({"teacher_index": "teacher.index", "journal_dir": "journal"})
prompt = [{"role": "user", "content": "What is 57 + 28?"}]
rollouts = [Rollout("57 + 28 = 85", finished=True), Rollout("75", finished=True)]
async def main():
    async with build_pipeline(settings, os.environ) as pipeline:
        print((await pipeline.score_group(Group("g1", prompt, rollouts, step=0))).scores)
asyncio.run(main())
"""
WITHOUT = "import sys\nfor name in ('verl', 'ray', 'torch'): sys.modules[name] = None\n"


async def test_ten_lines_score_a_group(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "What is 57 + 28?"}]
    fingerprint = prompt_fingerprint(messages)
    with TeacherIndexWriter.open(tmp_path / "teacher.index", Teacher(model="t")) as writer:
        writer.append(TeacherAnswer(fingerprint, f"85, in way {k}", "t") for k in range(4))
    of = group(1, messages=messages, rollouts=[Rollout("57 + 28 = 85", True), Rollout("75", True)])
    async with FakeJudge().serve() as url:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", WITHOUT + TEN_LINES),
            cwd=tmp_path,
            env={
                "PYTHONPATH": str(ROOT),
                "OPENAI_BASE_URL": url,
                "OPENAI_API_KEY": "any",
                "ROPD_RUBRICATOR_MODEL": "fake",
                "ROPD_VERIFIER_MODEL": "fake",
            },
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0
    assert output.decode().strip() == str(right_scores(of))
