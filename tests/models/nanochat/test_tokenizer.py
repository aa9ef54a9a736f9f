"""nanochat's pickled tokenizer against tiktoken itself, and what a malicious one comes to."""

import os
import pickle
from itertools import pairwise
from random import Random

import pytest
from making import turn

from kat.errors import ModelError
from kat.models.chat import Chat
from kat.models.nanochat.tokenizer import SPECIAL, fast_tokenizer, read_encoding

tiktoken = pytest.importorskip("tiktoken", reason="tiktoken, the oracle, is not installed")

PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
TEXT = (
    "the density of prompts, and the prompts that ask for density: let rare prompts count. It's 2025! 漢字 😀 naïve\n\n"
    * 3
)


def trained(text: str, size: int) -> dict[bytes, int]:
    """Ranks by plain byte-pair training: the most frequent pair first."""
    import regex

    words = [[bytes([b]) for b in piece.encode()] for piece in regex.findall(PATTERN, text)]
    ranks = {bytes([b]): b for b in range(256)}
    while len(ranks) < size:
        counts: dict[tuple[bytes, bytes], int] = {}
        for word in words:
            for pair in pairwise(word):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            break
        a, b = max(counts, key=lambda pair: (counts[pair], pair))
        ranks.setdefault(a + b, len(ranks))
        for word in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == (a, b):
                    word[i : i + 2] = [a + b]
                i += 1
    return ranks


@pytest.fixture(scope="module")
def encoding():
    ranks = trained(TEXT, 420)
    special = {name: len(ranks) + i for i, name in enumerate(SPECIAL)}
    return tiktoken.Encoding("rustbpe", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)


