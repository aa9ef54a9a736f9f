"""A long text in windows has the tokens that it has as a whole, with every kind of tokenizer and of text."""

import itertools
from random import Random

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from kat.embedding import tokenize
from kat.embedding.tokenize import BulkTokenizer
from kat.models import long_texts
from kat.models.long_texts import in_windows, long_ids
from kat.models.sources import resolve

VOCABULARY = [
    "hello",
    "world",
    "a",
    "don't",
    "x=1;",
    "12345",
    "naïve",
    "漢字",
    "語",
    "🏳️\u200d🌈",
    "😀",
    "한국어",
    "Ελλάς",
]
SPACES = [" ", "  ", "\n", "\n\n", "\t", "   ", "\r\n", "\u3000"]
ODD = ["\x00", "\u200d", "ﬁ", "ß", "İ", "e\u0301", "[SE", "P]", "<|im", "_end|>"]


def letters(rng, count):
    """Texts of so many letters at least, by kind."""

    def of(parts, between=""):
        return between.join(rng.choice(parts) for _ in range(count))

    return {
        "words": of(VOCABULARY, " "),
        "words and white space": of(VOCABULARY + SPACES),
        "everything": of(VOCABULARY + SPACES + ODD),
        "no spaces": of(["hello", "world", "the", "q", "Z"]),
        "one letter": "a" * (count + rng.randrange(90)),
        "digits": of("0123456789"),
        "Chinese": "".join(chr(rng.randrange(0x4E00, 0x9FA5)) for _ in range(count)),
        "emoji": of("😀🏳️\u200d🌈👩👧🇩🇪"),
        "a run of spaces": "x" + " " * count + "y" + "\n" * count + " z",
        "base64": of("ABCDEFabcdef0123456789+/="),
        "random letters": of("abcdefghijklmnop"),
        "punctuation": of("!?.,-*#"),
    }


def trained(model, trainer, pre, normalizer=None, post=None):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre, decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    if post:
        tokenizer.post_processor = post
    texts = [text for seed in (90, 91) for text in letters(Random(seed), 300).values()]
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def byte_level():
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    return trained(models.BPE(), trainer, pre_tokenizers.ByteLevel(add_prefix_space=False), post=processors.ByteLevel())


def unigram():
    trainer = trainers.UnigramTrainer(vocab_size=2500, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    return trained(models.Unigram(), trainer, pre_tokenizers.Metaspace(), normalizers.NFKC())


def word_level():
    trainer = trainers.WordLevelTrainer(special_tokens=["[UNK]"], show_progress=False)
    return trained(models.WordLevel(unk_token="[UNK]"), trainer, pre_tokenizers.Whitespace())


def word_piece():
    backend = AutoTokenizer.from_pretrained(resolve("minilm").path).backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    return backend


TOKENIZERS = {"WordPiece": word_piece, "byte-level BPE": byte_level, "Unigram": unigram, "words": word_level}


@pytest.fixture(scope="module", params=list(TOKENIZERS))
def backend(request):
    return TOKENIZERS[request.param]()


class Longest:
    """A tokenizer that keeps the longest text which it was given."""

    def __init__(self, backend):
        self.backend, self.longest, self.model = backend, 0, backend.model

    def encode(self, text, **more):
        self.longest = max(self.longest, len(text))
        return self.backend.encode(text, **more)


@pytest.mark.parametrize("seed", range(3))
def test_windows_against_the_whole(backend, seed):
    rng, at_once = Random(seed), []
    for kind, text in letters(rng, 9000).items():
        whole = backend.encode(text, add_special_tokens=False).ids
        for window in (2000, 3001):
            watched = Longest(backend)
            assert long_ids(watched, text, window).tolist() == whole, (kind, window)
            at_once += [kind] * (watched.longest == len(text))
    # Windows are what reads a text. A Unigram model looks at all of a word, so that one which shows few of its tokens
    # over and over is read at once: a text of its own words and spaces never is.
    if type(backend.model).__name__ == "Unigram":
        assert not {"words", "words and white space", "everything"} & set(at_once)
    else:
        assert set(at_once) <= {"one letter", "a run of spaces"}


def test_a_prompt_and_a_long_text_are_read_as_ever(monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(resolve("minilm").path)
    texts = ["short", *(text for text in letters(Random(5), 3000).values()), "ends [SEP] " * 700]
    ever = BulkTokenizer(tokenizer, prompt="query: ").encode(texts)
    for module in (tokenize, "kat.models.content"):
        monkeypatch.setattr(f"{getattr(module, '__name__', module)}.LONG", 1000)
    monkeypatch.setattr(long_texts, "WINDOW", 2000)
    monkeypatch.setattr(long_ids, "__defaults__", (2000,))
    now = BulkTokenizer(tokenizer, prompt="query: ").encode(texts)
    assert all(np.array_equal(a, b) for a, b in zip(ever, now, strict=True))
    assert all(a.dtype == np.int32 for a in now)


def test_parts_overlap_and_leave_nothing_out():
    text = "".join(map(str, range(3000)))
    parts = in_windows(text, 1000, 50)
    assert "".join(part[:1000] for part in parts) == text
    assert all(one[1000:] == other[:50] for one, other in itertools.pairwise(parts))
    assert in_windows("") == [""]
