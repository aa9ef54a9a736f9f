"""Pairs as tokens: trunks and branches put together are what the template writes, and what is left out is counted."""

import json
import tracemalloc

import numpy as np
import pytest
from making import turn
from making_training import CHATML, WITH_TOOLS, letters_tokenizer, pair_of

import kat
from kat.errors import InputError, MismatchError, OptionError
from kat.models.chat import Chat
from kat.training.tokens import IDENTICAL, TOO_LONG, tokenize_pairs

CALL = {"function": {"name": "boil", "arguments": {"minutes": 7}}}
TALK = [turn("user", "How?"), turn("assistant", "Hard?"), turn("user", "Yes.")]


@pytest.fixture(scope="module")
def chat():
    return Chat(letters_tokenizer(CHATML))


def tokens(chat, *pairs, **more):
    return tokenize_pairs(pairs, chat, **{"max_len": 512, "min_prompt": 128} | more)


def sequences(data, row):
    prompt = data.prompts[data.prompt[row]]
    return [[*prompt.trunk.tolist(), *prompt.branches[side[row]].tolist()] for side in (data.chosen, data.rejected)]


def test_trunks_are_the_context_and_branches_the_completions(chat):
    data = tokens(chat, pair_of("good", "bad", TALK, margin=0.5), pair_of("so", "bad", "Other?", pair_id="b"))
    assert data.prompts[0].trunk.tolist() == chat.render(TALK)
    assert [b.tolist() for b in data.prompts[0].branches] == [chat.render_completion(t) for t in ("good", "bad")]
    for row, (context, texts) in enumerate([(TALK, ("good", "bad")), ([turn("user", "Other?")], ("so", "bad"))]):
        whole = [chat.render(context) + chat.render_completion(text) for text in texts]
        assert sequences(data, row) == whole
    assert data.ids == ["a", "b"]
    assert data.margins.tolist() == [0.5, 0.0]


def test_a_completion_stands_once_a_prompt_however_many_pairs_compare_it(chat):
    pairs = [pair_of(c, r, pair_id=f"{c}{r}") for c, r in [("x", "y"), ("y", "z"), ("x", "z"), ("z", "x")]]
    data = tokens(chat, *pairs)
    assert len(data.prompts) == 1
    assert [b.tolist() for b in data.prompts[0].branches] == [chat.render_completion(t) for t in "xyz"]
    assert list(zip(data.chosen, data.rejected, strict=True)) == [(0, 1), (1, 2), (0, 2), (2, 0)]


def test_contexts_that_differ_in_their_tools_are_two_prompts():
    chat = Chat(letters_tokenizer(WITH_TOOLS))
    tools = [{"name": "boil"}]
    data = tokens(chat, pair_of("x", "y"), pair_of("x", "y", pair_id="b", tools=tools))
    assert [p.trunk.tolist() for p in data.prompts] == [chat.render(TALK[:1]), chat.render(TALK[:1], tools)]
    assert data.prompts[0].trunk.tolist() != data.prompts[1].trunk.tolist()
    assert (
        data.tools_unread,
        tokens(Chat(letters_tokenizer(CHATML)), pair_of("x", "y", tools=tools)).tools_unread,
    ) == (0, 1)


def test_a_trunk_is_cut_from_the_left_once_for_all_its_pairs(chat):
    context = [turn("user", "z" * 400)]
    pairs = [
        pair_of("x" * 30, "y", context),
        pair_of("w" * 90, "y", context, pair_id="b"),
        pair_of("x", "y", row=3, pair_id="c"),
    ]
    data = tokens(chat, *pairs, max_len=200, min_prompt=100)
    longest = len(chat.render_completion("w" * 90))
    assert data.prompts[0].trunk.tolist() == chat.render(context)[-(200 - longest) :]
    assert data.prompts[1].trunk.tolist() == chat.render(TALK[:1])
    assert data.cut == 1
    assert max(len(s) for row in range(3) for s in sequences(data, row)) == 200


def test_a_branch_that_is_dropped_does_not_cut_its_prompt(chat):
    context = [turn("user", "z" * 60)]
    pairs = [pair_of("x", "y", context), pair_of("w" * 150, "y", context, pair_id="b")]
    data = tokens(chat, *pairs, max_len=200, min_prompt=100, long_completions="drop")
    assert data.ids == ["a"]
    assert (data.cut, len(data.prompts[0].branches)) == (0, 2)
    assert (data.dropped, data.dropped_ids) == ({TOO_LONG: 1}, {"b": TOO_LONG})


