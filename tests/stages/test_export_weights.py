"""Exports: every row back to its pair, its weight and its part; drawn passes as often as weights say."""

import json
import shutil
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest

import kat
from kat.errors import InputError
from kat.integrations.passes import drawn_counts
from kat.integrations.verl import DensitySampler


@pytest.fixture(scope="module")
def made(demo_run, tmp_path_factory):
    """The demo's run with pair weights, read only."""
    from kat.cli import main as cli

    folder = shutil.copytree(demo_run, tmp_path_factory.mktemp("exported") / "demo")
    cli.main(["weigh-pairs", str(folder / "run"), "--validation_share", "0.2"])
    return folder


@pytest.fixture
def table(made):
    return kat.read_pair_weights(made / "run" / "pair_weights.parquet")


@pytest.fixture
def pairs(made, table):
    """{pair id: (pair, v or None, w, part)}"""
    read = list(kat.read_pairs(made / "pairs.jsonl"))
    draws = table.draw_weights()
    return {
        table.pair_id[i]: (p, table.v[i] if table.split[i] == "train" else None, draws[p.prefix.id], table.split[i])
        for i, p in enumerate(read)
    }


@pytest.fixture
def export(made, tmp_path, kat_cli):
    def run(to: str, *more):
        ran = kat_cli("export-weights", made / "run", "--to", to, "--out", tmp_path / to, *more)
        assert ran.rc == 0, ran.stderr
        return tmp_path / to

    return run


def opening_of(row) -> str:
    return kat.opening_id(next(m["content"] for m in row["prompt"] if m["role"] == "user"))


def summed(rows, weight="weight", ids=lambda row: row):
    """{opening id: the sum of its contexts' weights}"""
    sums = {}
    for row in rows:
        sums[ids(row)["opening_id"]] = sums.get(ids(row)["opening_id"], 0) + row[weight]
    return sums


def contexts(pairs, part):
    """{opening id: its distinct contexts, as JSON} of a part."""
    found = {}
    for p, _, _, where in pairs.values():
        if where == part:
            found.setdefault(p.prefix.id, set()).add(json.dumps([p.context, p.tools], sort_keys=True))
    return found


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_trl_has_every_pair_once_with_its_weight(export, pairs):
    folder = export("trl")
    for part in ("train", "validation"):
        explicit = pq.read_table(folder / f"explicit.{part}.parquet").to_pylist()
        implicit = pq.read_table(folder / f"implicit.{part}.parquet").to_pylist()
        assert [r["pair_id"] for r in explicit] == [i for i, p in pairs.items() if p[3] == part]
        for one, other in zip(explicit, implicit, strict=True):
            pair, v, _, _ = pairs[one["pair_id"]]
            assert one["prompt"] == pair.context
            assert one["opening_id"] == pair.prefix.id
            for side in ("chosen", "rejected"):
                assert one[side] == [{"role": "assistant", "content": getattr(pair, side)}]
                assert other[side] == one["prompt"] + one[side]
            assert one.get("weight") == v
            assert other.get("weight") == v
        prompts = pq.read_table(folder / f"prompts.{part}.parquet").to_pylist()
        wanted = {p.prefix.id: w for p, _, w, where in pairs.values() if where == part}
        assert summed(prompts) == pytest.approx(wanted)
        asked = [(r["opening_id"], json.dumps([r["prompt"], None], sort_keys=True)) for r in prompts]
        assert sorted(asked) == sorted((i, one) for i, all_ in contexts(pairs, part).items() for one in all_)
        assert len({r["context_id"] for r in prompts}) == len(prompts)
        assert all(opening_of(r) == r["opening_id"] for r in prompts)


def test_trl_files_are_data_sets(export):
    datasets = pytest.importorskip("datasets")
    folder = export("trl")
    for shape, names in {"explicit": {"prompt", "chosen", "rejected"}, "implicit": {"chosen", "rejected"}}.items():
        found = datasets.load_dataset("parquet", data_files=str(folder / f"{shape}.train.parquet"), split="train")
        assert set(found.column_names) == names | {"pair_id", "opening_id", "weight"}
        assert np.mean(found["weight"]) == pytest.approx(1)


def test_json_lines_are_data_sets(export, pairs):
    datasets = pytest.importorskip("datasets")
    files = {"jsonl": "weights", "openrlhf": "pairs.train"}
    for to, name in files.items():
        path = export(to) / f"{name}.jsonl"
        found = datasets.load_dataset("json", data_files=str(path), split="train").to_list()
        assert found == [json.loads(line) for line in path.read_text().splitlines()]


