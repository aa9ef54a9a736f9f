"""What a CUDA device makes of kat's three heavy parts: encoding, neighbours, and steps of a reward model.

Models have the sizes of MiniLM and SmolLM2-135M and random weights, built from their configurations; nothing is
downloaded. Texts are token ids of lengths drawn like prompts' (lognormal, median 40, 2,048 at most): tokenising is no
part of it. Medians of `--repeats` after a warm-up, whose seconds (what is compiled, is compiled in them) stand beside
them; no measurement repeats once it took `--seconds`. A row is printed as soon as it is measured: encode and train are
meant to take a minute each on an H200, and a stop loses nothing.

- encode: tokens a second of kat's packed rows, beside transformers' own padded batches, sorted by length, in bfloat16
  with sdpa, and the cosine of both; the peak is that of bfloat16 products, measured in the same run.
- knn: the exact search, all of it and what of it is on the device, beside float64 differences of 200 drawn rows.
- train: pairs a second over the steps after the first, with each prompt's trunk once, each pair's once, and separate
  sequences.

    python benchmarks/bench_gpu.py [--only encode knn train] [--device cpu --small]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from encode_machine import cores, header
from encode_texts import sizes_of
from reward_methods import token_pairs

K, SAMPLE, PART = 20, 200, 50_000
LONGEST, MEDIAN = 2048, 40
SIZES = {
    "MiniLM": ("Bert", {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12}, 30_522),
    "SmolLM2-135M": (
        "Llama",
        {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3},
        49_152,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    add("--device", default="cuda")
    add("--small", action="store_true", help="a few texts, rows and pairs: to see whether it runs")
    add("--repeats", type=int, default=3)
    add("--seconds", type=float, default=8.0)
    add("--texts", type=int, default=8000)
    add("--budgets", type=int, nargs="+", default=[32_768, 131_072], help="tokens of a pack; the first is kat's own")
    add("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    add("--prompts", type=int, default=64)
    add(
        "--row_tokens", type=int, nargs="+", default=[4096, 16_384], help="of a row in training; the first is kat's own"
    )
    options = parser.parse_args()
    if options.small:
        options.texts, options.rows, options.prompts = 30, [3000, 9000], 2
    card = torch.cuda.get_device_name() if options.device == "cuda" else "no card"
    print(f"{card}, CUDA {torch.version.cuda}, {header()}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for part in options.only:
            PARTS[part](options, Path(folder))


def timed(act: Callable[[], Any], options: argparse.Namespace) -> tuple[float, float]:
    """Return the median of an action's seconds, and those of the warm-up before."""
    began, seconds = time.perf_counter(), []
    for _ in range(options.repeats + 1):
        waited(options)
        start = time.perf_counter()
        act()
        waited(options)
        seconds.append(time.perf_counter() - start)
        if time.perf_counter() - began > options.seconds and len(seconds) > 1:
            break
    return statistics.median(seconds[1:]), seconds[0]


def print_titles(*titles: str) -> None:
    """Print the head of a table; only the first column holds words."""
    print_row(*titles)
    print_row("---", *["---:"] * (len(titles) - 1))


def print_row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


def waited(options: argparse.Namespace) -> None:
    if options.device == "cuda":
        torch.cuda.synchronize()


def peak_of_products(options: argparse.Namespace) -> float:
    """Return the operations a second of bfloat16 products of a large and of the models' own sizes, the best."""
    best = 0.0
    for m, k, n in ((8192, 8192, 8192), (32_768, 576, 1536)) if options.device == "cuda" else ((1024, 1024, 1024),):
        a, b = (torch.randn(*size, device=options.device).bfloat16() for size in ((m, k), (k, n)))

        def act(a: torch.Tensor = a, b: torch.Tensor = b) -> None:
            for _ in range(10):
                a @ b

        best = max(best, 10 * 2 * m * k * n / timed(act, options)[0])
    return best


def model_folder(name: str, folder: Path) -> str:
    """Return the folder of a model of these sizes with random weights and a tokenizer of few words."""
    import transformers
    from tokenizers import Tokenizer, models

    family, sizes, words = SIZES[name]
    path = folder / name
    if not path.exists():
        torch.manual_seed(0)
        config = getattr(transformers, f"{family}Config")(
            vocab_size=words, intermediate_size=1536, max_position_embeddings=LONGEST, pad_token_id=1, **sizes
        )
        transformers.AutoModel.from_config(config).save_pretrained(path)
        backend = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, "[END]": 2}, "[UNK]"))
        names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "eos_token": "[END]"}
        transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(path)
    return str(path)


def drawn_tokens(count: int, median: float, seed: int) -> list[np.ndarray]:
    """Return token ids of texts with lengths like prompts'."""
    draw = np.random.default_rng(seed)
    lengths = np.clip(draw.lognormal(np.log(median), 1.0, count).astype(int), 1, LONGEST)
    return [draw.integers(3, 30_000, n).astype(np.int32) for n in lengths]


