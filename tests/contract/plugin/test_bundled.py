"""The bundled client and queue against verl's own, with servers and storage that only record."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
import torch
import transfer_queue
from verl.trainer.ppo.v1 import agent_loop_tq
from verl.utils.tensordict_utils import list_of_dict_to_tensordict
from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient, LLMServerClient
from verl.workers.rollout.replica import TokenOutput

from ropd_verl import bundled_queue
from ropd_verl.bundled_queue import BundledQueue
from ropd_verl.config import compose_config
from ropd_verl.cpu.bundled_client import BundledAsyncClient, BundledClient, bundled
from ropd_verl.ray_actors import class_behind


class Method:
    """Stands for an actor's method."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)

    def options(self, **_: Any) -> Method:
        return self


async def ready(value: Any) -> Any:
    return value


class Server:
    def __init__(self) -> None:
        self.calls: list[list[list[int]]] = []
        self.generate_many = Method(self._generate_many)

    async def _generate_many(self, requests: list[dict[str, Any]]) -> AsyncIterator[Any]:
        self.calls.append([r["prompt_ids"] for r in requests])
        places = list(enumerate(requests))
        random.Random(0).shuffle(places)
        for place, request in places:
            await asyncio.sleep(0)
            if request["sampling_params"].get("bad"):
                yield ready([(place, ValueError("bad"))])
            else:
                yield ready([(place, TokenOutput(token_ids=request["prompt_ids"] * 2))])


class Balancer:
    """Two servers, taken in turn; counts what is out."""

    def __init__(self) -> None:
        self.servers = [Server(), Server()]
        self.taken: list[str] = []
        self.out = 0
        self.require_acquire_fields = Method(lambda: ready(["request_id"]))
        self.require_release_fields = Method(lambda: ready(["request_id"]))
        self.acquire_server = Method(self._acquire)
        self.release_server = Method(self._release)

    async def _acquire(self, request_id: str, **_: Any) -> tuple[str, Server]:
        await asyncio.sleep(0)
        number = len(self.taken) % 2
        self.taken.append(request_id)
        self.out += 1
        return f"server{number}", self.servers[number]

    def _release(self, server_id: str, request_id: str | None = None) -> None:
        assert request_id in self.taken
        self.out -= 1


@pytest.fixture
def balancer() -> Balancer:
    return Balancer()


def client_of(balancer: Any, kind: type[LLMServerClient] = LLMServerClient) -> LLMServerClient:
    return bundled(kind(compose_config("ropd_cpu", []), load_balancer_handle=balancer))


async def ask(client: LLMServerClient, name: str, prompt: list[int], **params: Any) -> Any:
    return await client.generate(request_id=name, prompt_ids=prompt, sampling_params=params)


async def test_a_group_takes_one_server_and_each_server_gets_one_call(balancer: Balancer) -> None:
    client = client_of(balancer)
    asked = [(f"{group}-{session}", [group, 9]) for group in range(4) for session in range(8)]
    outputs = await asyncio.gather(*(ask(client, name, prompt) for name, prompt in asked))
    assert [o.token_ids for o in outputs] == [prompt * 2 for _, prompt in asked]
    assert len(balancer.taken) == 4
    assert balancer.out == 0
    for server in balancer.servers:
        assert sum(map(len, server.calls)) == 16
        assert len(server.calls) <= 2


async def test_one_request_that_cannot_be_served_fails_alone(balancer: Balancer) -> None:
    client = client_of(balancer)
    outcomes = await asyncio.gather(
        *(ask(client, str(i), [5], bad=i == 3) for i in range(8)), return_exceptions=True
    )
    assert [isinstance(o, ValueError) for o in outcomes] == [i == 3 for i in range(8)]
    assert balancer.out == 0


async def test_no_server_is_an_error_for_all_who_asked(balancer: Balancer) -> None:
    async def none(**_: Any) -> Any:
        raise RuntimeError("No available servers in load balancer")

    balancer.acquire_server = Method(none)
    client = client_of(balancer)
    outcomes = await asyncio.gather(
        *(ask(client, str(i), [5]) for i in range(3)), return_exceptions=True
    )
    assert [type(o) for o in outcomes] == [RuntimeError] * 3
    assert balancer.out == 0