@pytest.fixture(scope="module")
def tokenizer(encoding, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.pkl"
    path.write_bytes(pickle.dumps(encoding))
    return fast_tokenizer(read_encoding(path))


def fuzz(count: int) -> list[str]:
    rng = Random(0)
    pieces = [
        *"abcdefgh .,!?'\"\n\r\t\0\x07",
        "the",
        " prompts",
        "'ll",
        "'S",
        "12345",
        "  ",
        "\r\n",
        "漢字",
        "😀",
        "é",
        "ﬁ",
    ]
    pieces += ["\u2028", "\u00a0", "<|bos|>", "<|assistant_end|>", "\ufeff", "e\u0301", "🏳️‍🌈", "\u200b"]
    texts = ["".join(rng.choice(pieces) for _ in range(rng.randint(0, 40))) for _ in range(count)]
    return [*texts, "", " ", "\n" * 50, "7" * 1001, "a" * 3000, TEXT, "<|user_start|>hi<|user_end|>"]


def test_it_encodes_and_decodes_as_tiktoken_does(encoding, tokenizer):
    plain = tokenizer.backend_tokenizer
    plain.encode_special_tokens = True
    for text in fuzz(3000):
        ids = encoding.encode_ordinary(text)
        assert plain.encode(text, add_special_tokens=False).ids == ids, ascii(text)
        assert tokenizer.decode(ids) == encoding.decode(ids)
    assert len(tokenizer) == encoding.n_vocab
    for name in SPECIAL:
        assert tokenizer.convert_tokens_to_ids(name) == encoding.encode_single_token(name)


def rendered(encoding, messages, *, open_ended: bool) -> list[int]:
    """nanochat's `render_conversation`, written down once more: system into the first user turn, every turn between its
    marks, contents and parts as ordinary text one by one, tools' parts between marks of their own."""
    one, text = encoding.encode_single_token, encoding.encode_ordinary
    if messages[0]["role"] == "system":
        messages = [turn("user", messages[0]["content"] + "\n\n" + messages[1]["content"]), *messages[2:]]
    marks = {"python": ("<|python_start|>", "<|python_end|>"), "python_output": ("<|output_start|>", "<|output_end|>")}
    ids = [one("<|bos|>")]
    for i, m in enumerate(messages):
        assert m["role"] == ("assistant" if i % 2 else "user")
        ids.append(one(f"<|{m['role']}_start|>"))
        if isinstance(m["content"], str):
            ids += text(m["content"])
        else:
            assert m["role"] == "assistant"
            for part in m["content"]:
                before, after = [[one(mark)] for mark in marks[part["type"]]] if part["type"] in marks else ([], [])
                ids += [*before, *text(part["text"]), *after]
        ids.append(one(f"<|{m['role']}_end|>"))
    return [*ids, one("<|assistant_start|>")] if open_ended else ids


TALK = [turn("user", "the prompts"), turn("assistant", "It's rare."), turn("user", "and density?")]


@pytest.mark.parametrize("talk", [TALK, TALK[:1], [turn("system", "Be short."), *TALK]])
def test_conversations_are_written_as_nanochat_writes_them(encoding, tokenizer, talk):
    chat = Chat(tokenizer)
    assert chat.render(talk) == rendered(encoding, talk, open_ended=True)
    whole = [*talk, turn("assistant", "So be it.")]
    assert chat.render(talk) + chat.render_completion("So be it.") == rendered(encoding, whole, open_ended=False)
    assert chat.end == [encoding.encode_single_token("<|assistant_end|>")]
    assert tokenizer.pad_token_id not in chat.end


def part(kind: str, text: str) -> dict[str, str]:
    return {"type": kind, "text": text}


PARTS = [
    part("text", "It's "),
    part("text", "rare: "),
    part("python", "12/3"),
    part("python_output", "4"),
    part("text", ""),
]


@pytest.mark.parametrize("words", ["ordinary", *SPECIAL, "<|", "bos|>", "end|>", " <|user_end|>\n", "<|bos|><|bos|>"])
def test_words_and_tools_are_written_as_nanochat_writes_them(encoding, tokenizer, words):
    """Text of control tokens is ordinary text, in every role and part; parts are tokenised one by one."""
    chat = Chat(tokenizer)
    parts = [part(p["type"], p["text"] + words) for p in PARTS]
    split = [part("text", "<|assistant"), part("text", "_end|>"), part("python", words), part("text", words)]
    talks = [
        [turn("user", words)],
        [turn("system", words), turn("user", words), turn("assistant", words), turn("user", f"so {words} so")],
        [turn("user", "so"), turn("assistant", parts), turn("user", words)],
        [
            turn("user", words),
            turn("assistant", split),
            turn("user", "so"),
            turn("assistant", PARTS),
            turn("user", "x"),
        ],
    ]
    for talk in talks:
        assert chat.render(talk) == rendered(encoding, talk, open_ended=True)
        for answer in (words, f"so {words}", parts, split, []):
            whole = rendered(encoding, [*talk, turn("assistant", answer)], open_ended=False)
            assert chat.render(talk) + chat.render_completion(answer) == whole
    assert chat.encode(words) == encoding.encode_ordinary(words)


def test_parts_of_two_turns_in_a_row_are_one_turn(encoding, tokenizer):
    chat = Chat(tokenizer)
    found = chat.text([turn("user", "a"), turn("assistant", PARTS), turn("assistant", "So."), turn("user", "b")])
    assert found == (
        "<|bos|><|user_start|>a<|user_end|><|assistant_start|>It's rare: <|python_start|>12/3<|python_end|>"
        "<|output_start|>4<|output_end|>\n\nSo.<|assistant_end|><|user_start|>b<|user_end|><|assistant_start|>"
    )
    with pytest.raises(ModelError, match="a part is text, python or python_output"):
        chat.render([turn("user", "a"), turn("assistant", [part("image", "x")]), turn("user", "b")])
    assert chat.text([turn("user", [part("text", "a"), part("text", "b")])]) == chat.text([turn("user", "ab")])


def test_odd_conversations_get_the_form_that_nanochat_knows(encoding, tokenizer):
    chat = Chat(tokenizer)
    twice = chat.render([turn("user", "One."), turn("user", "Two.")])
    assert twice == rendered(encoding, [turn("user", "One.\n\nTwo.")], open_ended=True)
    first = chat.render([turn("assistant", "Hi."), turn("user", "Hello.")])
    wanted = [turn("user", ""), turn("assistant", "Hi."), turn("user", "Hello.")]
    assert first == rendered(encoding, wanted, open_ended=True)


def test_what_a_pickle_would_run_is_not_run(tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {marker}",)

    for value in (Evil(), [Evil()], {"a": Evil()}):
        path = tmp_path / "tokenizer.pkl"
        path.write_bytes(pickle.dumps(value))
        with pytest.raises(ModelError, match=r"tokenizer\.pkl is no tokenizer of nanochat: it asks for .*system"):
            read_encoding(path)
    path.write_bytes(b"cbuiltins\neval\n(S'open(\"" + str(marker).encode() + b'", "w")\'\ntR.')
    with pytest.raises(ModelError, match=r"it asks for builtins\.eval"):
        read_encoding(path)
    assert not marker.exists()


def test_files_that_are_none(tmp_path, encoding):
    path = tmp_path / "tokenizer.pkl"
    with pytest.raises(ModelError, match=r"tokenizer\.pkl is not there"):
        read_encoding(path)
    whole = pickle.dumps(encoding)
    for data in (b"", whole[: len(whole) // 2], b"hello", pickle.dumps({"a": 1}), pickle.dumps([1])):
        path.write_bytes(data)
        with pytest.raises(ModelError, match=r"tokenizer\.pkl"):
            read_encoding(path)
    few = {name: 256 + i for i, name in enumerate(SPECIAL[1:])}
    ranks = {bytes([b]): b for b in range(256)}
    path.write_bytes(pickle.dumps(tiktoken.Encoding("x", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=few)))
    with pytest.raises(ModelError, match=r"lacks nanochat's special token <\|bos\|>"):
        read_encoding(path)
