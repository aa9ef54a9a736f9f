"""Texts to unit vectors. A text's vector does not depend on its batch, its place or its neighbours' lengths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from kat.config import EmbedOptions
from kat.embedding.pooling import pool
from kat.embedding.texts import Tokens, render
from kat.errors import InputError, OptionError
from kat.models.loading import LoadedModel, load_encoder
from kat.records import Embeddings, Prefix

if TYPE_CHECKING:
    import torch

TOKEN_BUDGET = 8192
"""Tokens of a batch, padding included: enough to keep the matrix units busy, small enough for any memory."""
_TOKENISED_AT_ONCE = 4096


def encode(
    inputs: Iterable[str | Prefix], model: str = "minilm", *, device: str = "auto", progress: bool = False, **options
) -> Embeddings:
    """Embed strings or prefixes; rows in input order, the model kept loaded for the next call.

    `options` are the fields of `kat.config.EmbedOptions`. Ids are the prefixes' ids, or row numbers for strings.

    Raises InputError for no input or a text that is not valid Unicode, OptionError for an option out of range,
    ModelError for a model that cannot be found or loaded.
    """
    if isinstance(inputs, str | bytes | Prefix) or not isinstance(inputs, Iterable):
        raise InputError(f"encode was given a {type(inputs).__name__}; expected a list of strings or of kat.Prefix.")
    items = list(inputs)
    chosen = replace(EmbedOptions(), model=model, **options)
    if not items:
        raise InputError("There is nothing to embed: no texts were given.")
    loaded = load_encoder(model, device, allow_network=chosen.allow_network)
    ids = [item.id if isinstance(item, Prefix) else str(i) for i, item in enumerate(items)]
    texts = render(items, chosen.render, loaded.tokenizer)
    return _encode_texts(ids, texts, loaded, chosen, progress)


def _encode_texts(
    ids: list[str], texts: list[str], loaded: LoadedModel, options: EmbedOptions, progress: bool
) -> Embeddings:
    import torch
    from tqdm import tqdm

    limit = _limit(loaded, options)
    pooling = options.pooling or loaded.pooling
    precision = pick_precision(options.precision, loaded.model.device.type)
    tokens, lengths = _tokenise(texts, Tokens(loaded.tokenizer, special=options.render == "plain"), limit, options)
    fitted = np.asarray([len(t) for t in tokens])
    first, place = _distinct(tokens)  # texts with the same tokens are read once and get the very same vector
    tokens = [tokens[i] for i in first]
    vectors = np.empty((len(tokens), loaded.dimension), np.float32)
    bar = tqdm(total=len(tokens), desc="embed", unit=" texts", disable=None if progress else True, delay=1)
    autocast = torch.autocast(loaded.model.device.type, torch.bfloat16, enabled=precision == "bfloat16")
    with torch.inference_mode(), autocast, bar:
        for rows in batches(fitted[first], TOKEN_BUDGET, options.batch_size):
            vectors[rows] = _forward([tokens[r] for r in rows], loaded, pooling).cpu().numpy()
            bar.update(len(rows))
    vectors = vectors[place]
    _reject_non_finite(vectors, ids)
    meta = loaded.meta | {
        "pooling": pooling,
        "precision": precision,
        "max_tokens": limit,
        "long_text": options.long_text,
        "render": options.render,
    }
    return Embeddings(ids, vectors, lengths, np.maximum(lengths - fitted, 0).astype(np.int32), meta)


def _limit(loaded: LoadedModel, options: EmbedOptions) -> int:
    if options.max_tokens is None:
        return loaded.limit
    if loaded.most and options.max_tokens > loaded.most:
        raise OptionError(f"max_tokens is {options.max_tokens}; the model has positions for {loaded.most}.")
    return options.max_tokens


def pick_precision(precision: str, device: str) -> str:
    """`auto` is bfloat16 where the processor multiplies it faster than float32."""
    import torch

    if precision != "auto":
        return precision
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    return "bfloat16" if device == "cpu" and torch.cpu._is_avx512_bf16_supported() else "float32"


def _tokenise(
    texts: Sequence[str], tokens: Tokens, limit: int, options: EmbedOptions
) -> tuple[list[np.ndarray], np.ndarray]:
    """Framed ids of each text, cut to the limit, and the lengths of the whole texts with special tokens."""
    fitted: list[np.ndarray] = []
    lengths = np.empty(len(texts), np.int32)
    special = len(tokens.before) + len(tokens.after)
    for start in range(0, len(texts), _TOKENISED_AT_ONCE):
        for i, ids in enumerate(tokens.encode(texts[start : start + _TOKENISED_AT_ONCE]), start):
            lengths[i] = max(len(ids) + special, 1)
            fitted.append(tokens.fit(ids, limit, options.long_text))
    return fitted, lengths


def _distinct(tokens: Sequence[np.ndarray]) -> tuple[list[int], list[int]]:
    """First row of each distinct token sequence, and for every row its place among them."""
    seen: dict[bytes, int] = {}
    place = [seen.setdefault(t.tobytes(), len(seen)) for t in tokens]
    first = [0] * len(seen)
    for row in range(len(tokens) - 1, -1, -1):
        first[place[row]] = row
    return first, place


def batches(lengths: np.ndarray, budget: int, batch_size: int | None) -> Iterator[np.ndarray]:
    """Row numbers in batches of similar length, longest first, each within `budget` tokens, padding included."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, budget // int(lengths[order[start]]))
        rows = order[start : start + min(size, batch_size or size)]
        yield rows
        start += len(rows)


def _forward(tokens: list[np.ndarray], loaded: LoadedModel, pooling: str) -> torch.Tensor:
    import torch

    width = max(map(len, tokens))
    pad = loaded.tokenizer.pad_token_id
    ids_bt = np.full((len(tokens), width), 0 if pad is None else pad, np.int64)
    mask_bt = np.zeros((len(tokens), width), np.int64)
    for row, one in enumerate(tokens):
        ids_bt[row, : len(one)] = one
        mask_bt[row, : len(one)] = 1
    device = loaded.model.device
    ids, mask = torch.from_numpy(ids_bt).to(device), torch.from_numpy(mask_bt).to(device)
    hidden = loaded.model(input_ids=ids, attention_mask=mask).last_hidden_state
    return pool(hidden, mask, pooling)


def _reject_non_finite(vectors: np.ndarray, ids: Sequence[str]) -> None:
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        first = int(np.argmax(bad))
        raise InputError(
            f"The model gave no finite vector for {int(bad.sum()):,} texts, first row {first} (id {ids[first]}). "
            "Try --precision float32."
        )
