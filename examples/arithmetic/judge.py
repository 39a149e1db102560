"""The embedded judge and teacher: a program behind the OpenAI chat-completions API.

It is no language model. It knows one toy task, column addition in written steps, and is here so
that the whole training loop can run for real on any machine. What it is given is what a model
would be given, the rendered prompt and nothing else:

- `arithmetic-rubricator` contrasts the teacher answers with the student answers and writes down
  what most teachers state, weighted by how many students fail it. It never adds the operands;
- `arithmetic-verifier` decides each criterion, read from its sentence, on each answer alone;
- `arithmetic-teacher` solves the problem of the last user message, in a layout that changes with
  the request's seed, or from one request for a question to the next.

It serves `GET /v1/models`, `POST /v1/chat/completions` (not streamed), and on top of the API
`GET` and `POST /admin/faults` (see `impairments`) and `GET /admin/stats`. It listens on the
loopback interface only and wants no key.

    python -m examples.arithmetic.judge --port 0 --port-file PORT
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from examples.arithmetic.impairments import Fault, FaultKind, Impairer, Impairments, Role
from examples.arithmetic.rendered_prompt import (
    RUBRIC_SCHEMA,
    VERDICT_SCHEMA,
    RenderedPrompt,
    message_text,
    read_prompt,
)
from examples.arithmetic.replies import give_verdicts, rubricate, teach

HOST = "127.0.0.1"
MODELS: Mapping[str, Role] = {f"arithmetic-{role}": role for role in Role}
RUBRICATOR, VERIFIER, TEACHER = (f"arithmetic-{role}" for role in Role)

_CHARACTERS_PER_TOKEN = 4
_LARGEST_REQUEST_BYTES = 64 * 2**20
_PARENT_POLL_S = 0.5


class ChatRequest(BaseModel):
    """The fields of a chat-completions request that this server heeds; others are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str
    messages: list[dict[str, Any]] = Field(min_length=1)
    seed: int | None = None
    n: int = Field(default=1, ge=1, le=64)
    stream: bool = False


class Completion(NamedTuple):
    """One choice of a reply; a refusal has no content."""

    content: str | None
    finish_reason: str = "stop"
    refusal: str | None = None


@dataclass
class Stats:
    """What the server has seen since it started, by role."""

    requests: Counter[str] = field(default_factory=Counter)
    replies: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    """Keyed `role/kind`."""
    in_flight: int = 0
    most_in_flight: int = 0

    def begin(self, role: Role) -> None:
        self.requests[role] += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)

    def as_json(self) -> dict[str, Any]:
        return {
            "requests": dict(self.requests),
            "replies": dict(self.replies),
            "faults": dict(self.faults),
            "in_flight": self.in_flight,
            "most_in_flight": self.most_in_flight,
        }


class JudgeServer:
    """The HTTP handlers and their state; one instance a process."""

    def __init__(self, impairments: Impairments) -> None:
        self.stats = Stats()
        self._impairer = Impairer(impairments)
        self._taught: Counter[str] = Counter()

    def application(self) -> web.Application:
        app = web.Application(client_max_size=_LARGEST_REQUEST_BYTES)
        app.add_routes(
            [
                web.get("/v1/models", self.list_models),
                web.post("/v1/chat/completions", self.complete),
                web.get("/admin/faults", self.show_impairments),
                web.post("/admin/faults", self.set_impairments),
                web.get("/admin/stats", self.show_stats),
            ]
        )
        return app

    async def list_models(self, _: web.Request) -> web.Response:
        data = [{"id": name, "object": "model", "owned_by": "examples"} for name in MODELS]
        return web.json_response({"object": "list", "data": data})

    async def show_impairments(self, _: web.Request) -> web.Response:
        return web.json_response(text=self._impairer.impairments.model_dump_json())

    async def set_impairments(self, request: web.Request) -> web.Response:
        """Replace delays and faults as a whole; `{}` heals the server."""
        try:
            impairments = Impairments.model_validate_json(await request.read())
        except ValidationError as error:
            return _error(400, str(error))
        self._impairer = Impairer(impairments)
        return web.json_response(text=impairments.model_dump_json())

    async def show_stats(self, _: web.Request) -> web.Response:
        return web.json_response(self.stats.as_json())

    async def complete(self, request: web.Request) -> web.StreamResponse:
        try:
            chat = ChatRequest.model_validate_json(await request.read())
        except ValidationError as error:
            return _error(400, str(error))
        role = MODELS.get(chat.model)
        if role is None:
            return _error(404, f"The model '{chat.model}' does not exist")
        if chat.stream:
            return _error(400, "This server does not stream: leave `stream` out")
        self.stats.begin(role)
        try:
            return await self._reply(request, chat, role)
        finally:
            self.stats.in_flight -= 1

    async def _reply(self, request: web.Request, chat: ChatRequest, role: Role) -> web.Response:
        text = message_text(chat.messages)
        prompt = read_prompt(text)
        impairer = self._impairer
        fault = impairer.fault(role, text, prompt.question or text)
        await asyncio.sleep(impairer.delay(role))
        if fault is not None:
            self.stats.faults[f"{role}/{fault.kind}"] += 1
            if (failed := await _fail(request, fault)) is not None:
                return failed
        completions = self._completions(chat, role, prompt, fault)
        self.stats.replies[role] += 1
        return _chat_response(chat.model, text, completions)

    def _completions(
        self, chat: ChatRequest, role: Role, prompt: RenderedPrompt, fault: Fault | None
    ) -> list[Completion]:
        lie = fault is not None and fault.kind is FaultKind.LYING_TOTALS
        contents: list[str] = []
        for choice in range(chat.n):
            if role is Role.TEACHER:
                contents.append(teach(chat.messages, self._variant(chat, choice)))
            elif prompt.schema == RUBRIC_SCHEMA:
                contents.append(rubricate(prompt, lie=lie))
            elif prompt.schema == VERDICT_SCHEMA:
                contents.append(give_verdicts(prompt, lie=lie))
            else:
                contents.append("I see no rubric to write and no answers to judge.")
        return [_spoil(content, fault) for content in contents]

    def _variant(self, chat: ChatRequest, choice: int) -> int:
        if chat.seed is not None:
            return chat.seed + choice
        question = message_text(chat.messages[-1:])
        self._taught[question] += 1
        return self._taught[question] - 1


