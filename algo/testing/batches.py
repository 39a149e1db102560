"""The files and batches API in memory: a batch is computed at once and seen to end later.

What a line of a batch is answered with is the caller's part (`server`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from aiohttp import web

from algo.testing.wire import error_body


class LineResult(NamedTuple):
    """A line's HTTP status and body; None where the batch ended before the line had a response."""

    response: tuple[int, dict[str, Any]] | None


AnswerLine = Callable[[dict[str, Any]], LineResult]
"""From the body of a line's request."""


class Batches:
    """Files and batches. A batch is in progress for `looks` looks, then its status is `status`.

    A failed batch has no results. Lists come in pages of at most `page`, newest batch first.
    Override a method for an endpoint that fails at it.
    """

    def __init__(self, status: str = "completed", looks: int = 1, page: int = 100) -> None:
        self.lines: list[dict[str, Any]] = []
        """Every line of every batch, as sent."""
        self.batches: dict[str, dict[str, Any]] = {}
        self.files: dict[str, bytes] = {}
        self._status = status
        self._left: dict[str, int] = {}
        self._looks = looks
        self._page = page

    def routes(self, answer: AnswerLine) -> list[web.RouteDef]:
        async def create(request: web.Request) -> web.Response:
            return await self.create(request, answer)

        return [
            web.post("/v1/files", self.upload),
            web.get("/v1/files/{id}/content", self.content),
            web.post("/v1/batches", create),
            web.get("/v1/batches", self.recent),
            web.get("/v1/batches/{id}", self.look),
        ]

    def store(self, content: bytes) -> str:
        """Keep a file; returns its id."""
        name = f"file_{len(self.files)}"
        self.files[name] = content
        return name

    async def upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        file = form.get("file")
        if form.get("purpose") != "batch" or not isinstance(file, web.FileField):
            return _refused("a `file` under the purpose `batch` is wanted")
        content = file.file.read()
        return web.json_response(
            {
                "id": self.store(content),
                "object": "file",
                "bytes": len(content),
                "created_at": int(time.time()),
                "filename": file.filename,
                "purpose": "batch",
            }
        )

    async def content(self, request: web.Request) -> web.Response:
        content = self.files.get(request.match_info["id"])
        return _unknown(request) if content is None else web.Response(body=content)

    async def create(self, request: web.Request, answer: AnswerLine) -> web.Response:
        asked = await request.json()
        content = self.files.get(asked.get("input_file_id", ""))
        if content is None or asked.get("endpoint") != "/v1/chat/completions":
            return _refused("an uploaded `input_file_id` for /v1/chat/completions is wanted")
        lines = [json.loads(line) for line in content.splitlines()]
        self.lines += lines
        results = [_result(line["custom_id"], answer(line["body"])) for line in lines]
        done = [each for each in results if _is_done(each)]
        broken = [each for each in results if not _is_done(each)]
        batch = {
            "id": f"batch_{len(self.batches)}",
            "object": "batch",
            "endpoint": asked["endpoint"],
            "errors": None,
            "input_file_id": asked["input_file_id"],
            "completion_window": asked.get("completion_window", "24h"),
            "status": "in_progress",
            "output_file_id": self._store_lines(done),
            "error_file_id": self._store_lines(broken),
            "created_at": int(time.time()),
            "request_counts": {
                "total": len(lines),
                "completed": len(done),
                "failed": len(broken),
            },
            "metadata": asked.get("metadata"),
        }
        self.batches[batch["id"]] = batch
        self._left[batch["id"]] = self._looks
        return web.json_response(batch)

    async def look(self, request: web.Request) -> web.Response:
        batch = self.batches.get(request.match_info["id"])
        if batch is None:
            return _unknown(request)
        left = self._left[batch["id"]]
        self._left[batch["id"]] = left - 1
        return web.json_response({**batch, "status": "in_progress" if left > 0 else self._status})

    async def recent(self, request: web.Request) -> web.Response:
        newest = list(self.batches.values())[::-1]
        after = request.query.get("after")
        start = [batch["id"] for batch in newest].index(after) + 1 if after in self.batches else 0
        end = start + min(self._page, int(request.query.get("limit", "20")))
        body = {"object": "list", "data": newest[start:end], "has_more": end < len(newest)}
        return web.json_response(body)

    def _store_lines(self, results: list[dict[str, Any]]) -> str | None:
        if not results or self._status == "failed":
            return None
        return self.store("".join(json.dumps(result) + "\n" for result in results).encode())


def _result(custom_id: str, result: LineResult) -> dict[str, Any]:
    if result.response is None:
        error = {"code": "batch_expired", "message": "The batch ended before this request did."}
        return {"custom_id": custom_id, "response": None, "error": error}
    status, body = result.response
    response = {"status_code": status, "body": body}
    return {"custom_id": custom_id, "response": response, "error": None}


def _is_done(result: dict[str, Any]) -> bool:
    return result["response"] is not None and result["response"]["status_code"] == 200


def _refused(message: str) -> web.Response:
    return web.json_response(error_body(400, message), status=400)


def _unknown(request: web.Request) -> web.Response:
    message = f"No such object: {request.match_info['id']}"
    return web.json_response(error_body(404, message), status=404)
