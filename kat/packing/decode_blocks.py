"""A decoding step of Llama's kind of model in bfloat16 on a processor: four products a block, compiled loops between.

With sixteen rows a step takes as long as reading the weights once. transformers' own forward pass takes twice that, in
some twenty small operations a block. Here queries, keys and values are one product, gate and up another, and what is
between them one pass over memory each: rotation, attention, residual with norm, gate. A model is known by the names
of its parts and believed only if it gives what its own forward pass gives (`kat.training.generation`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from kat.packing.attention_cpu import as_words, attend_by_products
from kat.packing.decode import DecodeLayout, PrefillLayout
from kat.packing.layout import AttentionRule
from kat.packing.precision import LinearBfloat16
from kat.packing.products import half_weights

_NORMS = ("input_layernorm", "post_attention_layernorm")
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_GATED = ("gate_proj", "up_proj", "down_proj")


def is_of_llamas_kind(base: Any) -> bool:
    """Tell whether a backbone has the parts that `DecodeBlocks` reads, and nothing else in its blocks."""
    parts = (getattr(base, name, None) for name in ("layers", "norm", "rotary_emb", "embed_tokens"))
    if any(part is None for part in parts) or getattr(base.config, "sliding_window", None):
        return False
    # Granite's factors. With small weights a trial could miss them: a block's change is small beside what it changes.
    if any(getattr(base.config, name, 1.0) != 1.0 for name in ("embedding_multiplier", "residual_multiplier")):
        return False
    for block in base.layers:
        if {name for name, _ in block.named_children()} != {"self_attn", "mlp", *_NORMS}:
            return False
        attention, gated = block.self_attn, block.mlp
        if {name for name, _ in attention.named_children()} != set(_ATTENTION):
            return False
        linear = [*(getattr(attention, n) for n in _ATTENTION), *(getattr(gated, n, None) for n in _GATED)]
        if any(type(layer) is not torch.nn.Linear for layer in linear):
            return False
        norms = [getattr(block, name) for name in _NORMS]
        if not all(type(norm).__name__.endswith("RMSNorm") and norm.weight.dim() == 1 for norm in norms):
            return False
    return type(base.norm).__name__.endswith("RMSNorm")


class DecodeBlocks:
    """The blocks of a backbone of Llama's kind (`is_of_llamas_kind`), laid out for decoding. `take` follows the
    backbone's weights when they have changed."""

    def __init__(self, base: Any) -> None:
        self.base = base
        first = base.layers[0]
        self._size = first.self_attn.head_dim
        self._eps = [np.float32(_eps(norm)) for norm in (first.input_layernorm, first.post_attention_layernorm)]
        self._last_eps = np.float32(_eps(base.norm))
        self._scale = np.float32(first.self_attn.scaling)
        self._blocks: list[_Block] = []
        self.take()

    def take(self) -> None:
        """Take the backbone's weights as they are now."""
        if not self._blocks:
            self._blocks = [_Block(block) for block in self.base.layers]
        else:
            for compiled, block in zip(self._blocks, self.base.layers, strict=True):
                compiled.take(block)
        self._norm = _floats(self.base.norm.weight)

    def hidden(self, ids: np.ndarray, layout: DecodeLayout | PrefillLayout, offset: int = 0) -> torch.Tensor:
        """Return the last hidden states [R, D] bfloat16 of tokens [R], prompts or new ones, and keep their keys."""
        from kat.packing import decode_kernels as kernels
        from kat.packing import train_kernels

        table = self.base.embed_tokens(torch.from_numpy(ids))
        residual = table.detach().float().contiguous().numpy()
        positions = torch.from_numpy(layout.positions + offset)[None]
        turned = self.base.rotary_emb(table[None].float(), position_ids=positions)
        cos, sin = (x[0].float().contiguous().numpy() for x in turned)
        rows, width = residual.shape
        room = _Room(rows, width, self._blocks[0], self._size)
        given, gated = room.given, room.gated
        kernels.norm_rows(residual, self._blocks[0].norms[0], self._eps[0], room.words_given)
        for number, block in enumerate(self._blocks):
            read = self._attended(block, number, room, cos, sin, layout=layout)
            change = as_words(block.out.forward(read))
            kernels.add_and_norm(residual, change, block.norms[1], self._eps[1], room.words_given)
            train_kernels.swiglu(as_words(block.gate_up.forward(given)), room.words_gated)
            is_last = number + 1 == len(self._blocks)
            scale = self._norm if is_last else self._blocks[number + 1].norms[0]
            eps = self._last_eps if is_last else self._eps[0]
            kernels.add_and_norm(residual, as_words(block.down.forward(gated)), scale, eps, room.words_given)
        return given

    def _attended(
        self,
        block: _Block,
        number: int,
        room: _Room,
        cos: np.ndarray,
        sin: np.ndarray,
        *,
        layout: DecodeLayout | PrefillLayout,
    ) -> torch.Tensor:
        """Return what the tokens read, [R, H·D] bfloat16."""
        from kat.packing import decode_kernels, train_kernels

        train_kernels.rotate(as_words(block.qkv.forward(room.given)), cos, sin, *room.words_new)
        if isinstance(layout, PrefillLayout):
            query, key, value = (x.transpose(0, 1)[None] for x in room.new)
            layout.keep(number, key, value)
            rule = AttentionRule(float(self._scale), causal=True, window=None)
            return attend_by_products(query, key, value, layout, rule).reshape(len(room.given), -1)
        decode_kernels.attend_new(
            *layout.cache.words(number),
            *room.words_new,
            places=layout.places,
            lengths=layout.lengths,
            rows=layout.rows,
            said=layout.said,
            window=layout.longest,
            scale=self._scale,
            out=room.words_read,
        )
        return room.read


