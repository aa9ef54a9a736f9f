"""The table of pairs against loops over dictionaries: every column, every policy, whatever the order of the rows."""

import json
from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest

from kat import records
from kat.config import DensityOptions
from kat.data.openings import opening_id
from kat.data.pair_columns import collect_columns
from kat.density.estimators import estimate_density, query_log_density
from kat.density.weights import weigh
from kat.errors import InputError, MismatchError
from kat.neighbors.find import find_neighbors
from kat.pair_config import PairOptions
from kat.pair_weights.duplicates import JACCARD, Sketches
from kat.pair_weights.storage import COLUMNS, PairWeights, read_pair_weights, write_pair_weights
from kat.pair_weights.table import OpeningWeights, pair_table

K = 8
SEARCH = DensityOptions(k=K)


def make_pairs(seed: int = 0, openings: int = 150, pairs: int = 700) -> list[records.Pair]:
    rng = np.random.default_rng(seed)
    chance = rng.pareto(1.5, openings) + 0.2
    asked = rng.choice(openings, pairs, p=chance / chance.sum())
    return [make_pair(int(x), i, rng) for i, x in enumerate(asked)]


def make_pair(x: int, i: int, rng) -> records.Pair:
    text = f"Opening {x} " + "x" * (x % 7)
    prefix = records.Prefix(opening_id(text), [{"role": "user", "content": text}])
    chosen, rejected = f"yes {i} " + "c" * int(rng.integers(1, 30)), f"no {i} " + "r" * int(rng.integers(1, 30))
    return records.Pair(f"p{i}", prefix, chosen, rejected, f"src{i % 3}", i + 1)


def make_run(pairs, seed: int = 0, leave_out: tuple[str, ...] = (), tokens: bool = True) -> OpeningWeights:
    """Vectors in clusters, of which some are near-duplicates; rows in an order of their own."""
    rng = np.random.default_rng(seed)
    ids = sorted({p.prefix.id for p in pairs} - set(leave_out))
    centres = rng.normal(size=(30, 12))
    spread = rng.choice([0.02, 0.3, 1.0], 30)
    own = rng.integers(0, 30, len(ids))
    x = centres[own] + spread[own, None] * rng.normal(size=(len(ids), 12))
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    lengths = rng.integers(1, 80, len(ids)).astype(np.int32) if tokens else None
    embeddings = records.Embeddings(ids, x, lengths, None if lengths is None else lengths * 0)
    density = estimate_density(find_neighbors(embeddings, k=50), K)
    return OpeningWeights(embeddings, density, weigh(density).values)


def table_of(pairs, run, group_cosine: float | None = 0.95, **options) -> tuple[PairWeights, dict]:
    texts = Sketches()
    columns = collect_columns(texts.watch(pairs))
    return pair_table(columns, run, texts, PairOptions(group_cosine=group_cosine, **options), SEARCH, device="cpu")


@pytest.mark.parametrize("multiplicity", ["pair", "sqrt", "opening"])
def test_every_column_is_what_a_loop_finds(multiplicity):
    pairs = make_pairs()
    run = make_run(pairs)
    table, facts = table_of(pairs, run, multiplicity=multiplicity, validation_share=0.2, cap=4, blend=1.0)
    w = dict(zip(run.embeddings.ids, run.w.tolist(), strict=True))
    log_density = dict(zip(run.embeddings.ids, run.density.log_values.tolist(), strict=True))
    split = {p.prefix.id: s for p, s in zip(pairs, table.split, strict=True)}
    m = {x: sum(p.prefix.id == x for p in pairs) for x in split}
    raw = {x: m[x] ** {"pair": 0, "sqrt": -0.5, "opening": -1}[multiplicity] * w[x] for x in split}
    train = [p for p in pairs if split[p.prefix.id] == "train"]
    v = np.asarray([raw[p.prefix.id] for p in train])
    for _ in range(200):  # the fixed point of min(cap, s · raw) with mean 1
        v = np.minimum(4, v / v.mean())
    v = {p.id: x for p, x in zip(train, v, strict=True)}
    for i, p in enumerate(pairs):
        x = p.prefix.id
        assert (table.pair_id[i], table.row[i], table.opening_id[i], table.src[i]) == (p.id, p.row, x, p.src)
        assert (table.chosen_chars[i], table.rejected_chars[i]) == (len(p.chosen), len(p.rejected))
        assert table.m[i] == m[x]
        assert table.w[i] == pytest.approx(w[x])
        assert table.log_density[i] == log_density[x]
        if p.id in v:
            assert table.v[i] == pytest.approx(v[p.id], rel=1e-6)
            assert table.multiplicity_factor[i] * table.w[i] == pytest.approx(raw[x])
        else:
            assert table.split[i] == "validation"
            assert np.isnan(table.v[i])
    assert table.training_weights() == pytest.approx(v)
    assert np.mean(list(table.training_weights().values())) == pytest.approx(1)
    assert facts["weights"]["pairs"] == len(train)
    assert facts["split"]["train"]["pairs"] + facts["split"]["validation"]["pairs"] == len(pairs)
    assert 0.15 < facts["split"]["validation"]["pairs"] / len(pairs) <= 0.2


