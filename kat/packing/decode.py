"""Keys and values of completions that grow token by token, and attention over them.

A prompt is read once, and its keys and values lie in one place for all completions that go on from it; each of these
has a place of its own for what it has said. Both are filled as models call `packed_attention`: with a `PrefillLayout`,
a row of prompts, whose keys are kept; with a `DecodeLayout`, one new token of each completion.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch

from kat.packing.layout import AttentionRule, Layout


class Store(NamedTuple):
    """Keys and values of one layer: of prompts [P, H', T, D] and [P, H', T, D'], of what was said [S, H', N, D] and
    [S, H', N, D']."""

    trunk_keys: torch.Tensor
    trunk_values: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor


@dataclass(eq=False)
class KeyValues:
    """Room for `prompts` prompts of `longest` tokens and `rows` completions of `most` tokens, layer by layer: made when
    a layer first has something to keep."""

    prompts: int
    longest: int
    rows: int
    most: int
    layers: dict[int, Store] = field(default_factory=dict)
    _words: dict[int, list[np.ndarray]] = field(default_factory=dict)

    def layer(self, number: int, key: torch.Tensor, value: torch.Tensor) -> Store:
        """Return a layer's room, for keys [1, H', T, D] and values [1, H', T, D'] of this kind."""
        if number not in self.layers:
            of_prompts, of_rows = (self.prompts, self.longest), (self.rows, self.most)
            arrays = [
                x.new_zeros(n, x.shape[1], most, x.shape[3]) for n, most in (of_prompts, of_rows) for x in (key, value)
            ]
            self.layers[number] = Store(*arrays)
        return self.layers[number]

    def words(self, number: int) -> list[np.ndarray]:
        """Return a layer's room in bfloat16 as uint16, for compiled loops."""
        if number not in self._words:
            self._words[number] = [x.view(torch.uint16).numpy() for x in self.layers[number]]
        return self._words[number]


@dataclass(frozen=True)
class PrefillLayout(Layout):
    """Prompts in a row, whose keys and values go to the `places` [B] of a cache."""

    cache: KeyValues
    places: np.ndarray

    def keep(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Keep keys [1, H', T, D] and values [1, H', T, D'] of the row."""
        store = self.cache.layer(layer, key, value)
        bounds = self.bounds.tolist()
        for place, start, stop in zip(self.places.tolist(), bounds, bounds[1:], strict=False):
            store.trunk_keys[place, :, : stop - start] = key[0, :, start:stop]
            store.trunk_values[place, :, : stop - start] = value[0, :, start:stop]


@dataclass(frozen=True, eq=False)
class DecodeLayout:
    """One new token of each of R completions. Each [R] int64: `places`, where its prompt lies; `lengths`, that prompt's
    tokens; `rows`, where what was said lies; `said`, the tokens of it that lie there already; `previous_ids`, the token
    before the new one."""

    cache: KeyValues
    places: np.ndarray
    lengths: np.ndarray
    rows: np.ndarray
    said: np.ndarray
    previous_ids: np.ndarray

    @property
    def total(self) -> int:
        """Return the tokens of the row, R."""
        return len(self.rows)

    @cached_property
    def longest(self) -> int:
        """Return the tokens of the longest sequence, the new one included."""
        return int((self.lengths + self.said).max()) + 1

    @property
    def positions(self) -> np.ndarray:
        """Return the place [R] of each new token in its sequence, from 0."""
        return self.lengths + self.said

    @cached_property
    def _indices(self) -> dict[str, list[torch.Tensor]]:
        return {}

    def on(self, device: torch.device) -> list[torch.Tensor]:
        """Return places, lengths, rows and said on a device."""
        if str(device) not in self._indices:
            arrays = (self.places, self.lengths, self.rows, self.said)
            self._indices[str(device)] = [torch.from_numpy(x).to(device) for x in arrays]
        return self._indices[str(device)]


def attend_to_kept(
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: DecodeLayout,
    rule: AttentionRule,
) -> torch.Tensor:
    """Keep the keys and values of new tokens; return their attention [1, R, H, D'] of queries [1, H, R, D]."""
    store = layout.cache.layer(layer, key, value)
    if query.dtype == torch.bfloat16 and query.device.type == "cpu" and not torch.is_grad_enabled():
        return _attend_compiled(layout.cache.words(layer), query, key, value, layout, rule=rule)
    return _attend(store, query, key, value, layout, rule=rule)


def _attend(
    store: Store,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: DecodeLayout,
    rule: AttentionRule,
) -> torch.Tensor:
    """Attend by torch, on any device in any precision: every completion's keys side by side, filled up and masked."""
    places, lengths, rows, said = layout.on(query.device)
    store.keys[rows, :, said] = key[0].transpose(0, 1)
    store.values[rows, :, said] = value[0].transpose(0, 1)
    trunk, own = int(layout.lengths.max()), int(layout.said.max()) + 1
    k, v = (
        torch.cat([of_prompts[places, :, :trunk], of_rows[rows, :, :own]], 2)
        for of_prompts, of_rows in ((store.trunk_keys, store.keys), (store.trunk_values, store.values))
    )
    i, j = (torch.arange(n, device=query.device) for n in (trunk, own))
    # Place in the sequence, from its end: the new token is 0.
    back = torch.cat([(lengths + said)[:, None] - i, said[:, None] - j], 1)
    keep = torch.cat([i < lengths[:, None], j <= said[:, None]], 1)
    if rule.window is not None:
        keep &= back < rule.window
    groups = query.shape[1] // key.shape[1]
    q = query[0].transpose(0, 1).unflatten(1, (key.shape[1], groups))  # [R, H', G, D]
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=keep[:, None, None], scale=rule.scale)
    return out.flatten(1, 2).unsqueeze(0)


def _attend_compiled(
    kept: list[np.ndarray],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: DecodeLayout,
    rule: AttentionRule,
) -> torch.Tensor:
    """Attend by a compiled loop over bfloat16 numbers: every key is read once for all heads that share it."""
    from kat.packing import decode_kernels  # numba loads with it: only where it is needed

    out = query.new_empty(query.shape[2], query.shape[1], value.shape[3])
    new = [x[0].transpose(0, 1).view(torch.uint16).numpy() for x in (query, key, value)]
    decode_kernels.attend_new(
        *kept,
        *new,
        places=layout.places,
        lengths=layout.lengths,
        rows=layout.rows,
        said=layout.said,
        window=layout.longest if rule.window is None else rule.window,
        scale=np.float32(rule.scale),
        out=out.view(torch.uint16).numpy(),
    )
    return out.unsqueeze(0)
