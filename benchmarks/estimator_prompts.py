"""Prompts whose topics are known, and openings of kat's demo, for bench_estimators.py."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import estimator_peers as peers
import numpy as np
from estimator_tables import Sizes, by_row, spread, table, topic_correlation, topic_entropy, weights_of

import kat
from kat.demo.grammar import demo_pairs
from kat.density.estimators import estimate_density
from kat.density.weights import noise_temperature, weigh
from kat.models.load import read_encoder
from kat.neighbors.find import find_neighbors, prepared
from kat.plugins import ESTIMATORS, names

PROMPTS = Path(__file__).parent.parent.parent / "shared" / "data" / "prompts.intents.labelled.jsonl.gz"


@dataclass(frozen=True)
class Labelled:
    """Prompts with their vectors [N, D], topics [N] from 0 and sources [N]."""

    texts: list[str]
    vectors: np.ndarray
    topics: np.ndarray
    sources: np.ndarray

    def some(self, n: int, seed: int = 0) -> np.ndarray:
        """Up to n rows at random, ascending."""
        return np.sort(np.random.default_rng(seed).permutation(len(self.vectors))[:n])


def measure_prompts(labelled: Labelled, sizes: Sizes) -> None:
    vectors, topics = labelled.vectors, labelled.topics
    draws = [labelled.some(sizes.prompts, seed) for seed in range(sizes.seeds)]
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
    title = f"Prompts with known topics at ESS/N = 0.5; entropy of uniform weights {uniform} bits, at most {most}"
    table(title, cells, by_row(cells))


def real_halves(x: np.ndarray) -> dict[str, float]:
    neighbors = find_neighbors(x, max(peers.KS))
    own = {f"{e} k={k}": estimate_density(neighbors, k, e).split_half for e in names(ESTIMATORS) for k in peers.KS}
    return own | peers.split_halves_of_peers(x, 0)


def measure_cost(real: dict[str, np.ndarray]) -> None:
    """What bounds the temperature on real prompts, by estimator, and what the bound from noise costs."""
    rows = {}
    for source, x in real.items():
        for label in ("raw", "centred"):
            y = x if label == "raw" else prepared(x, "cosine", True)[0]
            neighbors = find_neighbors(y, peers.K)
            for name in names(ESTIMATORS):
                density = estimate_density(neighbors, peers.K, name)
                got, free = weigh(density), weights_of(density.log_values)[1]
                quiet = noise_temperature(density)
                figures = (
                    mean_cosine(y),
                    density.split_half,
                    density.noise,
                    quiet,
                    free,
                    got.temperature,
                    got.ess_share,
                )
                cells = [f"{v:.{p}f}" for v, p in zip(figures, (2, 3, 4, 1, 1, 1, 2), strict=True)]
                rows[f"{source}, {label}, {name}"] = [*cells, got.bound]
    heads = ("mean pair cosine", "r", "σ²", "T of the noise bound", "T for ESS 0.5", "T used", "ESS/N", "stopped by")
    table("kat.weigh with its defaults on real prompts, k=20", heads, rows)


def measure_sources(labelled: Labelled) -> None:
    """Every source on its own: its topics are of one kind."""
    rows = {}
    for source in np.unique(labelled.sources):
        here = labelled.sources == source
        x, topics = labelled.vectors[here], np.unique(labelled.topics[here], return_inverse=True)[1]
        neighbors, count = find_neighbors(x, max(peers.KS)), topics.max() + 1
        cells = [f"{topic_entropy(np.ones(len(x)), topics):.2f}", f"{np.log2(count):.2f}"]
        for name, k in [("mean_distance", 10), *((name, peers.K) for name in names(ESTIMATORS)), ("mean_distance", 50)]:
            weights = weights_of(estimate_density(neighbors, k, name).log_values)[0]
            cells.append(f"{topic_entropy(weights, topics):.2f} ({topic_correlation(weights, topics):.2f})")
        rows[f"{source}: {len(x):,} prompts, {count} topics"] = cells
    heads = ["uniform weights", "at most", "mean_distance k=10", *(f"{name} k={peers.K}" for name in names(ESTIMATORS))]
    title = "Entropy of topic shares in bits, source by source (rank correlation of mean topic weight with 1 / size)"
    table(title, [*heads, "mean_distance k=50"], rows)


def measure_centring(labelled: Labelled, sizes: Sizes, cache: Path | None) -> None:
    """The same prompts by the encoder, and by means of its early layers, which are more anisotropic."""
    rows, some = {}, labelled.some(sizes.prompts)
    topics = labelled.topics[some]
    layers = early_layers([labelled.texts[i] for i in some], cache)
    for name, x in ({"minilm": labelled.vectors[some]} | layers).items():
        for label in ("raw", "centred"):
            y = x if label == "raw" else prepared(x, "cosine", True)[0]
            neighbors = find_neighbors(y, peers.K)
            density = estimate_density(neighbors, peers.K)
            weights, temperature = weights_of(density.log_values)
            same = float((topics[neighbors.indices] == topics[:, None]).mean())
            figures = (mean_cosine(y), same, density.split_half, temperature, topic_entropy(weights, topics),
                       topic_correlation(weights, topics))  # fmt: skip
            rows[f"{name}, {label}"] = [f"{v:.{p}f}" for v, p in zip(figures, (2, 3, 3, 1, 2, 2), strict=True)]
    heads = ("mean pair cosine", "neighbours of the same topic", "split-half r", "T", "entropy (bits)", "correlation")
    table("Centring, mean_distance k=20 at ESS/N = 0.5", heads, rows)


def mean_cosine(x: np.ndarray) -> float:
    """Mean cosine of two different rows of unit length."""
    return float((np.square(x.sum(axis=0, dtype=np.float64)).sum() - len(x)) / (len(x) * (len(x) - 1)))


def early_layers(texts: list[str], cache: Path | None, layers: tuple[int, ...] = (0, 2)) -> dict[str, np.ndarray]:
    """Unit vectors of texts: the mean over tokens of the input of the model's block 0 and 2."""
    import torch

    names = {layer: f"minilm's input to block {layer}" for layer in layers}
    paths = {layer: cache / f"layer{layer}_{len(texts)}.npy" if cache else None for layer in layers}
    if all(path and path.exists() for path in paths.values()):
        return {names[layer]: np.load(path) for layer, path in paths.items()}
    loaded = read_encoder("minilm", "cpu")
    order = np.argsort([len(text) for text in texts], kind="stable")
    vectors = {layer: np.empty((len(texts), loaded.dimension), np.float32) for layer in layers}
    for start in range(0, len(texts), 256):
        rows = order[start : start + 256]
        batch = loaded.tokenizer([texts[i] for i in rows], padding=True, truncation=True, max_length=loaded.limit,
                                 return_tensors="pt")  # fmt: skip
        with torch.inference_mode():
            states = loaded.model(**batch, output_hidden_states=True).hidden_states
        mask = batch["attention_mask"][..., None]
        for layer in layers:
            vectors[layer][rows] = ((states[layer] * mask).sum(1) / mask.sum(1)).numpy()
    for layer, x in vectors.items():
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        if paths[layer]:
            np.save(paths[layer], x)
    return {names[layer]: x for layer, x in vectors.items()}


def read_labelled(path: Path, cache: Path | None, quick: bool) -> Labelled | None:
    if not path.exists():
        print(f"\nThe labelled prompts are skipped: {path.name} is not there.")
        return None
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines][:: 200 if quick else 1]
    texts = [row["prompt"] for row in rows]
    topics = np.unique([row["cluster"] for row in rows], return_inverse=True)[1]
    sources = np.asarray([row["src"].split("/")[0] for row in rows])
    return Labelled(texts, embedded(texts, cache, f"intents_minilm_{len(rows)}"), topics, sources)


def read_demo(cache: Path | None, quick: bool) -> np.ndarray:
    openings = {r["prefix"]["messages"][-1]["content"] for r in demo_pairs(400 if quick else 4000)
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
