"""The rollout server as verl's clients and checkpoint engine use it, without Ray around it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, Qwen3ForCausalLM
from verl.workers.rollout.replica import TokenOutput

from examples.arithmetic.student import WarmStart, build_model, build_tokenizer
from ropd_verl import transformers_rollout
from ropd_verl.config import compose_config
from ropd_verl.cpu.generation import RunningBatch, eos_token_ids
from ropd_verl.transformers_rollout import TransformersReplica, TransformersServer
from tests.builders.patience import patience

RECIPE = WarmStart(hidden_size=32, layers=2)
PROMPT = [5, 6, 7, 8]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model")
    build_model(RECIPE).save_pretrained(path)
    build_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def server(model_dir: Path) -> TransformersServer:
    config = compose_config("ropd_cpu", [f"actor_rollout_ref.model.path={model_dir}"])
    rollout = config.actor_rollout_ref.rollout
    return TransformersServer(rollout, config.actor_rollout_ref.model, replica_rank=0)


async def generate(server: TransformersServer, **params: Any) -> TokenOutput:
    return await server.generate("r", prompt_ids=PROMPT, sampling_params=params)


async def running_in(server: TransformersServer) -> None:
    """Until something has joined the batch."""
    for _ in range(1000):
        if len(server._loop._batch):
            return
        await asyncio.sleep(0)
    raise AssertionError("nothing joined")


async def test_requests_that_arrive_together_run_together(
    server: TransformersServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    running: list[int] = []
    step = RunningBatch.step

    def counting(batch: RunningBatch) -> Any:
        running.append(len(batch))
        return step(batch)

    monkeypatch.setattr(RunningBatch, "step", counting)
    outputs = await asyncio.gather(
        *(generate(server, seed=i, max_tokens=3 + i, temperature=1.0) for i in range(6))
    )
    assert max(running) == 6
    for i, output in enumerate(outputs):
        assert 1 <= len(output.token_ids) <= 3 + i
        assert output.log_probs is not None
        assert len(output.log_probs) == len(output.token_ids)
        assert output.stop_reason == "completed"


async def test_a_seed_gives_the_same_answer_whoever_else_asks(server: TransformersServer) -> None:
    alone = await generate(server, seed=5, max_tokens=8)
    together = await asyncio.gather(
        generate(server, seed=5, max_tokens=8), generate(server, max_tokens=8)
    )
    assert together[0].token_ids == alone.token_ids


async def test_new_weights_change_what_is_generated_and_carry_their_step(
    server: TransformersServer, model_dir: Path
) -> None:
    await server.set_global_steps(3)
    before = await generate(server, temperature=0, max_tokens=6, prompt_logprobs=0)
    torch.manual_seed(1)
    other: Qwen3ForCausalLM = build_model(RECIPE)
    await server.update_weights(list(other.state_dict().items()))
    await server.set_global_steps(4)
    after = await generate(server, temperature=0, max_tokens=6, prompt_logprobs=0)
    assert (before.extra_fields["global_steps"], after.extra_fields["global_steps"]) == (3, 4)
    assert before.extra_fields["prompt_logprobs"] != after.extra_fields["prompt_logprobs"]
    with torch.no_grad():
        expected = other(torch.tensor([PROMPT])).logits[0, :-1].log_softmax(-1)
    got = [value[0] for value in after.extra_fields["prompt_logprobs"][:-1]]
    wanted = expected.gather(1, torch.tensor(PROMPT[1:])[:, None])[:, 0].tolist()
    assert got == pytest.approx(wanted, abs=1e-4)


async def test_unknown_weights_are_refused(server: TransformersServer) -> None:
    with pytest.raises(ValueError, match=r"no parameter 'model\.nothing'"):
        await server.update_weights([("model.nothing", torch.zeros(1))])


async def test_new_weights_wait_for_what_runs_and_hold_what_comes(
    server: TransformersServer,
) -> None:
    """Every answer is of one set of weights, whatever comes while they are sent."""
    alone = [await generate(server, seed=i, max_tokens=40) for i in range(3)]
    running = [asyncio.create_task(generate(server, seed=i, max_tokens=40)) for i in range(3)]
    await running_in(server)
    torch.manual_seed(1)
    other = list(build_model(RECIPE).state_dict().items())
    update = asyncio.create_task(server.update_weights(other))
    await asyncio.sleep(0)
    later = asyncio.create_task(generate(server, seed=0, max_tokens=40))
    await update
    await server.set_global_steps(7)
    for before, cut in zip(alone, await asyncio.gather(*running), strict=True):
        assert cut.token_ids == before.token_ids
        assert cut.extra_fields["global_steps"] is None
    after = await later
    assert after.extra_fields["global_steps"] == 7
    assert after.token_ids == (await generate(server, seed=0, max_tokens=40)).token_ids


async def test_a_pause_returns_what_there_is_and_holds_what_comes(
    server: TransformersServer,
) -> None:
    whole = await generate(server, seed=4, temperature=0.0, max_tokens=400)
    running = asyncio.create_task(generate(server, seed=4, temperature=0.0, max_tokens=400))
    await running_in(server)
    await asyncio.wait_for(server.abort_all_requests(), patience(10))
    cut = await running
    assert cut.stop_reason == "aborted"
    assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]

    held = asyncio.create_task(generate(server, max_tokens=2))
    done, _ = await asyncio.wait([held], timeout=0.5)
    assert not done
    await server.resume_generation()
    assert (await asyncio.wait_for(held, patience(10))).stop_reason == "completed"


async def test_what_cannot_be_served_is_said(server: TransformersServer) -> None:
    with pytest.raises(ValueError, match="text only"):
        await server.generate("r", prompt_ids=PROMPT, sampling_params={}, image_data=[1])
    with pytest.raises(ValueError, match=r"data\.max_prompt_length"):
        await server.generate("r", prompt_ids=[5] * 4096, sampling_params={})


async def test_a_mistake_in_generation_reaches_every_caller(
    server: TransformersServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ArithmeticError("broken")

    monkeypatch.setattr(RunningBatch, "step", broken)
    outcomes = await asyncio.gather(*(generate(server) for _ in range(3)), return_exceptions=True)
    assert [type(o) for o in outcomes] == [ArithmeticError] * 3


def test_model_parallelism_is_refused(model_dir: Path) -> None:
    config = compose_config(
        "ropd_cpu", ["actor_rollout_ref.rollout.tensor_model_parallel_size=2"]
    ).actor_rollout_ref
    replica = TransformersReplica(0, config.rollout, config.model, gpus_per_node=2)
    with pytest.raises(ValueError, match="tensor_model_parallel_size=1"):
        asyncio.run(replica.launch_servers())


def test_weights_travel_in_buckets() -> None:
    weights = [(f"w{i}", torch.ones(256, dtype=torch.bfloat16)) for i in range(5)]
    buckets = list(transformers_rollout._buckets(iter(weights), 2048))
    assert [[name for name, _ in b] for b in buckets] == [["w0", "w1"], ["w2", "w3"], ["w4"]]
    assert all(value.dtype == torch.float32 for b in buckets for _, value in b)


def test_end_of_sequence_comes_from_model_and_tokenizer() -> None:
    tokenizer: Any = build_tokenizer()
    assert eos_token_ids(None, tokenizer) == {tokenizer.eos_token_id}
    declared = GenerationConfig(eos_token_id=[7, 9])
    assert eos_token_ids(declared, tokenizer) == {7, 9, tokenizer.eos_token_id}
