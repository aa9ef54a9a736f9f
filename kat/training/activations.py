"""Activations below the blocks that train, kept on disk: other passes, seeds and weights cost the trained blocks only.

A folder of its own in the cache's folder, named by what it is made from (the model, the number of blocks, the tokens):

    manifest.json   what it is made from
    journal         a line and a checksum for each row that is computed; locked while a process computes
    hidden.npy      [tokens, D]: each prompt's trunk and branches, in their order; bfloat16 as uint16, or float32
    complete        written last; without it what is missing is computed

Blocks are as transformers names them: a model whose blocks cannot be run by themselves fails a probe, and is an error.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kat import artifacts
from kat.atomic import as_output_error, atomic_file
from kat.devices import torch_threads
from kat.errors import ModelError
from kat.journal import Journal, checksum, is_complete, kept_array, mapped_array, mark_complete
from kat.packing.switch import TOLERANCE
from kat.packing.trunks import Prompt, Row, plant
from kat.terminal import bar_off
from kat.training.ranks import OneRank, Ranks
from kat.training.reward import RewardModel, blocks_of
from kat.training.rewarders import (
    Rewards,
    branch_rows,
    branches_digest,
    branches_of,
    first_branches,
    tokens_of_branches,
)
from kat.training.steps import PairRow, rows_of_rank
from kat.training.tokens import TokenPairs

_HIDDEN, _JOURNAL = "hidden.npy", "journal"


class _BelowError(Exception):
    """Carries what the first trained block was given, and ends the pass there."""

    def __init__(self, hidden: torch.Tensor) -> None:
        super().__init__()
        self.hidden = hidden


def below(model: RewardModel, row: Row, blocks: int) -> torch.Tensor:
    """Return what the last `blocks` blocks are given for a row, [T, D] float32."""
    first = list(blocks_of(model.base)[1])[-blocks]

    def stop(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        raise _BelowError(given[0] if given else named["hidden_states"])

    hook = first.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with torch.no_grad():
            model.hidden(row)
    except _BelowError as found:
        return found.hidden[0].float()
    finally:
        hook.remove()
    raise ModelError(f"{type(model.base).__name__} does not call its blocks one after the other.")


def above(model: RewardModel, row: Row, hidden: torch.Tensor, blocks: int) -> torch.Tensor:
    """Return the last hidden states [T, D] of a row, from what its last `blocks` blocks are given."""
    with _only_last(model.base, blocks):
        return model.hidden(row, embeddings=hidden[None])


@contextlib.contextmanager
def _only_last(base: torch.nn.Module, blocks: int) -> Iterator[None]:
    name, stack = blocks_of(base)
    parent, _, leaf = name.rpartition(".")
    owner = base.get_submodule(parent)
    setattr(owner, leaf, torch.nn.ModuleList(list(stack)[-blocks:]))
    try:
        yield
    finally:
        setattr(owner, leaf, stack)


def check_blocks(model: RewardModel, blocks: int) -> None:
    """Raise ModelError for a model whose last blocks cannot be run by themselves: it scales embeddings, or mixes what
    other blocks had."""
    if model.unshared is not None:
        raise ModelError(f"Activations are kept of models that share trunks; this one does not: {model.unshared}.")
    draw = np.random.default_rng(1)
    tokens = [draw.integers(10, min(model.loaded.vocabulary, 500), n) for n in (13, 4, 7)]
    row = plant([Prompt(tokens[0], tokens[1:])])
    before, model.autocast = model.autocast, False
    try:
        with torch.no_grad():
            whole, parts = model.hidden(row), above(model, row, below(model, row, blocks), blocks)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"Activations cannot be kept of {type(model.base).__name__}: {error}") from error
    finally:
        model.autocast = before
    off = float((whole - parts).abs().max() / whole.abs().max())
    if not off <= TOLERANCE:
        raise ModelError(
            f"Activations cannot be kept of {type(model.base).__name__}: its last blocks alone differ by {off:.1e}."
        )


class Activations:
    """What the trained blocks are given for every token that some pairs need, computed where it is not there yet."""

    def __init__(self, folder: Path, model: RewardModel, data: TokenPairs, blocks: int, budget: int) -> None:
        check_blocks(model, blocks)
        self.data = data
        self._half = model.autocast
        self._kind = np.dtype(np.uint16 if self._half else np.float32)
        needed = branches_of(data)
        asked = {
            "model": model.loaded.meta["sha256"],
            "blocks": blocks,
            "precision": "bfloat16" if self._half else "float32",
            "row_tokens": budget,
            "tokens": branches_digest(data.prompts, needed),
        }
        name = hashlib.sha256(artifacts.json_bytes(asked)).hexdigest()[:16]
        self.folder = folder / name
        self._places = _places(data, needed)
        width = model.loaded.dimension
        path, shape = self.folder / _HIDDEN, (self._places.size, width)
        if not is_complete(path) or kept_array(path, shape, self._kind, "r") is None:
            self._compute(asked, partial(below, model, blocks=blocks), needed, shape, budget)
        self._hidden = np.load(path, mmap_mode="r", allow_pickle=False)

    def _compute(
        self,
        asked: dict[str, Any],
        compute: Callable[[Row], torch.Tensor],
        needed: np.ndarray,
        shape: tuple[int, int],
        budget: int,
    ) -> None:
        from tqdm import tqdm

        with as_output_error(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            journal = Journal(self.folder / _JOURNAL)
        with contextlib.closing(journal), as_output_error(self.folder):
            done = journal.read()
            with atomic_file(self.folder / artifacts.MANIFEST) as file:
                file.write(artifacts.json_bytes(asked))
            hidden = mapped_array(self.folder / _HIDDEN, shape, np.dtype(self._kind))
            total = tokens_of_branches(self.data.prompts, needed)
            bar = tqdm(total=total, unit="token", unit_scale=True, desc="activations", disable=bar_off(), delay=2)
            with bar, torch_threads():
                for number, row in enumerate(branch_rows(self.data.prompts, needed, budget)):
                    places = self._of_row(row.row, row.branches, row.ends)
                    if done.get(("row", str(number))) != checksum(hidden[places]):
                        values = compute(row.row)
                        hidden[places] = _as_stored(values) if self._half else values.numpy()
                        journal.add("row", number, checksum(hidden[places]))
                    bar.update(row.row.layout.total)
            mark_complete(self.folder / _HIDDEN)

    def of(self, row: Row, branches: np.ndarray, ends: np.ndarray) -> torch.Tensor:
        """Return what the trained blocks are given, [T, D] float32, for a row whose `branches` end at `ends`."""
        values = np.ascontiguousarray(self._hidden[self._of_row(row, branches, ends)])
        tensor = torch.from_numpy(values)
        return tensor.view(torch.bfloat16).float() if self._half else tensor

    def _of_row(self, row: Row, branches: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """The places [T] of a row's tokens: each lies on the way to one of the ends at least."""
        places = np.full(row.layout.total, -1, np.int64)
        for branch, end in zip(branches.tolist(), ends.tolist(), strict=True):
            places[row.layout.sequence(end)] = self._places.of(branch)
        return places


