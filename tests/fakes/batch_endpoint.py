"""The OpenAI batch API, answering at once, for tests; counts every request that it would bill."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from aiohttp import web

Result = Callable[[dict[str, Any], int], dict[str, Any]]
"""(request body, how often this prompt was billed before) -> the `response` of a result line."""


def reply(text: str, finish_reason: str = "stop") -> dict[str, Any]:
    choice = {"message": {"content": text}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 10, "completion_tokens": 20}
    return {"status_code": 200, "body": {"model": "mock", "choices": [choice], "usage": usage}}


class BatchEndpoint:
    """Files and batches in memory. A batch is in progress at the first look, then ended."""

    def __init__(self, result: Result | None = None, status: str = "completed") -> None:
        self.billed: Counter[str] = Counter()
        self.lines: list[dict[str, Any]] = []
        self.batches: dict[str, dict[str, Any]] = {}
        self.looks: Counter[str] = Counter()
        self.base_url = ""
        self._files: dict[str, bytes] = {}
        self._result = result or (lambda body, before: reply(f"answer {before}"))
        self._status = status

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/files", self.upload),
            web.get("/v1/files/{id}/content", self.content),
            web.post("/v1/batches", self.create),
            web.get("/v1/batches", self.recent),
            web.get("/v1/batches/{id}", self.look),
        ]

    async def upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert form["purpose"] == "batch"
        file = form["file"]
        assert isinstance(file, web.FileField)
        return web.json_response({"id": self._keep(file.file.read())})

    async def create(self, request: web.Request) -> web.Response:
        asked = await request.json()
        assert asked["endpoint"] == "/v1/chat/completions"
        results, errors = [], []
        for line in self._files[asked["input_file_id"]].splitlines():
            wanted = json.loads(line)
            self.lines.append(wanted)
            prompt = wanted["body"]["messages"][-1]["content"]
            response = self._result(wanted["body"], self.billed[prompt])
            self.billed[prompt] += 1
            result = {"custom_id": wanted["custom_id"], "response": response, "error": None}
            (results if response["status_code"] == 200 else errors).append(result)
        batch = {
            "id": f"batch_{len(self.batches)}",
            "status": "in_progress",
            "metadata": asked["metadata"],
            "output_file_id": self._keep_lines(results),
            "error_file_id": self._keep_lines(errors),
        }
        self.batches[batch["id"]] = batch
        return web.json_response(batch)

    async def look(self, request: web.Request) -> web.Response:
        batch = self.batches[request.match_info["id"]]
        self.looks[batch["id"]] += 1
        ended = self.looks[batch["id"]] > 1
        return web.json_response({**batch, "status": self._status if ended else "in_progress"})

    async def recent(self, request: web.Request) -> web.Response:
        batches = list(self.batches.values())[::-1]
        after = request.query.get("after")
        start = [b["id"] for b in batches].index(after) + 1 if after else 0
        page = batches[start : start + 2]
        return web.json_response({"data": page, "has_more": start + 2 < len(batches)})

    async def content(self, request: web.Request) -> web.Response:
        return web.Response(body=self._files[request.match_info["id"]])

    def _keep(self, content: bytes) -> str:
        name = f"file_{len(self._files)}"
        self._files[name] = content
        return name

    def _keep_lines(self, results: list[dict[str, Any]]) -> str | None:
        if not results or self._status == "failed":
            return None
        return self._keep("".join(json.dumps(result) + "\n" for result in results).encode())
