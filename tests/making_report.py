"""Reports for tests: every kind of block, and points in clusters with invented texts."""

import hashlib
from dataclasses import replace

import numpy as np

from kat.reports.blocks import (
    Chart,
    Column,
    Commands,
    Mark,
    Note,
    Points,
    Quotes,
    Report,
    Section,
    Series,
    Table,
    Text,
)

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "\"'><svg onload=alert(3)>",
    "{{ 7 * 7 }} {% raw %} ${alert(4)} <!-- <![CDATA[",
    "\u202egnirts desrever\u202c שלום مرحبا",
    "👩🏽‍💻🇩🇪 e\u0301\u0323 \U0001f600",
    "nul\x00 esc\x1b[31m bell\x07 del\x7f c1\x9b",
    "lone \ud83d surrogate \udc00",
    "line\none\ttab\r\nseparator\u2028\u2029",
    "javascript:alert(5)//https://example.com/x.js",
    "x" * 400_000,
]
TOPICS = ["cooking", "astronomy", "gardening", "chess", "tax law", "music", "python code", "travel"]
WORDS = """how do I make the best of a small kitchen garden when rain falls for weeks and every star looks the same
to a beginner who wants to write code that plays chess by itself while travelling through old towns"""


def hex_ids(count):
    return [hashlib.md5(str(i).encode()).hexdigest()[:16] for i in range(count)]