def test_a_long_completion_is_an_error_that_names_the_row_and_the_way_out(chat):
    room = len(chat.render_completion("w" * 40))
    pair = pair_of("x", "w" * 40, row=1234, pair_id="long")
    assert len(tokens(chat, pair, max_len=50 + room, min_prompt=50)) == 1  # to the token
    with pytest.raises(
        InputError, match=rf"row 1,234 \(pair long\).* of {room} tokens.*--max_len.*--long_completions drop"
    ):
        tokens(chat, pair, max_len=49 + room, min_prompt=50)
    for most, least in ((10, 10), (10, 11), (10, -1)):
        with pytest.raises(OptionError, match="0 ≤ min_prompt < max_len"):
            tokens(chat, pair, max_len=most, min_prompt=least)


def test_equal_completions_are_dropped_and_counted_or_kept(chat):
    pairs = [pair_of("x", "x"), pair_of("x", "y", pair_id="b")]
    data = tokens(chat, *pairs)
    assert (data.ids, dict(data.dropped), data.dropped_ids) == (["b"], {IDENTICAL: 1}, {"a": IDENTICAL})
    kept = tokens(chat, *pairs, identical="keep")
    assert kept.ids == ["a", "b"]
    assert kept.chosen[0] == kept.rejected[0]


def test_ids_that_stand_twice(chat, tmp_path):
    path = tmp_path / "pairs.jsonl"
    row = {"prompt": "How?", "chosen": "x", "rejected": "y"}
    path.write_text("".join(json.dumps(row) + "\n" for _ in range(3)))
    duplicates = list(kat.read_pairs(path))
    name = duplicates[0].id
    named = []
    data = tokens(chat, *duplicates, seen=lambda pair_id, pair: named.append((pair_id, pair.row)))
    assert data.ids == [name, f"{name}#2", f"{name}#3"]
    assert named == [(name, 1), (f"{name}#2", 2), (f"{name}#3", 3)]
    with pytest.raises(MismatchError, match="row 2: the pair id own stood before"):
        tokens(chat, pair_of("x", "y", pair_id="own"), pair_of("x", "y", pair_id="own", row=2))


