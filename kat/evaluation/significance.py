"""Is one model better than another on the same pairs? A sign-flip test over openings.

If both are equally good, the difference of an opening is as likely to have the one sign as the other: flipping the
signs of all openings' differences at random gives the distribution of their sum under that hypothesis (Fisher, The
Design of Experiments, 1935, § 21; of score differences, Dror et al., "The hitchhiker's guide to testing statistical
significance in natural language processing", ACL 2018).
"""

from __future__ import annotations

import numpy as np

EXACT = 16
"""Openings with a difference up to which all 2^n flips are looked at."""
FLIPS = 10_000
_BLOCK = 1 << 22
"""Signs that are held at a time: 4 MB of int8."""


def sign_flip(differences: np.ndarray, flips: int = FLIPS, seed: int = 0) -> float:
    """Return the two-sided p-value of the hypothesis that openings' summed differences [X] are centred on 0.

    Exact if at most EXACT openings differ at all; else (b + 1) / (B + 1) of B random flips of which b reach the sum
    that was observed (Phipson & Smyth, "Permutation p-values should never be zero", 2010). 1 if nothing differs.
    """
    d = np.asarray(differences, np.float64)
    d = d[d != 0]
    if not len(d):
        return 1.0
    observed = abs(d.sum()) * (1 - 1e-12)  # the observed signs themselves must count, whatever the order of the sum
    if len(d) <= EXACT:
        signs = 1 - 2 * ((np.arange(1 << len(d))[:, None] >> np.arange(len(d))) & 1)
        return float((np.abs(signs @ d) >= observed).mean())
    rng, reached = np.random.default_rng(seed), 0
    block = max(1, min(flips, _BLOCK // len(d)))
    for start in range(0, flips, block):
        size = (min(block, flips - start), len(d))
        signs = 1 - 2 * rng.integers(0, 2, size, dtype=np.int8)
        reached += int((np.abs(signs @ d) >= observed).sum())
    return (reached + 1) / (flips + 1)
