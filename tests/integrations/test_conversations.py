"""Exports hold the source's conversations: read back by `datasets`, they render as the source's do."""

import json

import numpy as np
import pytest
from making import jsonl, turn, write

from kat.errors import InputError, MismatchError, OptionError
from kat.integrations.card import write_card
from kat.integrations.contexts import contents_of, context_id, prompts_of
from kat.integrations.passes import drawn_counts, drawn_order
from kat.integrations.rows import WeighedPair
from kat.integrations.verl import DensitySampler
from kat.integrations.weights import check_prompts, with_weights
from kat.plugins import EXPORTS, load, names
from kat.records import Pair, Prefix

TEMPLATE = (
    "{% for t in tools or [] %}<tool>{{ t | tojson }}{% endfor %}{% for m in messages %}<{{ m.role }}"
    "{% for k in m if k not in ('role', 'content', 'tool_calls') %} {{ k }}={{ m[k] }}{% endfor %}>{{ m.content }}"
    "{% if 'tool_calls' in m %}{% for c in m.tool_calls %}<call>{{ c.function.arguments | tojson }}{% endfor %}"
    "{% endif %}{% endfor %}"
)
"""It shows every key that a message has, also one that holds null: what a struct fills in would be seen."""
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"q": {}}}}}]


def call(**arguments):
    function = {"name": "f", "arguments": arguments}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": function}],
    }


def answer(text):
    return {"role": "tool", "name": "f", "tool_call_id": "c1", "content": text}


CONTEXTS = [
    ([turn("user", "a?"), call(q="x"), answer("1")], TOOLS),
    ([turn("user", "a?"), call(q="y", deep={"n": [1, None]}), answer("2")], TOOLS),
    ([turn("user", "a?"), call(q="y", deep={"n": [1, None]}), answer("2")], None),
    ([turn("user", "b?"), turn("assistant", "Sure. ")], None),
    ([turn("system", "s"), turn("user", "c?")], None),
]


def weighed(contexts=CONTEXTS, margins=None, parts=None):
    """A pair for every context, all of weight 1 and of their opening's w = the letter's place in the alphabet."""
    for i, (context, tools) in enumerate(contexts):
        opening = next(m["content"] for m in context if m["role"] == "user")
        pair = Pair(
            id=f"p{i}",
            prefix=Prefix(opening, [turn("user", opening)]),
            chosen="good",
            rejected="",
            src="s",
            row=i + 1,
            context=context,
            chosen_messages=[turn("assistant", "good")],
            rejected_messages=[call(z=str(i))] if tools else [turn("assistant", "bad")],
            tools=tools,
            margin=margins[i] if margins else None,
        )
        part = parts[i] if parts else "train"
        yield WeighedPair(pair, pair.id, part, 1.0 if part == "train" else None, float(ord(opening[0]) - 96))


class Table:
    """What exports ask of pair weights."""

    def __init__(self, pairs):
        self.split = np.asarray([one.part for one in pairs], object)
        self.v = np.asarray([np.nan if one.v is None else one.v for one in pairs])


@pytest.fixture
def exported(tmp_path):
    def run(to, **how):
        pairs, folder = list(weighed(**how)), tmp_path / to
        folder.mkdir()
        export = load(EXPORTS, to)
        export.write(lambda: iter(pairs), Table(pairs), folder, 0)
        write_card(folder, export)
        return folder, pairs

    return run