def common(a: str, b: str) -> float:
    """Jaccard of runs of five letters, from Python's sets."""
    plain = (f" {' '.join(text.lower().split())} " for text in (a, b))
    one, other = ({text[i : i + 5] for i in range(len(text) - 4)} for text in plain)
    return len(one & other) / len(one | other)


def test_no_near_duplicate_is_on_the_other_side():
    pairs = make_pairs()
    run = make_run(pairs)
    place = {x: i for i, x in enumerate(run.embeddings.ids)}
    cosines = run.embeddings.vectors.astype(np.float64) @ run.embeddings.vectors.T.astype(np.float64)

    def leak(table) -> float:
        sides = [
            {x for x, s in zip(table.opening_id, table.split, strict=True) if s == part}
            for part in ("train", "validation")
        ]
        train, other = ([place[x] for x in side] for side in sides)
        return float((cosines[np.ix_(other, train)].max(axis=1) >= 0.95).mean())

    grouped, facts = table_of(pairs, run, validation_share=0.2)
    assert leak(grouped) == facts["split"]["leak"]["share"] == 0
    single, facts = table_of(pairs, run, validation_share=0.2, split="opening")
    assert leak(single) == pytest.approx(facts["split"]["leak"]["share"])
    assert leak(single) > 0.1
    # The expectation over splits by opening, which both report alike.
    drawn = [table_of(pairs, run, validation_share=0.2, split="opening", seed=s)[0] for s in range(40)]
    assert np.mean([leak(t) for t in drawn]) == pytest.approx(facts["split"]["leak_by_opening"]["all"], abs=0.05)
    none, facts = table_of(pairs, run, split="none")
    assert set(none.split) == {"train"}
    assert facts["split"]["leak"] == {}


def make_slips() -> list[records.Pair]:
    """Openings of which some differ in a letter or two at the end, and which share little else."""
    words = [f"{'abcdefghijkmnopqrstuvwz'[i % 23] * 3}{i}" for i in range(400)]
    rng = np.random.default_rng(5)
    asked = [" ".join(rng.choice(words, 12)) for _ in range(60)]
    texts = [f"{text}{'y' * slip}" for text in asked for slip in range(int(rng.integers(1, 5)))]
    pairs = make_pairs(pairs=700)
    own = rng.integers(0, len(texts), 700)
    prefixes = [records.Prefix(opening_id(texts[x]), [{"role": "user", "content": texts[x]}]) for x in own]
    return [replace(pair, prefix=prefix) for pair, prefix in zip(pairs, prefixes, strict=True)]


