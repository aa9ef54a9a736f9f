"""What a tokenizer's files say, against what the loaded tokenizer does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kat.models.own_code import read_settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "ABC abc"


def lower_case(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make a fast tokenizer lower its text first, as sentence-transformers does for `do_lower_case`."""
    from tokenizers.normalizers import Lowercase, Sequence

    backend = tokenizer.backend_tokenizer
    if backend.normalizer is None:
        backend.normalizer = Lowercase()
    elif not _lowers(tokenizer):
        backend.normalizer = Sequence([Lowercase(), backend.normalizer])


def unfulfilled(folder: Path, tokenizer: PreTrainedTokenizerBase, *, lowered: bool = False) -> list[str]:
    """Return what tokenizer_config.json says and the loaded tokenizer does not do, a sentence each.

    Asked of the tokenizer itself, by what it makes of a few letters: transformers may take another class than the
    file's, whose settings it keeps without following them. `lowered` says that `lower_case` was asked for.
    """
    file = folder / "tokenizer_config.json"
    said = read_settings(file)
    differences = []
    if isinstance(told := said.get("do_lower_case"), bool) and not lowered and told != _lowers(tokenizer):
        differences.append(f"do_lower_case {_word(told)}, and it {'keeps capitals' if told else 'lowers its text'}")
    if said.get("strip_accents") is True and "é" in _normal(tokenizer, "é"):
        differences.append("strip_accents true, and it keeps accents")
    ids = tokenizer.backend_tokenizer.encode(_PROBE, add_special_tokens=True).ids
    for key, token, place in (
        ("add_bos_token", tokenizer.bos_token_id, 0),
        ("add_eos_token", tokenizer.eos_token_id, -1),
    ):
        told = said.get(key)
        if not isinstance(told, bool) or token is None or not ids:
            continue
        if told != (ids[place] == token):
            differences.append(f"{key} {_word(told)}, and it {'does not add' if told else 'adds'} one")
    return [f"{file} says {what}: the tokenizer is followed, not the file." for what in differences]


def _word(told: bool) -> str:
    return str(told).lower()


def _normal(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    normalizer = tokenizer.backend_tokenizer.normalizer
    return text if normalizer is None else normalizer.normalize_str(text)


def _lowers(tokenizer: PreTrainedTokenizerBase) -> bool:
    return not any(c.isupper() for c in _normal(tokenizer, _PROBE))
