"""Which density estimator ranks openings best, at equal effective sample size? Prints the tables of docs/estimators.md.

    python benchmarks/bench_estimators.py [--quick] [--seeds 5] [--cache DIR] [--data FILE] [--only truth,units,...]

Every estimator gets the temperature at which ESS/N = 0.5 under a cap of 10, with no bound from noise: so rankings are
compared and not units. `--cache` keeps the embeddings of the labelled prompts; keep it outside of the repository.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Callable
from pathlib import Path

import estimator_data as data
import estimator_peers as peers
import numpy as np
from estimator_noise import measure_dimension, measure_split_half, measure_structureless
from estimator_tables import FULL, QUICK, Sizes, by_row, spread, table, weights_of

import kat
from kat.density.estimators import ESTIMATORS, estimate_density
from kat.density.neighbors import find_neighbors, prepared
from kat.density.statistics import spearman
from kat.density.weights import noise_temperature, weigh

PROMPTS = Path(__file__).parent.parent.parent / "shared" / "data" / "prompts.intents.labelled.jsonl.gz"


def topic_correlation(weights: np.ndarray, topics: np.ndarray) -> float:
    """Rank correlation, over topics, of the mean weight with 1 / size."""
    sizes = np.bincount(topics)
    means = np.bincount(topics, weights)[sizes > 0] / sizes[sizes > 0]
    return spearman(means, -sizes[sizes > 0])


def topic_entropy(weights: np.ndarray, topics: np.ndarray) -> float:
    """Entropy in bits of the topics' shares of the weight."""
    shares = np.bincount(topics, weights) / weights.sum()
    return float(-(shares[shares > 0] * np.log2(shares[shares > 0])).sum())


# Known densities


def known_data(n: int) -> dict[str, Callable[[np.random.Generator], data.Sample]]:
    made: dict[str, Callable[[np.random.Generator], data.Sample]] = {}
    for equal in (True, False):
        for d in (2, 8, 16, 40):
            made[f"d={d}, {'equal' if equal else 'unequal'}"] = lambda g, d=d, e=equal: data.known(d, e, n, g)
    made["topics, equal"] = lambda g: data.topics(True, n, g)
    made["topics, unequal"] = lambda g: data.topics(False, n, g)
    made["copies"] = lambda g: data.copies(0.0, n, g)
    made["near copies"] = lambda g: data.copies(0.1, n, g)
    made["offset"] = lambda g: data.offset(1.0, n, g)
    made["offset, centred"] = lambda g: centred(data.offset(1.0, n, g))
    return made


def centred(sample: data.Sample) -> data.Sample:
    return data.Sample(prepared(sample.x, "cosine", True)[0], sample.truth, sample.topics, sample.scored)


def measure_known(sizes: Sizes) -> None:
    ranks, shapes, topical, units = {}, {}, {}, {}
    for column, make in known_data(sizes.n).items():
        for store in (ranks, shapes, topical, units):
            store[column] = {}
        for seed in range(sizes.seeds):
            sample = make(np.random.default_rng(seed))
            ideal = weights_of(sample.truth)[0][sample.scored]
            for name, density in peers.all_densities(sample.x, seed).items():
                weights, temperature = weights_of(density)
                ranks[column].setdefault(name, []).append(spearman(density[sample.scored], sample.truth[sample.scored]))
                explained = np.corrcoef(weights[sample.scored], ideal)[0, 1] ** 2
                shapes[column].setdefault(name, []).append(explained)
                units[column].setdefault(name, []).append(temperature)
                if column.startswith("topics"):
                    topical[column].setdefault(name, []).append(topic_correlation(weights, sample.topics))
    first, rest = list(ranks)[:8], list(ranks)[8:]
    for title, found in (("Rank correlation of log density with the truth", ranks),
                         ("Share of the ideal weights' variance explained (r², both at ESS 0.5)", shapes)):  # fmt: skip
        for part in (first, rest):
            table(title, part, by_row({c: found[c] for c in part}))
    table("Rank correlation of mean topic weight with 1 / topic size", list(topical)[8:10],
          by_row({c: topical[c] for c in list(topical)[8:10]}))  # fmt: skip
    kat_rows = {c: {n: v for n, v in found.items() if " k=" in n} for c, found in units.items()}
    table("Temperature at which ESS/N = 0.5", first, by_row({c: kat_rows[c] for c in first}, 1))
    table("Temperature at which ESS/N = 0.5", rest, by_row({c: kat_rows[c] for c in rest}, 1))


# Real prompts


