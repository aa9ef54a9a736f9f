"""What stands between the products of attention over blocks: gathering, softmax, joining, gradients.

In torch for any device and precision, and in compiled loops for bfloat16 on a processor, one pass over memory each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from kat.packing.blocks import Block, Spans


class PlainSteps:
    """What stands between the products, in torch, for any device and precision.

    Rows are [T, H, D], stretches [B, H, L, D], scores [B, H', G·L, K]. `lse` [T, H] float32 is the logarithm of the sum
    of e^score over all that a query sees.
    """

    def gather(self, row: torch.Tensor, spans: Spans) -> torch.Tensor:
        """Return stretches of a row [T, H, D] as [B, H, filled, D], filled up with zeros."""
        place, inside = _places(spans, row.device)
        return (row[place] * inside[:, :, None, None].to(row.dtype)).transpose(1, 2).contiguous()

    def softmax(self, scores: torch.Tensor, block: Block) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn scores into e^(score − largest of the row), in place; return sums and the logarithms of the sums of
        e^score, each [B, H', G·L] float32."""
        hidden = ~_visible(block, scores)
        largest = scores.masked_fill_(hidden, -torch.inf).amax(-1, keepdim=True)
        # A row that only fills a stretch up sees no key: −∞ less −∞ would be no number.
        largest.clamp_min_(torch.finfo(scores.dtype).min)
        scores.sub_(largest).exp_()
        totals = scores.sum(-1, dtype=torch.promote_types(scores.dtype, torch.float32))
        return totals, totals.log() + largest.squeeze(-1)

    def join(
        self,
        sums: torch.Tensor,
        totals: tuple[torch.Tensor, torch.Tensor],
        block: Block,
        out: torch.Tensor,
        lse: torch.Tensor,
    ) -> None:
        """Join what one block gives, [B, H, L, D] before its division by the sums, to `out` [T, H, D] float32; a causal
        block is the first of its tokens, and `out` and `lse` hold nothing there."""
        place, inside = _places(block.queries, out.device)
        total, logarithm = (x.reshape(sums.shape[:3]).transpose(1, 2)[inside] for x in totals)
        tokens, new = place[inside], sums.transpose(1, 2)[inside].to(out.dtype)
        if block.causal:
            out[tokens], lse[tokens] = new / total[..., None], logarithm
            return
        known = lse[tokens]
        both = torch.logaddexp(known, logarithm)
        new = new * ((logarithm - both).exp() / total)[..., None]
        out[tokens] = out[tokens] * (known - both).exp()[..., None] + new
        lse[tokens] = both

    def products(self, grad: torch.Tensor, result: torch.Tensor, lse: torch.Tensor) -> torch.Tensor:
        """Return the products [T, H] of output and its gradient [T, H, D], in the precision of `lse`."""
        return (grad.to(lse.dtype) * result.to(lse.dtype)).sum(-1)

    def gradients(
        self,
        scores: torch.Tensor,
        grads: torch.Tensor,
        block: Block,
        lse: torch.Tensor,
        delta: torch.Tensor,
        scale: float,
    ) -> None:
        """Turn scores into probabilities P and their gradients dP into those of q kᵀ, P·(dP − delta)·scale, in place;
        `delta` [T, H] is the product of output and its gradient."""
        place, _ = _places(block.queries, lse.device)
        shape = (*scores.shape[:3], 1)
        of_rows = [x[place].transpose(1, 2).reshape(shape) for x in (lse, delta)]
        scores.masked_fill_(~_visible(block, scores), -torch.inf).sub_(of_rows[0]).exp_()
        grads.sub_(of_rows[1]).mul_(scores).mul_(scale)

    def add(self, stretches: torch.Tensor, spans: Spans, row: torch.Tensor) -> None:
        """Add stretches [B, H, L, D] to their places in a row [T, H, D] float32."""
        place, inside = _places(spans, row.device)
        row[place[inside]] += stretches.transpose(1, 2)[inside].to(row.dtype)


def _places(spans: Spans, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the token [B, L] of each place of filled-up stretches, and whether there is one, [B, L] bool."""
    offsets = np.arange(spans.filled)
    inside = offsets < spans.lengths[:, None]
    places = np.where(inside, spans.starts[:, None] + offsets, spans.starts[:, None])
    return torch.from_numpy(places).to(device), torch.from_numpy(inside).to(device)


def _visible(block: Block, scores: torch.Tensor) -> torch.Tensor:
    """Return which keys each row of scores [B, H', G·L, K] sees, [B, 1, G·L, K] bool; none behind a stretch's end."""
    key = np.arange(block.keys.filled)
    query = np.arange(block.queries.filled)
    visible = (key < block.keys.lengths[:, None, None]) & (query[:, None] < block.queries.lengths[:, None, None])
    if block.causal:
        visible &= key <= query[:, None]
    groups = scores.shape[2] // block.queries.filled
    return torch.from_numpy(np.tile(visible, (1, groups, 1))[:, None]).to(scores.device)


class CompiledSteps(PlainSteps):
    """The same for bfloat16 on a processor, by compiled loops: one pass over memory each."""

    def gather(self, row: torch.Tensor, spans: Spans) -> torch.Tensor:
        texts = row.new_empty(len(spans.lengths), row.shape[1], spans.filled, row.shape[2])
        _kernels().gather(_words(row), 0, spans.starts, spans.lengths, _words(texts))
        return texts

    def softmax(self, scores: torch.Tensor, block: Block) -> tuple[torch.Tensor, torch.Tensor]:
        totals, logarithms = (torch.empty(scores.shape[:3]) for _ in range(2))
        _kernels().block_softmax(
            _words(scores),
            query_lengths=block.queries.lengths,
            filled=block.queries.filled,
            key_lengths=block.keys.lengths,
            causal=block.causal,
            totals=totals.numpy(),
            logarithms=logarithms.numpy(),
        )
        return totals, logarithms

    def join(
        self,
        sums: torch.Tensor,
        totals: tuple[torch.Tensor, torch.Tensor],
        block: Block,
        out: torch.Tensor,
        lse: torch.Tensor,
    ) -> None:
        total, logarithm = (x.view(sums.shape[:3]).numpy() for x in totals)
        places = {"starts": block.queries.starts, "lengths": block.queries.lengths, "first": block.causal}
        _kernels().join_block(_words(sums), total, logarithm, **places, out=out.numpy(), lse=lse.numpy())

    def products(self, grad: torch.Tensor, result: torch.Tensor, lse: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(lse)
        _kernels().row_products(_words(grad.contiguous()), _words(result), out.numpy())
        return out

    def gradients(
        self,
        scores: torch.Tensor,
        grads: torch.Tensor,
        block: Block,
        lse: torch.Tensor,
        delta: torch.Tensor,
        scale: float,
    ) -> None:
        spans = block.queries
        _kernels().block_gradients(
            _words(scores),
            _words(grads),
            starts=spans.starts,
            query_lengths=spans.lengths,
            filled=spans.filled,
            key_lengths=block.keys.lengths,
            causal=block.causal,
            lse=lse.numpy(),
            delta=delta.numpy(),
            scale=np.float32(scale),
        )

    def add(self, stretches: torch.Tensor, spans: Spans, row: torch.Tensor) -> None:
        _kernels().add_stretches(_words(stretches), spans.starts, spans.lengths, row.numpy())


def _kernels() -> Any:
    from kat.packing import trunk_kernels  # numba loads with it: only where it is needed

    return trunk_kernels


def _words(x: torch.Tensor) -> np.ndarray:
    return x.detach().view(torch.uint16).numpy()


def steps_for(row: torch.Tensor) -> PlainSteps:
    return CompiledSteps() if row.dtype == torch.bfloat16 and row.device.type == "cpu" else PlainSteps()
