"""The embedded judge and teacher: a program behind the OpenAI API.

It is no language model. It knows one toy task, column addition in written steps, and is here so
that the whole training loop can run for real on any machine. What it is given is what a model
would be given, the rendered prompt and nothing else:

- `arithmetic-rubricator` contrasts the teacher answers with the student answers and writes down
  what most teachers state, weighted by how many students fail it. It never adds the operands;
- `arithmetic-verifier` decides each criterion, read from its sentence, on each answer alone, or
  gives one answer a grade, where that is asked;
- `arithmetic-teacher` solves the problem of the last user message, in a layout that changes with
  the request's seed, or from one request for a question to the next.

It serves what `algo.testing.FakeOpenAI` does, on the loopback interface only and without a key, and
on top of it `GET` and `POST /admin/faults` (see `impairments`) and `GET /admin/stats`.

    python -m examples.arithmetic.judge --port 0 --port-file PORT
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from algo.testing import FakeOpenAI, Impairer, Request
from examples.arithmetic.grades import give_grade
from examples.arithmetic.impairments import Impairments, Role
from examples.arithmetic.rendered_prompt import (
    GRADE_SCHEMA,
    RUBRIC_SCHEMA,
    VERDICT_SCHEMA,
    read_prompt,
)
from examples.arithmetic.replies import give_verdicts, rubricate, teach

MODELS: Mapping[str, Role] = {f"arithmetic-{role}": role for role in Role}

_PARENT_POLL_S = 0.5


class ArithmeticJudge:
    """What the served models reply; remembers how often each question was taught."""

    def __init__(self) -> None:
        self._taught: Counter[str] = Counter()

    def answer(self, request: Request) -> str:
        if request.role == Role.TEACHER:
            return teach(request.messages, self._variant(request))
        prompt = read_prompt(request.text)
        if prompt.schema == RUBRIC_SCHEMA:
            return rubricate(prompt)
        if prompt.schema == VERDICT_SCHEMA:
            return give_verdicts(prompt)
        if prompt.schema == GRADE_SCHEMA:
            return give_grade(prompt)
        return "I see no rubric to write and no answers to judge."

    def _variant(self, request: Request) -> int:
        seed = request.body.get("seed")
        if isinstance(seed, int):
            return seed + request.choice
        self._taught[request.question] += 1
        return self._taught[request.question] - 1


class JudgeServer:
    """The endpoint with its administration; one instance a process."""

    def __init__(self, impairments: Impairments) -> None:
        self.endpoint = FakeOpenAI(
            ArithmeticJudge().answer, role_of=_role_of, models=tuple(MODELS), record=False
        )
        self._impair(impairments)

    def application(self) -> web.Application:
        app = self.endpoint.application()
        app.add_routes(
            [
                web.get("/admin/faults", self.show_impairments),
                web.post("/admin/faults", self.set_impairments),
                web.get("/admin/stats", self.show_stats),
            ]
        )
        return app

    async def show_impairments(self, _: web.Request) -> web.Response:
        return web.json_response(text=self._impairments.model_dump_json())

    async def set_impairments(self, request: web.Request) -> web.Response:
        """Replace delays and faults as a whole; `{}` heals the server."""
        try:
            impairments = Impairments.model_validate_json(await request.read())
        except ValidationError as error:
            return web.json_response({"error": {"message": str(error)}}, status=400)
        self._impair(impairments)
        return web.json_response(text=impairments.model_dump_json())

    async def show_stats(self, _: web.Request) -> web.Response:
        """What the server has seen since it started, by role."""
        return web.json_response(
            {
                "requests": self.endpoint.requests,
                "replies": self.endpoint.replies,
                "faults": self.endpoint.faults,
                "in_flight": self.endpoint.in_flight,
                "most_in_flight": self.endpoint.peak_in_flight,
            }
        )

    def _impair(self, impairments: Impairments) -> None:
        self._impairments = impairments
        impairer = Impairer(impairments, question_of=_question_of)
        self.endpoint.plan, self.endpoint.delay_s = impairer.plan, impairer.delay_s


def _role_of(body: Mapping[str, Any]) -> Role | None:
    return MODELS.get(body["model"])


def _question_of(request: Request) -> str:
    return read_prompt(request.text).question or request.text


async def serve(
    server: JudgeServer, port: int, port_file: Path | None, parent_pid: int | None
) -> None:
    """Serve until SIGTERM, SIGINT or the parent's death; port 0 takes a free one."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with server.endpoint.serve(port, server.application()) as url:
        if port_file is not None:
            bound = url.removesuffix("/v1").rpartition(":")[2]
            _write_whole(port_file, f"{bound}\n")
        print(f"judge: {url} ({', '.join(MODELS)})", flush=True)
        while not stop.is_set() and (parent_pid is None or os.getppid() == parent_pid):
            await _wait(stop, _PARENT_POLL_S)


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
    server = JudgeServer(impairments)
    try:
        asyncio.run(serve(server, chosen.port, chosen.port_file, chosen.parent_pid))
    except OSError as error:
        print(
            f"judge: --port {chosen.port} or --port-file cannot be used: {error}", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