def encode(options: argparse.Namespace, folder: Path) -> None:
    """Print tokens a second of both sizes of model."""
    from kat.embedding.engine import Engine, Settings

    peak, texts = peak_of_products(options), drawn_tokens(options.texts, MEDIAN, 0)
    lengths = np.fromiter(map(len, texts), np.int64)
    print(f"\nencode: {len(texts):,} texts, {lengths.sum():,} tokens, peak {peak / 1e12:,.1f} TFLOP/s\n", flush=True)
    print_titles("method", "first s", "median s", "tokens/s", "of peak", "cosine min")
    for name in SIZES:
        path = model_folder(name, folder)
        operations = sizes_of(path).operations(lengths)

        def show(
            way: str, median: float, first: float, cosine: str = "", *, name: str = name, done: float = operations
        ):
            rate, share = f"{lengths.sum() / median:,.0f}", f"{done / median / peak:.1%}"
            print_row(f"{name}, {way}", f"{first:.2f}", f"{median:.3f}", rate, share, cosine)

        expected, seconds = by_transformers(path, texts, options)
        show("transformers, sorted, padded", *seconds)
        start = time.perf_counter()
        engine = Engine(Settings(path, options.device, "bfloat16", "mean"))
        print(f"({name}: loaded, probed and converted in {time.perf_counter() - start:.1f} s)", flush=True)
        assert engine.unpacked is None, engine.unpacked
        for budget in options.budgets:
            vectors, seconds = by_kat(engine, texts, budget, options)
            cosines = torch.nn.functional.cosine_similarity(torch.from_numpy(vectors), expected)
            show(f"kat, packs of {budget:,}", *seconds, f"{cosines.min():.5f}")


def by_kat(
    engine: Any, texts: list[np.ndarray], budget: int, options: argparse.Namespace
) -> tuple[np.ndarray, tuple[float, float]]:
    """Return vectors [N, D] of kat's engine, and the seconds that they took."""
    from kat.packing.budget import packs

    engine.full_budget = engine.budget = budget
    plan = packs(np.fromiter(map(len, texts), np.int64), budget)
    vectors = np.empty((len(texts), engine.dimension), np.float32)

    def act() -> None:
        for rows in plan:
            vectors[rows] = engine.vectors([texts[row] for row in rows.tolist()])

    return vectors, timed(act, options)


def by_transformers(
    path: str, texts: list[np.ndarray], options: argparse.Namespace
) -> tuple[torch.Tensor, tuple[float, float]]:
    """Return the same of padded batches of as many tokens, padding included, sorted by length."""
    from transformers import AutoModel

    from kat.packing.budget import packs

    model = AutoModel.from_pretrained(path, dtype=torch.bfloat16, attn_implementation="sdpa").to(options.device).eval()
    plan = packs(np.fromiter(map(len, texts), np.int64), options.budgets[0], padded=True)
    vectors = torch.empty(len(texts), model.config.hidden_size)

    def act() -> None:
        for rows in plan:
            some = [texts[row] for row in rows.tolist()]
            ids = np.ones((len(some), max(map(len, some))), np.int64)
            mask = np.zeros_like(ids)
            for row, tokens in enumerate(some):
                ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
            given = [torch.from_numpy(x).to(options.device) for x in (ids, mask)]
            hidden = model(input_ids=given[0], attention_mask=given[1]).last_hidden_state.float()
            means = (hidden * given[1][:, :, None]).sum(1) / given[1].sum(1, keepdim=True)
            vectors[torch.from_numpy(rows)] = means.cpu()

    with torch.inference_mode():
        return vectors, timed(act, options)


def knn(options: argparse.Namespace, folder: Path) -> None:
    """Print seconds, rate and recall of the exact search."""
    from kat.neighbors import topk
    from kat.neighbors.exact import knn_self

    on_device: list[float] = []
    lists_of = topk.topk_lists

    def watched(*given: Any) -> Any:
        start = time.perf_counter()
        lists = lists_of(*given)
        on_device.append(time.perf_counter() - start)
        return lists

    topk.topk_lists = watched
    print(
        f"\nknn: k = {K}, clustered unit vectors of 384 numbers in float32, {cores()} cores beside the card\n",
        flush=True,
    )
    print_titles("rows", "median s", "on the device s", "TFLOP/s there", "recall")
    for n in options.rows:
        x = clustered(n, options)
        knn_self(x[:2000], K, device=options.device, products="topk")  # compiles
        got: list[np.ndarray] = []
        on_device.clear()

        def act(x: np.ndarray = x, got: list[np.ndarray] = got) -> None:
            got[:] = [knn_self(x, K, device=options.device, products="topk")[0]]

        seconds, part = timed(act, options)[0], statistics.median(on_device)
        rate = f"{2 * n * n * 384 / part / 1e12:.1f}"
        right = recall(x, got[0], options)
        print_row(f"{n:,}", f"{seconds:.2f}", f"{part:.2f}", rate, f"{right:.6f}")
    topk.topk_lists = lists_of


