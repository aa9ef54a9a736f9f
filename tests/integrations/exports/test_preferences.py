"""Pairs for LLaMA-Factory, axolotl and ms-swift: a pass drawn by weight, in the formats that their documents give.

`export_checks` holds what those ask of a row.
"""

import json
from collections import Counter

import numpy as np
import pytest
from export_checks import checked, lines

from kat.errors import InputError
from kat.integrations.calls import calls_of
from kat.integrations.card import write_card
from kat.integrations.passes import drawn_counts
from kat.integrations.rows import WeighedPair
from kat.plugins import EXPORTS, load
from kat.records import Pair, Prefix
from kat.stages.export_weights import _met

TRAINERS = ("llamafactory", "axolotl", "swift")
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"q": {}}}}}]


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


def call(content=None, **arguments):
    function = {"name": "f", "arguments": arguments}
    return turn("assistant", content, tool_calls=[{"id": "c1", "type": "function", "function": function}])


ASKED = [turn("user", "a?")]
LONG = [turn("system", "Sei kurz. 🌾"), turn("user", "a?"), turn("assistant", "é"), turn("user", "\u2028b?")]
CALLED = [turn("user", "a?"), call(q="ü"), turn("tool", "1", name="f", tool_call_id="c1")]


def pair_of(context=ASKED, chosen="good ", rejected="\n bad", v=1.0, **more):
    """A pair; completions are texts or lists of messages."""
    sides = {
        name: [turn("assistant", side)] if isinstance(side, str) else side
        for name, side in (("chosen", chosen), ("rejected", rejected))
    }
    return {"context": context, "sides": sides, "v": v} | more


def weighed(pairs):
    for i, one in enumerate(pairs):
        pair = Pair(
            id=f"p{i}",
            prefix=Prefix(f"o{i}", ASKED),
            chosen="c",
            rejected="r",
            src="s",
            row=i + 1,
            context=one["context"],
            chosen_messages=one["sides"]["chosen"],
            rejected_messages=one["sides"]["rejected"],
            tools=one.get("tools"),
            margin=one.get("margin"),
        )
        yield WeighedPair(pair, pair.id, "validation" if one["v"] is None else "train", one["v"], 1.0)


@pytest.fixture
def export(tmp_path):
    """Write pairs for a trainer; returns its folder and what the command says of them."""

    def run(to, *pairs, seed=0):
        folder = tmp_path / f"{to}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        row = load(EXPORTS, to)
        contents = row.write(lambda: weighed(pairs), None, folder, seed)
        write_card(folder, row)
        return folder, "\n".join(_met(row, contents))

    return run


@pytest.mark.parametrize("to", TRAINERS)
@pytest.mark.parametrize("seed", range(3))
def test_pairs_stand_as_often_as_they_are_drawn(to, seed, export):
    v = np.exp(np.random.default_rng(seed).normal(size=40))
    v /= v.mean()
    folder, said = export(to, *(pair_of(v=float(x)) for x in v), pair_of(v=None), seed=seed)
    rows = checked(to, folder)
    counts = Counter(row["pair_id"] for row in rows)
    assert [counts[f"p{i}"] for i in range(40)] == drawn_counts(v, seed).tolist()
    assert all(np.floor(x - 1e-9) <= counts[f"p{i}"] <= np.ceil(x + 1e-9) for i, x in enumerate(v))
    assert counts[f"p{v.argmax()}"] > counts[f"p{v.argmin()}"]  # a weight that is high counts more
    assert all(row["pair_weight"] == v[int(row["pair_id"][1:])] and "weight" not in row for row in rows)
    assert [row["pair_id"] for row in rows] != sorted(row["pair_id"] for row in rows)
    (held,) = checked(to, folder, "validation")
    assert held["pair_id"] == "p40"
    assert "pair_weight" not in held
    assert said == ""


def test_multi_turn_contexts_with_a_system_keep_every_character(export):
    for to in TRAINERS:
        (row,) = checked(to, export(to, pair_of(LONG))[0])
        if to == "swift":
            assert row["messages"] == [*LONG, turn("assistant", "good ")]
            assert row["rejected_response"] == "\n bad"
        else:
            assert row["messages"] == LONG
            assert (row["chosen"], row["rejected"]) == (turn("assistant", "good "), turn("assistant", "\n bad"))


