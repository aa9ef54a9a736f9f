"""Texts to token ids: rendering, bulk tokenisation, and what is cut from texts over the limit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kat.errors import InputError, OptionError
from kat.records import Prefix

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def render(inputs: Iterable[str | Prefix], how: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """The text of each input: a string as it is, a prefix by its contents ("plain") or the chat template ("chat")."""
    if how == "chat" and not getattr(tokenizer, "chat_template", None):
        raise OptionError("render is chat and the model's tokenizer has no chat template; use plain.")
    return (_render_one(i, item, how, tokenizer) for i, item in enumerate(inputs))


def _render_one(i: int, item: str | Prefix, how: str, tokenizer: PreTrainedTokenizerBase) -> str:
    if isinstance(item, str):
        return item
    if not isinstance(item, Prefix):
        raise InputError(f"Input {i} is a {type(item).__name__}; expected a string or a kat.Prefix.")
    if how == "plain":
        return item.text
    return tokenizer.apply_chat_template(item.messages, tokenize=False, add_generation_prompt=True)


class Tokens:
    """Bulk tokenisation with special tokens put around afterwards, so that a cut text keeps them.

    Switches off the truncation and padding that a tokenizer.json may carry. A rendered chat template holds its own
    special tokens: `special=False` adds none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, special: bool = True):
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self.before, self.after = _frame(self._backend) if special else ([], [])
        ends = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        self._nothing = next((i for i in ends if i is not None), 0)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of whole texts, int32, without special tokens."""
        try:
            found = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        except (TypeError, UnicodeEncodeError) as error:
            raise InputError(f"A text cannot be tokenised: {error}. Texts must be valid Unicode strings.") from error
        return [np.asarray(e.ids, np.int32) for e in found]

    def pieces(self, ids: np.ndarray, limit: int, long_text: str) -> list[np.ndarray]:
        """What is read of a text: one piece of at most `limit` tokens with the special ones, the end (tail) or the
        beginning (head) of a longer text; or all of it, as consecutive pieces (chunk), the last one shorter."""
        room = self.room(limit)
        if long_text == "chunk" and len(ids) > room:
            return [self.framed(ids[start : start + room]) for start in range(0, len(ids), room)]
        return [self.framed(ids[max(len(ids) - room, 0) :] if long_text == "tail" else ids[:room])]

    def framed(self, ids: np.ndarray) -> np.ndarray:
        """Token ids with the special ones around them, int32."""
        framed = np.concatenate([self.before, ids, self.after]).astype(np.int32)
        # A model without special tokens has nothing to read in an empty text: give it one neutral token.
        return framed if len(framed) else np.asarray([self._nothing], np.int32)

    def room(self, limit: int) -> int:
        """Tokens of text that fit beside the special ones. Raises OptionError if none does."""
        room = limit - len(self.before) - len(self.after)
        if room < 1:
            special = len(self.before) + len(self.after)
            raise OptionError(
                f"max_tokens is {limit}; with {special} special tokens it must be at least {special + 1}."
            )
        return room


def _frame(backend) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text."""
    bare = backend.encode("a", add_special_tokens=False).ids
    whole = backend.encode("a", add_special_tokens=True).ids
    starts = [i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare]
    if not bare or len(starts) != 1:
        raise InputError("The tokenizer mixes special tokens with text; its texts cannot be framed.")
    return whole[: starts[0]], whole[starts[0] + len(bare) :]
