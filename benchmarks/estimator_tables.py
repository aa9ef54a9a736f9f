"""What the parts of bench_estimators.py share: sizes, weights at equal effective sample size, tables."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from kat.density.weights import project, solve_temperature
from kat.statistics import spearman

ESS, CAP, ANY_TEMPERATURE = 0.5, 10.0, 1e6


@dataclass(frozen=True)
class Sizes:
    n: int
    seeds: int
    prompts: int
    copies_of_n: tuple[int, ...]  # sizes for structureless data
    columns: tuple[int, ...]
    replicates: int


FULL = Sizes(5000, 5, 20_000, (1000, 5000, 20_000), (4, 16, 64, 384), 12)
QUICK = Sizes(300, 1, 300, (300,), (4, 16), 2)


def weights_of(log_density: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights at ESS/N = 0.5, and their temperature."""
    temperature, _ = solve_temperature(log_density, ESS, CAP, ANY_TEMPERATURE)
    return project(log_density, temperature, CAP), temperature


def table(title: str, columns: Iterable[str], rows: dict[str, Iterable[str]]) -> None:
    columns = list(columns)
    print(f"\n**{title}**\n\n| | {' | '.join(columns)} |\n|---{'|---:' * len(columns)}|")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")
    sys.stdout.flush()


def spread(values: Iterable[float], digits: int = 2) -> str:
    values = np.asarray(list(values), float)
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"


def by_row(cells: dict[str, dict[str, list[float]]], digits: int = 2) -> dict[str, list[str]]:
    """From {column: {row: values}} to {row: [mean ± sd of every column]}."""
    names = next(iter(cells.values()))
    return {name: [spread(column[name], digits) for column in cells.values()] for name in names}


def topic_correlation(weights: np.ndarray, topics: np.ndarray) -> float:
    """Rank correlation, over topics, of the mean weight with 1 / size."""
    sizes = np.bincount(topics)
    means = np.bincount(topics, weights)[sizes > 0] / sizes[sizes > 0]
    return spearman(means, -sizes[sizes > 0])


def topic_entropy(weights: np.ndarray, topics: np.ndarray) -> float:
    """Entropy in bits of the topics' shares of the weight."""
    shares = np.bincount(topics, weights) / weights.sum()
    return float(-(shares[shares > 0] * np.log2(shares[shares > 0])).sum())