def test_calls_and_tools_are_carried(export):
    pairs = pair_of(CALLED, tools=TOOLS), pair_of()
    rows = {to: {row["pair_id"]: row for row in checked(to, export(to, *pairs)[0])} for to in TRAINERS}
    as_text = json.dumps({"q": "ü"}, ensure_ascii=False)
    first = {to: rows[to]["p0"] for to in TRAINERS}
    assert first["llamafactory"]["messages"] == [
        ASKED[0],
        turn("function_call", f'[{{"name": "f", "arguments": {as_text}}}]'),
        turn("tool", "1"),
    ]
    assert json.loads(first["llamafactory"]["tools"]) == [TOOLS[0]["function"]]
    assert rows["llamafactory"]["p1"]["tools"] == ""
    held = first["axolotl"]["messages"]
    assert (held[0], held[2]) == (CALLED[0], CALLED[2])
    assert held[1]["tool_calls"][0] == {"id": "c1", "type": "function", "function": {"name": "f", "arguments": as_text}}
    assert [json.loads(rows["axolotl"][name]["tools"]) for name in ("p0", "p1")] == [TOOLS, []]
    turns = [
        ASKED[0],
        turn("tool_call", f'{{"name": "f", "arguments": {as_text}}}'),
        turn("tool_response", "1"),
    ]
    assert first["swift"]["messages"] == [*turns, turn("assistant", "good ")]
    assert first["swift"]["rejected_messages"] == [*turns, turn("assistant", "\n bad")]
    assert json.loads(first["swift"]["rejected_tools"]) == TOOLS
    assert "tools" not in rows["swift"]["p1"]


def test_completions_may_be_calls(export):
    for to in TRAINERS:
        (row,) = checked(to, export(to, pair_of(chosen=[call(q="x")], tools=TOOLS))[0])
        last = row["messages"][-1] if to == "swift" else row["chosen"]
        assert last["role"] == {"llamafactory": "function_call", "axolotl": "assistant", "swift": "tool_call"}[to]


SEVERAL = [call(q="x"), turn("tool", "1"), turn("assistant", "so 1")]
UNFIT = {
    "several messages": (pair_of(chosen=SEVERAL), {"llamafactory", "axolotl"}),
    "prefill": (pair_of([*ASKED, turn("assistant", "Sure. ")]), {"llamafactory"}),
    "two results": (pair_of([*CALLED, turn("tool", "2")]), {"llamafactory"}),
    "text beside a call": (pair_of([ASKED[0], call("I look.", q="x"), turn("tool", "1")]), {"llamafactory"}),
    "another role": (pair_of([turn("critic", "hm"), *ASKED]), set(TRAINERS)),
    "a call without a name": (pair_of(chosen=[turn("assistant", None, tool_calls=[{"q": 1}])]), set(TRAINERS)),
    "an empty completion": (pair_of(rejected=" "), {"axolotl"}),
    "a system's turn in the middle": (pair_of([*ASKED, turn("system", "s"), *ASKED]), {"llamafactory", "swift"}),
}


@pytest.mark.parametrize("to", TRAINERS)
@pytest.mark.parametrize("name", UNFIT)
def test_what_a_trainer_cannot_hold_is_left_out_and_counted(to, name, export):
    """Before the pass is drawn: the others stand as often as a pass of them alone would hold them."""
    unfit, trainers = UNFIT[name]
    folder, said = export(to, pair_of(v=3.0), unfit | {"v": 8.0}, pair_of(v=1.0), unfit | {"v": None})
    counts = Counter(row["pair_id"] for row in checked(to, folder))
    if to not in trainers:
        assert sum(counts.values()) == 3
        assert counts["p1"] >= 2
        assert [row["pair_id"] for row in checked(to, folder, "validation")] == ["p3"]
        assert "left out of pairs" not in said
        return
    expected = drawn_counts(np.asarray([3.0, 1.0]), 0)
    assert [counts["p0"], counts["p1"], counts["p2"]] == [expected[0], 0, expected[1]]
    assert f"2 pairs are left out of pairs; {load(EXPORTS, to).limits['pairs']}" in said
    assert (folder / "pairs.validation.jsonl").read_bytes() == b""
    with pytest.raises(InputError, match=r"1 are left out.*--to trl"):
        export(to, unfit)


def test_swift_joins_a_prefill_and_several_messages(export):
    prefill = [*ASKED, turn("assistant", "Sure. ")]
    folder, said = export("swift", pair_of(prefill), pair_of(chosen=SEVERAL))
    rows = {row["pair_id"]: row for row in checked("swift", folder)}
    assert rows["p0"]["rejected_messages"] == [*prefill, turn("assistant", "\n bad")]
    assert [one["role"] for one in rows["p1"]["messages"]] == ["user", "tool_call", "tool_response", "assistant"]
    assert "1 contexts end on an assistant's turn, kept as it is; ms-swift joins it" in said


