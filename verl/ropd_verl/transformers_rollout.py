"""The ``transformers`` rollout backend: verl's rollout replica on plain Hugging Face generation.

For CPUs and for machines where vLLM cannot be had. One replica is one Ray actor with its own
copy of the model; requests that arrive together are generated as one batch, weights are
updated in place between batches, and a pause (colocated async training) returns what was
generated so far so that verl's client resumes it under the new weights. Tensor parallelism,
multi-modal input and unmerged LoRA adapters are not offered, and say so.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
import torch
from transformers import AutoModelForCausalLM
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import HFModelConfig
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, TokenOutput

from ropd_verl.cpu.generation import Completion, GenerationRequest, eos_token_ids, generate
from ropd_verl.cpu.sampling import SamplingParams

# A batch closes when no request has come for the first time, or after the second in all: n
# rollouts of a step arrive within milliseconds of each other, and a straggler would otherwise
# wait for a whole batch.
_QUIET_S = 0.02
_GATHER_S = 0.25


def server_name(replica_rank: int) -> str:
    """Ray name of a replica's server, within the run's namespace."""
    return f"ropd_transformers_server_{replica_rank}"


@dataclass(frozen=True)
class _Pending:
    request: GenerationRequest
    done: asyncio.Future[Completion]


class TransformersServer:
    """The Ray actor behind one replica."""

    def __init__(self, rollout_config: Any, model_config: Any, replica_rank: int) -> None:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        model: HFModelConfig = omega_conf_to_dataclass(model_config)
        assert model.local_path is not None  # verl fills it in when it reads the configuration
        self._model = AutoModelForCausalLM.from_pretrained(
            model.local_path, dtype=torch.float32, trust_remote_code=model.trust_remote_code
        ).eval()
        self._parameters = dict(self._model.named_parameters())
        self._eos = eos_token_ids(self._model.generation_config, model.tokenizer)
        self._response_length = rollout_config.response_length
        self._max_batch = rollout_config.max_num_seqs
        self._max_context = self._model.config.max_position_embeddings
        self._rng = torch.Generator().manual_seed(rollout_config.seed + replica_rank)
        self._global_steps: int | None = None
        self._queue: asyncio.Queue[_Pending] = asyncio.Queue()
        self._loop_task: asyncio.Task[None] | None = None
        self._weights = asyncio.Lock()
        self._open = asyncio.Event()
        self._open.set()
        self._stop = threading.Event()

    # -- generation ---------------------------------------------------------------------

    async def generate(
        self,
        request_id: str,
        *,
        prompt_ids: list[int],
        sampling_params: dict[str, Any],
        image_data: list | None = None,
        video_data: list | None = None,
        **unsupported: Any,
    ) -> TokenOutput:
        """Continue one prompt. ``log_probs`` are those of the distribution sampled from."""
        if image_data or video_data or any(v for v in unsupported.values()):
            raise ValueError("rollout.name=transformers takes text only; use rollout.name=vllm")
        room = self._max_context - len(prompt_ids)
        if room < 1:
            raise ValueError(
                f"prompt of {len(prompt_ids)} tokens fills the model's {self._max_context} "
                "positions; lower data.max_prompt_length"
            )
        params = SamplingParams.from_request(
            sampling_params, default_max_tokens=min(self._response_length, room)
        )
        pending = _Pending(
            GenerationRequest(list(prompt_ids), params), asyncio.get_running_loop().create_future()
        )
        if self._loop_task is None:
            self._loop_task = asyncio.create_task(self._serve())
        self._queue.put_nowait(pending)
        completion = await pending.done
        extra: dict[str, Any] = {"global_steps": self._global_steps}
        if completion.prompt_ids is not None:
            extra["prompt_ids"] = completion.prompt_ids
            extra["prompt_logprobs"] = completion.prompt_log_probs
        return TokenOutput(
            token_ids=completion.token_ids,
            log_probs=completion.log_probs,
            stop_reason="aborted" if completion.reason == "aborted" else "completed",
            extra_fields=extra,
        )

    async def _serve(self) -> None:
        while True:
            batch = await self._next_batch()
            await self._open.wait()
            async with self._weights:
                await self._run(batch)

    async def _next_batch(self) -> list[_Pending]:
        batch = [await self._queue.get()]
        loop = asyncio.get_running_loop()
        closes = loop.time() + _GATHER_S
        while len(batch) < self._max_batch:
            patience = min(_QUIET_S, closes - loop.time())
            if patience <= 0:
                break
            try:
                batch.append(await asyncio.wait_for(self._queue.get(), patience))
            except TimeoutError:
                break
        return batch

    async def _run(self, batch: list[_Pending]) -> None:
        loop = asyncio.get_running_loop()

        def report(index: int, completion: Completion) -> None:
            loop.call_soon_threadsafe(_resolve, batch[index].done, completion)

        try:
            await asyncio.to_thread(
                generate,
                self._model,
                [pending.request for pending in batch],
                eos_token_ids=self._eos,
                shared_rng=self._rng,
                on_finished=report,
                should_stop=self._stop.is_set,
            )
        except Exception as error:  # noqa: BLE001 - every waiting caller must learn of it
            for pending in batch:
                if not pending.done.done():
                    pending.done.set_exception(error)

    # -- weights and lifecycle, called by verl's checkpoint engine ----------------------------

    async def update_weights(self, weights: list[tuple[str, torch.Tensor]]) -> None:
        """Copy a part of the trained weights into the model; waits for a running batch."""
        async with self._weights:
            with torch.no_grad():
                for name, value in weights:
                    if name in self._parameters:
                        self._parameters[name].copy_(value)
                    elif not self._is_tied(name):
                        raise ValueError(f"the rollout model has no parameter {name!r}")

    def _is_tied(self, name: str) -> bool:
        return name == "lm_head.weight" and self._model.config.tie_word_embeddings

    async def set_global_steps(self, global_steps: int) -> None:
        """Version of the weights, reported with every completion."""
        self._global_steps = global_steps

    async def abort_all_requests(self, reject_request: bool = False) -> None:
        """Pause: end the running batch with what it has, hold new requests until resumed."""
        self._open.clear()
        self._stop.set()
        async with self._weights:  # the running batch notices within one token
            self._stop.clear()

    async def resume_generation(self) -> None:
        """End of a pause."""
        self._open.set()

    async def wake_up(self, **_: Any) -> None:
        """Nothing sleeps here: the model stays in memory."""

    async def sleep(self, **_: Any) -> None:
        """Nothing to release on this backend."""

    async def clear_kv_cache(self) -> None:
        """The cache lives only as long as its batch."""

    async def release_kv_cache(self) -> None:
        """The cache lives only as long as its batch."""

    async def resume_kv_cache(self) -> None:
        """The cache lives only as long as its batch."""

    async def start_profile(self, **_: Any) -> None:
        """Not profiled."""

    async def stop_profile(self, **_: Any) -> None:
        """Not profiled."""


class TransformersReplica(RolloutReplica):
    """verl's handle on one `TransformersServer`."""

    async def launch_servers(self) -> None:
        """Start the actor; verl addresses it by handle, never over a socket."""
        if self.world_size != 1:
            raise ValueError(
                "rollout.name=transformers has no model parallelism: set "
                "actor_rollout_ref.rollout.tensor_model_parallel_size=1 (and data/pipeline "
                "parallel sizes to 1)"
            )
        actor = ray.remote(TransformersServer).options(
            name=server_name(self.replica_rank),
            max_concurrency=self.max_concurrency,
            num_cpus=0,
        )
        server: Any = actor.remote(self.config, self.model_config, self.replica_rank)
        self.servers = [server]
        self._server_handle = server
        self._server_address = server_name(self.replica_rank)


