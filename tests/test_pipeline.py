"""`kat.run` computes what `kat run` and `kat weigh-pairs` write, from files or from what Python holds."""

import json

import numpy as np
import orjson
import pytest

import kat
from kat.config import DensityOptions, EmbedOptions, ReadOptions, RunOptions
from kat.demo.grammar import demo_pairs
from kat.errors import BadRowsError, InputError, OptionError
from kat.neighbors.storage import load_neighbors
from kat.pair_config import PairOptions
from kat.pair_weights.storage import COLUMNS
from kat.pipeline import WeighedPairs
from kat.stages.run import run as run_stages
from kat.stages.weigh_pairs import weigh_pairs

SYSTEM = "You are a patient assistant who answers every question with care and with all of the detail it needs."


@pytest.fixture(scope="module")
def rows():
    """Demo pairs with two sources and a system prompt, which is boilerplate; some openings have several contexts."""
    pairs = [row for row in demo_pairs(160, 0, topics=8) if '"system"' not in json.dumps(row)]
    return [row | {"src": f"s{i % 3}", "system": SYSTEM} for i, row in enumerate(pairs)]


@pytest.fixture(scope="module")
def folder(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "pairs.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return folder


def written(folder, name, embed, density, weighing, reading):
    """The run of the files, and its table of pair weights."""
    options = RunOptions(device="cpu")
    run_stages(folder / "pairs.jsonl", folder / name, embed, density, options, reading=reading)
    return folder / name, kat.read_pair_weights(weigh_pairs(folder / name, None, None, weighing, options))


def assert_same(result, run, table):
    embeddings = np.load(run / "embeddings" / "embeddings.npy")
    assert result.embeddings.ids == json.loads((run / "density" / "ids.json").read_text())
    assert np.array_equal(result.embeddings.vectors, embeddings)
    assert [prefix.id for prefix in result.prefixes] == result.embeddings.ids
    stored = load_neighbors(run / "density" / "neighbors", result.embeddings)
    for name in ("indices", "distances", "distinct_distances", "multiplicity"):
        assert np.array_equal(getattr(result.neighbors, name), getattr(stored, name)), name
    assert np.array_equal(result.density.log_values, np.load(run / "density" / "log_density.npy"))
    assert np.array_equal(result.weights.values, np.load(run / "density" / "density_weights.npy"))
    assert result.pair_weights.blend == table.blend
    for name in COLUMNS:
        ours, theirs = getattr(result.pair_weights, name), getattr(table, name)
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            is_text = np.asarray(ours).dtype.kind in "OUT"
            assert np.array_equal(np.asarray(ours), np.asarray(theirs), equal_nan=not is_text), name


CHOICES = {
    "defaults": ({"precision": "float32"}, {}, {}, {}),
    "others": (
        {"precision": "float32", "text": "last", "boilerplate": "keep", "max_tokens": 64},
        {"k": 60, "metric": "euclidean", "estimator": "kth_distance", "ess": 0.7, "cap": 4.0},
        {"blend": 1.0, "smooth": "cluster", "clusters": 5, "within": "src", "seed": 3, "validation_share": 0.2},
        {"unit": "context"},
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CHOICES)
def test_numbers_are_those_of_the_files(name, rows, folder):
    embed, density, weighing, reading = CHOICES[name]
    options = EmbedOptions(**embed), DensityOptions(**density), PairOptions(**weighing), ReadOptions(**reading)
    run, table = written(folder, name, *options)
    flat = embed | density | weighing
    given = {"reading": options[3], "device": "cpu", "pair_weights": True}
    assert_same(kat.run(rows, **given, **flat), run, table)
    result = kat.run(folder / "pairs.jsonl", **given, **flat)
    assert_same(result, run, table)
    assert bool(result.boilerplate) == (name == "defaults")
    assert result.stats.pairs == len(rows)


@pytest.mark.filterwarnings("ignore")
def test_whatever_holds_the_pairs(rows, folder):
    pandas = pytest.importorskip("pandas")
    options = {"device": "cpu", "precision": "float32", "pair_weights": True}
    expected = kat.run(rows, **options)
    reader = kat.read_pairs(rows)
    for held in (pandas.DataFrame(rows), list(kat.read_pairs(rows)), reader):
        result = kat.run(held, **options)
        assert np.array_equal(result.weights.values, expected.weights.values)
        assert result.pair_weights.training_weights() == expected.pair_weights.training_weights()
        assert result.stats.pairs == len(rows)
    alone = kat.run(rows, device="cpu", precision="float32")
    assert alone.pair_weights is None
    assert alone.weights == expected.weights
    capped = kat.run(rows, device="cpu", precision="float32", cap=5.0, pair_weights=PairOptions(cap=2.0), blend=1.0)
    assert capped.weights.cap == 5
    assert capped.pair_weights.blend == 1
    assert np.nanmax(capped.pair_weights.v) <= 2 + 1e-6


@pytest.mark.filterwarnings("ignore")
def test_the_record_is_frozen_and_short(rows):
    result = kat.run(rows[:40], k=5, device="cpu", pair_weights=True)
    assert isinstance(result, WeighedPairs)
    assert len(result) == len(result.prefixes) == len(result.weights)
    text = repr(result)
    assert len(text) < 200
    assert "\n" not in text
    assert f"40 pairs, {len(result)} openings, model minilm, k 5, ESS" in text
    with pytest.raises(AttributeError):
        result.weights = None


def test_few_texts_are_said(rows):
    with pytest.warns(UserWarning, match="k is 2, not 20: there are only 3 texts"):
        kat.run([{**row, "prompt": f"q {i}"} for i, row in enumerate(PLAIN[:3])], device="cpu")


PLAIN = [{"prompt": f"question {i}", "chosen": "a", "rejected": "b"} for i in range(4)]


def test_bad_rows_have_the_limit_of_files(capsys):
    bad = [*PLAIN, {"prompt": "q", "chosen": "a", "rejected": "a"}]
    with pytest.raises(BadRowsError, match="row 5 of the list"):
        kat.run(bad, k=2)
    assert "passed over" not in capsys.readouterr().err
    assert kat.run(bad, k=2, max_bad_rows=1, device="cpu").stats.bad == 1
    assert "1 bad rows were passed over" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_what_is_left_out_of_rows_and_texts_is_said(capsys):
    passage = "Read the passage below with great care and answer what is asked of it: "
    rows = [{"prompt": f"{passage}question {i}", "chosen": "a", "rejected": "b"} for i in range(30)]
    scored = [row | {"score_chosen": 1, "score_rejected": 0} for row in [*rows, rows[0]]]
    scored[5]["score_chosen"] = -1
    options = {"k": 3, "device": "cpu", "pair_weights": True, "duplicates": "drop"}
    result = kat.run(scored, reading=ReadOptions(score_conflict="drop"), **options)
    said = " ".join(capsys.readouterr().err.split())
    assert result.boilerplate["leading"].startswith(passage)
    assert "29 texts are embedded without what most share" in said
    assert "1 rows left out: scores against the order" in said
    assert "1 of 30 pairs have no weight: exact duplicate" in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"blned": 1}, r"run has no option 'blned'\. Did you mean blend\?"),
        ({"pair_weigths": True}, r"Did you mean pair_weights\?"),
        ({"zzz": True}, "It takes pairs, model, pair_weights, .*, k, .*, blend"),
        ({"blend": 0.5}, "blend is an option of pair weights; add pair_weights=True"),
        ({"pair_weights": "yes"}, "pair_weights is 'yes'; expected True, False or"),
        ({"k": 0}, "k is 0"),
    ],
)
def test_wrong_options(given, said):
    with pytest.raises(OptionError, match=said):
        kat.run(PLAIN, **given)


