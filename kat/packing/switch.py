"""Models on packed rows: switch a model over, run it, and find out whether it gives what it gives unpacked.

torch is imported inside functions: `kat.embedding.engine` imports this module at its top.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kat.packing.attention import NotPackedError, register
from kat.packing.layout import Layout, pack

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

TOLERANCE = 2e-4
"""Largest difference of a hidden state from the unpacked text's, float32, in units of the largest: rounding is 1e-6."""


def hidden_states(model: PreTrainedModel, tokens: Sequence[np.ndarray]) -> tuple[torch.Tensor, Layout]:
    """Return the last hidden states [T, D] of texts end to end, by a model that `switch_over` has returned None for."""
    import torch

    ids, layout = pack(tokens)
    positions = torch.from_numpy(layout.positions + position_offset(model)).to(model.device)
    output = model(
        input_ids=torch.from_numpy(ids)[None].to(model.device),
        position_ids=positions[None],
        layout=layout,
        **_no_cache(model),
    )
    return output.last_hidden_state[0], layout


def unpacked_hidden_states(model: PreTrainedModel, tokens: np.ndarray) -> torch.Tensor:
    """Return the last hidden states [T, D] of one text, in a batch of its own as transformers reads it."""
    import torch

    ids = torch.from_numpy(tokens.astype(np.int64))[None].to(model.device)
    return model(input_ids=ids, attention_mask=torch.ones_like(ids), **_no_cache(model)).last_hidden_state[0]


def switch_over(model: PreTrainedModel, longest: int) -> str | None:
    """Switch a float32 model's attention to packed rows, and return None; or leave it as it is and return why not.

    The proof is a probe: texts of several lengths, one of them longer than a local window, if windows are shorter
    than `longest` tokens. A model whose layers mix texts in any other way than attention (state spaces, convolutions),
    or that counts positions by itself (relative biases, ALiBi), fails it.
    """
    import torch

    texts = probe_texts(model, longest)
    before = model.config._attn_implementation
    with torch.inference_mode():
        unpacked = [unpacked_hidden_states(model, text) for text in texts]
        try:
            _set_attention(model, register())
            packed, layout = hidden_states(model, texts)
            why = _difference(packed, unpacked, layout)
        # Other people's code, called in a way that it may not foresee: whatever it raises says that it cannot.
        except Exception as error:
            first = str(error).strip().splitlines() or [type(error).__name__]
            why = first[0] if isinstance(error, NotPackedError) else f"{type(error).__name__}: {first[0]}"
    if why is not None and model.config._attn_implementation != before:
        model.set_attn_implementation(before)
    return why


def _set_attention(model: PreTrainedModel, name: str) -> None:
    """Set a model's attention function; raise NotPackedError where transformers only warns that it cannot."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what it would warn of is said below, and by us
    try:
        model.set_attn_implementation(name)
    finally:
        logging.set_verbosity(verbosity)
    if model.config._attn_implementation != name:
        raise NotPackedError("its attention cannot be exchanged")


def probe_texts(model: PreTrainedModel, longest: int) -> list[np.ndarray]:
    """Return texts of random tokens, two of one length and no token padding, all of at most `longest` tokens.

    The first is longer than a local window on both sides, where windows are short enough.
    """
    config = model.config
    windows = [getattr(config, name, None) for name in ("sliding_window", "local_attention")]
    long = max([24, *(int(w) * 2 + 3 for w in windows if isinstance(w, int) and 0 < w * 2 + 3 <= longest)])
    draw = np.random.default_rng(0)
    padding = getattr(config, "pad_token_id", None)
    choice = np.setdiff1d(np.arange(min(config.vocab_size, 1000)), [padding if isinstance(padding, int) else -1])
    return [draw.choice(choice, n) for n in (min(long, longest), 7, 7, 5, 2, 1) if n <= longest]


def position_offset(model: PreTrainedModel) -> int:
    """Return the position of a text's first token: RoBERTa's family starts after the padding index."""
    for name, module in model.named_modules():
        if name.rsplit(".", 1)[-1] == "position_embeddings" and getattr(module, "padding_idx", None) is not None:
            return module.padding_idx + 1
    return 0


def _difference(packed: torch.Tensor, unpacked: list[torch.Tensor], layout: Layout) -> str | None:
    """Say by how much packed hidden states [T, D] are off those of the texts; None where it is rounding."""
    size = max(float(states.abs().max()) for states in unpacked)
    for start, states in zip(layout.bounds.tolist(), unpacked, strict=False):
        off = float((packed[start : start + len(states)] - states).abs().max())
        if not off <= TOLERANCE * size:  # NaN is a difference
            return f"in a packed row its hidden states differ from the unpacked text's by {off / size:.1e}"
    return None


def _no_cache(model: PreTrainedModel) -> dict[str, bool]:
    return {"use_cache": False} if getattr(model.config, "use_cache", None) else {}
