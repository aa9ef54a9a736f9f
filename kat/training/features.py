"""What the head of a reward model reads of completions: computed once, and kept on disk where that is asked for.

A cache is a folder of its own inside the folder that is named, called after what it is made from (model and tokens):

    manifest.json   what it is made from
    journal         a line and a checksum for each row that is computed; locked while a process computes
    features.npy    [E, D] float32
    complete        written last; without it what is missing is computed
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from kat import artifacts
from kat.atomic import as_output_error, atomic_file
from kat.devices import torch_threads
from kat.journal import Journal, checksum, is_complete, kept_array, mapped_array, mark_complete
from kat.terminal import bar_off
from kat.training.rewarders import branch_rows, rows_in_order, sequences_of, tokens_of_branches
from kat.training.tokens import TokenPairs

if TYPE_CHECKING:
    from kat.training.reward import RewardModel

_FEATURES, _JOURNAL = "features.npy", "journal"


class _Computed(NamedTuple):
    """Branches of one row, as places [B] among those that are asked for, its tokens, and what computes their
    features."""

    places: np.ndarray
    tokens: int
    compute: Callable[[], torch.Tensor]


def branch_features(
    model: RewardModel,
    data: TokenPairs,
    numbers: np.ndarray,
    budget: int,
    *,
    progress: bool = False,
    cache: Path | None = None,
) -> torch.Tensor:
    """Return what the head reads of some branches, `numbers` [E] ascending (`branches_of`), [E, D] float32.

    With a `cache`, a folder, what was computed there before is read, and what is computed now is kept.
    Raises OutputError if the cache cannot be written, or if another process computes there.
    """
    from tqdm import tqdm

    total = tokens_of_branches(data.prompts, numbers, shared=model.unshared is None)
    bar = tqdm(total=total, unit="token", unit_scale=True, desc="features", disable=bar_off(progress), delay=2)
    with torch.no_grad(), torch_threads(), bar:
        if cache is not None:
            rows = list(_rows(model, data, numbers, budget))
            asked = {
                "model": model.loaded.meta["sha256"],
                "precision": "bfloat16" if model.autocast else "float32",
                "row_tokens": budget,
                "tokens": _digest(data, numbers),
            }
            return torch.from_numpy(_kept(rows, asked, len(numbers), cache, bar)).to(model.device)
        features: torch.Tensor | None = None
        for row in _rows(model, data, numbers, budget):
            values = row.compute()
            if features is None:
                features = values.new_empty(len(numbers), *values.shape[1:])
            features[torch.from_numpy(row.places).to(values.device)] = values
            bar.update(row.tokens)
        assert features is not None, "there is a branch"
        return features


def _rows(model: RewardModel, data: TokenPairs, numbers: np.ndarray, budget: int) -> Iterator[_Computed]:
    """Yield rows of branches, the same for the same arguments."""
    if model.unshared is None:
        for row in branch_rows(data.prompts, numbers, budget):
            places = np.searchsorted(numbers, row.branches)
            yield _Computed(places, row.row.layout.total, partial(model.features, row.row, row.ends))
        return
    sequences = sequences_of(data.prompts, numbers)
    lengths = [len(sequence) for sequence in sequences]
    order = np.argsort(lengths, kind="stable")  # neighbours of one length share the products of attention
    for part in rows_in_order([lengths[i] for i in order.tolist()], budget):
        own = order[part]
        texts = [sequences[i] for i in own.tolist()]
        yield _Computed(own, sum(map(len, texts)), partial(model.separate_features, texts))


def _kept(rows: list[_Computed], asked: dict[str, Any], count: int, cache: Path, bar: Any) -> np.ndarray:
    """Return the features of a cache, [count, D], after computing those that are not there."""
    folder = cache / hashlib.sha256(artifacts.json_bytes(asked)).hexdigest()[:16]
    if is_complete(folder / _FEATURES) and (complete := _mapped(folder / _FEATURES, count, "r")) is not None:
        bar.update(bar.total)
        return np.array(complete)
    with as_output_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        journal = Journal(folder / _JOURNAL)
    with contextlib.closing(journal), as_output_error(folder):
        done = journal.read()
        with atomic_file(folder / artifacts.MANIFEST) as file:
            file.write(artifacts.json_bytes(asked))
        kept: np.ndarray | None = _mapped(folder / _FEATURES, count) if done else None
        for number, row in enumerate(rows):
            if kept is None or done.get(("row", str(number))) != checksum(kept[row.places]):
                values = row.compute().cpu().numpy()
                shape = (count, *values.shape[1:])
                if kept is None or kept.shape != shape:  # a damaged header: no row in it is what was written
                    kept = mapped_array(folder / _FEATURES, shape, np.dtype(np.float32))
                kept[row.places] = values
                journal.add("row", number, checksum(kept[row.places]))
            bar.update(row.tokens)
        assert kept is not None, "there is a branch"
        if isinstance(kept, np.memmap):
            kept.flush()
        features = np.array(kept)
        mark_complete(folder / _FEATURES)
    return features


def _mapped(path: Path, rows: int, mode: str = "r+") -> np.ndarray | None:
    """Return the array of an earlier run if it is one, mapped."""
    pooled = kept_array(path, (rows, None), np.float32, mode)
    return kept_array(path, (rows, None, None), np.float32, mode) if pooled is None else pooled


def _digest(data: TokenPairs, numbers: np.ndarray) -> str:
    """Return a hash of all tokens that are read, and of where one sequence ends."""
    digest = hashlib.sha256()
    for sequence in sequences_of(data.prompts, numbers):
        digest.update(len(sequence).to_bytes(8, "little") + np.ascontiguousarray(sequence, np.int32).tobytes())
    return digest.hexdigest()
