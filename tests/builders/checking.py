"""What the tests of the doctor's checks share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from algo.data.fingerprint import prompt_fingerprint
from algo.teacher.teacher_index import Teacher, TeacherAnswer
from algo.teacher.writer import TeacherIndexWriter
from examples.arithmetic.student import build_tokenizer
from ropd_verl.checks.finding import Finding, Level, Subject
from ropd_verl.config import compose_config


def subject(*overrides: str, name: str = "ropd", environ: dict[str, str] | None = None) -> Subject:
    return Subject(compose_config(name, list(overrides)), environ or {})


def levels(findings: Iterable[Finding]) -> list[Level]:
    return [finding.level for finding in findings]


ROWS = [
    {
        "prompt": [{"role": "user", "content": f"1+{i}=?"}],
        "data_source": "arithmetic",
        "reward_model": {"style": "rule", "ground_truth": str(1 + i)},
    }
    for i in range(4)
]


def whole_run(folder: Path) -> list[str]:
    """Make the inputs of a run in `folder`; gives overrides that name all but its judge."""
    build_tokenizer().save_pretrained(folder / "student")
    (folder / "student/config.json").write_text(
        '{"model_type": "qwen3", "hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 32,'
        ' "intermediate_size": 8, "num_attention_heads": 1, "num_key_value_heads": 1}'
    )
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "train.parquet")
    with TeacherIndexWriter.open(folder / "index", Teacher(model="t")) as writer:
        writer.append(
            [TeacherAnswer(prompt_fingerprint(row["prompt"]), "answer", "t") for row in ROWS]
        )
    return [
        "hardware=cpu",
        f"actor_rollout_ref.model.path={folder}/student",
        f"data.train_files={folder}/train.parquet",
        f"data.val_files={folder}/train.parquet",
        f"ropd.teacher_index={folder}/index",
        "ropd.teacher_answers=1",
        "data.train_batch_size=2",
        "trainer.total_training_steps=2",
        "actor_rollout_ref.actor.optim.lr_warmup_steps=0",
        "ropd.judge.rubricator.model=judge",
        "ropd.judge.verifier.model=judge",
        "ropd.judge.rubricator.api_key_env=null",
        "ropd.judge.verifier.api_key_env=null",
    ]
