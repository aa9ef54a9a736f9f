"""Data whose density is known, and data without any structure, for bench_estimators.py.

Points z are drawn in R^d and lifted to the unit sphere as x = (z, L) / |(z, L)|, L the root mean square of |z|, then
turned by a random isometry into 64 columns. So they are unit vectors of intrinsic dimension d, like embeddings, and
their density is known exactly: the lift is the inverse of the gnomonic projection, which multiplies a density by
(|z|² + L²)^((d + 1) / 2), up to a constant.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from kat.demo.grammar import zipf_sizes
from kat.neighbors.find import prepared

COLUMNS = 64
CENTRES, SPREAD = 20, 0.5
NARROW, WIDE = 0.25, 1.0


@dataclass(frozen=True)
class Sample:
    """Unit vectors `x` [N, D] with what is known of them: log density `truth` [N] and `topics` [N], or None.

    `scored` are the rows that count for a comparison with the truth: the first of each set of copies.
    """

    x: np.ndarray
    truth: np.ndarray | None = None
    topics: np.ndarray | None = None
    scored: np.ndarray | slice = field(default_factory=lambda: slice(None))


@dataclass(frozen=True)
class Mixture:
    """A Gaussian mixture in R^d with its lift and isometry, so that several samples come from one distribution."""

    centres: np.ndarray  # [C, d]
    spreads: np.ndarray  # [C]
    shares: np.ndarray  # [C], sum 1
    turn: np.ndarray  # [d + 1, COLUMNS], orthonormal rows
    height: float  # L
    signs: np.ndarray  # [C], ±1: components of −1 lie mirrored, on the other half of the sphere

    def draw(self, n: int, rng: np.random.Generator) -> Sample:
        return self.at(rng.choice(len(self.shares), n, p=self.shares), rng)

    def at(self, which: np.ndarray, rng: np.random.Generator) -> Sample:
        """One point of component which[i] for every i."""
        z = self.centres[which] + self.spreads[which, None] * rng.normal(size=(len(which), self.centres.shape[1]))
        x = unit(np.c_[z, np.full(len(z), self.height)]) @ self.turn.astype(np.float32)
        sign = self.signs[which, None]
        return Sample((x * sign).astype(np.float32), self.log_density(z, sign), which)

    def log_density(self, z: np.ndarray, sign: np.ndarray) -> np.ndarray:
        d = z.shape[1]
        squares = np.square(z[:, None] - self.centres).sum(axis=2) / self.spreads**2
        parts = np.log(self.shares) - d * np.log(self.spreads) - squares / 2
        parts = np.where(sign == self.signs, parts, -np.inf)
        return np.logaddexp.reduce(parts, axis=1) + (d + 1) / 2 * np.log(np.square(z).sum(axis=1) + self.height**2)


def mixture(
    d: int, rng: np.random.Generator, equal: bool = True, parts: int = CENTRES, mirrored: bool = False
) -> Mixture:
    """Centres normal of variance 1 a column; shares Zipf in random order; spreads 0.5, or log-uniform on 0.25 … 1.

    The components lie on one half of the sphere, or about half of them mirrored on the other.
    """
    centres = rng.normal(size=(parts, d))
    spreads = np.full(parts, SPREAD) if equal else np.exp(rng.uniform(np.log(NARROW), np.log(WIDE), parts))
    shares = rng.permutation(1 / np.arange(1, parts + 1))
    shares /= shares.sum()
    turn = np.linalg.qr(rng.normal(size=(COLUMNS, d + 1)))[0].T
    height = np.sqrt(d * (1 + shares @ spreads**2))
    signs = rng.choice([-1, 1], parts) if mirrored else np.ones(parts, np.int64)
    return Mixture(centres, spreads, shares, turn, float(height), signs)


def known(d: int, equal: bool, n: int, rng: np.random.Generator) -> Sample:
    return mixture(d, rng, equal).draw(n, rng)


def topics(equal: bool, n: int, rng: np.random.Generator, d: int = 16, parts: int = 100) -> Sample:
    """`parts` topics of Zipf sizes, each a component of the mixture."""
    source = mixture(d, rng, equal, parts)
    sizes = np.empty(parts, np.int64)
    sizes[np.argsort(-source.shares)] = zipf_sizes(n, parts)
    return source.at(np.repeat(np.arange(parts), sizes), rng)


def copies(jitter: float, n: int, rng: np.random.Generator, d: int = 16) -> Sample:
    """Points of which a twelfth stand 2 to 50 times; the truth is density × multiplicity, scored once a point.

    With `jitter` the copies lie apart, by that share of the typical nearest distance.
    """
    once = mixture(d, rng).draw(n * 2 // 5, rng)
    size = len(once.x)
    times = np.where(rng.random(size) < 1 / 12, rng.integers(2, 51, size), 1)
    row = np.r_[np.arange(size), np.repeat(np.arange(size), times - 1)]
    x = once.x[row]
    if jitter:
        near = np.sqrt(np.maximum(0, 2 - 2 * np.sort(once.x @ once.x.T, axis=1)[:, -2]))
        noise = rng.normal(size=x.shape) / np.sqrt(COLUMNS) * jitter * np.median(near)
        x = unit(x + np.where((np.arange(len(row)) >= size)[:, None], noise, 0))
    return Sample(x, (once.truth + np.log(times))[row], scored=np.arange(size))


def offset(by: float, n: int, rng: np.random.Generator, d: int = 16) -> Sample:
    """All vectors moved by `by` in one direction of their own span, and at unit length again; truth: before that.

    Mirrored components, so that the mean before the offset is near 0.
    """
    source = mixture(d, rng, mirrored=True)
    plain = source.draw(n, rng)
    direction = unit(rng.normal(size=(1, d + 1))) @ source.turn
    return Sample(unit(plain.x + by * direction), plain.truth)


def sphere(d: int, n: int, rng: np.random.Generator) -> Sample:
    """Uniform on the unit sphere in d columns: every density is the same."""
    return Sample(unit(rng.normal(size=(n, d))))


def shuffled(n: int, rng: np.random.Generator, d: int = 8, standard: bool = False) -> Sample:
    """A mixture whose columns are shuffled one by one, at mean 0 and variance 1 before that if `standard`.

    Without it the columns' means and variances remain, which are a density of their own once rows have unit length.
    """
    x = known(d, True, n, rng).x
    if standard:
        x = (x - x.mean(axis=0)) / x.std(axis=0)
    return Sample(unit(rng.permuted(x, axis=0)))


def centred(sample: Sample) -> Sample:
    """The same points as kat sees them with center=True."""
    return Sample(prepared(sample.x, "cosine", True)[0], sample.truth, sample.topics, sample.scored)


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