def test_texts_are_held_as_numbers_of_four_bytes(chat):
    class Long(Chat):
        def render(self, messages, tools=None):
            return list(range(1000, 21_000))

        def render_turns(self, context, turns, tools=None):
            return 20_000, [*range(2000, 22_000), len(turns[0]["content"])]

    pairs = [pair_of("x" * n, "y" * (n + 30), str(n), pair_id=str(n)) for n in range(1, 31)]
    tracemalloc.start()
    data = tokens(Long(chat.tokenizer), *pairs, max_len=50_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    held = sum(prompt.tokens for prompt in data.prompts)
    assert held == 30 * (20_000 + 2 * 20_001)
    assert peak < 4 * 3 * held  # what is read, what is returned, and room for one text as a list


def test_no_pairs_are_no_prompts(chat):
    assert (len(tokens(chat)), tokens(chat).prompts) == (0, [])


TURNS = {
    "a call": [turn("assistant", "") | {"tool_calls": [CALL]}],
    "words and a call": [turn("assistant", "I look.") | {"tool_calls": [CALL]}],
    "a call, its result, words": [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        turn("tool", "done"),
        turn("assistant", "Seven."),
    ],
    "two turns": [turn("assistant", "One."), turn("user", "And?"), turn("assistant", "Two.")],
}


@pytest.mark.parametrize("name", TURNS)
def test_calls_and_several_turns_are_the_templates_own_ids(name):
    tokenizer = letters_tokenizer(WITH_TOOLS)
    chat, tools = Chat(tokenizer), [{"name": "boil", "parameters": {}}]
    data = tokens(chat, pair_of(TURNS[name], "bad", TALK, tools=tools))
    written = tokenizer.apply_chat_template([*TALK, *TURNS[name]], tools=tools, tokenize=False)
    assert tokenizer.decode(sequences(data, 0)[0]) == written.removesuffix("\n")
    assert sequences(data, 0)[0] == tokenizer(written.removesuffix("\n"), add_special_tokens=False)["input_ids"]
    assert sequences(data, 0)[1] == chat.render(TALK, tools) + chat.render_completion("bad")
    assert data.prompts[0].trunk.tolist() == chat.render(TALK, tools)


REWRITES = (  # words of earlier turns are left out once others follow, as templates do with thoughts
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if loop.last or m.role != 'system' %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_template_that_writes_the_context_otherwise_shares_what_is_common():
    tokenizer = letters_tokenizer(REWRITES)
    context = [turn("user", "q" * 50), turn("system", "s" * 60)]
    two = [turn("assistant", "A"), turn("assistant", "B")]
    data = tokens(Chat(tokenizer), pair_of(two, "w" * 30, context))
    written = tokenizer.apply_chat_template([*context, *two], tokenize=False).removesuffix("\n")
    assert sequences(data, 0)[0] == tokenizer(written, add_special_tokens=False)["input_ids"]
    assert sequences(data, 0)[1] == Chat(tokenizer).render(context) + Chat(tokenizer).render_completion("w" * 30)
    assert len(data.prompts[0].trunk) < len(Chat(tokenizer).render(context)) - 60
    # Of such a branch, the part that is context is cut as a trunk is, so that no sequence is over max_len.
    short = tokens(Chat(tokenizer), pair_of(two, "w" * 30, context), max_len=80, min_prompt=0, long_completions="drop")
    limit = tokens(
        Chat(tokenizer),
        pair_of("v" * 70, "w" * 30, context),
        pair_of(two, "w", context, pair_id="b"),
        max_len=110,
        min_prompt=5,
    )
    assert len(short) == 0 or max(map(len, sequences(short, 0))) <= 80
    assert limit.cut == 1
    for row, side, text in ((0, 0, "v" * 70), (0, 1, "w" * 30), (1, 1, "w")):
        own = sequences(limit, row)[side]
        whole = Chat(tokenizer).render(context) + Chat(tokenizer).render_completion(text)
        assert len(own) <= 110
        assert own == whole[-len(own) :]


def test_begun_words_stay_open_and_completions_go_on_from_them(chat):
    begun = [turn("user", "How?"), turn("assistant", "Well,")]
    data = tokens(chat, pair_of(" good", " bad", begun))
    tokenizer = chat.tokenizer
    assert tokenizer.decode(sequences(data, 0)[0]) == (
        "<|im_start|>user\nHow?<|im_end|>\n<|im_start|>assistant\nWell, good<|im_end|>"
    )


def test_some_pairs_are_selected_over_the_same_prompts(chat):
    data = tokens(chat, *(pair_of("x", "y", f"Question {i}?", pair_id=str(i), margin=i) for i in range(4)))
    some = data.select(np.asarray([3, 1]))
    assert (some.ids, some.margins.tolist()) == (["3", "1"], [3.0, 1.0])
    assert sequences(some, 0) == sequences(data, 3)


class _Begins:
    """A tokenizer's chat in the plain form, as an encoder's or a decoder's begins its sequences."""

    def __init__(self, bos, cls):
        self.tokenizer = letters_tokenizer(None)
        for name, token in (("bos_token", bos), ("cls_token", cls)):
            if token is not None:
                setattr(self.tokenizer, name, token)
        self.chat = Chat(self.tokenizer)


@pytest.mark.parametrize(("bos", "cls"), [("<|im_start|>", None), (None, "<|im_start|>"), (None, None)])
def test_the_token_that_begins_every_sequence_stays_where_a_prompt_is_cut(bos, cls):
    made = _Begins(bos, cls)
    first = made.tokenizer.convert_tokens_to_ids("<|im_start|>")
    pairs = [pair_of("yes, good", "no, bad", "how do I boil an egg for seven minutes and then peel it? " * 9)]
    whole = tokenize_pairs(pairs, made.chat, max_len=4000, min_prompt=1).prompts[0]
    rendered = [t for t in made.chat.render(pairs[0].context) if t != first]
    begin = [first] if bos or cls else []
    assert whole.trunk.tolist() == [*begin, *rendered]
    longest = max(map(len, whole.branches))
    cut = tokenize_pairs(pairs, made.chat, max_len=longest + 20, min_prompt=1).prompts[0]
    assert cut.trunk.tolist() == [*begin, *rendered[len(rendered) - 20 + len(begin) :]]
    assert [b.tolist() for b in cut.branches] == [b.tolist() for b in whole.branches]
