"""The ``transformers`` rollout backend: verl's rollout replica on plain Hugging Face generation.

For CPUs and for machines where vLLM cannot be had. One replica is one Ray actor with its own
copy of the model; requests join the batch that runs, weights are updated in place while none does,
and a pause (colocated async training) returns what was generated so far so that verl's client
resumes it under the new weights. Tensor parallelism, multi-modal input and unmerged LoRA adapters
are not offered, and say so.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

import ray
import torch
from transformers import AutoModelForCausalLM
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import HFModelConfig
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, TokenOutput

from ropd_verl.cpu.cache import require_keys_and_values
from ropd_verl.cpu.generation import GenerationRequest, RunningBatch, eos_token_ids
from ropd_verl.cpu.generation_loop import GenerationLoop
from ropd_verl.cpu.sampling import SamplingParams


def server_name(replica_rank: int) -> str:
    """Ray name of a replica's server, within the run's namespace."""
    return f"ropd_transformers_server_{replica_rank}"


class TransformersServer:
    """The Ray actor behind one replica."""

    def __init__(self, rollout_config: Any, model_config: Any, replica_rank: int) -> None:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        model: HFModelConfig = omega_conf_to_dataclass(model_config)
        assert model.local_path is not None  # verl fills it in when it reads the configuration
        self._model = AutoModelForCausalLM.from_pretrained(
            model.local_path, dtype=torch.float32, trust_remote_code=model.trust_remote_code
        ).eval()
        require_keys_and_values(self._model)
        self._parameters = dict(self._model.named_parameters())
        self._response_length = rollout_config.response_length
        self._max_context = self._model.config.max_position_embeddings
        self._global_steps: int | None = None
        batch = RunningBatch(
            self._model,
            eos_token_ids=eos_token_ids(self._model.generation_config, model.tokenizer),
            shared_rng=torch.Generator().manual_seed(rollout_config.seed + replica_rank),
        )
        self._loop = GenerationLoop(batch, max_rows=rollout_config.max_num_seqs)

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
        completion = await self._loop.generate(GenerationRequest(list(prompt_ids), params))
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

    async def generate_many(
        self, requests: list[dict[str, Any]]
    ) -> AsyncIterator[list[tuple[int, TokenOutput | Exception]]]:
        """Serve ``requests``, each the arguments of `generate`.

        Yields what has ended since, with its place in ``requests``; one that cannot be served has
        its error in the place of an answer.
        """
        places = {
            asyncio.ensure_future(self.generate(**request)): place
            for place, request in enumerate(requests)
        }
        running = set(places)
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            yield [(places[task], _outcome(task)) for task in done]

    # -- weights and lifecycle, called by verl's checkpoint engine ----------------------------

    async def update_weights(self, weights: list[tuple[str, torch.Tensor]]) -> None:
        """Copy a part of the trained weights into the model, once nothing runs."""
        async with self._loop.idle():
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
        """Pause: end what runs with what it has, hold what waits and what comes until resumed."""
        self._loop.pause()

    async def resume_generation(self) -> None:
        """End of a pause."""
        self._loop.resume()

    async def wake_up(self, **_: Any) -> None:
        """Nothing sleeps here: the model stays in memory."""

    async def sleep(self, **_: Any) -> None:
        """Nothing to release on this backend."""

    async def clear_kv_cache(self) -> None:
        """Nothing in the cache outlives its request."""

    async def release_kv_cache(self) -> None:
        """Nothing in the cache outlives its request."""

    async def resume_kv_cache(self) -> None:
        """Nothing in the cache outlives its request."""

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


def _outcome(task: asyncio.Task[TokenOutput]) -> TokenOutput | Exception:
    error = task.exception()
    if error is None:
        return task.result()
    if not isinstance(error, Exception):
        raise error
    return error
