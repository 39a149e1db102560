"""Files and batches of the fake endpoint over real HTTP."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from algo.testing import Batches, FakeOpenAI, FaultKind

FAULTS = {"broken": FaultKind.HTTP_500, "lost": FaultKind.DROP, "blank": FaultKind.EMPTY}


def served(batches: Batches) -> FakeOpenAI:
    return FakeOpenAI(
        lambda request: request.question.upper(),
        plan=lambda request: FAULTS.get(request.question),
        batches=batches,
    )


class Client:
    def __init__(self, fake: FakeOpenAI, session: aiohttp.ClientSession) -> None:
        self._fake = fake
        self._session = session

    async def upload(self, *texts: str, purpose: str = "batch") -> dict[str, Any]:
        lines = "".join(
            json.dumps(
                {
                    "custom_id": f"id-{text}",
                    "method": "POST",
                    "url": "/v1/chat/completions",
                    "body": {"model": "m", "messages": [{"role": "user", "content": text}]},
                }
            )
            + "\n"
            for text in texts
        )
        form = aiohttp.FormData()
        form.add_field("purpose", purpose)
        form.add_field("file", lines.encode(), filename="requests.jsonl")
        return await self.call("POST", "/files", data=form)

    async def create(self, *texts: str, **metadata: str) -> dict[str, Any]:
        file = await self.upload(*texts)
        body = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions"}
        return await self.call("POST", "/batches", json={**body, "metadata": metadata})

    async def call(self, method: str, path: str, **fields: Any) -> dict[str, Any]:
        async with self._session.request(method, self._fake.base_url + path, **fields) as response:
            return {"status_code": response.status, **await response.json()}

    async def lines(self, file: str) -> dict[str, dict[str, Any]]:
        async with self._session.get(f"{self._fake.base_url}/files/{file}/content") as response:
            lines = [json.loads(line) for line in (await response.read()).splitlines()]
        return {line["custom_id"]: line for line in lines}


async def test_every_line_ends_in_one_of_two_files() -> None:
    fake = served(Batches())
    async with fake.serve(), aiohttp.ClientSession() as session:
        client = Client(fake, session)
        batch = await client.create("fine", "broken", "lost", "blank", run="7")
        done = await client.lines(batch["output_file_id"])
        failed = await client.lines(batch["error_file_id"])
    assert batch["metadata"] == {"run": "7"}
    assert batch["request_counts"] == {"total": 4, "completed": 2, "failed": 2}
    replies = {key: line["response"]["body"]["choices"][0] for key, line in done.items()}
    assert {key: c["message"]["content"] for key, c in replies.items()} == {
        "id-fine": "FINE",
        "id-blank": "",
    }
    assert failed["id-broken"]["response"]["status_code"] == 500
    assert failed["id-lost"]["response"] is None
    assert failed["id-lost"]["error"]["code"] == "batch_expired"
    assert fake.asked == {"fine": 1, "broken": 1, "lost": 1, "blank": 1}
    assert fake.answered == {"fine": 1, "blank": 1}
    assert [line["custom_id"] for line in fake.batches.lines] == [
        f"id-{text}" for text in fake.asked
    ]


async def test_a_line_that_is_no_request_is_refused_alone() -> None:
    fake = FakeOpenAI(lambda request: "x", refuses=["messages"])
    async with fake.serve(), aiohttp.ClientSession() as session:
        client = Client(fake, session)
        batch = await client.create("a")
        [line] = (await client.lines(batch["error_file_id"])).values()
    assert (line["response"]["status_code"], batch["output_file_id"]) == (400, None)


@pytest.mark.parametrize("status", ["completed", "failed", "expired", "cancelled"])
async def test_a_batch_ends_after_so_many_looks(status: str) -> None:
    fake = served(Batches(status, looks=2))
    async with fake.serve(), aiohttp.ClientSession() as session:
        client = Client(fake, session)
        batch = await client.create("a")
        seen = [(await client.call("GET", f"/batches/{batch['id']}"))["status"] for _ in range(4)]
    assert batch["status"] == "in_progress"
    assert seen == ["in_progress"] * 2 + [status] * 2
    assert (batch["output_file_id"] is None) == (status == "failed")


async def test_batches_are_listed_newest_first_in_pages() -> None:
    fake = served(Batches(page=2))
    async with fake.serve(), aiohttp.ClientSession() as session:
        client = Client(fake, session)
        made = [(await client.create(text))["id"] for text in "abc"]
        first = await client.call("GET", "/batches?limit=100")
        last = await client.call("GET", f"/batches?limit=100&after={first['data'][-1]['id']}")
        one = await client.call("GET", "/batches?limit=1")
    pages = [[batch["id"] for batch in page["data"]] for page in (first, last, one)]
    assert pages == [made[:0:-1], made[:1], made[2:]]
    assert [page["has_more"] for page in (first, last, one)] == [True, False, True]


async def test_what_is_not_there_is_refused() -> None:
    fake = served(Batches())
    async with fake.serve(), aiohttp.ClientSession() as session:
        client = Client(fake, session)
        unknown = {"input_file_id": "file_7", "endpoint": "/v1/chat/completions"}
        found = [
            await client.call("GET", "/batches/batch_7"),
            await client.call("GET", "/files/file_7/content"),
            await client.call("POST", "/batches", json=unknown),
            await client.upload("a", purpose="fine-tune"),
        ]
    assert [each["status_code"] for each in found] == [404, 404, 400, 400]
    assert all(each["error"]["message"] for each in found)


async def test_an_endpoint_may_fail_at_one_call() -> None:
    class Forgetful(Batches):
        def store(self, content: bytes) -> str:
            return super().store(b"" if b"response" in content else content)

    fake = FakeOpenAI(lambda request: "x", batches=Forgetful())
    async with fake.serve(), aiohttp.ClientSession() as session:
        client = Client(fake, session)
        batch = await client.create("a")
        assert await client.lines(batch["output_file_id"]) == {}