def test_groups_by_text_know_nothing_of_the_vectors():
    pairs = make_slips()
    one, facts = table_of(pairs, make_run(pairs), group_cosine=None, validation_share=0.2)
    other, _ = table_of(pairs, make_run(pairs, seed=1), group_cosine=None, validation_share=0.2)
    assert one.group.tolist() == other.group.tolist()
    assert one.split.tolist() == other.split.tolist()
    text = {p.prefix.id: p.prefix.opening for p in pairs}
    near = {(x, y) for x in text for y in text if x != y and common(text[x], text[y]) >= JACCARD}
    assert len(near) > 20
    side, group = (dict(zip(one.opening_id, column, strict=True)) for column in (one.split, one.group))
    assert all(group[x] == group[y] and side[x] == side[y] for x, y in near)
    assert facts["split"]["leak"]["share"] == 0
    assert (facts["split"]["group_cosine"], facts["split"]["group_jaccard"]) == (None, JACCARD)
    single, facts = table_of(pairs, make_run(pairs), group_cosine=None, validation_share=0.2, split="opening")
    side = dict(zip(single.opening_id, single.split, strict=True))
    leaks = {x for x, y in near if side[x] == "validation" and side[y] == "train"}
    validates = sum(s == "validation" for s in side.values())
    assert facts["split"]["leak"] == {"openings": validates, "share": pytest.approx(len(leaks) / validates)}
    assert 0 < len(leaks) < validates


def test_groups_by_text_do_not_depend_on_the_order_and_stay_for_controls():
    pairs = make_slips()
    run = make_run(pairs, leave_out=(pairs[0].prefix.id,))
    one, _ = table_of(pairs, run, group_cosine=None, missing_weight="one")
    order = np.random.default_rng(1).permutation(len(pairs))
    other, _ = table_of([pairs[i] for i in order], run, group_cosine=None, missing_weight="one")
    assert other.split.tolist() == one.split[order].tolist()
    permuted, _ = table_of(pairs, run, group_cosine=None, missing_weight="one", control="permuted")
    assert permuted.split.tolist() == one.split.tolist()


def test_density_is_measured_among_the_openings_that_train():
    pairs = make_pairs()
    run = make_run(pairs)
    table, facts = table_of(pairs, run, validation_share=0.2, multiplicity="pair")
    x = {i: v.astype(np.float64) for i, v in zip(run.embeddings.ids, run.embeddings.vectors, strict=True)}
    split = dict(zip(table.opening_id, table.split, strict=True))
    among = dict(zip(table.opening_id, table.train_log_density, strict=True))
    train = [i for i in split if split[i] == "train"]
    for one in split:
        distances = sorted(float(np.linalg.norm(x[one] - x[t])) for t in train if t != one)
        assert among[one] == pytest.approx(-np.log(np.mean(distances[:K])), abs=1e-4)
    ordered = sorted(among[t] for t in train)
    edges = [np.quantile(ordered, q) for q in (0.2, 0.4, 0.6, 0.8)]
    for one, b in zip(table.opening_id, table.bin, strict=True):
        assert b == sum(among[one] >= e for e in edges)
    rare = table.bin[table.split == "train"] == 0
    v = table.v[table.split == "train"]
    assert v[rare].mean() > 1 > v[table.bin[table.split == "train"] == 4].mean()
    assert facts["bins"][0]["mean_v"] == pytest.approx(v[rare].mean())
    assert sum(b["share_of_weight"] for b in facts["bins"]) == pytest.approx(1)


def test_another_mean_is_taken_off_the_openings_that_train():
    pairs = make_pairs()
    run, centred = make_run(pairs), DensityOptions(k=K, center=True)
    run = replace(run, density=estimate_density(find_neighbors(run.embeddings, 50, center=True), K))
    options = PairOptions(group_cosine=0.95, validation_share=0.2)
    table, _ = pair_table(collect_columns(pairs), run, Sketches(), options, centred, device="cpu")
    row = {one: i for i, one in enumerate(run.embeddings.ids)}
    sides = [
        sorted({row[x] for x in table.opening_id[table.split == side].tolist()}) for side in ("train", "validation")
    ]
    train, validation = (run.embeddings.vectors[rows] for rows in sides)
    density = estimate_density(find_neighbors(train, K, center=True), K)
    asked = query_log_density(find_neighbors(train, K, center=True, queries=validation), density)
    among = dict(zip([*sides[0], *sides[1]], [*density.log_values, *asked], strict=True))
    for one, value in zip(table.opening_id, table.train_log_density, strict=True):
        assert value == pytest.approx(among[row[one]], abs=1e-9)


