"""An OpenAI-compatible endpoint in memory, whose replies and faults are functions of the request.

Serves `GET /v1/models`, `POST /v1/chat/completions`, `POST /v1/responses` (not streamed) and the
files and batches API, on the loopback interface. It owns the wire, the counters and the acting out
of faults; what a reply says, and which request meets which fault, the caller decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, ParamSpec, TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import ValidationError

from algo.testing.batches import Batches, LineResult
from algo.testing.faults import CONNECTION, STATUSES, Fault, FaultKind, spoil
from algo.testing.wire import (
    ChatBody,
    Reply,
    Request,
    ResponsesBody,
    Style,
    Usage,
    error_body,
    estimated_usage,
    message_text,
    messages_of,
    reply_body,
)

HOST: Final = "127.0.0.1"

Answer = Callable[[Request], Reply | str]
Plan = Callable[[Request], Fault | FaultKind | None]

_LARGEST_REQUEST_BYTES: Final = 1 << 28
# Tests and benchmarks open hundreds of connections at once; the default of 128 would refuse some.
_BACKLOG: Final = 4096
# Requests that hang are cut off when the server ends; those that are nearly done may be finished.
_SHUTDOWN_S: Final = 1.0
_THREAD_LIMIT_S: Final = 30.0
_FOREVER_S: Final = 3600.0
_DRIP_S: Final = 0.02

P = ParamSpec("P")
T = TypeVar("T")


class Refused(Exception):
    """A request that is answered with an error status before any fault is planned for it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(status, message)


def no_fault(request: Request) -> None:
    """The plan of an endpoint that is whole."""