def sentences(count, rng, letters=300):
    """Texts of ordinary words, of up to so many letters and some longer."""
    words = np.array(WORDS.split())
    lengths = rng.integers(4, letters // 5, count)
    return [" ".join(words[rng.integers(0, len(words), n)]).capitalize() + "?" for n in lengths]


def noise(count, rng, letters=300):
    """Texts that hardly shrink: letters drawn at random, of several scripts."""
    alphabet = np.array(
        list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,;:!?-äöüßéèñçøåαβγδεжзийл")
    )
    drawn = alphabet[rng.integers(0, len(alphabet), (count, letters))]
    return ["".join(row) for row in drawn]


def points(count, texts=None, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 6, (len(TOPICS), 2))
    sizes = rng.dirichlet(np.linspace(0.5, 3, len(TOPICS)))
    topic = rng.choice(len(TOPICS), count, p=sizes)
    spread = rng.gamma(2.0, 0.55, (count, 1))
    xy = centres[topic] + rng.normal(0, 1, (count, 2)) * spread
    density = np.exp(3 * sizes[topic] * 8 - spread[:, 0] * 1.4 + rng.normal(0, 0.3, count))
    weight = density**-0.5
    margin = rng.normal(0.4, 1.5, count)
    margin[rng.random(count) < 0.2] = np.nan
    order = density.argsort().argsort()
    return Points(
        ids=hex_ids(count),
        xy=xy,
        texts=sentences(count, rng) if texts is None else texts,
        numbers={
            "density": density,
            "weight": weight / max(weight.mean(), 1e-9) if count else weight,
            "bin": np.floor(order * 5 / max(count, 1)),
            "length": rng.integers(3, 900, count).astype(float),
            "reward margin": margin,
        },
        kinds={
            "source": [["hh", "shp", "tldr", ""][i] for i in rng.integers(0, 4, count)],
            "topic": [TOPICS[i] for i in topic],
            "truncated": [["no", "yes"][int(i < 0.1)] for i in rng.random(count)],
        },
        labels=[(*centres[i], name) for i, name in enumerate(TOPICS)],
        projection="UMAP of the 15 nearest neighbours that the density was measured with (seed 0).",
    )


def named(given, texts):
    """The same points with texts in every name that a map shows."""
    kinds = {**{f"{i} {text[:50]}": texts for i, text in enumerate(texts)}, **given.kinds}
    numbers = {**{f"{i} {text[:50]}": np.arange(len(texts), dtype=float) for i, text in enumerate(texts)}}
    labels = [(float(x), float(y), text) for (x, y), text in zip(given.xy, texts, strict=True)]
    return replace(given, kinds=kinds, numbers={**given.numbers, **numbers}, labels=labels, projection=texts[0])


def charts():
    rng = np.random.default_rng(1)
    x = np.arange(0.1, 4, 0.2)
    steps = np.arange(0, 400, 10.0)
    curve = 0.5 + 0.2 * (1 - np.exp(-steps / 90))
    gap = np.where((steps > 150) & (steps < 200), np.nan, curve - 0.03)
    cloud = rng.lognormal(3, 1, 9000)
    rows = np.arange(5.0)
    return [
        Chart(
            "weights",
            "Weights of the openings",
            "bars",
            "weight",
            "openings",
            [Series("openings", x, np.round(9000 * x * np.exp(-1.7 * x)))],
            "Most openings weigh less than 1, a few rare ones up to 4.",
            marks=[Mark("x", 1.0, "mean 1")],
            format="count",
        ),
        Chart(
            "shares",
            "Who pays, who gains",
            "bars",
            "density bin",
            "share",
            [Series("pairs", rows, np.full(5, 0.2)), Series("weight", rows, np.array([0.42, 0.24, 0.16, 0.11, 0.07]))],
            "The rarest fifth of the pairs has 42% of the weight.",
            categories=["rarest", "rare", "middle", "dense", "densest"],
            format="percent",
        ),
        Chart(
            "ess",
            "Effective sample size against temperature",
            "lines",
            "temperature T",
            "ESS",
            [Series("openings", x, 1 / (1 + 0.3 * x**2)), Series("clusters", x, 1 / (1 + 0.6 * x**2))],
            "The effective sample size falls with T; the noise bound is met at 1.9.",
            marks=[Mark("y", 0.5, "floor 0.5"), Mark("x", 1.9, "noise bound")],
            format="percent",
        ),
        Chart(
            "curves",
            "Learning curves",
            "lines",
            "step",
            "accuracy",
            [Series("weighted", steps, curve, curve - 0.02, curve + 0.02), Series("uniform", steps, gap)],
            "Both learn; the weighted model is ahead by three points.",
            format="percent",
        ),
        Chart(
            "length",
            "Weight against length",
            "points",
            "length in tokens",
            "weight",
            [Series("openings", cloud, rng.lognormal(0, 0.6, 9000))],
            "Weight hardly depends on length.",
            log_x=True,
            log_y=True,
        ),
        Chart(
            "bins",
            "Accuracy by density bin",
            "intervals",
            "density bin",
            "accuracy",
            [
                Series("weighted", rows, 0.6 + 0.02 * rows, 0.55 + 0.02 * rows, 0.65 + 0.02 * rows),
                Series("uniform", rows, 0.57 + 0.03 * rows, 0.53 + 0.03 * rows, 0.61 + 0.03 * rows),
            ],
            "In the rarest bin the weighted model is ahead, within the intervals.",
            categories=["bin 0, rarest", "bin 1", "bin 2", "bin 3", "bin 4, densest"],
            marks=[Mark("x", 0.5, "chance")],
            format="percent",
        ),
    ]


def report(count=0, texts=None, words=(), title="Openings of pairs_all.jsonl"):
    """A report of every kind of block; `words` are further texts that stand in every place that holds a text."""
    weights, shares, ess, curves, length, bins = charts()
    columns = [
        Column("what"),
        Column("rows", "count"),
        Column("share", "percent"),
        Column("gain", "points"),
        Column("on disk", "bytes"),
        Column("took", "seconds"),
        Column("id", "id"),
    ]
    rows = [
        ["read", 28_114, 1.0, 0.0123, 48_234_567, 12.34, "9e107d9d372bb682"],
        ["left out", 114, 114 / 28_114, -0.004, 1_234, 0.05, None],
        ["kept", None, float("nan"), None, None, 340.0, "e4d909c290d0fb1c"],
    ]
    many = [[f"opening {i}", i, i / 57, i / 1000, i * 1000, i / 3, f"{i:016x}"] for i in range(57)]
    extra = [
        Section(
            f"hostile {text[:40]}",
            text,
            [
                Text(text),
                Note(text),
                Table(text, [Column(text), Column(text, "count")], [[text, 1], [text, None]], more=3),
                Commands(text, [text]),
                Quotes(text, [(text, text)]),
                Chart(
                    f"c{i} {text[:60]}",
                    text,
                    "intervals",
                    text,
                    text,
                    [Series(text, np.zeros(1), np.ones(1)), Series(text, np.zeros(1), np.ones(1))],
                    text,
                    categories=[text],
                    marks=[Mark("x", 1.0, text)],
                ),
            ],
        )
        for i, text in enumerate(words)
    ]
    sections = [
        Section(
            "summary",
            "Summary",
            [
                Text(
                    "28,114 pairs came in from one file; 114 rows were left out, most for want of a rejected answer. "
                    "They hold 9,312 openings. The densest fifth of the openings holds 61% of the pairs."
                ),
                Text(
                    "The temperature is T = 1.9, which the noise bound stopped; the effective sample size is 0.63 of "
                    "the openings."
                ),
                Note("No topic labels were given, so the map cannot be coloured by topic."),
                Table("What came in, what came out", columns, rows),
                Commands(
                    "What to do next", ["kat try-weights run --model minilm", "kat train-rm run --out rm --epochs 2"]
                ),
            ],
        ),
        Section(
            "weights", "Weights", [weights, shares, ess, length, Table("Heaviest openings", columns, many, more=943)]
        ),
        Section(
            "audit",
            "Data audit",
            [
                Quotes(
                    "Rows that were skipped",
                    [
                        (
                            "pairs_all.jsonl:17 · no rejected answer",
                            '{"chosen": "Yes,\n\tcertainly.",\n "prompt": "Would it?"}',
                        )
                    ],
                )
            ],
        ),
        Section("models", "Models", [curves, bins]),
        Section("empty", "Nothing", []),
        *extra,
    ]
    return Report(title, sections, points(count, texts) if count else None)
