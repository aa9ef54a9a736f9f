"""Speed and faithfulness of kat.encode beside other libraries: same model, texts, truncation, threads, in one run.

Every method lives in a process of its own, loads its model and is warmed up on 200 texts before the clock (kat's
worker processes start there too); methods take turns in every round, one computes while the others wait, and medians
count, so that other load on the machine meets all alike. Prints tables in markdown. Agreement is with plain float32
transformers: cosines, shared nearest neighbours, and the rank correlation of kat's log density.

optimum, which brings ONNX and OpenVINO to sentence-transformers, does not install beside transformers 5. Both are
therefore measured in sentence-transformers' own loop (sorting, batching, tokenising, pooling, normalising), with only
the forward pass of its transformer replaced by a compiled model, in batches of 32 or 128: the table says which of them
was quicker on a sample of the texts.

    python benchmarks/bench_encode.py                                  # MiniLM, two sets of texts, 256 and 512 tokens
    python benchmarks/bench_encode.py --quality                        # instead: agreement on 20,000 short texts
    python benchmarks/bench_encode.py --model smollm2 --texts 300      # SmolLM2-135M out of a package
    python benchmarks/bench_encode.py --only kat st openvino-bfloat16 transformers --sets openings --max_tokens 256
"""

from __future__ import annotations

import argparse
import json
import tempfile
from functools import cached_property
from pathlib import Path

import encode_texts
import numpy as np
from encode_children import Children
from encode_machine import Peak, header
from encode_methods import METHODS
from encode_texts import Count, Sizes

import kat
from kat.embedding.engine import pick_precision
from kat.statistics import spearman

K = 20
LEAST = 2 * K  # texts, for K neighbours to say something
REFERENCE, BASE = "transformers", "st"
EXPORTED = ("onnx", "openvino", "openvino-bfloat16")
EXACT, QUALITY = "kat-float32", ("kat-float32", "kat", "openvino-bfloat16", "transformers-autocast")
QUALITY_TOKENS = 256
SPEED = ("method", "median s", "runs", "tokens/s", "speed / default", "of peak")
AGREEMENT = ("cosine min", "cosine mean", f"overlap@{K // 2}", f"overlap@{K}", "rank of density")