def test_plain_files_hold_weights_and_nothing_else(export, pairs):
    rows = pq.read_table(export("parquet") / "weights.parquet").to_pylist()
    assert rows == lines(export("jsonl") / "weights.jsonl")
    assert {r["pair_id"]: (r["weight"], r["split"]) for r in rows} == {i: (p[1], p[3]) for i, p in pairs.items()}


def test_openrlhf_gets_each_pair_as_often_as_it_is_drawn(export, pairs):
    folder = export("openrlhf", "--seed", 3)
    rows = lines(folder / "pairs.train.jsonl")
    training = {i: p for i, p in pairs.items() if p[3] == "train"}
    counts = Counter(r["pair_id"] for r in rows)
    assert len(rows) == len(training)
    for name, (_, v, _, _) in training.items():
        assert np.floor(v - 1e-9) <= counts[name] <= np.ceil(v + 1e-9)
    for row in rows:
        pair = training[row["pair_id"]][0]
        assert row["prompt"] == pair.context
        assert "weight" not in row
        assert row["chosen"][0]["content"] == pair.chosen
    assert [r["pair_id"] for r in rows] != sorted((r["pair_id"] for r in rows), key=list(training).index)
    held = lines(folder / "pairs.validation.jsonl")
    assert [r["pair_id"] for r in held] == [i for i, p in pairs.items() if p[3] == "validation"]
    prompts = lines(folder / "prompts.train.all.jsonl")
    w = {p.prefix.id: w for p, _, w, part in pairs.values() if part == "train"}
    assert summed(prompts, "sampling_probability") == pytest.approx({i: x / sum(w.values()) for i, x in w.items()})
    assert all("sampling_probability" not in row for row in lines(folder / "prompts.train.jsonl"))
    drawn = Counter(r["opening_id"] for r in lines(folder / "prompts.train.jsonl"))
    for one, x in w.items():
        expected = len(prompts) * x / sum(w.values())
        assert np.floor(expected - 1e-9) <= drawn[one] <= np.ceil(expected + 1e-9)


@pytest.mark.parametrize("to", ["llamafactory", "axolotl", "swift"])
def test_others_get_each_pair_as_often_as_it_is_drawn(to, export, pairs):
    folder = export(to, "--seed", 3)
    rows = lines(folder / "pairs.train.jsonl")
    training = {i: p for i, p in pairs.items() if p[3] == "train"}
    counts = Counter(r["pair_id"] for r in rows)
    assert [counts[i] for i in training] == drawn_counts(np.asarray([p[1] for p in training.values()]), 3).tolist()
    held = lines(folder / "pairs.validation.jsonl")
    assert [r["pair_id"] for r in held] == [i for i, p in pairs.items() if p[3] == "validation"]
    for row in [*rows, *held]:
        pair, v, _, _ = pairs[row["pair_id"]]
        assert row.get("pair_weight") == v
        if to == "swift":
            assert row["messages"] == [*pair.context, {"role": "assistant", "content": pair.chosen}]
            assert row["rejected_response"] == pair.rejected
        else:
            assert row["messages"] == pair.context
            assert [row[side]["content"] for side in ("chosen", "rejected")] == [pair.chosen, pair.rejected]


def test_openrlhf_reads_its_rows(export):
    """Against the package where it is installed, which takes a GPU; else against its documented keys, above."""
    module = pytest.importorskip("openrlhf.datasets.reward_dataset", reason="OpenRLHF is not installed")
    row = lines(export("openrlhf") / "pairs.train.jsonl")[0]

    def template(messages, tokenize=False, add_generation_prompt=False):
        return "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>" * add_generation_prompt

    prompt, chosen, rejected, _ = module.preprocess_data(
        row, prompt_key="prompt", chosen_key="chosen", rejected_key="rejected", apply_chat_template=template
    )
    assert prompt.endswith("<assistant>")
    assert (chosen, rejected) == (row["chosen"][0]["content"], row["rejected"][0]["content"])


def test_verl_rows_have_what_it_asks_for(export, pairs):
    folder = export("verl")
    rows = pq.read_table(folder / "train.parquet").to_pylist()
    w = {p.prefix.id: w for p, _, w, part in pairs.values() if part == "train"}
    assert summed(rows, ids=lambda row: row["extra_info"]) == pytest.approx(w)
    assert [r["extra_info"]["index"] for r in rows] == list(range(sum(map(len, contexts(pairs, "train").values()))))
    for row in rows:
        assert set(row) == {"data_source", "prompt", "ability", "reward_model", "extra_info", "weight"}
        assert opening_of(row) == row["extra_info"]["opening_id"]
    passed = pq.read_table(folder / "train.drawn.parquet").to_pylist()
    assert all(row == {k: v for k, v in rows[row["extra_info"]["index"]].items() if k != "weight"} for row in passed)
    assert len(passed) == len(rows)
    drawn = Counter(r["extra_info"]["index"] for r in passed)
    for opening, total in w.items():
        counts = [drawn[r["extra_info"]["index"]] for r in rows if r["extra_info"]["opening_id"] == opening]
        expected = len(rows) * total / sum(w.values())
        assert np.floor(expected - 1e-9) <= sum(counts) <= np.ceil(expected + 1e-9)
        assert max(counts) - min(counts) <= 1