@dataclass(eq=False)
class FakeOpenAI:
    """The endpoint; `serve` it in an event loop, or `serve_in_thread`.

    All functions are called in the serving loop, in the order in which the requests arrive: the
    plan and the delay at once, the answer when the delay is over. An exception in one of them is a
    500 to the client, and comes up again when `serve` ends: a broken test looks like no fault.
    """

    answer: Answer
    """What a request is replied; a plain text is a finished reply."""
    plan: Plan = no_fault
    """Which fault a request meets, if any."""
    delay_s: Callable[[Request], float] = lambda request: 0.0
    role_of: Callable[[Mapping[str, Any]], str | None] = lambda body: body["model"]
    """From a request's body to what it is counted under; None: there is no such model, 404."""
    usage: Callable[[Request, Sequence[Reply]], Usage | None] = estimated_usage
    """The tokens that a reply reports; None: it reports none."""
    models: Collection[str] = ("fake",)
    """Those that are listed; any is served, unless `role_of` says otherwise."""
    key: str | None = None
    """What `Authorization: Bearer` must hold; None: anything."""
    refuses: Collection[str] = ()
    """Keys of a body that are refused by name, with status 400."""
    record: bool = True
    """Whether to keep `bodies`, `asked`, `answered` and `Request.before`, which grow."""
    batches: Batches = field(default_factory=Batches)

    base_url: str = field(default="", init=False)
    """With `/v1`, once it is served."""
    requests: Counter[str] = field(default_factory=Counter, init=False)
    """By role, as are `replies`."""
    replies: Counter[str] = field(default_factory=Counter, init=False)
    faults: Counter[str] = field(default_factory=Counter, init=False)
    """By `role/kind`."""
    asked: Counter[str] = field(default_factory=Counter, init=False)
    """By the text of the last message, as are the `answered`: these met no failing fault."""
    answered: Counter[str] = field(default_factory=Counter, init=False)
    bodies: list[dict[str, Any]] = field(default_factory=list, init=False)
    keys: set[str | None] = field(default_factory=set, init=False)
    """Every `Authorization` header that came."""
    error: Exception | None = field(default=None, init=False)
    """The first exception that one of the functions raised."""
    in_flight: int = field(default=0, init=False)
    peak_in_flight: int = field(default=0, init=False)

    def application(self) -> web.Application:
        """The API as an aiohttp application, to which other routes may be added."""
        app = web.Application(client_max_size=_LARGEST_REQUEST_BYTES, middlewares=[self._check_key])
        app.add_routes(
            [
                web.get("/v1/models", self._list_models),
                web.post("/v1/chat/completions", self._complete),
                web.post("/v1/responses", self._complete),
                *self.batches.routes(self._answer_line),
            ]
        )
        return app

    @asynccontextmanager
    async def serve(self, port: int = 0, app: web.Application | None = None) -> AsyncIterator[str]:
        """Serve on a loopback port, 0 for a free one; gives the base URL, `/v1` included.

        Raises `OSError` for a port that cannot be used, and `error` at the end, if there is one.
        """
        runner = web.AppRunner(
            app or self.application(),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=_SHUTDOWN_S,
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, port, backlog=_BACKLOG).start()
            self.base_url = f"http://{HOST}:{runner.addresses[0][1]}/v1"
            yield self.base_url
        finally:
            await runner.cleanup()
        if self.error is not None:
            raise self.error

    @contextmanager
    def serve_in_thread(self, port: int = 0) -> Iterator[str]:
        """The same from code without an event loop, in a thread that ends with the context."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="fake-openai", daemon=True)
        thread.start()

        def run(step: Coroutine[Any, Any, T]) -> T:
            return asyncio.run_coroutine_threadsafe(step, loop).result(_THREAD_LIMIT_S)

        stack = contextlib.AsyncExitStack()
        try:
            yield run(stack.enter_async_context(self.serve(port)))
        finally:
            run(stack.aclose())
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_THREAD_LIMIT_S)
            loop.close()

    @web.middleware
    async def _check_key(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization")
        if request.path.startswith("/v1/"):
            self.keys.add(given)
            if self.key is not None and given != f"Bearer {self.key}":
                body = error_body(401, "Incorrect API key provided", "invalid_api_key")
                return web.json_response(body, status=401)
        return await handler(request)

    async def _list_models(self, _: web.Request) -> web.Response:
        data = [{"id": name, "object": "model", "owned_by": "algo.testing"} for name in self.models]
        return web.json_response({"object": "list", "data": data})

    async def _complete(self, http: web.Request) -> web.StreamResponse:
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)
        try:
            return await self._exchange(http)
        except Refused as refused:
            return web.json_response(refused.body, status=refused.status)
        finally:
            self.in_flight -= 1

    async def _exchange(self, http: web.Request) -> web.StreamResponse:
        style = "responses" if http.path.endswith("/responses") else "chat_completions"
        request, choices = self._take(await http.read(), style)
        fault = self._planned(request)
        await asyncio.sleep(self._called(self.delay_s, request))
        if fault is not None:
            self.faults[f"{request.role}/{fault.kind}"] += 1
            if fault.kind in STATUSES:
                return _status_response(fault)
            if fault.kind in CONNECTION:
                return await _break(http, fault)
        return web.json_response(self._reply(request, choices, fault))

    def _answer_line(self, body: dict[str, Any]) -> LineResult:
        """A line of a batch, which has no connection to break: it stays without a response."""
        try:
            request, choices = self._take(json.dumps(body).encode(), "chat_completions")
        except Refused as refused:
            return LineResult((refused.status, refused.body))
        fault = self._planned(request)
        if fault is not None:
            self.faults[f"{request.role}/{fault.kind}"] += 1
            if fault.kind in CONNECTION:
                return LineResult(None)
            if fault.kind in STATUSES:
                status, code, _ = STATUSES[fault.kind]
                return LineResult((status, error_body(status, fault.message, code)))
        return LineResult((200, self._reply(request, choices, fault)))

    def _take(self, content: bytes, style: Style) -> tuple[Request, int]:
        """Check and count a request; returns it with the number of its choices."""
        form = ChatBody if style == "chat_completions" else ResponsesBody
        try:
            wanted = form.model_validate_json(content)
        except ValidationError as error:
            raise Refused(400, str(error)) from None
        body = json.loads(content)
        role = self._called(self.role_of, body)
        if role is None:
            raise Refused(404, f"The model '{wanted.model}' does not exist")
        if wanted.stream:
            raise Refused(400, "This server does not stream: leave `stream` out")
        number = self.requests[role]
        self.requests[role] += 1
        before = 0
        if self.record:
            question = message_text(messages_of(body)[-1:])
            before = self.asked[question]
            self.asked[question] += 1
            self.bodies.append(body)
        for name in self.refuses:
            if name in body:
                raise Refused(400, f"Unsupported: '{name}'")
        choices = wanted.n if isinstance(wanted, ChatBody) else 1
        return Request(body, role, number, before, style=style), choices

    def _planned(self, request: Request) -> Fault | None:
        planned = self._called(self.plan, request)
        return Fault(planned) if isinstance(planned, FaultKind) else planned

    def _reply(self, request: Request, choices: int, fault: Fault | None) -> dict[str, Any]:
        replies = []
        for choice in range(choices):
            said = self._called(self.answer, replace(request, choice=choice))
            reply = Reply(said) if isinstance(said, str) else said
            replies.append(reply if fault is None else spoil(reply, fault.kind))
        self.replies[request.role] += 1
        if self.record:
            self.answered[request.question] += 1
        usage = self._called(self.usage, request, replies)
        return reply_body(request, replies, usage, self.replies.total())

    def _called(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            self.error = self.error or error
            raise


def _status_response(fault: Fault) -> web.Response:
    status, code, plain = STATUSES[fault.kind]
    if plain:
        return web.Response(status=status, text=fault.message)
    seconds = fault.seconds if fault.kind is FaultKind.HTTP_429 else None
    headers = {} if seconds is None else {"Retry-After": f"{seconds:g}"}
    body = error_body(status, fault.message, code)
    return web.json_response(body, status=status, headers=headers)


async def _break(http: web.Request, fault: Fault) -> web.StreamResponse:
    """Act out a fault of the connection."""
    response = web.StreamResponse()
    if fault.kind is FaultKind.HANG:
        await asyncio.sleep(_FOREVER_S if fault.seconds is None else fault.seconds)
    elif fault.kind is FaultKind.DRIP:
        await response.prepare(http)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b" ")
                await asyncio.sleep(_DRIP_S)
    elif fault.kind is FaultKind.HALF_BODY:
        response.headers["Content-Length"] = "4000"
        await response.prepare(http)
        await response.write(b'{"choices": [{"message": {"content": "{')
    if http.transport is not None:
        http.transport.abort()
    return response if response.prepared else web.Response()