@pytest.fixture
def loaded(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    return lambda folder, *name: datasets.load_dataset(str(folder), *name, cache_dir=str(tmp_path / "cache"))


def rendered(messages, tools):
    from transformers.utils.chat_template_utils import render_jinja_template

    return render_jinja_template([messages], tools=tools, chat_template=TEMPLATE)[0]


@pytest.mark.parametrize("to", ["trl", "openrlhf"])
def test_pairs_read_back_render_as_the_source(to, exported, loaded):
    folder, pairs = exported(to)
    rows = {row["pair_id"]: row for row in loaded(folder)["train"]}
    assert len(rows) == len(pairs)
    for one in pairs:
        row, pair = rows[one.pair_id], one.pair
        assert row["prompt"] == pair.context
        for side in ("chosen", "rejected"):
            source = [*pair.context, *getattr(pair, f"{side}_messages")]
            assert rendered(row["prompt"] + row[side], row["tools"]) == rendered(source, pair.tools)


@pytest.mark.parametrize(
    ("to", "name", "column"),
    [("trl", "prompts", "prompt"), ("verl", "prompts", "prompt"), ("openrlhf", "prompts_all", "input")],
)
def test_prompts_are_every_context_with_its_calls_and_tools(to, name, column, exported, loaded):
    folder, _ = exported(to)
    rows = loaded(folder, name)["train"].to_list()
    assert [(row[column], row["tools"]) for row in rows] == CONTEXTS
    ids = [(row.get("extra_info") or row)["context_id"] for row in rows]
    assert ids == [context_id(*one) for one in CONTEXTS]
    assert len(set(ids)) == 5
    weight = [row.get("weight", row.get("sampling_probability")) for row in rows]
    shares = np.asarray([1 / 3, 1 / 3, 1 / 3, 2, 3])
    np.testing.assert_allclose(weight, shares / 6 if to == "openrlhf" else shares)


def test_implicit_conversations_hold_the_context_and_the_completion(exported, loaded):
    folder, pairs = exported("trl")
    for row, one in zip(loaded(folder, "implicit")["train"], pairs, strict=True):
        assert row["chosen"] == [*one.pair.context, *one.pair.chosen_messages]


@pytest.mark.parametrize("to", ["trl", "openrlhf"])
def test_margins_stand_beside_their_pairs(to, exported, loaded):
    folder, _ = exported(to, contexts=CONTEXTS[3:], margins=[0.5, 2.0])
    assert {row["pair_id"]: row["margin"] for row in loaded(folder)["train"]} == {"p0": 0.5, "p1": 2.0}


@pytest.mark.parametrize("validates", [True, False])
@pytest.mark.parametrize("to", names(EXPORTS))
def test_a_folder_loads_as_one_thing(to, validates, exported, loaded):
    plain = [([turn("user", f"{letter}?")], None) for letter in "abcdef"]
    folder, _ = exported(to, contexts=plain, parts=["train"] * 5 + ["validation" if validates else "train"])
    found = loaded(folder)
    one = to in ("parquet", "jsonl")
    sizes = {"train": 6} if one or not validates else {"train": 5, "validation": 1}
    assert {name: len(rows) for name, rows in found.items()} == sizes
    for data_set in load(EXPORTS, to).data_sets:
        splits = loaded(folder, data_set.name)
        for name, rows in splits.items():
            assert len(rows) == sizes[name], data_set.name
            assert not {"prompt", "input"} & set(rows.column_names) or all(
                rows[0].get("prompt") or rows[0].get("input")
            )
            assert "context_id" not in rows.column_names  # one context an opening: nothing new
    listed = [name for one in load(EXPORTS, to).data_sets for name in one.files.values()]
    card = (folder / "README.md").read_text()
    for name in listed:
        assert (f"path: {name}\n" in card) == ((folder / name).is_file() and (folder / name).stat().st_size > 0)
    assert card.count("default: true") == 1


def test_contexts_are_told_apart_by_all_that_they_hold():
    messages = [turn("user", "a?"), call(q="x")]
    same = [{key: m[key] for key in reversed(m)} for m in messages]
    assert context_id(messages, None) == context_id(same, []) != context_id(messages, TOOLS)
    assert context_id([*messages, {**answer("1"), "name": "g"}], None) != context_id([*messages, answer("1")], None)
    contents = contents_of(weighed())
    assert (contents.rich, contents.tools, contents.prefill, contents.several) == (True, 2, 1, True)
    assert contents.contexts["train"] == {"a?": 3, "b?": 1, "c?": 1}
    assert not list(prompts_of(weighed(), "validation", contents))


@pytest.mark.parametrize("seed", range(5))
def test_an_openings_draws_are_spread_over_its_contexts(seed):
    rng = np.random.default_rng(seed)
    units = [f"o{i}" for i in rng.integers(0, 12, 40)]
    sizes = {one: units.count(one) for one in units}
    w = {one: float(np.exp(rng.normal())) for one in sizes}
    weights = np.asarray([w[one] / sizes[one] for one in units])
    counts = np.bincount(drawn_order(weights, seed, units), minlength=40)
    assert counts.sum() == 40
    for one, total in w.items():
        mine = [int(c) for c, unit in zip(counts, units, strict=True) if unit == one]
        expected = 40 * total / sum(w.values())
        assert np.floor(expected - 1e-9) <= sum(mine) <= np.ceil(expected + 1e-9)
        assert max(mine) - min(mine) <= 1
    alone = [f"r{i}" for i in range(40)]
    np.testing.assert_array_equal(drawn_order(weights, seed, alone), drawn_order(weights, seed))
    assert drawn_counts(weights, seed).sum() == 40


def test_what_was_drawn_already_is_refused_by_name(exported, loaded):
    datasets = pytest.importorskip("datasets")
    rows = [{"pair_id": name, "weight": 1.0} for name in ("a", "b", "a", "a")]
    for weights in (None, {"a": 1.0, "b": 1.0}):
        with pytest.raises(MismatchError, match="holds a pair id twice: a stands 3 times, and 0 others"):
            with_weights(datasets.Dataset.from_list(rows), weights)
    folder, _ = exported("verl")
    prompts = loaded(folder)["train"]
    assert sorted(set(DensitySampler(prompts, {}))) == sorted(set(DensitySampler(prompts, {})))
    with pytest.raises(MismatchError, match=f"context id twice: {context_id(*CONTEXTS[1])} stands 2 times"):
        DensitySampler(prompts.select([0, 1, 2, 1]), {})
    with pytest.raises(InputError, match=r"no column weight.*train\.drawn\.parquet is drawn"):
        DensitySampler(loaded(folder, "drawn")["train"], {})
    asked = datasets.Dataset.from_list([{"prompt": "a", "opening_id": "o"}, {"prompt": "b", "opening_id": "o"}])
    check_prompts(asked)
    with pytest.raises(MismatchError, match="stands 2 times"):
        check_prompts(asked.select([0, 1, 0]))


def test_the_sampler_draws_openings_by_the_sum_of_their_contexts(exported, loaded):
    folder, _ = exported("verl")
    prompts = loaded(folder)["train"]
    sampler = DensitySampler(prompts, {"seed": 1})
    counts = np.bincount([row for _ in range(300) for row in sampler], minlength=5) / 1500
    np.testing.assert_allclose(counts, np.asarray([1 / 3, 1 / 3, 1 / 3, 2, 3]) / 6, atol=0.02)


def test_trl_tokenises_the_sources_conversation(exported, loaded, tmp_path):
    """TRL's own preparation of pairs, to token ids: they are those of the source's conversation."""
    pytest.importorskip("trl")
    from making import tiny
    from transformers import AutoTokenizer
    from trl import RewardTrainer

    tokenizer = AutoTokenizer.from_pretrained(tiny(tmp_path / "tiny", "Llama", pad_token_id=1))
    tokenizer.chat_template = TEMPLATE
    folder, pairs = exported("trl")

    class Arguments:
        dataset_num_proc, max_length = None, None

    rows = RewardTrainer._prepare_dataset(None, loaded(folder)["train"], tokenizer, Arguments, "train")
    for row, one in zip(rows, pairs, strict=True):
        for side in ("chosen", "rejected"):
            source = [*one.pair.context, *getattr(one.pair, f"{side}_messages")]
            expected = tokenizer.apply_chat_template(source, tools=one.pair.tools, return_dict=True)["input_ids"]
            assert row[f"{side}_ids"] == expected


def test_trainers_name_what_they_do_not_read():
    pytest.importorskip("trl")
    from datasets import Dataset

    from kat.integrations.trl import DensityGRPOTrainer, WeightedRewardTrainer

    prompts = Dataset.from_list([{"prompt": "a", "opening_id": "a", "tools": json.dumps(TOOLS)}])
    with pytest.raises(OptionError, match="1 prompts have tools"):
        DensityGRPOTrainer(train_dataset=prompts, opening_weights={"a": 1.0})
    with pytest.raises(MismatchError, match="stands 2 times"):
        DensityGRPOTrainer(train_dataset=prompts.select([0, 0]), opening_weights={"a": 1.0})
    pairs = Dataset.from_list([{"pair_id": "a", "weight": 1.0, "margin": m} for m in (1.0, None)])
    with pytest.raises(InputError, match="1 of 2 rows have no margin, first row 1"):
        WeightedRewardTrainer(train_dataset=pairs)


def test_a_run_says_what_it_exported(tmp_path, kat_cli):
    """Twenty questions after one greeting are twenty prompts, and the card loads them."""
    rows = [{"prompt": [turn("user", f"question {i} about rye?")]} for i in range(20)]
    greeting = [turn("user", "Hi"), turn("assistant", "Hello!")]
    rows += [{"prompt": [*greeting, turn("user", f"rare {i}")]} for i in range(20)]
    sides = {"chosen": [turn("assistant", "good")], "rejected": [turn("assistant", "bad")]}
    path = write(tmp_path / "p.jsonl", jsonl(*({"id": f"p{i}"} | row | sides for i, row in enumerate(rows))))
    assert kat_cli("run", path, "--out", tmp_path / "run", "--device", "cpu").rc == 0
    assert kat_cli("weigh-pairs", tmp_path / "run", "--split", "none").rc == 0
    ran = kat_cli("export-weights", tmp_path / "run", "--to", "verl", "--out", tmp_path / "verl")
    assert ran.rc == 0, ran.stderr
    assert "1 openings have 20 contexts, all exported" in ran.stdout
    assert kat_cli("verify", tmp_path / "verl").rc == 0
