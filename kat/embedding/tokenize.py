"""Texts to token ids: rendering, bulk tokenisation, special tokens, and what is read of a text over the limit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kat.errors import InputError, OptionError
from kat.models.chat import Chat
from kat.models.content import LONG, content_tokenizer
from kat.models.long_texts import long_ids
from kat.records import Prefix

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def render(inputs: Iterable[str | Prefix], form: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Return the text of each input: a string as it is, a prefix's contents ("plain") or the chat template ("chat").

    Raises OptionError for a tokenizer without a chat template, InputError for what is neither string nor prefix.
    """
    if form == "chat" and not getattr(tokenizer, "chat_template", None):
        raise OptionError("render is chat and the model's tokenizer has no chat template; use plain.")
    chat = Chat(tokenizer)
    return (_render_one(i, item, form, chat) for i, item in enumerate(inputs))


class TokenizedText(str):
    """A rendered conversation whose token ids are known already: its messages hold the text of control tokens, which
    the rendered text no longer tells from the template's own."""

    ids: list[int]

    def __new__(cls, text: str, ids: list[int]) -> TokenizedText:
        """Return the text with its ids."""
        tokenized = super().__new__(cls, text)
        tokenized.ids = ids
        return tokenized


def _render_one(i: int, item: str | Prefix, form: str, chat: Chat) -> str:
    if isinstance(item, str):
        return item
    if not isinstance(item, Prefix):
        raise InputError(f"Input {i} is a {type(item).__name__}; expected a string or a kat.Prefix.")
    if form == "plain":
        return item.text
    text = chat.text(item.messages)
    if content_tokenizer(chat.tokenizer).is_suspect(item.messages):
        return TokenizedText(text, chat.render(item.messages))
    return text


class BulkTokenizer:
    """Tokenises in bulk, with special tokens put around afterwards, so that a cut text keeps them.

    Switches off the truncation and padding that a tokenizer.json may carry. What a text says is never control: the
    text of a special token in it ("[SEP]", "<|im_end|>") is read as text. A rendered chat template holds its own
    special tokens: `special=False` adds none, and leaves them control. A `prompt` is put before every text, and stays
    before what is read of it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, special: bool = True, prompt: str = ""):
        self._backend = tokenizer.backend_tokenizer
        self._content = content_tokenizer(tokenizer) if special else None
        self._backend.no_truncation()
        self._backend.no_padding()
        self.before, self.after = _frame(self._backend) if special else ([], [])
        ends = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        self._nothing = next((i for i in ends if i is not None), 0)
        self._unknown = tokenizer.unk_token_id
        self._prompt, self.prompt_ids = "", np.empty(0, np.int32)
        if prompt:
            self.prompt_ids, self._prompt = self._bulk([prompt])[0], prompt

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return token ids of complete texts, int32, the prompt's included, special ones not.

        Raises InputError for invalid Unicode.
        """
        rows = self._bulk(["" if len(text) > LONG else self._prompt + text for text in texts])
        for i, text in enumerate(texts):
            if isinstance(text, TokenizedText):
                rows[i] = np.asarray(text.ids, np.int32)
            elif self._content is not None and self._content.is_suspect(text):
                rows[i] = np.concatenate([self.prompt_ids, self._content.ids(text)]).astype(np.int32)
            elif len(text) > LONG:
                rows[i] = self._long(self._prompt + text)
        return rows

    def _long(self, text: str) -> np.ndarray:
        """The ids of a text that is read in windows, so that one text's letters do not fill the memory."""
        try:
            return long_ids(self._backend, text)
        except (TypeError, UnicodeEncodeError) as error:
            raise _unreadable(error) from error

    def _bulk(self, texts: Sequence[str]) -> list[np.ndarray]:
        try:
            encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        except (TypeError, UnicodeEncodeError) as error:
            raise _unreadable(error) from error
        return [np.asarray(e.ids, np.int32) for e in encodings]

    @property
    def around(self) -> int:
        """Count the tokens that are read with every piece beside its text: special ones and the prompt's."""
        return len(self.before) + len(self.prompt_ids) + len(self.after)

    def reading(self, ids: np.ndarray) -> tuple[int, int]:
        """Count the tokens of a text without its prompt, and those of them that the tokenizer does not know."""
        own = ids[len(self.prompt_ids) :]
        return len(own), 0 if self._unknown is None else int((own == self._unknown).sum())

    def pieces(self, ids: np.ndarray, limit: int, long_text: str) -> list[np.ndarray]:
        """Return what is read of a text: one piece of at most `limit` tokens with the special ones, the end (tail)
        or the beginning (head) of a longer text; or all of it, as consecutive pieces (chunk), the last one shorter.
        The prompt stands before each."""
        room, prompt = self.room(limit), self.prompt_ids
        if len(ids) <= room + len(prompt):
            return [self.framed(ids)]
        own = ids[len(prompt) :]  # a token that holds the prompt's last letter and the text's first counts as prompt
        if long_text == "chunk":
            parts = [own[start : start + room] for start in range(0, len(own), room)]
        else:
            parts = [own[max(len(own) - room, 0) :] if long_text == "tail" else own[:room]]
        return [self.framed(np.concatenate([ids[: len(prompt)], part])) for part in parts]

    def framed(self, ids: np.ndarray) -> np.ndarray:
        """Return token ids with the special ones around them, int32."""
        framed = np.concatenate([self.before, ids, self.after]).astype(np.int32)
        # A model without special tokens has nothing to read in an empty text: give it one neutral token.
        return framed if len(framed) else np.asarray([self._nothing], np.int32)

    def room(self, limit: int) -> int:
        """Count the tokens of text that fit beside special ones and prompt. Raises OptionError if none does."""
        if limit <= self.around:
            beside = f"{len(self.before) + len(self.after)} special tokens"
            beside += f" and {len(self.prompt_ids)} of the prompt" if len(self.prompt_ids) else ""
            raise OptionError(f"max_tokens is {limit}; with {beside} it must be at least {self.around + 1}.")
        return limit - self.around


def _unreadable(error: Exception) -> InputError:
    return InputError(f"A text cannot be tokenised: {error}. Texts must be valid Unicode strings.")


def _frame(backend: Any) -> tuple[list[int], list[int]]:
    """Return the special tokens that the tokenizer puts before and after a text, by what it does to one letter."""
    bare = backend.encode("a", add_special_tokens=False).ids
    framed = backend.encode("a", add_special_tokens=True).ids
    starts = [i for i in range(len(framed) - len(bare) + 1) if framed[i : i + len(bare)] == bare]
    if not bare or len(starts) != 1:
        raise InputError("The tokenizer mixes special tokens with text; its texts cannot be framed.")
    return framed[: starts[0]], framed[starts[0] + len(bare) :]
