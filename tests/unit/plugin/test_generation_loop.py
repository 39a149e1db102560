"""Who runs, who waits and who is told, with a batch that only counts."""

import asyncio

import pytest

from ropd_verl.cpu.generation import Completion, Finished, GenerationRequest
from ropd_verl.cpu.generation_loop import GenerationLoop
from ropd_verl.cpu.sampling import SamplingParams


class CountingBatch:
    """Gives every request the numbers 0, 1, 2, ... up to its limit."""

    def __init__(self) -> None:
        self.rows: dict[GenerationRequest, int] = {}
        self.sizes: list[int] = []
        self.broken: Exception | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def join(self, requests):
        for request in requests:
            assert request not in self.rows
            self.rows[request] = 0
        return self._advanced(requests)

    def step(self):
        return self._advanced(list(self.rows))

    def _advanced(self, requests):
        if self.broken is not None:
            raise self.broken
        self.sizes.append(len(self.rows))
        for request in requests:
            self.rows[request] += 1
        ended = [r for r in requests if self.rows[r] == r.params.max_tokens]
        return [self._out(request, "length") for request in ended]

    def abort(self):
        return [self._out(request, "aborted") for request in list(self.rows)]

    def discard(self):
        self.rows.clear()

    def _out(self, request, reason):
        count = self.rows.pop(request)
        return Finished(request, Completion(list(range(count)), [0.0] * count, reason))


def request(tokens: int) -> GenerationRequest:
    return GenerationRequest([1], SamplingParams(max_tokens=tokens))


async def until(holds):
    """Let others run until ``holds()``."""
    for _ in range(10_000):
        if holds():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to that")


@pytest.fixture
def batch():
    return CountingBatch()


def loop_of(batch, max_rows=4):
    return GenerationLoop(batch, max_rows=max_rows)


async def test_a_request_joins_what_runs(batch):
    loop = loop_of(batch)
    long = loop.submit(request(1000))
    await until(lambda: any(tokens >= 10 for tokens in batch.rows.values()))
    short = await loop.generate(request(3))
    assert len(short.token_ids) == 3
    assert not long.done()
    assert len((await long).token_ids) == 1000


async def test_no_more_run_than_may_and_the_first_to_come_are_first(batch):
    loop = loop_of(batch, max_rows=4)
    order: list[int] = []
    futures = [loop.submit(request(5)) for _ in range(11)]
    for number, future in enumerate(futures):
        future.add_done_callback(lambda _, number=number: order.append(number))
    await asyncio.gather(*futures)
    assert max(batch.sizes) == 4
    assert order == sorted(order)


async def test_a_pause_returns_what_there_is_and_holds_the_rest(batch):
    loop = loop_of(batch, max_rows=2)
    running = [loop.submit(request(10_000)) for _ in range(2)]
    waiting = loop.submit(request(2))
    await until(lambda: len(batch) == 2 and min(batch.rows.values()) >= 5)
    loop.pause()
    for future in running:
        completion = await future
        assert completion.reason == "aborted"
        assert len(completion.token_ids) >= 5
    later = loop.submit(request(2))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not waiting.done()
    assert not later.done()
    loop.resume()
    assert [(await f).reason for f in (waiting, later)] == ["length", "length"]


async def test_nothing_runs_while_it_is_kept_idle(batch):
    """What runs ends under the weights it began with; what comes waits for the new ones."""
    loop = loop_of(batch)
    running = loop.submit(request(50))
    await asyncio.sleep(0)
    entered, leave = asyncio.Event(), asyncio.Event()

    async def update() -> None:
        async with loop.idle():
            assert len(batch) == 0
            entered.set()
            await leave.wait()
            assert len(batch) == 0

    updates = [asyncio.create_task(update()) for _ in range(2)]
    await asyncio.sleep(0)
    later = loop.submit(request(3))
    await entered.wait()
    assert (await running).reason == "length"
    for _ in range(20):
        await asyncio.sleep(0)
    assert not later.done()
    leave.set()
    await asyncio.gather(*updates)
    assert len((await later).token_ids) == 3


async def test_a_mistake_reaches_all_who_wait_and_the_next_are_served(batch):
    loop = loop_of(batch, max_rows=2)
    batch.broken = ArithmeticError("broken")
    futures = [loop.submit(request(5)) for _ in range(4)]
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    assert [type(o) for o in outcomes] == [ArithmeticError] * 4
    batch.broken = None
    assert len((await loop.generate(request(5))).token_ids) == 5


async def test_a_caller_who_has_gone_disturbs_nobody(batch):
    loop = loop_of(batch)
    gone, stays = loop.submit(request(20)), loop.submit(request(30))
    await asyncio.sleep(0)
    gone.cancel()
    assert len((await stays).token_ids) == 30