async def _fail(request: web.Request, fault: Fault) -> web.Response | None:
    """Act out a fault of the transport; None for a fault that spoils the content instead."""
    if fault.kind is FaultKind.HTTP_500:
        return _error(500, "planted fault")
    if fault.kind is FaultKind.HTTP_429:
        return _error(429, "planted fault", {"Retry-After": f"{fault.seconds:g}"})
    if fault.kind not in (FaultKind.DROP, FaultKind.HANG):
        return None
    if fault.kind is FaultKind.HANG:
        await asyncio.sleep(fault.seconds)
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def _spoil(content: str, fault: Fault | None) -> Completion:
    match fault.kind if fault else None:
        case FaultKind.TRUNCATED_JSON:
            return Completion(content[: len(content) // 2], finish_reason="length")
        case FaultKind.WRONG_SCHEMA:
            return Completion(json.dumps({"schema_version": "other.v0", "items": []}))
        case FaultKind.REFUSAL:
            return Completion(None, refusal="I cannot help with that.")
        case FaultKind.EMPTY:
            return Completion("")
        case _:
            return Completion(content)


def _chat_response(model: str, prompt: str, completions: list[Completion]) -> web.Response:
    prompt_tokens = len(prompt) // _CHARACTERS_PER_TOKEN
    completion_tokens = sum(len(c.content or "") for c in completions) // _CHARACTERS_PER_TOKEN
    return web.json_response(
        {
            "id": f"chatcmpl-{time.monotonic_ns():x}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "choices": [
                {
                    "index": index,
                    "message": {"role": "assistant", "content": c.content, "refusal": c.refusal},
                    "finish_reason": c.finish_reason,
                }
                for index, c in enumerate(completions)
            ],
            "usage": {
                "prompt_tokens": prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": prompt_tokens + completion_tokens,
            },
        }
    )


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    body = {"error": {"message": message, "type": "server_error", "param": None, "code": status}}
    return web.json_response(body, status=status, headers=headers)


async def serve(
    port: int, port_file: Path | None, parent_pid: int | None, app: web.Application
) -> None:
    """Serve until SIGTERM, SIGINT or the parent's death; port 0 takes a free one."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, HOST, port, backlog=1024)
        await site.start()
        bound = runner.addresses[0][1]
        if port_file is not None:
            _write_whole(port_file, f"{bound}\n")
        print(f"judge: http://{HOST}:{bound}/v1 ({', '.join(MODELS)})", flush=True)
        while not stop.is_set() and (parent_pid is None or os.getppid() == parent_pid):
            await _wait(stop, _PARENT_POLL_S)
    finally:
        await runner.cleanup()


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return


def _write_whole(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    os.replace(partial, path)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m examples.arithmetic.judge",
        description="The embedded judge and teacher for column addition, on loopback.",
    )
    parser.add_argument("--port", type=int, default=8321, help="0 takes a free port")
    parser.add_argument("--port-file", type=Path, help="file that gets the port once it is bound")
    parser.add_argument(
        "--parent-pid", type=int, help="the starting process: exit when it is no longer the parent"
    )
    parser.add_argument("--impairments", type=Path, help="JSON file: delays, faults, seed")
    chosen = parser.parse_args(arguments)
    try:
        impairments = (
            Impairments.model_validate_json(chosen.impairments.read_bytes())
            if chosen.impairments
            else Impairments()
        )
    except (OSError, ValidationError) as error:
        parser.error(f"--impairments {chosen.impairments}: {error}")
    app = JudgeServer(impairments).application()
    try:
        asyncio.run(serve(chosen.port, chosen.port_file, chosen.parent_pid, app))
    except OSError as error:
        print(
            f"judge: --port {chosen.port} or --port-file cannot be used: {error}", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
