"""Density-aware preference training: measure how crowded every prompt is and let rare prompts count.

Public names load on first use, so that `import kat` costs nothing: neither torch nor transformers. Nothing is imported
here: a signal that comes before a command sees to them would end it with Python's own words.
"""

__version__ = "0.1.0"

_HOMES = {
    "Density": "kat.records",
    "Embeddings": "kat.records",
    "EvalPairs": "kat.evaluation.pairs",
    "Encoder": "kat.embedding.encoder",
    "KatError": "kat.errors",
    "Neighbors": "kat.records",
    "Pair": "kat.records",
    "PairWeights": "kat.pair_weights.storage",
    "Prefix": "kat.records",
    "WeighedPairs": "kat.pipeline",
    "Weights": "kat.density.weights",
    "compare": "kat.evaluation.evaluate",
    "encode": "kat.embedding.encoder",
    "estimate_density": "kat.density.estimators",
    "evaluate": "kat.evaluation.evaluate",
    "find_neighbors": "kat.neighbors.find",
    "load_density_mapping": "kat.density.storage",
    "load_model": "kat.models.load",
    "open_prefixes": "kat.data.prefix_file",
    "opening_id": "kat.data.openings",
    "read_pair_weights": "kat.pair_weights.storage",
    "read_pairs": "kat.data.pairs",
    "run": "kat.pipeline",
    "train_reward_model": "kat.training.train",
    "unique_prefixes": "kat.data.openings",
    "weigh": "kat.density.weights",
    "weigh_pairs": "kat.pair_weights.weigh",
}

__all__ = [*sorted(_HOMES), "__version__"]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'kat' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