class Seen:
    """Vectors from a file, with what kat makes of them."""

    def __init__(self, path: Path):
        vectors = np.load(path).astype(np.float64)
        self.vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    @cached_property
    def neighbors(self) -> kat.Neighbors:
        return kat.find_neighbors(self.vectors.astype(np.float32), k=K)

    @cached_property
    def density(self) -> np.ndarray:
        return kat.estimate_density(self.neighbors).log_values

    def overlap(self, other: Seen, k: int) -> float:
        """Mean share of the k nearest that both have."""
        pairs = zip(self.neighbors.indices[:, :k], other.neighbors.indices[:, :k], strict=True)
        return sum(len(np.intersect1d(mine, theirs)) for mine, theirs in pairs) / (k * len(self.vectors))

    def agreement(self, other: Seen) -> list[str]:
        """The columns AGREEMENT."""
        cosines = (self.vectors * other.vectors).sum(axis=1)
        shares = self.overlap(other, K // 2), self.overlap(other, K), spearman(self.density, other.density)
        return [f"{cosines.min():.6f}", f"{cosines.mean():.6f}", *(f"{share:.4f}" for share in shares)]


def agreements(children: Children, folder: Path, reference: str) -> dict[str, list[str]]:
    """The columns AGREEMENT of every method; empty if the reference was not measured."""
    if reference not in children:
        return {name: ["–"] * len(AGREEMENT) for name in children}
    right = Seen(vectors_file(folder, reference))
    return {name: Seen(vectors_file(folder, name)).agreement(right) for name in children}


def vectors_file(folder: Path, name: str) -> Path:
    return folder / f"{name}.npy"


def speeds(children: Children, count: Count, sizes: Sizes, peak: float) -> dict[str, list[str]]:
    """The columns SPEED of every method but its title."""
    base = children[BASE].median if BASE in children else None
    operations, cells = sizes.operations(count.lengths), {}
    for name, child in children.items():
        ratio = f"{base / child.median:.2f}" if base else "–"
        rate, share = f"{count.total / child.median:,.0f}", f"{operations / child.median / peak:.0%}"
        cells[name] = [f"{child.median:.2f}", str(len(child.times)), rate, ratio, share]
    return cells


def show(titles: tuple[str, ...], rows: list[list[str]]) -> None:
    """Print a table; only the first column holds words."""
    for cells in (titles, ["---", *["---:"] * (len(titles) - 1)], *rows):
        print(f"| {' | '.join(cells)} |")
    print(flush=True)


def compare(children: Children, texts: list[str], limit: int, repeats: int, folder: Path, peak: Peak) -> None:
    """Embed the texts by turns, into files in the folder."""
    given = folder / "texts.json"
    given.write_text(json.dumps(texts))
    children.each(lambda child: child.prepare(str(given), limit))
    for _ in range(repeats):
        peak.measure()
        children.each(lambda child: child.run(str(vectors_file(folder, child.name))))


def measure_speed(options: argparse.Namespace, model: str, folder: Path) -> None:
    """A table for every set of texts and every truncation."""
    sizes, peak = encode_texts.sizes_of(model), Peak()
    with Children(options.only, model) as children:
        for name in options.sets:
            texts = encode_texts.SETS[name](options.data, options.texts)
            for limit in options.max_tokens:
                compare(children, texts, limit, options.repeats, folder, peak)
                count = encode_texts.count_tokens(model, texts, limit)
                fast, same = speeds(children, count, sizes, peak.best), agreements(children, folder, REFERENCE)
                print(f"\n{options.model}, {name}, at most {limit} tokens: {count}; {products(count, sizes, peak)}.\n")
                show(SPEED + AGREEMENT, [[c.title, *fast[n], *same[n]] for n, c in children.items()])
    peak.close()


def products(count: Count, sizes: Sizes, peak: Peak) -> str:
    """The operations of a run and the rate they are compared with, in words."""
    a_token = sizes.operations(count.lengths) / count.total
    return f"{a_token / 1e6:.1f} M operations a token, peak of bfloat16 products {peak.best / 1e9:,.0f} G/s"


def measure_quality(options: argparse.Namespace, model: str, folder: Path) -> None:
    """One table: agreement with kat's own float32 on many short texts."""
    texts = encode_texts.queries(options.data, options.quality_texts)
    given, rows = folder / "texts.json", []
    given.write_text(json.dumps(texts))
    with Children(options.only, model) as children:
        children.each(lambda child: child.prepare(str(given), QUALITY_TOKENS))
        children.each(lambda child: child.run(str(vectors_file(folder, child.name))))
        same = agreements(children, folder, EXACT)
        rows = [[c.title, f"{c.median:.1f}", *same[name]] for name, c in children.items()]
    count = encode_texts.count_tokens(model, texts, QUALITY_TOKENS)
    print(f"\n{options.model}, short texts: {count}; agreement with kat float32, k = {K}.\n")
    show(("method", "s, one run", *AGREEMENT), rows)


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="minilm", help="a model directory, a name that kat knows, or smollm2")
    add("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    add("--sets", nargs="+", default=list(encode_texts.SETS), choices=list(encode_texts.SETS))
    add("--max_tokens", type=int, nargs="+", default=[256, 512], help="truncations, a table each")
    add("--repeats", type=int, default=3)
    add("--texts", type=int, help="most texts of a set")
    add("--only", nargs="+", choices=list(METHODS), help="methods; agreement needs transformers, ratios need st")
    add("--quality", action="store_true", help="measure agreement on many short texts, once, instead of speed")
    add("--quality_texts", type=int, default=20_000)
    options = parser.parse_args()
    if (options.quality_texts if options.quality else options.texts or LEAST) < LEAST:
        parser.error(f"at least {LEAST} texts are needed")
    options.only = chosen(options)
    return options


def chosen(options: argparse.Namespace) -> list[str]:
    """Names of the methods in the table's order; a decoder is not exported unless that is asked for."""
    asked = {EXACT, *(options.only or QUALITY)} if options.quality else set(options.only or METHODS)
    if options.model == "smollm2" and not options.only:
        asked -= set(EXPORTED)
    return [name for name in METHODS if name in asked]


def main() -> None:
    options = read_options()
    print(f"{header()}. kat auto is {pick_precision('auto', 'cpu')} here.", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        model = encode_texts.model_folder(options.model, f"{folder}/model")
        (measure_quality if options.quality else measure_speed)(options, model, Path(folder))


if __name__ == "__main__":
    main()
