"""nanochat's tokenizer, a pickled tiktoken `Encoding`, to a fast tokenizer of transformers. Nothing in the file is run.

A pickle is a program. This one may make plain containers and one thing more, an Encoding, of which a stand-in only
keeps what it was made from: name, pattern, ranks, special tokens.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kat.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = (
    "<|bos|>",
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|output_start|>",
    "<|output_end|>",
)
TEMPLATE = (
    "<|bos|>{% if messages and messages[0].role == 'system' %}"
    "{% if messages[1:] and messages[1].role != 'user' %}"
    "{{ raise_exception('a system message must stand before a user message') }}{% endif %}{% endif %}"
    "{% set ns = namespace(before='', turn=0) %}"
    "{% for m in messages %}"
    "{% if m.role != 'assistant' and m.content is not string %}"
    "{{ raise_exception('only an assistant says parts') }}{% endif %}"
    "{% if m.role == 'system' and loop.first %}{% set ns.before = m.content + '\n\n' %}"
    "{% else %}"
    "{% if m.role not in ('user', 'assistant') or (m.role == 'user') != (ns.turn % 2 == 0) %}"
    "{{ raise_exception('turns of user and assistant must alternate, user first') }}{% endif %}"
    "<|{{ m.role }}_start|>"
    "{% if m.content is string %}{{ ns.before }}{{ m.content }}"
    "{% else %}{% for part in m.content %}"
    "{% if part.type == 'text' %}{{ part.text }}"
    "{% elif part.type == 'python' %}<|python_start|>{{ part.text }}<|python_end|>"
    "{% elif part.type == 'python_output' %}<|output_start|>{{ part.text }}<|output_end|>"
    "{% else %}{{ raise_exception('a part is text, python or python_output') }}{% endif %}"
    "{% endfor %}{% endif %}"
    "<|{{ m.role }}_end|>"
    "{% set ns.before = '' %}{% set ns.turn = ns.turn + 1 %}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant_start|>{% endif %}"
)
"""nanochat's way to write a conversation, tools' parts included. `kat.models.chat` gives what it refuses in the form
that it accepts, and tokenises parts one by one, as nanochat does."""


class _Encoding:
    """What a pickled tiktoken Encoding was made from."""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError(f"the encoding {str(state)[:40]!r} stands there by name only")
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type[_Encoding]:
        """Give the few classes that an Encoding is made of; refuse all others."""
        if (module, name) == ("tiktoken.core", "Encoding"):
            return _Encoding
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not run")

    def persistent_load(self, pid: Any) -> Any:
        """Refuse: an Encoding refers to nothing outside."""
        raise pickle.UnpicklingError("it refers to something outside of it")


def read_encoding(path: Path) -> dict[str, Any]:
    """Return {"name", "pat_str", "mergeable_ranks", "special_tokens"} of a tokenizer.pkl.

    Raises ModelError for a file that is missing, damaged, or holds anything else.
    """
    remedy = "Save it with nanochat's tok_train, or name a model with a tokenizer of its own."
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no regular file")
        with path.open("rb") as file:
            encoding = _Unpickler(file).load()
    except FileNotFoundError:
        raise ModelError(f"{path} is not there: a nanochat checkpoint needs its tokenizer. {remedy}") from None
    except Exception as error:  # a damaged pickle stops at whatever it meets
        raise ModelError(f"{path} is no tokenizer of nanochat: {error}. {remedy}") from error
    state: Any = getattr(encoding, "state", None)
    if not isinstance(encoding, _Encoding) or not _is_complete(state):
        kind = type(encoding).__name__.strip("_")
        raise ModelError(f"{path} holds {kind}, and no complete tiktoken Encoding. {remedy}")
    if missing := [name for name in SPECIAL if name not in state["special_tokens"]]:
        raise ModelError(f"{path} lacks nanochat's special token {missing[0]}. {remedy}")
    return state


def _is_complete(state: Any) -> bool:
    if not isinstance(state, dict) or not isinstance(state.get("pat_str"), str):
        return False
    ranks, special = state.get("mergeable_ranks"), state.get("special_tokens")
    if not isinstance(ranks, dict) or not isinstance(special, dict) or not ranks:
        return False
    typed = all(isinstance(k, bytes) and isinstance(v, int) for k, v in ranks.items())
    named = all(isinstance(k, str) and isinstance(v, int) for k, v in special.items())
    ids = sorted([*ranks.values(), *special.values()]) if typed and named else []
    return bool(ids) and ids == list(range(len(ids))) and all(bytes([b]) in ranks for b in range(256))


def fast_tokenizer(encoding: Mapping[str, Any]) -> PreTrainedTokenizerFast:
    """Return a tokenizer that encodes and decodes as tiktoken does, text of special tokens as plain text.

    tiktoken joins the two neighbours whose join has the smallest rank; the same as a list of merges in order of
    rank, each token being the merge of the two parts that are left just before it.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ranks = encoding["mergeable_ranks"]
    letters = _byte_letters()
    spelled = {token: "".join(letters[b] for b in token) for token in ranks}
    merges = [(spelled[a], spelled[b]) for a, b in _merges(ranks)]
    backend = Tokenizer(models.BPE({spelled[t]: i for t, i in ranks.items()}, merges, ignore_merges=True))
    split = pre_tokenizers.Split(Regex(encoding["pat_str"]), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    special = sorted(encoding["special_tokens"].items(), key=lambda item: item[1])
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name, _ in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|bos|>",
        eos_token="<|assistant_end|>",
        pad_token="<|bos|>",  # one that ends nothing
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _merges(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The two parts of each token of several bytes, in order of rank."""
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            parts = _parts(token, ranks, rank)
            if len(parts) == 2:  # else no merge makes it, which ignore_merges sees to
                merges.append((parts[0], parts[1]))
    return merges


def _parts(token: bytes, ranks: Mapping[bytes, int], limit: int) -> list[bytes]:
    """What a token is joined to by merges of ranks under `limit`."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 1:
        joined = [ranks.get(a + b, limit) for a, b in pairwise(parts)]
        best = min(joined)
        if best >= limit:
            break
        i = joined.index(best)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def _byte_letters() -> dict[int, str]:
    """The letter that stands for each byte in byte-level BPE: itself if it can be seen, else one from 256 on."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in seen]
    return {b: chr(b) for b in seen} | {b: chr(256 + i) for i, b in enumerate(hidden)}
