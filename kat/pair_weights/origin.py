"""The origin's own rules for a reward model's weights and split, as its command has them."""

from __future__ import annotations

import hashlib

import numpy as np

from kat.errors import OptionError
from kat.pair_weights.weigh import normalised, weigh_pairs

MODES = ("mean", "sum", "none")


def validates(opening_id: str, ratio: float, seed: int) -> bool:
    """Tell whether an opening's pairs validate: md5 of "id_seed", modulo a million, below ratio · a million."""
    digest = hashlib.md5(f"{opening_id}_{seed}".encode(), usedforsecurity=False).hexdigest()
    return int(digest, 16) % 1_000_000 < ratio * 1_000_000


def origin_weights(w: np.ndarray, mode: str, cap: float) -> np.ndarray:
    """Return pair weights [P] of the density weights w [P] of the pairs that train.

    "mean", and "sum", its other name: capped with mean 1 (`weigh_pairs`). "none": w clipped at the cap. Raises
    OptionError for another word, InputError for weights that are no numbers above 0.
    """
    if mode not in MODES:
        raise OptionError(f"weight_mode is {mode!r}; expected {', '.join(MODES)}.")
    w = np.asarray(w, np.float64)
    if mode == "none":
        normalised(w)  # the same checks
        return np.minimum(w, cap)
    return weigh_pairs(np.arange(len(w)), w, "pair", cap, blend=1.0).values