class KeptActivations:
    """Rewards through the last blocks, from kept activations, a row of at most `budget` tokens at a time."""

    def __init__(
        self, model: RewardModel, kept: Activations, blocks: int, budget: int, ranks: Ranks | None = None
    ) -> None:
        self.model, self.kept, self.blocks, self.budget = model, kept, blocks, budget
        self.ranks: Ranks = ranks or OneRank()
        self.separate = False
        self._first = first_branches(kept.data.prompts)

    def parts(self, pairs: np.ndarray) -> Iterator[tuple[np.ndarray, Callable[[], Rewards]]]:
        """Yield the pairs of each row, and what computes their rewards."""
        for part in rows_of_rank(self.kept.data, pairs, self.budget, self.ranks):
            yield part.pairs, partial(self._rewards, part)

    def _rewards(self, part: PairRow) -> Rewards:
        data = self.kept.data
        first = self._first[data.prompt[part.pairs]]
        branches = np.concatenate([first + data.chosen[part.pairs], first + data.rejected[part.pairs]])
        ends = np.concatenate([part.chosen, part.rejected])
        hidden = self.kept.of(part.row, branches, ends).to(self.model.device)
        states = above(self.model, part.row, hidden, self.blocks)
        chosen, rejected = self.model.from_features(states[torch.from_numpy(ends).to(states.device)]).chunk(2)
        return chosen, rejected


@dataclass(frozen=True, eq=False)
class _Places:
    """Where the tokens of prompts and of their branches lie: first places, −1 for what is not kept, and lengths.

    `trunks` [N] are of prompts, `branches` [E] of all branches, the prompt of each of which is `owner` [E].
    """

    trunks: np.ndarray
    trunk_lengths: np.ndarray
    branches: np.ndarray
    branch_lengths: np.ndarray
    owner: np.ndarray
    size: int

    def of(self, branch: int) -> np.ndarray:
        """Return the places of a branch's sequence, its trunk's first."""
        owner = self.owner[branch]
        trunk, own = self.trunks[owner], self.branches[branch]
        return np.concatenate(
            [
                np.arange(trunk, trunk + self.trunk_lengths[owner]),
                np.arange(own, own + self.branch_lengths[branch]),
            ]
        )


def _places(data: TokenPairs, needed: np.ndarray) -> _Places:
    """Return places for the needed branches and their trunks: a prompt's trunk, then its branches, then the next's."""
    first = first_branches(data.prompts)
    owner = np.repeat(np.arange(len(data.prompts)), np.diff(first))
    branch_lengths = np.asarray([len(b) for p in data.prompts for b in p.branches], np.int64)
    trunk_lengths = np.asarray([len(p.trunk) for p in data.prompts], np.int64)
    is_kept = np.zeros(len(owner), bool)
    is_kept[needed] = True
    has_kept = np.bincount(owner[needed], minlength=len(data.prompts)) > 0
    kept_lengths = np.where(is_kept, branch_lengths, 0)
    of_prompts = np.where(has_kept, trunk_lengths, 0) + np.bincount(owner, kept_lengths, len(data.prompts)).astype(int)
    trunks = np.cumsum(of_prompts) - of_prompts
    before = np.cumsum(kept_lengths) - kept_lengths  # among all branches; less those of the prompts before
    branches = (trunks + trunk_lengths)[owner] + before - before[first[:-1].clip(max=max(len(before) - 1, 0))][owner]
    return _Places(
        trunks=np.where(has_kept, trunks, -1),
        trunk_lengths=trunk_lengths,
        branches=np.where(is_kept, branches, -1),
        branch_lengths=branch_lengths,
        owner=owner,
        size=int(of_prompts.sum()),
    )


def _as_stored(values: torch.Tensor) -> np.ndarray:
    return values.cpu().to(torch.bfloat16).view(torch.uint16).numpy()