def test_a_query_has_the_density_that_it_would_have_as_a_row():
    x = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    whole = estimate_density(find_neighbors(x, k=K), K)
    for row in range(5):
        rest = np.delete(x, row, axis=0)
        among = estimate_density(find_neighbors(rest, k=K), K)
        found = query_log_density(find_neighbors(rest, K, queries=x[row : row + 1]), among)
        assert found[0] == pytest.approx(whole.log_values[row], abs=1e-5)


def test_the_order_of_rows_changes_no_pair():
    pairs = make_pairs()
    run = make_run(pairs)
    one, _ = table_of(pairs, run)
    order = np.random.default_rng(1).permutation(len(pairs))
    other, _ = table_of([pairs[i] for i in order], run)
    for name in set(COLUMNS) - {"group", "cluster"}:
        found, wanted = getattr(other, name), getattr(one, name)[order]
        if found.dtype == object:
            assert found.tolist() == wanted.tolist()
        else:
            np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_openings_without_a_weight():
    pairs = make_pairs()
    missing = tuple(sorted({p.prefix.id for p in pairs})[:5])
    run = make_run(pairs, leave_out=missing)
    rows = [i for i, p in enumerate(pairs) if p.prefix.id in missing]
    with pytest.raises(MismatchError, match=rf"5 openings .* have no density weight, first \w+ in row {rows[0] + 1}"):
        table_of(pairs, run)
    table, facts = table_of(pairs, run, missing_weight="one", split="none", blend=1.0, multiplicity="sqrt")
    assert facts["openings_without_weight"] == 5
    assert (table.w[rows] == 1).all()
    assert np.isnan(table.log_density[rows]).all()
    assert (table.bin[rows] == -1).all()
    assert table.v[rows] == pytest.approx(table.multiplicity_factor[rows] / facts["weights"]["mean_before_normalising"])
    table, facts = table_of(pairs, run, missing_weight="drop")
    assert (table.left_out[rows] != "").all()
    assert (table.split[rows] == "").all()
    assert (table.m[rows] == 0).all()
    assert facts["left_out"] == {"its opening has no density weight": len(rows)}
    assert np.nanmean(table.v) == pytest.approx(1)


def test_copies_are_kept_unless_told():
    pairs = make_pairs(pairs=200)
    copies = [replace(p, id=f"copy{i}", row=201 + i) for i, p in enumerate(pairs[:50])]
    run = make_run(pairs)
    kept, facts = table_of([*pairs, *copies], run)
    assert facts["exact_duplicates"] == 50
    assert (kept.left_out == "").all()
    dropped, _ = table_of([*pairs, *copies], run, duplicates="drop")
    assert set(dropped.left_out[200:]) == {"exact duplicate of an earlier pair"}
    plain, _ = table_of(pairs, run)
    np.testing.assert_array_equal(dropped.v[:200], plain.v)
    np.testing.assert_array_equal(dropped.m[:200], plain.m)


def test_controls_keep_the_split_and_change_the_weights():
    pairs = make_pairs()
    run = make_run(pairs)
    plain, facts = table_of(pairs, run)
    for control in ("uniform", "permuted", "multiplicity", "length"):
        multiplicity = "sqrt" if control == "multiplicity" else "pair"
        other, theirs = table_of(pairs, run, control=control, multiplicity=multiplicity)
        assert other.split.tolist() == plain.split.tolist()
        np.testing.assert_array_equal(other.bin, plain.bin)
        assert np.nanmean(other.v) == pytest.approx(1)
        if control in ("permuted", "length"):
            assert theirs["weights"]["ess_openings"] == pytest.approx(facts["weights"]["ess_openings"], rel=1e-3)
        if control == "permuted":
            assert theirs["weights"]["ess_to_match"] == pytest.approx(facts["weights"]["ess_pairs"])
            assert sorted(set(np.round(other.u[other.split == "train"], 6))) != []
            moved, _ = table_of(pairs, run, control=control, control_seed=1)
            assert moved.split.tolist() == plain.split.tolist()
            assert (moved.v[moved.split == "train"] != other.v[moved.split == "train"]).any()
            same, _ = table_of(pairs, run, control=control, seed=0, control_seed=0)
            np.testing.assert_array_equal(same.v, other.v)
    uniform, _ = table_of(pairs, run, control="uniform")
    assert set(uniform.v[uniform.split == "train"].tolist()) == {1.0}
    lone, _ = table_of(pairs, run, control="multiplicity", multiplicity="opening", cap=1e9, split="none")
    assert lone.v * lone.m == pytest.approx(np.full(len(lone), lone.v[0] * lone.m[0]))
    by_length, _ = table_of(pairs, make_run(pairs, tokens=False), control="length", split="none", multiplicity="pair")
    chars = np.asarray([len(p.prefix.opening) for p in pairs])
    order = np.argsort(chars, kind="stable")
    assert (np.diff(by_length.v[order]) <= 1e-9).all()


