"""Attention in bfloat16 on a processor by two batched products.

torch's own attention is several times slower here than the products it is made of: it is written for rows of
thousands of keys, and a text has tens or hundreds (MiniLM, 32 tokens a text, AVX512-BF16: 7 ms a layer and 4,096
tokens against 2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SCORES = 1 << 19
"""Scores of one product, 1 MB: they stay in the second cache between the product that makes and the one that uses."""
_SAFE = (1e-30, 1e30)


def attend_by_products(q, k, v, scale: float, causal: bool, keep: torch.Tensor | None) -> torch.Tensor:
    """Texts of one length: q [B, H, L, D], k and v [B, H', L, D'], all bfloat16 → [B, H, L, D'].

    `keep` [L, L] bool says which keys a query sees; None is all of them, or those not after it if `causal`.
    """
    import torch

    texts, heads, length, _ = q.shape
    groups = heads // k.shape[1]
    q = q.reshape(texts * k.shape[1], groups * length, q.shape[-1])
    k, v = (x.reshape(len(q), length, x.shape[-1]) for x in (k, v))
    if causal and keep is None:
        keep = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
    keep = None if keep is None else keep.repeat(groups, 1)
    out = q.new_empty(len(q), groups * length, v.shape[-1])
    step = max(1, SCORES // (groups * length * length))
    for start in range(0, len(q), step):
        part = slice(start, start + step)
        _attend(q[part], k[part].transpose(1, 2), v[part], scale, keep, out[part])
    return out.view(texts, heads, length, -1)


def _attend(q, k_t, v, scale: float, keep: torch.Tensor | None, out: torch.Tensor) -> None:
    """Softmax without its maximum: exp(score) has room in a float's exponent unless the scores are extreme.

    Saves two of four passes over the scores. The sums tell whether anything came near the ends of the range, and then
    the maximum is taken off after all.
    """
    import torch

    scores = torch.baddbmm(q.new_empty(1, 1, 1), q, k_t, beta=0, alpha=scale).exp_()
    if keep is not None:
        scores.mul_(keep)
    total = scores.sum(-1, keepdim=True, dtype=torch.float32)
    low, high = torch.aminmax(total)
    if not (low > _SAFE[0] and high < _SAFE[1]):  # written so that NaN is unsafe
        scores = torch.bmm(q, k_t).float() * scale
        scores = scores if keep is None else scores.masked_fill(~keep, -torch.inf)
        torch.bmm(scores.softmax(-1).to(v.dtype), v, out=out)
    else:
        torch.bmm(scores, v, out=out)
        out.div_(total)
