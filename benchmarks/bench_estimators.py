"""Which density estimator ranks openings best, at equal effective sample size? Prints the tables of docs/estimators.md.

    python benchmarks/bench_estimators.py [--quick] [--cache DIR] [--data FILE] [--only SECTIONS]

Every estimator gets the temperature at which ESS/N = 0.5 under a cap of 10, with no bound from noise: so rankings are
compared and not units. `--cache` keeps the embeddings of the labelled prompts; keep it outside of the repository.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import estimator_data as data
import estimator_peers as peers
import estimator_prompts as prompts
import numpy as np
from estimator_noise import measure_dimension, measure_split_half, measure_structureless
from estimator_tables import FULL, QUICK, Sizes, by_row, table, topic_correlation, weights_of

import kat
from kat.statistics import spearman

SECTIONS = "known,noise,halves,dimension,prompts,sources,centring"


def known_data(n: int) -> dict[str, Callable[[np.random.Generator], data.Sample]]:
    samples: dict[str, Callable[[np.random.Generator], data.Sample]] = {}
    for equal in (True, False):
        for d in (2, 8, 16, 40):
            samples[f"d={d}, {'equal' if equal else 'unequal'}"] = lambda g, d=d, e=equal: data.known(d, e, n, g)
    samples["topics, equal"] = lambda g: data.topics(True, n, g)
    samples["topics, unequal"] = lambda g: data.topics(False, n, g)
    samples["copies"] = lambda g: data.copies(0.0, n, g)
    samples["near copies"] = lambda g: data.copies(0.1, n, g)
    for by in (0.0, 1.0, 3.0):
        samples[f"offset {by:g}"] = lambda g, by=by: data.offset(by, n, g)
        samples[f"offset {by:g}, centred"] = lambda g, by=by: data.centred(data.offset(by, n, g))
    return samples


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
    names = list(ranks)
    parts = names[:8], names[8:12], names[12:]
    for title, measured in (
        ("Rank correlation of log density with the truth", ranks),
        ("Share of the ideal weights' variance explained (r², both at ESS/N = 0.5)", shapes),
    ):
        for part in parts:
            table(title, part, by_row({c: measured[c] for c in part}))
    known = {c: measured for c, measured in topical.items() if measured}
    table("Rank correlation of mean topic weight with 1 / topic size", known, by_row(known))
    for part in parts:
        own = {c: {name: v for name, v in units[c].items() if " k=" in name} for c in part}
        table("Temperature at which ESS/N = 0.5", part, by_row(own, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    parser.add_argument("--cache", type=Path, help="where embeddings are kept; outside of the repository")
    parser.add_argument("--data", type=Path, default=prompts.PROMPTS)
    parser.add_argument("--only", default=SECTIONS, help=f"sections, by comma, of {SECTIONS}")
    options = parser.parse_args()
    sizes, only, began = QUICK if options.quick else FULL, options.only.split(","), time.time()
    print(f"N = {sizes.n:,}, seeds = {sizes.seeds}, mean ± standard deviation; kat {kat.__version__}")
    if "known" in only:
        measure_known(sizes)
    if "noise" in only:
        measure_structureless(sizes)
    if "halves" in only:
        measure_split_half(sizes)
    if set(SECTIONS.split(",")[3:]) & set(only):
        measure_real(sizes, only, options.data, options.cache, options.quick)
    print(f"\n{time.time() - began:.0f} s")


def measure_real(sizes: Sizes, only: list[str], path: Path, cache: Path | None, quick: bool) -> None:
    real = {"demo": prompts.read_demo(cache, quick)}
    labelled = prompts.read_labelled(path, cache, quick)
    if labelled:
        real["intents"] = labelled.vectors[labelled.some(sizes.prompts)]
    if "dimension" in only:
        measure_dimension(sizes, real)
    if "prompts" in only:
        prompts.measure_cost(real)
    if labelled and "prompts" in only:
        prompts.measure_prompts(labelled, sizes)
    if labelled and "sources" in only:
        prompts.measure_sources(labelled)
    if labelled and "centring" in only:
        prompts.measure_centring(labelled, sizes, cache)


if __name__ == "__main__":
    main()