class TransformersServerAdapter(BaseRollout):
    """Lives in each training rank and pushes the trained weights to that rank's replica."""

    def __init__(
        self, config: Any, model_config: Any, device_mesh: Any, replica_rank: int = -1
    ) -> None:
        super().__init__(config, model_config, device_mesh)
        self.replica_rank = int(os.environ["RANK"]) if replica_rank == -1 else replica_rank

    async def resume(self, tags: list[str]) -> None:
        """Nothing was released."""

    async def release(self) -> None:
        """Nothing to release on this backend."""

    async def update_weights(
        self,
        weights: Iterator[tuple[str, torch.Tensor]],
        wire_format: str = "named_tensors",
        global_steps: int | None = None,
        peft_config: Any = None,
        base_sync_done: bool = True,
        **_: Any,
    ) -> None:
        """Send every parameter, in buckets, and then the version they belong to."""
        if wire_format != "named_tensors":
            raise ValueError(
                "rollout.name=transformers takes full weights: set "
                "actor_rollout_ref.rollout.checkpoint_engine.backend=naive"
            )
        if peft_config is not None:
            raise ValueError(
                "rollout.name=transformers serves merged weights only: set "
                "actor_rollout_ref.model.lora.merge=True"
            )
        server: Any = ray.get_actor(server_name(self.replica_rank))
        limit = self.config.checkpoint_engine.update_weights_bucket_megabytes << 20
        for bucket in _buckets(weights, limit):
            await server.update_weights.remote(bucket)
        if global_steps is not None:
            await server.set_global_steps.remote(global_steps)


def _buckets(
    weights: Iterator[tuple[str, torch.Tensor]], limit_bytes: int
) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """Group parameters so that no message exceeds ``limit_bytes`` by more than one tensor."""
    bucket: list[tuple[str, torch.Tensor]] = []
    size = 0
    for name, value in weights:
        bucket.append((name, value.detach().to("cpu", torch.float32, copy=True)))
        size += bucket[-1][1].nbytes
        if size >= limit_bytes:
            yield bucket
            bucket, size = [], 0
    if bucket:
        yield bucket


def _resolve(future: asyncio.Future[Completion], completion: Completion) -> None:
    if not future.done():
        future.set_result(completion)
