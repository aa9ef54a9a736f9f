"""Tell a template's control tokens from the same letters inside a message: content is never control.

A tokenizer turns the text of a control token ("<|im_end|>") into its id wherever it stands, so that a user's words
could end a turn. Here a conversation is rendered with a mark inside every such text of a message; what is left without
a mark in the rendered text is the template's own. Those are then called by names that no text can hold, the marks are
taken out, and the whole is tokenised by a copy of the tokenizer that knows its control tokens by these names only. The
rest is the same tokenizer, so that ordinary words get the ids that they always get, across borders too.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from kat.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

_CANDIDATES = range(0x13000, 0x13430)
"""Printable letters for marks (`repr` and JSON keep them as they are), hardly ever in a text."""
LONG = 1 << 20
"""Characters of a text from which it is tokenised in windows."""
_NAMES = ("role", "type")
"""Fields whose values are names that templates compare and build markers from."""


class ContentTokenizer:
    """Ids of text in which control tokens are text, and of rendered templates in which only the template's are not."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.control = control_tokens(tokenizer)
        names = sorted(self.control, key=len, reverse=True)  # the longest first, as tokenizers match
        self._pattern = re.compile("|".join(map(re.escape, names)) or r"(?!)")
        self._any_case = re.compile(self._pattern.pattern, re.IGNORECASE)  # a template may change a message's case
        self._starts = {name[:n].lower() for name in names for n in range(1, len(name))}
        self._ends = {name[n:].lower() for name in names for n in range(1, len(name))}
        self._longest = max(map(len, names), default=0)
        self._secret = secrets.token_hex(8)

    def is_suspect(self, value: Any) -> bool:
        """Return whether a text, or a text anywhere in lists and mappings, could become a control token."""
        return any(self._is_suspect(text) for text in _texts(value))

    def marked(self, value: Any, mark: str, field: str = "") -> Any:
        """Return the value with a mark in every text of a control token, and where a text could be a part of one."""
        if isinstance(value, str):
            inside = self._any_case.sub(lambda m: m[0][0] + mark + m[0][1:], value)
            return inside if field in _NAMES else self._marked_ends(inside, mark)
        if isinstance(value, dict):
            return {self.marked(k, mark, "role"): self.marked(v, mark, str(k)) for k, v in value.items()}
        return [self.marked(v, mark, field) for v in value] if isinstance(value, list | tuple) else value

    def ids(self, text: str, mark: str = "", cut: str = "") -> list[int]:
        """Return the ids of a rendered text with marks; nothing merges over a `cut`. Without a mark all is content."""
        return [token for part in (text.split(cut) if cut else [text]) for token in self._ids(part, mark)]

    @cached_property
    def backend(self) -> Tokenizer | None:
        """The copy that knows control tokens by secret names; None for a tokenizer without a fast one.

        Where its ids differ from the original's, `ids` puts the original's.
        """
        original = getattr(self.tokenizer, "backend_tokenizer", None)
        if original is None or not hasattr(original, "to_str"):
            return None
        from tokenizers import Tokenizer

        return Tokenizer.from_str(json.dumps(_renamed(json.loads(original.to_str()), self._secret_names)))

    @cached_property
    def _secret_names(self) -> dict[str, str]:
        return {name: f"\U0010fffd{self._secret}:{i};" for i, name in enumerate(self.control)}

    @cached_property
    def _originals(self) -> dict[int, int]:
        """The original's ids of added tokens, by the copy's, where they differ."""
        if self.backend is None:
            return {}
        originals = {}
        for token, added in self.tokenizer.backend_tokenizer.get_added_tokens_decoder().items():
            own = self.backend.token_to_id(self._secret_names.get(added.content, added.content))
            if own is not None and own != token:
                originals[own] = token
        return originals

    def _ids(self, text: str, mark: str) -> list[int]:
        if self.backend is None:
            return self._slowly(text, mark)
        if mark:
            text = self._pattern.sub(lambda m: self._secret_names[m[0]], text).replace(mark, "")
        if len(text) > LONG:
            from kat.models.long_texts import long_ids

            ids = long_ids(self.backend, text).tolist()
        else:
            ids = self.backend.encode(text, add_special_tokens=False).ids
        return [self._originals.get(token, token) for token in ids] if self._originals else ids

    def _slowly(self, text: str, mark: str) -> list[int]:
        """For tokenizers in Python: the template's control tokens, and what stands between them by itself."""
        ids: list[int] = []
        pieces = re.split(f"({self._pattern.pattern})", text) if mark else [text]
        for piece in pieces:
            if mark and piece in self.control:
                ids.append(self.control[piece])
            elif plain := piece.replace(mark, "") if mark else piece:
                ids += self.tokenizer(plain, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    def _is_suspect(self, text: str) -> bool:
        if self._any_case.search(text) or self._marked_ends(text, "\0") != text:
            return True
        normalizer = getattr(getattr(self.tokenizer, "backend_tokenizer", None), "normalizer", None)
        if normalizer is None:
            return False
        if len(text) <= LONG:
            return bool(self._any_case.search(normalizer.normalize_str(text)))
        from kat.models.long_texts import in_windows

        # A normaliser's record of a text is 40 times its letters.
        return any(self._any_case.search(normalizer.normalize_str(part)) for part in in_windows(text))

    def _marked_ends(self, text: str, mark: str) -> str:
        """A mark where the text's first or last letters could complete a control token with what stands beside it."""
        bare = text.strip()
        if not bare:
            return text
        start = text.index(bare)
        end = start + len(bare)
        low = bare.lower()
        lengths = range(1, min(self._longest, len(low)) + 1)
        before = mark if any(low[:n] in self._ends for n in lengths) else ""
        after = mark if any(low[-n:] in self._starts for n in lengths) else ""
        return text[:start] + before + bare + after + text[end:]


_CACHE: WeakKeyDictionary[Any, ContentTokenizer] = WeakKeyDictionary()


def content_tokenizer(tokenizer: PreTrainedTokenizerBase) -> ContentTokenizer:
    """Return the one that belongs to a tokenizer; a new one when its control tokens have changed."""
    content = _CACHE.get(tokenizer)
    if content is None or content.control != control_tokens(tokenizer):
        content = _CACHE[tokenizer] = ContentTokenizer(tokenizer)
    return content


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the ids of the tokens that mean something else than their letters, by those.

    They are the added tokens that are marked special, and those added ones that the tokenizer names (end, padding, …).
    """
    named = set(tokenizer.all_special_tokens)
    added = tokenizer.added_tokens_decoder.items()
    return {t.content: token for token, t in added if t.content and (t.special or t.content in named)}


def free_letters(count: int, *values: Any) -> Iterator[str]:
    """Yield letters that stand in none of the texts. Raises InputError if there are not as many."""
    used = set().union(*(set(text) for text in _texts(list(values))))
    letters = [chr(c) for c in _CANDIDATES if chr(c) not in used][:count]
    if len(letters) < count:
        raise InputError("A conversation uses every letter of a script that kat needs as marks; split it.")
    yield from letters


def _texts(value: Any) -> Iterable[str]:
    """Every text in lists and mappings, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _renamed(whole: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """The JSON of a tokenizer with control tokens under other names, in its vocabulary too: a model that finds
    "</s>" among its pieces would make it out of letters."""
    model = whole["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(token, token): i for token, i in vocabulary.items()}
    else:
        model["vocab"] = [[names.get(token, token), score] for token, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        pairs = ((m, m.split(" ", 1) if isinstance(m, str) else m) for m in model["merges"])
        model["merges"] = [m for m, (a, b) in pairs if a not in names and b not in names and a + b not in names]
    for token in whole["added_tokens"]:
        if token["content"] in names:
            token["content"] = names[token["content"]]
    return whole | {"post_processor": None, "truncation": None, "padding": None}
