"""Building with an engine that takes all requests at once, and what Ray Data's vLLM is handed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from algo.data.fingerprint import prompt_fingerprint
from algo.data.prompt_file import PromptRow
from algo.llm.endpoint import Endpoint, Reply
from algo.llm.settings import RoleSettings
from algo.teacher.build import BuildReport, Order, Permission, teacher_of
from algo.teacher.build_offline import OfflineEngine, OfflineRequest, build_offline
from algo.teacher.teacher_index import AnswerStatus, TeacherIndex
from algo.teacher.writer import TeacherIndexWriter
from tests.builders.patience import patience

ENDPOINT = Endpoint(
    "teacher", "qwen", "http://ray-cluster", RoleSettings(temperature=0.6, max_tokens=100)
)


class Unlimited:
    def update(self, report: BuildReport) -> None: ...

    def may_ask(self, report: BuildReport, in_flight: int) -> Permission:
        return Permission.GO


def prompt(i: int) -> PromptRow:
    chat = [{"role": "user", "content": f"q{i}"}]
    return PromptRow(i, chat, prompt_fingerprint(chat))


def reply(text: str, finish_reason: str = "stop") -> Reply:
    return Reply(text, finish_reason, "qwen", 5, 6, None, 0.0, 1)


def build(path: Path, engine: OfflineEngine, **order: Any) -> BuildReport:
    wanted = Order(2, 1, **order)
    with TeacherIndexWriter.open(path, teacher_of(ENDPOINT, wanted)) as writer:
        chats = [prompt(i) for i in range(3)]
        return build_offline(chats, wanted, ENDPOINT, engine, writer, Unlimited())


def test_an_engine_that_dies_is_asked_only_for_the_rest(tmp_path: Path) -> None:
    asked: list[int] = []

    def dying(requests: Sequence[OfflineRequest]) -> Iterator[Sequence[tuple[OfflineRequest, Any]]]:
        asked.append(len(requests))
        yield [(request, reply("x")) for request in requests[3:0:-1]]
        raise RuntimeError("engine died")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="engine died"):
            build(tmp_path / "i", dying, seed=10)
    assert asked == [6, 3]
    with TeacherIndex.open(tmp_path / "i") as index:
        assert len(index) == 5


def test_errors_and_rejected_answers_are_tried_in_a_bounded_number_of_rounds(
    tmp_path: Path,
) -> None:
    rounds: list[int] = []

    def engine(
        requests: Sequence[OfflineRequest],
    ) -> Iterator[Sequence[tuple[OfflineRequest, Reply | str]]]:
        rounds.append(len(requests))
        for request in requests:
            text = request.messages[-1]["content"]
            if text == "q0":
                yield [(request, "out of memory")]
            elif text == "q1":
                yield [(request, reply("cut", "length"))]
            else:
                yield [(request, reply("fine"))]

    report = build(tmp_path / "i", engine, retries=2)
    assert rounds == [6, 4, 2]
    assert report.failures == {"engine": 6}
    assert report.last_failure == "out of memory"
    assert report.stored == {AnswerStatus.USABLE: 2, AnswerStatus.TRUNCATED: 4}
    assert report.missing == 4


# Ray Data


class FakeDataset:
    """Rows through the functions that Ray Data would run on the cluster."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


def test_ray_teacher_composes_and_reads_what_vllm_gives_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    teacher_ray = pytest.importorskip("ropd_verl.teacher_ray")
    seen: dict[str, Any] = {}

    def build_processor(config: Any, postprocess: Any, builder_kwargs: Mapping[str, Any]) -> Any:
        seen["config"], seen["builder"] = config, builder_kwargs

        def process(dataset: FakeDataset) -> FakeDataset:
            seen["rows"] = dataset.rows
            outputs = []
            for row in reversed(dataset.rows):
                long = row["messages"][-1]["content"] == "q1"
                produced = {"generated_text": "text", "num_input_tokens": 5}
                produced["num_generated_tokens"] = 100 if long else 7
                produced["__inference_error__"] = ""
                outputs.append(postprocess({**row, **produced}))
            return FakeDataset(outputs)

        return process

    monkeypatch.setattr(teacher_ray, "build_processor", build_processor)
    monkeypatch.setattr(teacher_ray.ray.data, "from_items", FakeDataset)
    engine = teacher_ray.RayTeacher("org/model", tensor_parallel=2, replicas=4, max_model_len=9000)
    report = build(tmp_path / "i", engine, seed=3, retries=0)
    assert report.stored == {AnswerStatus.USABLE: 4, AnswerStatus.TRUNCATED: 2}
    assert seen["config"].model_source == "org/model"
    assert seen["config"].concurrency == (1, 4)
    assert seen["config"].engine_kwargs["tensor_parallel_size"] == 2
    assert seen["rows"][1] == {
        "number": 1,
        "messages": [{"role": "user", "content": "q0"}],
        "sampling_params": {"temperature": 0.6, "max_tokens": 100, "seed": 4},
    }
    with TeacherIndex.open(tmp_path / "i") as index:
        assert index.answers(prompt(0).fingerprint, 2)[0].completion_tokens == 7


COMPOSE = """
import json, sys
from transformers import Qwen3Config
sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2)
Qwen3Config(intermediate_size=8, vocab_size=16, **sizes).save_pretrained(sys.argv[1])
from ropd_verl import teacher_ray
processor = teacher_ray.build_processor(
    teacher_ray.RayTeacher(sys.argv[1], replicas=2).config,
    postprocess=teacher_ray.result_row,
    builder_kwargs={"chat_template_kwargs": {"enable_thinking": False}},
)
stages = [processor.get_stage_by_name(name) for name in processor.list_stage_names()]
print(json.dumps({type(s).__name__: list(s.get_required_input_keys()) for s in stages}))
"""


@pytest.mark.slow
def test_ray_data_composes_the_stages_that_our_rows_are_made_for(tmp_path: Path) -> None:
    pytest.importorskip("ray.data.llm")
    root = Path(__file__).resolve().parents[3]
    path = os.pathsep.join([str(root), str(root / "verl")])
    result = subprocess.run(
        [sys.executable, "-c", COMPOSE, str(tmp_path / "model")],
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=patience(150),
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    stages = json.loads(result.stdout.splitlines()[-1])
    assert stages["ChatTemplateStage"] == ["messages"]
    assert stages["vLLMEngineStage"] == ["sampling_params"]
    assert {"messages", "sampling_params"} < engine_row_keys()


def engine_row_keys() -> set[str]:
    from ropd_verl.teacher_ray import engine_row

    request = OfflineRequest("f", [{"role": "user", "content": "q"}], {"max_tokens": 1})
    return set(engine_row(0, request))
