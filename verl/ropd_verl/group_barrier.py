"""The meeting point of one prompt's n rollouts.

The last rollout to arrive triggers the judgement; all wait for its outcome, which is the same
for all: scores, or one error. A rollout that dies before it arrives fails the group at once,
so that no sibling waits for it. Pure asyncio: knows neither verl nor the method.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from algo.errors import RopdError

Rollout = TypeVar("Rollout")
Result = TypeVar("Result")


class GroupFailed(RopdError):
    """This group has no scores and leaves the batch; the cause was reported where it arose."""


class GroupBarrier(Generic[Rollout, Result]):
    """Collects ``size`` rollouts and judges them together, once.

    Args:
        size: number of rollouts of the prompt (n).
        judge: called with the rollouts in session order; returns one result a rollout.
    """

    def __init__(
        self, size: int, judge: Callable[[Sequence[Rollout]], Awaitable[Sequence[Result]]]
    ) -> None:
        self._size = size
        self._judge = judge
        self._arrived: dict[int, Rollout] = {}
        self._outcome: asyncio.Future[Sequence[Result]] = asyncio.get_running_loop().create_future()

    async def arrive(self, session: int, rollout: Rollout) -> Result:
        """Hand in rollout ``session`` (0..n-1) and wait for its result.

        Raises:
            GroupFailed: when a sibling died or the judgement failed.
        """
        self._arrived[session] = rollout
        if len(self._arrived) == self._size and not self._outcome.done():
            await self._settle()
        # Shielded: one waiter's cancellation must not cancel what its siblings wait for.
        return (await asyncio.shield(self._outcome))[session]

    async def _settle(self) -> None:
        try:
            results = await self._judge([self._arrived[i] for i in range(self._size)])
        except BaseException as error:
            self.fail(error)
            if not isinstance(error, Exception):  # cancellation and the like pass through
                raise
        else:
            if not self._outcome.done():
                self._outcome.set_result(results)

    def left(self, session: int) -> None:
        """Rollout ``session`` has ended; if it never arrived, the group cannot be judged."""
        if session not in self._arrived:
            self.fail(RuntimeError(f"session {session} ended without an answer"))

    def fail(self, error: BaseException) -> None:
        """Fail the group, unless it has been decided already."""
        if not self._outcome.done():
            failure = GroupFailed(f"{type(error).__name__}: {error}")
            failure.__cause__ = error
            self._outcome.set_exception(failure)
            self._outcome.exception()  # marks it as seen: there may be no waiter left