def measure_prompts(vectors: np.ndarray, topics: np.ndarray, sizes: Sizes) -> None:
    draws = [np.sort(np.random.default_rng(s).permutation(len(vectors))[: sizes.prompts]) for s in range(sizes.seeds)]
    entropies, correlations, halves, units = {}, {}, {}, {}
    for label in ("raw", "centred"):
        for store in (entropies, correlations, halves, units):
            store[label] = {}
        for seed, rows in enumerate(draws):
            x, topic = vectors[rows], topics[rows]
            if label == "centred":
                x = prepared(x, "cosine", True)[0]
            for name, density in peers.all_densities(x, seed).items():
                weights, temperature = weights_of(density)
                entropies[label].setdefault(name, []).append(topic_entropy(weights, topic))
                correlations[label].setdefault(name, []).append(topic_correlation(weights, topic))
                units[label].setdefault(name, []).append(temperature)
        for name, r in real_halves(x).items():
            halves[label][name] = [r]
    cells = {f"{what}, {label}": store[label] for what, store in (
        ("entropy (bits)", entropies), ("rank correlation with 1/size", correlations), ("split-half r", halves),
        ("T", units)) for label in store}  # fmt: skip
    uniform = spread(topic_entropy(np.ones(len(r)), topics[r]) for r in draws)
    most = spread(np.log2(len(np.unique(topics[r]))) for r in draws)
    title = f"Prompts with known topics at ESS 0.5; entropy of uniform weights {uniform} bits, at most {most}"
    table(title, cells, by_row(cells))


def real_halves(x: np.ndarray) -> dict[str, float]:
    neighbors = find_neighbors(x, max(peers.KS))
    own = {f"{e} k={k}": estimate_density(neighbors, k, e).split_half for e in ESTIMATORS for k in peers.KS}
    return own | peers.split_halves_of_peers(x, 0)


def measure_cost(real: dict[str, np.ndarray]) -> None:
    """What bounds the temperature on real prompts, by estimator, and what the bound from noise costs."""
    rows = {}
    for source, x in real.items():
        for label in ("raw", "centred"):
            y = x if label == "raw" else prepared(x, "cosine", True)[0]
            neighbors = find_neighbors(y, peers.K)
            cosine = (np.square(y.mean(axis=0, dtype=np.float64)).sum() * len(y) - 1) / (len(y) - 1)
            for name in ESTIMATORS:
                density = estimate_density(neighbors, peers.K, name)
                got, free = weigh(density), weights_of(density.log_values)[1]
                quiet = noise_temperature(density)
                figures = (cosine, density.split_half, density.noise, quiet, free, got.temperature, got.ess_share)
                cells = [f"{v:.{p}f}" for v, p in zip(figures, (2, 3, 4, 1, 1, 1, 2), strict=True)]
                rows[f"{source}, {label}, {name}"] = [*cells, got.bound]
    heads = ("mean pair cosine", "r", "σ²", "T of the noise bound", "T for ESS 0.5", "T used", "ESS/N", "stopped by")
    table("kat.weigh with its defaults on real prompts, k=20", heads, rows)


def read_prompts(path: Path, cache: Path | None, quick: bool) -> tuple[np.ndarray, np.ndarray] | None:
    if not path.exists():
        print(f"\nThe labelled prompts are skipped: {path.name} is not there.")
        return None
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    if quick:
        rows = rows[::40]
    topics = np.unique([row["cluster"] for row in rows], return_inverse=True)[1]
    return embedded([row["prompt"] for row in rows], cache, f"intents_minilm_{len(rows)}"), topics


def read_demo(cache: Path | None, quick: bool) -> np.ndarray:
    openings = {r["prefix"]["messages"][-1]["content"] for r in kat.demo_pairs(400 if quick else 4000)
                if len(r["prefix"]["messages"]) == 1}  # fmt: skip
    return embedded(sorted(openings), cache, f"demo_minilm_{len(openings)}")


def embedded(texts: list[str], cache: Path | None, name: str) -> np.ndarray:
    path = cache / f"{name}.npy" if cache else None
    if path and path.exists():
        return np.load(path)
    vectors = kat.encode(texts, model="minilm").vectors
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, vectors)
    return vectors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--data", type=Path, default=PROMPTS)
    parser.add_argument("--only", default="known,noise,halves,dimension,prompts", help="sections, by comma")
    options = parser.parse_args()
    sizes, only, began = QUICK if options.quick else FULL, options.only.split(","), time.time()
    print(f"N = {sizes.n:,}, {sizes.seeds} seeds, mean ± standard deviation; kat {kat.__version__}")
    if "known" in only:
        measure_known(sizes)
    if "noise" in only:
        measure_structureless(sizes)
    if "halves" in only:
        measure_split_half(sizes)
    if {"dimension", "prompts"} & set(only):
        labelled = read_prompts(options.data, options.cache, options.quick)
        real = {"demo": read_demo(options.cache, options.quick)}
        if labelled:
            rows = np.sort(np.random.default_rng(0).permutation(len(labelled[0]))[: sizes.prompts])
            real["intents"] = labelled[0][rows]
        if "dimension" in only:
            measure_dimension(sizes, real)
        if "prompts" in only:
            measure_cost(real)
            if labelled:
                measure_prompts(*labelled, sizes)
    print(f"\n{time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