def test_each_of_verls_clients_has_its_counterpart(balancer: Balancer) -> None:
    assert type(client_of(balancer)) is BundledClient
    kind = type(client_of(balancer, FullyAsyncLLMServerClient))
    assert kind is BundledAsyncClient
    # What resumes comes before what sends, so that each attempt is bundled.
    order = [cls for cls in kind.__mro__ if "generate" in cls.__dict__ or cls is BundledClient]
    assert order == [FullyAsyncLLMServerClient, BundledClient, LLMServerClient]


def rows_of(count: int, rng: random.Random) -> list[dict[str, Any]]:
    """As verl's worker makes them: tensors of any length, and values of other kinds."""
    return [
        {
            "responses": torch.arange(rng.randint(1, 6)),
            "rm_scores": torch.full((3,), float(row)),
            "uid": f"uid{row}",
            "extra_fields": {"row": row, "list": [row]},
            "raw_prompt": [{"role": "user", "content": str(row)}],
            "multi_modal_inputs": {},
        }
        for row in range(count)
    ]


@pytest.mark.parametrize("seed", range(5))
async def test_puts_of_a_moment_are_one_put_of_the_same_rows(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[dict[str, Any]] = []

    async def put(**arguments: Any) -> None:
        stored.append(arguments)

    monkeypatch.setattr(bundled_queue.transfer_queue, "async_kv_batch_put", put)
    queue, rows = BundledQueue(), rows_of(8, random.Random(seed))
    await asyncio.gather(
        *(
            queue.async_kv_batch_put(
                keys=[f"k{i}"],
                partition_id="train",
                fields=list_of_dict_to_tensordict([row]),
                tags=[{"n": i}],
            )
            for i, row in enumerate(rows)
        ),
        queue.async_kv_put(key="uid", partition_id="train", tag={"status": "running"}),
        queue.async_kv_put(key="uid2", partition_id="train", tag={"status": "running"}),
        queue.async_kv_put(key="other", partition_id="val", tag={"status": "running"}),
    )
    assert [call["keys"] for call in stored] == [
        [f"k{i}" for i in range(8)],
        ["uid", "uid2"],
        ["other"],
    ]
    assert stored[0]["tags"] == [{"n": i} for i in range(8)]
    together, wanted = stored[0]["fields"], list_of_dict_to_tensordict(rows)
    assert together.keys() == wanted.keys()
    for name in ("responses", "rm_scores"):
        for row, put_in in enumerate(rows):
            assert torch.equal(together[name][row], put_in[name])
    for name in ("uid", "extra_fields", "raw_prompt", "multi_modal_inputs"):
        column: Any = together.get(name)
        assert column.tolist() == [put_in[name] for put_in in rows]


async def test_a_put_that_fails_fails_those_who_put(monkeypatch: pytest.MonkeyPatch) -> None:
    async def put(**_: Any) -> None:
        raise OSError("storage is gone")

    monkeypatch.setattr(bundled_queue.transfer_queue, "async_kv_batch_put", put)
    queue = BundledQueue()
    outcomes = await asyncio.gather(
        *(queue.async_kv_put(key=k, partition_id="train", tag={}) for k in "ab"),
        return_exceptions=True,
    )
    assert [type(o) for o in outcomes] == [OSError] * 2


def test_verls_worker_puts_by_the_name_that_is_replaced() -> None:
    assert agent_loop_tq.__dict__["tq"] is transfer_queue
    worker: Any = agent_loop_tq.AgentLoopWorkerTQ
    cls = class_behind(worker)
    for method, put in (
        ("_agent_loop_postprocess", "async_kv_batch_put"),
        ("_run_prompt", "async_kv_put"),
    ):
        code = inspect.unwrap(getattr(cls, method)).__code__
        assert {"tq", put} <= set(code.co_names)