def test_margins(export):
    some = pair_of(margin=0.5), pair_of()
    for to in TRAINERS:
        rows = {row["pair_id"]: row for row in checked(to, export(to, *some)[0])}
        said = export(to, *some)[1]
        assert rows["p0"].get("margin") == (None if to == "swift" else 0.5)
        assert "1 pairs have a margin; " in said
    assert {row["margin"] for row in checked("swift", export("swift", pair_of(margin=0.5))[0])} == {0.5}


def test_axolotls_reward_models_take_one_question(export):
    pairs = pair_of([turn("system", "s"), *ASKED]), pair_of(LONG), pair_of(tools=TOOLS), pair_of(v=None)
    folder, said = export("axolotl", *pairs)
    assert len(checked("axolotl", folder)) == 3
    (row,) = lines(folder / "reward.train.jsonl")
    assert row == {
        **{"system": "s", "input": "a?", "chosen": "good ", "rejected": "\n bad"},
        **{"pair_id": "p0", "opening_id": "o0", "pair_weight": 1.0},
    }
    assert lines(folder / "reward.validation.jsonl")[0]["system"] == ""
    assert "2 pairs are left out of reward; bradley_terry" in said
    folder, said = export("axolotl", pair_of(LONG), pair_of(LONG, v=None))
    assert not list(folder.glob("reward*"))
    assert "2 pairs are left out of reward" in said


def test_axolotls_configuration_finds_the_files(export):
    yaml = pytest.importorskip("yaml")
    folder, _ = export("axolotl", pair_of(), pair_of(v=None))
    dpo, reward = (yaml.safe_load((folder / name).read_text()) for name in ("dpo.yaml", "reward.yaml"))
    assert dpo["rl"] == "dpo"
    assert reward["reward_model"] is True
    for config, name, kind in (
        (dpo, "pairs", "chat_template.default"),
        (reward, "reward", "bradley_terry.chat_template"),
    ):
        assert config["dataset_exact_deduplication"] is False
        for key, part in (("datasets", "train"), ("test_datasets", "validation")):
            (entry,) = config[key]
            assert (folder / entry["path"]).name == f"{name}.{part}.jsonl"
            assert (entry["ds_type"], entry["split"], entry["type"]) == ("json", "train", kind)
    (entry,) = dpo["datasets"]
    assert (entry["field_messages"], entry["field_chosen"], entry["field_rejected"]) == (
        "messages",
        "chosen",
        "rejected",
    )
    assert "test_datasets" not in yaml.safe_load((export("axolotl", pair_of())[0] / "dpo.yaml").read_text())


def test_without_pairs_that_validate_there_is_no_data_set_of_them(export):
    info = json.loads((export("llamafactory", pair_of())[0] / "dataset_info.json").read_text())
    assert list(info) == ["kat"]


@pytest.mark.parametrize("to", TRAINERS)
def test_files_load_as_they_were_written(to, export, tmp_path):
    """By `datasets`, which all three read files with; Arrow gives every message the keys of all, filled with null."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()

    def without_null(value):
        if isinstance(value, dict):
            return {name: without_null(one) for name, one in value.items() if one is not None}
        return [without_null(one) for one in value] if isinstance(value, list) else value

    other = [ASKED[0], call(z={"n": 1}), turn("tool", "2")]
    folder, _ = export(to, pair_of(CALLED, tools=TOOLS), pair_of(LONG), pair_of(other, v=None))
    read = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    for part in ("train", "validation"):
        rows = [without_null(row) for row in read[part].to_list()]
        assert rows == [without_null(row) for row in lines(folder / f"pairs.{part}.jsonl")]


def test_calls_of_a_message():
    assert calls_of(turn("user", "a")) == []
    assert calls_of(turn("assistant", None, function_call={"name": "f", "arguments": '{"a": 1}'})) == [
        {"name": "f", "arguments": {"a": 1}}
    ]
    several = [{"function": {"name": "f"}}, {"name": "g", "arguments": "no JSON"}]
    assert calls_of(turn("assistant", "", tool_calls=several)) == [
        {"name": "f", "arguments": {}},
        {"name": "g", "arguments": "no JSON"},
    ]
    assert calls_of(turn("assistant", None, tool_calls=["f()"])) is None