def test_pairs_lack_what_was_not_read():
    pairs = list(kat.read_pairs(PLAIN))
    with pytest.raises(InputError, match=r"do not carry the column 'task'; give the rows"):
        kat.run(pairs, pair_weights=True, within="task")
    with pytest.raises(OptionError, match="pairs already"):
        kat.run(pairs, reading=ReadOptions(unit="context"))
    with pytest.raises(InputError, match=r"run was given a list whose item 5 is a dict; expected kat\.Pair"):
        kat.run([*pairs, PLAIN[0]])


def test_names_of_options_say_whose_they_are():
    """One name for two things is only the cap, which is that of the openings' weights."""
    import dataclasses

    embed, density, weighing = (
        {f.name for f in dataclasses.fields(c)} for c in (EmbedOptions, DensityOptions, PairOptions)
    )
    assert embed & density == embed & weighing == set()
    assert density & weighing == {"cap"}


def test_misspelt_options_name_the_near_one():
    from kat.training.train_dpo import train_dpo

    calls = [
        (lambda: kat.encode(["a"], batchsize=2), "encode has no option 'batchsize'. Did you mean batch_size?"),
        (lambda: kat.encode(["a"], devise="cpu"), "Did you mean device?"),
        (lambda: kat.encode(["a"], boilerplate="drop"), "encode has no option 'boilerplate'."),  # it sees no file
        (lambda: kat.Encoder(inside_text="read"), "Encoder has no option 'inside_text'."),
        (lambda: kat.Encoder(poling="mean"), "Encoder has no option 'poling'. Did you mean pooling?"),
        (lambda: kat.find_neighbors(np.eye(3), metrics="cosine"), "Did you mean metric?"),
        (lambda: kat.estimate_density(None, estimater="kth_distance"), "Did you mean estimator?"),
        (lambda: kat.weigh([1.0, 2.0], temprature=1), "weigh has no option 'temprature'. Did you mean temperature?"),
        (lambda: kat.weigh_pairs([0], [1.0], multiplicty="pair"), "Did you mean multiplicity?"),
        (lambda: kat.train_reward_model([], learningrate=1), "Did you mean learning_rate?"),
        (lambda: train_dpo([], betta=1), "train_dpo has no option 'betta'. Did you mean beta?"),
        (lambda: kat.weigh([1.0, 2.0], zzz=1), "It takes density, ess, cap, temperature, max_temperature."),
    ]
    for call, said in calls:
        with pytest.raises(OptionError) as error:
            call()
        assert said in str(error.value)


