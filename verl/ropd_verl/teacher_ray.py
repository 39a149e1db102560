"""An open-weight teacher on a Ray cluster: vLLM through Ray Data's batch inference.

Called by `ropd teacher build --backend vllm`. Ray Data starts the vLLM engines (each over
`tensor_parallel` GPUs, one to `replicas` of them on the nodes of the cluster), keeps them fed and
replaces those that die; this module says what goes in and reads what comes out. Storing is
`algo.teacher.build_offline`'s part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray
from ray.data.llm import build_processor, vLLMEngineProcessorConfig

from algo.llm.endpoint import Reply
from algo.llm.http.wire import CUT_OFF
from algo.teacher.build_offline import OfflineRequest

# Answers stored with one fsync; a build killed in between asks for so many again at most.
_STORE_EVERY = 64
_BATCH = 64  # rows that an engine takes at a time


class RayTeacher:
    """An `OfflineEngine`.

    `model` is a path or a hub name; `max_model_len` bounds prompt and answer together. What a
    request's sampling leaves out is vLLM's own default (temperature 1.0), not the model's.
    """

    def __init__(
        self,
        model: str,
        *,
        tensor_parallel: int = 1,
        replicas: int = 1,
        max_model_len: int | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self._model = model
        self._chat_template_kwargs = dict(chat_template_kwargs or {})
        engine: dict[str, Any] = {
            "tensor_parallel_size": tensor_parallel,
            "enable_prefix_caching": True,  # the m requests of a prompt share it
        }
        if max_model_len is not None:
            engine["max_model_len"] = max_model_len
        self.config = vLLMEngineProcessorConfig(
            model_source=model,
            engine_kwargs=engine,
            concurrency=(1, replicas),
            batch_size=_BATCH,
            should_continue_on_error=True,
        )

    def __call__(
        self, requests: Sequence[OfflineRequest]
    ) -> Iterator[Sequence[tuple[OfflineRequest, Reply | str]]]:
        rows = [engine_row(number, request) for number, request in enumerate(requests)]
        processor = build_processor(
            self.config,
            postprocess=result_row,
            builder_kwargs={"chat_template_kwargs": self._chat_template_kwargs},
        )
        answered: list[tuple[OfflineRequest, Reply | str]] = []
        for row in processor(ray.data.from_items(rows)).iter_rows():
            request = requests[row["number"]]
            answered.append((request, row["error"] or reply_of(self._model, request, row)))
            if len(answered) == _STORE_EVERY:
                yield answered
                answered = []
        yield answered


def engine_row(number: int, request: OfflineRequest) -> dict[str, Any]:
    """What Ray Data's vLLM stages read, and `number` to know the row again by."""
    known = ("temperature", "top_p", "max_tokens", "seed")
    sampling = {name: request.sampling[name] for name in known if name in request.sampling}
    messages = [{"role": m["role"], "content": m["content"]} for m in request.messages]
    return {"number": number, "messages": messages, "sampling_params": sampling}


def result_row(row: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a row that came out of vLLM; runs on the cluster."""
    return {
        "number": row["number"],
        "text": row.get("generated_text") or "",
        "prompt_tokens": row.get("num_input_tokens") or 0,
        "completion_tokens": row.get("num_generated_tokens") or 0,
        "error": row.get("__inference_error__") or "",
    }


def reply_of(model: str, request: OfflineRequest, row: Mapping[str, Any]) -> Reply:
    """Ray Data drops vLLM's finish reason; an answer as long as its limit was cut off there."""
    cut_off = row["completion_tokens"] >= request.sampling["max_tokens"]
    return Reply(
        text=row["text"],
        finish_reason=CUT_OFF if cut_off else "stop",
        model=model,
        prompt_tokens=row["prompt_tokens"],
        completion_tokens=row["completion_tokens"],
        cached_tokens=None,
        latency_s=0.0,
        attempts=1,
    )
