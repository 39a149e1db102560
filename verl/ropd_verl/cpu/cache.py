"""Keys and values of a batch that rows join and leave while it runs.

All rows end at the same column: the next token of every row is written there in one slice, without
a copy of what is there already, and attention reads one slice. A row begins where its prompt did,
so rows of different ages differ in their first column only, as in a left-padded batch. What a
model makes of it (masks, sliding windows, positions) follows from the mask and the positions that
`generation` gives it, so any model that keeps keys and values can use this.

This module does not know requests, tokens or sampling.
"""

# A layer here always has its tensors when they are used; transformers types them as optional.
# pyright: reportIncompatibleVariableOverride=false

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer

# Columns to grow by at least: growing copies all that is kept.
_ROOM = 64


class Window:
    """Which part of the allocated rows and columns is in use, the same for every layer."""

    def __init__(self) -> None:
        self.rows = 0
        self.start = 0
        """First column that a row still uses."""
        self.end = 0
        """The column that the next token is written to."""
        self.row_capacity = 0
        self.columns = 0

    def grown(self, tensor: torch.Tensor, shift: int, *, dim: int) -> torch.Tensor:
        """``tensor`` in the present capacities, its columns from start to end moved by ``shift``.

        ``dim`` is the dimension of the columns; rows are the first. What is not in use is 0, since
        a masked value that is no number would still reach the result.
        """
        shape = list(tensor.shape)
        shape[0], shape[dim] = self.row_capacity, self.columns
        new = tensor.new_zeros(shape)
        if self.rows:
            width = self.end + 1 - self.start
            used = tensor[: self.rows].narrow(dim, self.start, width)
            new[: self.rows].narrow(dim, self.start + shift, width).copy_(used)
        return new


class RunningCache(Cache):
    """A cache that a model's forward writes one column to, for the rows of ``window``."""

    def __init__(self, window: Window) -> None:
        # transformers appends a layer whenever a forward comes to one that is not there yet.
        super().__init__(layer_class_to_replicate=partial(_Layer, window))  # pyright: ignore[reportArgumentType]
        self.window = window

    def make_room(self, rows: int, width: int) -> int:
        """Allocate so that ``rows`` rows fit, ``width`` columns before the end and one after it.

        Returns by how many columns what is there has moved to the right; the caller moves the
        window, and whatever else it keeps by column, as far.
        """
        window = self.window
        if rows <= window.row_capacity and width <= window.end < window.columns - 1:
            return 0
        used = max(width, window.end - window.start)
        shift = used - window.end
        if rows > window.row_capacity:
            window.row_capacity = max(rows, 2 * window.row_capacity)
        window.columns = max(window.columns, used + max(_ROOM, used))
        for layer in self._own_layers():
            layer.grow(shift)
        return shift

    def adopt(self, prompts: DynamicCache, sources: torch.Tensor) -> None:
        """Append a row for each of ``sources``, a row of ``prompts``, which end at the end.

        The caller has made room, and counts the rows in ``window`` afterwards.
        """
        for index, prompt in enumerate(prompts.layers):
            assert isinstance(prompt, DynamicLayer)
            if index == len(self.layers):
                self.layers.append(_Layer(self.window))
            self._own_layers()[index].adopt(prompt, sources)

    def move_rows(self, sources: torch.Tensor, targets: torch.Tensor) -> None:
        """Copy rows ``sources`` over rows ``targets``, which have no overlap."""
        columns = slice(self.window.start, self.window.end)
        for layer in self._own_layers():
            for tensor in (layer.keys, layer.values):
                used = tensor[:, :, columns]
                used[targets] = used[sources]

    def _own_layers(self) -> list[_Layer]:
        return cast("list[_Layer]", self.layers)


class _Layer(CacheLayerMixin):
    # A sliding layer keeps all its keys too: the mask hides those outside its window.
    is_sliding = False
    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, window: Window) -> None:
        super().__init__()
        self._window = window

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        window = self._window
        shape = (window.row_capacity, key_states.shape[1], window.columns)
        self.keys = key_states.new_zeros((*shape, key_states.shape[3]))
        self.values = value_states.new_zeros((*shape, value_states.shape[3]))
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new columns; returns all columns in use, of the rows in use."""
        window = self._window
        end = window.end + key_states.shape[2]
        keys, values = self.keys[: window.rows], self.values[: window.rows]
        keys[:, :, window.end : end] = key_states
        values[:, :, window.end : end] = value_states
        return keys[:, :, window.start : end], values[:, :, window.start : end]

    def adopt(self, prompts: DynamicLayer, sources: torch.Tensor) -> None:
        assert prompts.keys is not None
        assert prompts.values is not None
        if not self.is_initialized:
            self.lazy_initialization(prompts.keys, prompts.values)
        window = self._window
        rows = slice(window.rows, window.rows + len(sources))
        columns = slice(window.end - prompts.keys.shape[2], window.end)
        self.keys[rows, :, columns] = prompts.keys[sources]
        self.values[rows, :, columns] = prompts.values[sources]

    def grow(self, shift: int) -> None:
        self.keys = self._window.grown(self.keys, shift, dim=2)
        self.values = self._window.grown(self.values, shift, dim=2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self._window.end - self._window.start

    def get_max_cache_shape(self) -> int:
        return -1


def require_keys_and_values(model: PreTrainedModel) -> None:
    """Make sure that all a model remembers of a sequence is keys and values.

    Raises:
        ValueError: when it keeps another state, as those with linear attention do.
    """
    layers = DynamicCache(config=model.config).layers
    other = sorted(
        {type(layer).__name__ for layer in layers if not isinstance(layer, DynamicLayer)}
    )
    if other:
        raise ValueError(
            f"rollout.name=transformers serves models that keep keys and values only, and this "
            f"one has {', '.join(other)}; use rollout.name=vllm"
        )