def clustered(n: int, options: argparse.Namespace) -> np.ndarray:
    """Return unit vectors [n, 384] around n / 100 centres, drawn on the device."""
    draw = torch.Generator(options.device).manual_seed(0)
    of_device: dict[str, Any] = {"generator": draw, "device": options.device}
    x = torch.randn(n // 100, 384, **of_device)[torch.randint(n // 100, (n,), **of_device)]
    x += 0.6 * torch.randn(n, 384, **of_device)
    return torch.nn.functional.normalize(x, dim=1).cpu().numpy()


def recall(x: np.ndarray, indices: np.ndarray, options: argparse.Namespace) -> float:
    """Return the share of neighbours of drawn rows that are no further away than the k-th by float64 differences."""
    rows = np.random.default_rng(1).choice(len(x), SAMPLE, replace=False)
    parts = [torch.from_numpy(x[start : start + PART]).to(options.device) for start in range(0, len(x), PART)]
    right = 0
    for row in rows.tolist():
        one = torch.from_numpy(x[row]).to(options.device).double()
        distances = torch.cat([(part.double() - one).square().sum(1) for part in parts])
        distances[row] = torch.inf
        limit = torch.topk(distances, K, largest=False).values[-1]
        near = torch.from_numpy(indices[row].astype(np.int64)).to(options.device)
        right += int((distances[near] <= limit).sum())
    return right / (SAMPLE * K)


def train(options: argparse.Namespace, folder: Path) -> None:
    """Print pairs a second of a reward model of SmolLM2-135M's sizes, all of which trains."""
    draw = np.random.default_rng(2)
    pairs = []
    for trunk in drawn_tokens(options.prompts, 250, 3):
        said = [draw.integers(3, 30_000, n).astype(np.int32) for n in draw.integers(20, 60, 4)]
        pairs += [(trunk[:900], said[a], said[b]) for a in range(4) for b in range(a)]
    print(
        f"\ntrain: {options.prompts} prompts of 4 completions and 6 pairs each, steps of 64 pairs, all trains",
        flush=True,
    )
    start = time.perf_counter()
    model, chosen = reward_model(model_folder("SmolLM2-135M", folder), options)
    print(f"(loaded and probed in {time.perf_counter() - start:.1f} s)\n", flush=True)
    print_titles("method", "first step s", "median step s", "tokens a pair", "pairs/s", "tokens/s")
    titles = {"prompt": "a prompt's trunk once", "none": "separate", "pair": "a pair's trunk once"}
    for row_tokens, (share, title) in product(options.row_tokens, titles.items()):
        data = token_pairs(pairs, share)
        tokens = sum(prompt.tokens for prompt in data.prompts) / len(pairs)
        first, median, rate = steps_of(model, data, row_tokens, chosen, options)
        cells = [f"{first:.2f}", f"{median:.3f}", f"{tokens:.0f}", f"{rate:.1f}", f"{tokens * rate:,.0f}"]
        print_row(f"{title}, rows of {row_tokens:,}", *cells)


def reward_model(path: str, options: argparse.Namespace) -> tuple[Any, Any]:
    """Return a reward model, all of which trains, and the options of its training."""
    from kat.training.reward import choose_trainable
    from kat.training.train import load_reward_model
    from kat.training_config import RewardOptions

    chosen = RewardOptions(model=path, train="all", batch_size=64, precision="bfloat16")
    model = load_reward_model(chosen, options.device)
    assert model.unshared is None, model.unshared
    choose_trainable(model, "all")
    return model, chosen


def steps_of(
    model: Any, data: Any, row_tokens: int, chosen: Any, options: argparse.Namespace
) -> tuple[float, float, float]:
    """Take the steps of a pass; return the first one's seconds, the others' median, and the others' pairs a second."""
    from kat.training.loop import Trainer
    from kat.training.rewarders import WholeModel

    groups = [{"params": [p for p in model.model.parameters() if p.requires_grad], "lr": 1e-6}]
    trainer = Trainer(WholeModel(model, data, row_tokens), groups, data, np.ones(len(data)), chosen)
    seconds, counts = [], []
    for pairs in trainer.plan.of_pass(0):
        waited(options)
        start = time.perf_counter()
        trainer.step(pairs, chosen.batch_size)
        waited(options)
        seconds.append(time.perf_counter() - start)
        counts.append(len(pairs))
        if len(seconds) > 1 and sum(seconds[1:]) > options.seconds:
            break
    return (
        seconds[0],
        statistics.median(seconds[1:] or seconds),
        sum(counts[1:] or counts) / sum(seconds[1:] or seconds),
    )


PARTS: dict[str, Callable[[argparse.Namespace, Path], None]] = {"encode": encode, "knn": knn, "train": train}

if __name__ == "__main__":
    main()