def totals(labels, values) -> dict[str, float]:
    found = dict.fromkeys(labels, 0.0)
    for label, value in zip(labels, values, strict=True):
        found[label] += value
    return found


def labelled(pairs):
    """Pairs of three tasks, one of which is rare, by their opening; the third task's pairs are of two sources."""
    return [replace(p, labels={"task": "abc"[min(int(p.prefix.id[0], 16) // 6, 2)]}) for p in pairs]


def test_strata_are_columns_of_the_pairs_or_clusters():
    pairs = labelled(make_pairs())
    run = make_run(pairs)
    plain, _ = table_of(pairs, run, blend=1.0)
    train = plain.split == "train"
    task = np.asarray([p.labels["task"] for p in pairs])
    even, _ = table_of(pairs, run, within="task", blend=1.0, cap=1e6)
    assert totals(task[train], even.v[train]) == pytest.approx(totals(task[train], np.ones(train.sum())))
    smooth, _ = table_of(pairs, run, smooth="task", blend=1.0, cap=1e6)
    assert totals(task[train], smooth.v[train]) == pytest.approx(totals(task[train], plain.v[train]), rel=1e-6)
    assert len(set(np.round(smooth.v[train], 9).tolist())) == 3
    for source in set(plain.src.tolist()):
        own, _ = table_of(pairs, run, within="src", blend=1.0, cap=1e6)
        assert own.v[train & (plain.src == source)].mean() == pytest.approx(1)
    by_cluster, facts = table_of(pairs, run, smooth="cluster", clusters=7, blend=1.0)
    assert facts["weights"]["clusters"] == 7
    assert len(set(np.round(by_cluster.v[train], 9).tolist())) == 7
    assert all(len(set(by_cluster.cluster[by_cluster.opening_id == x])) == 1 for x in by_cluster.opening_id)


def test_known_groups_stand_in_for_density():
    pairs = labelled(make_pairs())
    table, facts = table_of(pairs, make_run(pairs), groups="task", blend=1.0, cap=1e6, split="none")
    task = np.asarray([p.labels["task"] for p in pairs])
    counts = Counter(task.tolist())
    power = facts["weights"]["group_temperature"]
    raw = {x: counts[x] ** -power for x in counts}
    mean = np.mean([raw[x] for x in task])
    assert table.v == pytest.approx([raw[x] / mean for x in task])
    assert power == 1  # three groups of like size are far from the floor
    permuted, _ = table_of(pairs, make_run(pairs), groups="task", blend=1.0, split="none", control="permuted")
    assert len(set(np.round(permuted.v, 9).tolist())) == 3


def test_the_report_says_who_pays():
    pairs = labelled(make_pairs())
    table, facts = table_of(pairs, make_run(pairs), task="task", blend=1.0, multiplicity="opening")
    train = table.split == "train"
    task = np.asarray([p.labels["task"] for p in pairs])[train]
    assert set(facts["pays"]) == {"src", "task"}
    for one in facts["pays"]["task"]:
        own = task == one["value"]
        assert one["pairs"] == own.sum()
        assert one["share_of_pairs"] == pytest.approx(own.mean())
        assert one["share_of_weight"] == pytest.approx(table.v[train][own].sum() / train.sum())
    means = [one["share_of_weight"] / one["share_of_pairs"] for one in facts["pays"]["task"]]
    assert means == sorted(means)


def test_nothing_to_train_is_refused():
    pairs = make_pairs(pairs=20)
    with pytest.raises(InputError, match="No pair is left"):
        table_of(
            pairs,
            make_run(make_pairs(seed=0, openings=150), leave_out=tuple(p.prefix.id for p in pairs)),
            missing_weight="drop",
        )


def test_a_file_gives_back_what_was_written(tmp_path):
    pairs = make_pairs()
    run = make_run(pairs, leave_out=(pairs[0].prefix.id,))
    table, _ = table_of(pairs, run, missing_weight="drop", smooth="cluster", clusters=5)
    assert set(table.cluster[table.left_out == ""].tolist()) == set(range(5))
    with (tmp_path / "w.parquet").open("wb") as file:
        write_pair_weights(table, file, '{"a": 1}')
    found = read_pair_weights(tmp_path / "w.parquet")
    assert [f.name for f in fields(found)][:-2] == list(COLUMNS)
    for name in COLUMNS:
        one, other = getattr(found, name), getattr(table, name)
        assert (one.tolist() == other.tolist()) if other.dtype == object else np.array_equal(one, other, equal_nan=True)
    import pyarrow.parquet as pq

    raw = pq.read_table(tmp_path / "w.parquet")
    assert raw.schema.metadata[b"kat"] == b'{"a": 1}'
    nulls = {name: raw[name].null_count for name in COLUMNS}
    out = int((table.left_out != "").sum())
    assert nulls["split"] == nulls["bin"] == nulls["log_density"] == out > 0
    assert nulls["left_out"] == len(table) - out
    assert nulls["v"] == int((table.split != "train").sum())
    assert nulls["pair_id"] == nulls["m"] == nulls["group"] == 0


def test_openings_are_drawn_by_the_blend_of_their_weights(tmp_path):
    pairs = labelled(make_pairs())
    table, facts = table_of(pairs, make_run(pairs), blend=0.4, within="task", multiplicity="sqrt", validation_share=0.2)
    with (tmp_path / "w.parquet").open("wb") as file:
        write_pair_weights(table, file, json.dumps(facts, default=float))
    found = read_pair_weights(tmp_path / "w.parquet")
    assert found.blend == 0.4
    draws = found.draw_weights()
    u, w = {}, {}
    for x, one, other, side in zip(table.opening_id, table.u, table.w, table.split, strict=True):
        w[x] = other
        if side == "train":
            u.setdefault(x, []).append(one)
    u = {x: np.mean(values) for x, values in u.items()}
    mean, mean_w = np.mean(list(u.values())), np.mean([w[x] for x in u])
    assert draws == pytest.approx({x: 0.4 * (u[x] / mean if x in u else w[x] / mean_w) + 0.6 for x in w})
    assert np.mean([draws[x] for x in u]) == pytest.approx(1)
    assert set(found.draw_weights(0).values()) == {1.0}
    with (tmp_path / "old.parquet").open("wb") as file:
        write_pair_weights(table, file, "{}")
    assert read_pair_weights(tmp_path / "old.parquet").blend == 1.0


def test_files_that_are_none(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pytest.raises(InputError, match=r"does not exist\. Make it with: kat weigh-pairs"):
        read_pair_weights(tmp_path / "no.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(InputError, match="is no parquet file"):
        read_pair_weights(tmp_path / "text.parquet")
    pq.write_table(pa.table({"pair_id": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match="has no column row, opening_id"):
        read_pair_weights(tmp_path / "other.parquet")
    pairs = make_pairs(pairs=60)
    table, _ = table_of(pairs, make_run(pairs), split="none")
    table.pair_id[1] = table.pair_id[0]
    with (tmp_path / "twice.parquet").open("wb") as file:
        write_pair_weights(table, file, "{}")
    with pytest.raises(MismatchError, match="holds the pair id p0 2 times"):
        read_pair_weights(tmp_path / "twice.parquet")
