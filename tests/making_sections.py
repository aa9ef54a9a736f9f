"""A small run's files as Python values, and how tests read blocks."""

import numpy as np

from kat.pair_weights.storage import PairWeights
from kat.reports.blocks import Chart, Commands, Note, Quotes, Table, Text

HOSTILE = '</script><img src=x onerror="alert(1)">\u202e$x_1$\x1b[2J & "q"'


def blocks(section, kind):
    return [block for block in section.blocks if isinstance(block, kind)]


def prose(section):
    return [block.text for block in blocks(section, (Text, Note))]


def table(section, title):
    [one] = [block for block in blocks(section, Table) if title in block.title]
    return one


def cells(section, title):
    """A table of two columns as a dict."""
    return dict(table(section, title).rows)


def column(one, title):
    place = [c.title for c in one.columns].index(title)
    return [row[place] for row in one.rows]


def chart(section, name):
    [one] = [block for block in blocks(section, Chart) if block.name == name]
    return one


def lines(section):
    return [line for block in blocks(section, Commands) for line in block.lines]


def quotes(section):
    return [quote for block in blocks(section, Quotes) for quote in block.texts]


def metadata(w, **changed):
    """embeddings_metadata.json of weights [N]."""
    w = np.asarray(w, float)
    return {
        "n_items": len(w),
        "k": 5,
        "metric": "cosine",
        "recall": 1.0,
        "intrinsic_dimension": 3.0,
        "split_half_correlation": 0.9,
        "noise_variance": 0.01,
        "temperature": 2.0,
        "temperature_bound": "ess",
        "cap_hits": 0,
        "effective_sample_size": float(w.sum() ** 2 / (w**2).sum()),
        "effective_sample_share": float(w.sum() ** 2 / (w**2).sum() / len(w)),
        "heaviest_1_percent_share": float(w.max() / w.sum()),
        "weight": {"min": float(w.min()), "max": float(w.max()), "quantiles": {"50%": float(np.median(w))}},
        "mean_pair_cosine": 0.125,
        "mean_pair_cosine_centred": -0.01,
        "duplicate_vectors": 3,
        "truncated": 1,
        "tokens_lost": 44,
        "model": {"max_tokens": 256},
    } | changed


def prefix_stats(**changed):
    return {
        "shape": "kat",
        "pairs": 40,
        "openings": 30,
        "share_removed": 0.25,
        "openings_with_several_contexts": 4,
        "bad_rows": 0,
        "kept": {},
        "rows_by_source": {"demo": 40},
    } | changed


def pair_table(openings=30, pairs=40, seed=0, sources=("a", "b")):
    """A table in which rare openings (small numbers) weigh more, the last eighth validates, groups hold three."""
    draw = np.random.default_rng(seed)
    own = np.concatenate([np.arange(openings), draw.integers(0, openings, pairs - openings)])
    split = np.where(own >= openings - openings // 8, "validation", "train").astype(object)
    w = 2.0 ** -(own / openings * 4)
    v = np.where(split == "train", w / w[split == "train"].mean(), np.nan)
    return PairWeights(
        pair_id=np.asarray([f"p{i}" for i in range(pairs)], object),
        row=np.arange(1, pairs + 1),
        opening_id=np.asarray([f"o{i}" for i in own], object),
        src=np.asarray([sources[i % len(sources)] for i in own], object),
        m=np.bincount(own)[own],
        log_density=own.astype(float),
        w=w,
        multiplicity_factor=np.ones(pairs),
        u=v,
        v=v,
        split=split,
        group=own // 3,
        train_log_density=own.astype(float),
        bin=(own * 5 // openings).astype(int),
        chosen_chars=draw.integers(1, 100, pairs),
        rejected_chars=draw.integers(1, 100, pairs),
        left_out=np.full(pairs, "", object),
    )


def pair_stats(one, **changed):
    """pair_weights.stats.json of a table."""
    trains, validates = one.split == "train", one.split == "validation"
    bins = []
    for b in range(5):
        own = trains & (one.bin == b)
        bins.append(
            {
                "bin": b,
                "pairs": int(own.sum()),
                "validation_pairs": int((validates & (one.bin == b)).sum()),
                "validation_openings": len(set(one.opening_id[validates & (one.bin == b)])),
                "share_of_pairs": float(own.sum() / trains.sum()),
                "share_of_weight": float(one.v[own].sum() / one.v[trains].sum()),
            }
        )
    return {
        "left_out": {},
        "exact_duplicates": 0,
        "pays": {},
        "bins": bins,
        "warnings": [],
        "weights": {"ess_pairs_share": 0.5, "ess_clusters_share": 0.25, "heaviest_1_percent_share": 0.07},
        "split": {
            "train": {"pairs": int(trains.sum())},
            "validation": {"pairs": int(validates.sum())},
            "group_cosine": None,
            "group_jaccard": 0.8,
            "openings_in_groups_of_several": 30,
            "groups_of_several_openings": 10,
            "leak": {"openings": 3, "share": 0.125},
            "leak_by_opening": {"all": 0.5, "by_bin": [0.1, 0.2, None, 0.4, 0.5]},
        },
    } | changed
