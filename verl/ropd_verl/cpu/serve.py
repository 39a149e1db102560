"""Serves a Hugging Face model behind the OpenAI chat API, by plain transformers on the CPU.

    python -m ropd_verl.cpu.serve MODEL --name NAME --port 8001

For small models where vLLM cannot be had: what a CPU run trained can be evaluated as any other
model is. Requests join the batch that runs, as in a rollout. Not streamed, one choice a request, no
schemas and no tools: a request that asks for them is refused by name, so that nothing is silently
left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import time
from collections.abc import Mapping
from itertools import count
from typing import Any, Final

import torch
from aiohttp import web
from transformers import AutoModelForCausalLM, AutoTokenizer

from ropd_verl.cpu.cache import require_keys_and_values
from ropd_verl.cpu.generation import GenerationRequest, RunningBatch, eos_token_ids
from ropd_verl.cpu.generation_loop import GenerationLoop
from ropd_verl.cpu.sampling import SamplingParams

HOST: Final = "127.0.0.1"
_MAX_ROWS: Final = 128
_LARGEST_REQUEST_BYTES: Final = 1 << 26
_PARENT_POLL_S: Final = 1.0
_SAMPLING: Final = ("temperature", "top_p", "top_k", "seed")
_LENGTHS: Final = ("max_tokens", "max_completion_tokens")
_READ: Final = {"model", "messages", "chat_template_kwargs", *_SAMPLING, *_LENGTHS}
# Sent by many clients, and true here whatever they say, or without meaning for what is generated.
_HARMLESS: Final = {"user", "metadata", "store", "stream_options"}
_ONLY: Final = {"n": 1, "stream": False}


class _Refused(Exception):
    """A request that gets status 400, with the code that clients know it by."""

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class ChatServer:
    """One model and its chat template; answers while its event loop runs."""

    def __init__(self, path: str, name: str, seed: int = 0) -> None:
        self.name = name
        self._tokenizer: Any = AutoTokenizer.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        require_keys_and_values(model)
        self._context: int = model.config.max_position_embeddings
        batch = RunningBatch(
            model,
            eos_token_ids=eos_token_ids(model.generation_config, self._tokenizer),
            shared_rng=torch.Generator().manual_seed(seed),
        )
        self._loop = GenerationLoop(batch, max_rows=_MAX_ROWS)
        self._numbers = count(1)

    def application(self) -> web.Application:
        """`GET /health`, `GET /v1/models` and `POST /v1/chat/completions`."""
        app = web.Application(client_max_size=_LARGEST_REQUEST_BYTES)
        app.add_routes(
            [
                web.get("/health", self._health),
                web.get("/v1/models", self._models),
                web.post("/v1/chat/completions", self._chat),
            ]
        )
        return app

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _models(self, _: web.Request) -> web.Response:
        model = {"id": self.name, "object": "model", "max_model_len": self._context}
        return web.json_response({"object": "list", "data": [model]})

    async def _chat(self, http: web.Request) -> web.Response:
        try:
            body = await http.json()
            request = self._request(body)
        except (_Refused, ValueError) as error:
            code = getattr(error, "code", None)
            said = {"message": str(error), "type": "invalid_request_error", "code": code}
            return web.json_response({"error": said}, status=400)
        done = await self._loop.generate(request)
        text = self._tokenizer.decode(done.token_ids, skip_special_tokens=True)
        read, wrote = len(request.prompt_ids), len(done.token_ids)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "stop" if done.reason == "stop" else "length",
        }
        return web.json_response(
            {
                "id": f"chatcmpl-{next(self._numbers)}",
                "object": "chat.completion",
                "created": int(time.time()),
                "model": self.name,
                "choices": [choice],
                "usage": {
                    "prompt_tokens": read,
                    "completion_tokens": wrote,
                    "total_tokens": read + wrote,
                },
            }
        )

    def _request(self, body: Any) -> GenerationRequest:
        """Raises `_Refused`, or `ValueError` for sampling parameters out of range."""
        if not isinstance(body, dict):
            raise _Refused("the body is no JSON object")
        given: dict[str, Any] = {key: value for key, value in body.items() if value is not None}
        for key, only in _ONLY.items():
            if given.pop(key, only) != only:
                raise _Refused(f"{key}={body[key]!r} is not supported: leave it at {only!r}")
        if unknown := sorted(given.keys() - _READ - _HARMLESS):
            raise _Refused(f"not supported by this server: {', '.join(unknown)}")
        if given.get("model") != self.name:
            raise _Refused(f"this server has no model {given.get('model')!r}, only {self.name!r}")
        prompt = self._prompt(given.get("messages"), given.get("chat_template_kwargs", {}))
        lengths = [given[key] for key in _LENGTHS if key in given]
        room = self._context - len(prompt)
        wanted = int(lengths[0]) if lengths else room
        if room < max(1, wanted):
            raise _Refused(
                f"This model's maximum context length is {self._context} tokens; the prompt has "
                f"{len(prompt)} and {wanted} were asked for",
                "context_length_exceeded",
            )
        sampling = {key: given[key] for key in _SAMPLING if key in given}
        return GenerationRequest(prompt, SamplingParams(wanted, **sampling))

    def _prompt(self, messages: Any, template: Mapping[str, Any]) -> list[int]:
        if not isinstance(messages, list) or not messages:
            raise _Refused("messages holds no chat message")
        text = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=False, **template
        )
        return self._tokenizer.encode(text, add_special_tokens=False)


async def serve(server: ChatServer, port: int, parent_pid: int | None) -> None:
    """Serve until SIGTERM, SIGINT or the parent's death."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, port).start()
        print(json.dumps({"model": server.name, "url": f"http://{HOST}:{port}/v1"}), flush=True)
        while not stop.is_set() and (parent_pid is None or os.getppid() == parent_pid):
            try:
                await asyncio.wait_for(stop.wait(), _PARENT_POLL_S)
            except TimeoutError:
                continue
    finally:
        await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m ropd_verl.cpu.serve", description=__doc__)
    parser.add_argument("model", help="a Hugging Face model directory")
    parser.add_argument("--name", required=True, help="what requests call the model")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--parent-pid", type=int, help="exit when this is no longer the parent")
    chosen = parser.parse_args()
    server = ChatServer(chosen.model, chosen.name)
    asyncio.run(serve(server, chosen.port, chosen.parent_pid))


if __name__ == "__main__":
    main()
