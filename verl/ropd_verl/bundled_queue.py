"""The TransferQueue as agent loops use it, with one put for what is put at once.

verl puts each rollout by itself, three round trips between processes; the rollouts of a group are
judged together and so are put at the same moment.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import transfer_queue
from tensordict import TensorDict
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from ropd_verl.bundle import Asked, Bundle


class _Put(NamedTuple):
    keys: list[str]
    partition_id: str
    fields: TensorDict | None
    tags: list[dict[str, Any]] | None

    @property
    def kind(self) -> tuple[Any, ...]:
        """Puts of one kind can be made together."""
        names = None if self.fields is None else tuple(self.fields.keys())
        return self.partition_id, names, self.tags is None


class BundledQueue:
    """Takes the place of the module `transfer_queue` in verl's agent loop worker."""

    def __init__(self) -> None:
        self._puts: Bundle[_Put, None] = Bundle(_send)

    def __getattr__(self, name: str) -> Any:
        return getattr(transfer_queue, name)

    async def async_kv_put(self, *, key: str, partition_id: str, tag: dict[str, Any]) -> None:
        """Set the tag of one key."""
        await self._puts.ask(_Put([key], partition_id, None, [tag]))

    async def async_kv_batch_put(
        self,
        *,
        keys: list[str],
        partition_id: str,
        fields: TensorDict | None = None,
        tags: list[dict[str, Any]] | None = None,
    ) -> None:
        """Store rows, one a key."""
        await self._puts.ask(_Put(keys, partition_id, fields, tags))


async def _send(asked: Sequence[Asked[_Put, None]]) -> None:
    kinds: dict[tuple[Any, ...], list[Asked[_Put, None]]] = defaultdict(list)
    for one in asked:
        kinds[one.item.kind].append(one)
    for members in kinds.values():
        put = _merged([one.item for one in members])
        await transfer_queue.async_kv_batch_put(**put._asdict())
        for one in members:
            if not one.result.done():
                one.result.set_result(None)


def _merged(puts: Sequence[_Put]) -> _Put:
    if len(puts) == 1:
        return puts[0]
    tagged = [put.tags for put in puts if put.tags is not None]
    rows = [row for put in puts if put.fields is not None for row in _rows(put.fields)]
    return _Put(
        [key for put in puts for key in put.keys],
        puts[0].partition_id,
        list_of_dict_to_tensordict(rows) if rows else None,
        [tag for tags in tagged for tag in tags] if tagged else None,
    )


def _rows(fields: TensorDict) -> list[dict[str, Any]]:
    """The rows that `list_of_dict_to_tensordict` made ``fields`` of."""
    columns = {
        name: column.unbind(0) if isinstance(column, torch.Tensor) else column.tolist()
        for name, column in fields.items()
    }
    return [{name: column[row] for name, column in columns.items()} for row in range(len(fields))]
