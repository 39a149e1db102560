"""What is asked at once leaves as one message, and everybody gets an answer."""

import asyncio

import pytest

from ropd_verl.bundle import Bundle


async def test_what_is_asked_in_one_turn_is_one_message():
    sent: list[list[int]] = []

    async def send(asked):
        sent.append([one.item for one in asked])
        for one in reversed(asked):
            one.result.set_result(10 * one.item)

    bundle = Bundle(send)
    first = [bundle.ask(i) for i in range(5)]
    assert await asyncio.gather(*first) == [0, 10, 20, 30, 40]
    assert await bundle.ask(7) == 70
    assert sent == [[0, 1, 2, 3, 4], [7]]


async def test_no_bundle_waits_for_the_one_before():
    release = asyncio.Event()

    async def send(asked):
        if asked[0].item == "slow":
            await release.wait()
        for one in asked:
            one.result.set_result(one.item)

    bundle = Bundle(send)
    slow = bundle.ask("slow")
    await asyncio.sleep(0)
    assert await bundle.ask("quick") == "quick"
    assert not slow.done()
    release.set()
    assert await slow == "slow"


@pytest.mark.parametrize("error", [ValueError("broken"), None])
async def test_what_has_no_answer_fails_and_the_rest_keep_theirs(error):
    async def send(asked):
        asked[0].result.set_result("kept")
        if error is not None:
            raise error

    bundle = Bundle(send)
    outcomes = await asyncio.gather(*(bundle.ask(i) for i in range(3)), return_exceptions=True)
    assert outcomes[0] == "kept"
    kind = ValueError if error is not None else RuntimeError
    assert [type(o) for o in outcomes[1:]] == [kind, kind]


async def test_a_caller_who_has_gone_disturbs_nobody():
    async def send(asked):
        await asyncio.sleep(0)
        for one in asked:
            if not one.result.done():
                one.result.set_result(one.item)

    bundle = Bundle(send)
    gone, stays = bundle.ask(1), bundle.ask(2)
    gone.cancel()
    assert await stays == 2