def test_verl_sampler_draws_by_weight_and_goes_on_where_it_was():
    weights = [4.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 1.0]
    sampler = DensitySampler({"weight": weights}, {"seed": 5})
    passes = [list(sampler) for _ in range(50)]
    assert len(sampler) == 8
    for rows in passes:
        counts = Counter(rows)
        for i, w in enumerate(weights):
            assert np.floor(8 * w / 10 - 1e-9) <= counts[i] <= np.ceil(8 * w / 10 + 1e-9)
    assert passes[0] != passes[1]
    again = DensitySampler({"weight": weights}, {"seed": 5})
    steps = iter(again)
    head = [next(steps) for _ in range(3)]
    later = DensitySampler({"weight": weights}, {"seed": 5})
    later.load_state_dict(again.state_dict())
    assert head + list(later) == passes[0]
    assert list(later) == passes[1]

    class Frame(dict):
        column_names = ("prompt",)

    with pytest.raises(InputError, match="no column weight; it has prompt"):
        DensitySampler(Frame(), {})


@pytest.mark.parametrize("name", ["opening_id", "context_id"])
def test_verl_sampler_refuses_rows_of_which_some_have_no_id(name):
    rows = [{"opening_id": f"o{i}", "context_id": f"c{i}"} for i in range(3)]
    del rows[1][name]

    class Frame(dict):
        column_names = ("weight", "extra_info")

    with pytest.raises(InputError, match=f"1 of 3 rows have no extra_info.{name}, first row 1"):
        DensitySampler(Frame(weight=[1.0] * 3, extra_info=rows), {})


def test_another_source_is_refused(made, tmp_path, kat_cli):
    run = shutil.copytree(made / "run", tmp_path / "run")
    pairs = tmp_path / "pairs.jsonl"
    shutil.copyfile(made / "pairs.jsonl", pairs)
    out = tmp_path / "out"
    assert kat_cli("export-weights", run, "--to", "jsonl", "--out", out).rc == 0
    assert "skipped" in kat_cli("export-weights", run, "--to", "jsonl", "--out", out).stdout
    assert "--overwrite" in kat_cli("export-weights", run, "--to", "parquet", "--out", out).failed()
    with pairs.open("ab") as file:
        file.write(pairs.read_bytes().splitlines()[0] + b"\n")
    ran = kat_cli("export-weights", run, "--to", "trl", "--out", tmp_path / "o")
    assert "is not the file that" in ran.failed()
    assert not (tmp_path / "o").exists()
    pairs.unlink()
    assert "name the pairs with --pairs_path" in kat_cli("export-weights", run, "--to", "trl", "--out", out).failed()
    other = kat_cli(
        "export-weights", run, "--to", "jsonl", "--out", tmp_path / "p", "--pairs_path", made / "pairs.jsonl"
    )
    assert other.rc == 0
    (run / "pair_weights.parquet").unlink()
    assert "kat weigh-pairs" in kat_cli("export-weights", run, "--to", "trl", "--out", out).failed()
    assert kat_cli("export-weights", run, "--to", "csv", "--out", out).rc == 2


def test_weights_of_other_pairs_are_noticed(made, table):
    from kat.errors import MismatchError
    from kat.integrations.rows import weighed_pairs

    read = list(kat.read_pairs(made / "pairs.jsonl"))
    with pytest.raises(MismatchError, match=r"Row 2 of the pairs is not row 0"):
        list(weighed_pairs(read[1:], table))
    with pytest.raises(MismatchError, match="end after 599 rows"):
        list(weighed_pairs(read[:-1], table))
    with pytest.raises(MismatchError, match="is not row 600"):
        list(weighed_pairs([*read, read[0]], table))


def test_an_interrupted_export_leaves_nothing(made, tmp_path, kat_cli, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("kat.integrations.exports.trl.prompts_of", stop)
    assert kat_cli("export-weights", made / "run", "--to", "trl", "--out", tmp_path / "o").rc == 130
    assert not list(tmp_path.glob("o/*"))