def test_a_warning_points_at_the_caller():
    with pytest.warns(UserWarning, match="k is 2, not 9") as caught:
        kat.find_neighbors(np.eye(3, dtype=np.float32), k=9, device="cpu")
    assert caught[0].filename == __file__


def test_a_table_of_the_openings():
    weighed = kat.run(
        [{"prompt": f"q{i % 7}", "chosen": "good", "rejected": f"bad {i}"} for i in range(12)], k=3, pair_weights=False
    )
    frame = weighed.to_pandas()
    assert frame.columns.tolist() == ["id", "opening", "weight", "log_density"]
    assert frame["id"].tolist() == list(weighed.weights.ids)
    assert frame["opening"].tolist() == [one.opening for one in weighed.prefixes] == [f"q{i}" for i in range(7)]
    assert frame["weight"].tolist() == weighed.weights.values.tolist()


def test_a_reader_says_how_far_it_is(tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "q", "chosen": "good", "rejected": "bad"}\n' * 3)
    pairs = kat.read_pairs(tmp_path / "p.jsonl")
    assert repr(pairs) == f"PairReader({tmp_path / 'p.jsonl'}, 0 pairs so far)"
    list(pairs)
    assert repr(pairs) == f"PairReader({tmp_path / 'p.jsonl'}, 3 pairs so far)"