class _Room:
    """Where the blocks of a step write, one after another, and its memory as words: of a profile of sixteen rows,
    asking for memory and views of it in every one of thirty blocks was 7 %."""

    def __init__(self, rows: int, width: int, block: _Block, size: int) -> None:
        heads, shared = block.heads(size)
        kind = torch.bfloat16
        self.given, self.gated = torch.empty(rows, width, dtype=kind), torch.empty(rows, block.inner, dtype=kind)
        self.new = [torch.empty(rows, n, size, dtype=kind) for n in (heads, shared, shared)]
        self.read = torch.empty(rows, heads * size, dtype=kind)
        self.words_given, self.words_gated = as_words(self.given), as_words(self.gated)
        self.words_new, self.words_read = [as_words(x) for x in self.new], as_words(self.read.view(rows, heads, size))


class _Block:
    """One block's products, those that read the same joined, and the scales of its norms."""

    def __init__(self, block: Any) -> None:
        attention, gated = block.self_attn, block.mlp
        self.parts = [
            [attention.q_proj, attention.k_proj, attention.v_proj],
            [attention.o_proj],
            [gated.gate_proj, gated.up_proj],
            [gated.down_proj],
        ]
        self.inner = gated.down_proj.in_features
        self._widths = attention.q_proj.out_features, attention.k_proj.out_features
        products = [LinearBfloat16(*_joined(layers)) for layers in self.parts]
        self.qkv, self.out, self.gate_up, self.down = products
        self.norms = [_floats(getattr(block, name).weight) for name in _NORMS]

    def heads(self, size: int) -> tuple[int, int]:
        """Return the heads of queries, and of keys."""
        return self._widths[0] // size, self._widths[1] // size

    def take(self, block: Any) -> None:
        """Take the block's weights as they are now."""
        for product, layers in zip((self.qkv, self.out, self.gate_up, self.down), self.parts, strict=True):
            product.take(*_joined(layers))
        self.norms = [_floats(getattr(block, name).weight) for name in _NORMS]


def _joined(layers: list[torch.nn.Linear]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the weights of layers below one another in bfloat16, and their biases."""
    weight = half_weights(layers)
    if all(layer.bias is None for layer in layers):
        return weight, None
    biases = [torch.zeros(layer.out_features) if layer.bias is None else layer.bias.detach() for layer in layers]
    return weight, torch.cat(biases)


def _floats(weight: torch.Tensor) -> np.ndarray:
    return weight.detach().float().contiguous().numpy().copy()


def _eps(norm: Any) -> float:
    return float(getattr(norm, "variance_epsilon", getattr(norm, "eps", 0.0)))
