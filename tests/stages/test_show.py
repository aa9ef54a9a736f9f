"""`kat show` says again what every command said, and of weights who weighs most, least, and who pays; it only reads."""

import contextlib
import io
import json
import re
import shutil
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from making import vouch
from making_training import tiny_chat_model

from kat.reports.console.show import paying_lines, share_lines
from kat.reports.evaluation_parts import bin_name

TRAINING = ("--device", "cpu", "--precision", "float32", "--max_len", "400", "--min_prompt", "32", "--max_steps", "2")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of three sources with one output of nearly every command, and what each command said."""
    from kat.cli import main as cli

    folder = tmp_path_factory.mktemp("show")
    said = {}

    def kat(command, *more):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            cli.main([command, *map(str, more)])
        said[command] = out.getvalue()

    pairs, run = folder / "pairs.jsonl", folder / "run"
    kat("demo-data", "--out", pairs, "--pairs", 90)
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    count = Counter(row["topic"] for row in rows)
    crowd = {name for name, _ in count.most_common(5)}
    for i, row in enumerate(rows):
        row["src"] = "crowd" if row["topic"] in crowd else f"s{i % 2}"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    vouch(pairs)
    model = tiny_chat_model(folder / "tiny", texts=[json.dumps(row) for row in rows], vocabulary=1500, causal=True)
    kat("run", pairs, "--out", run, "--model", model, "--device", "cpu")
    kat("weigh-pairs", run, "--validation_share", 0.3, "--blend", 1)
    kat("export-weights", run, "--to", "trl", "--out", run / "trl")
    kat("train-rm", run, "--model", model, "--train", "head", *TRAINING)
    kat("train-dpo", run, "--policy", model, *TRAINING)
    scores = run / "rm" / "validation_scores.jsonl"
    told = ("--replicates", 50, "--out", run / "evaluation")
    kat("evaluate-rm", scores, "--pair_weights", run / "pair_weights.parquet", *told)
    kat("score", run / "rm", run, "--out", run / "scores.jsonl", "--device", "cpu")
    small = ("--device", "cpu", "--precision", "float32", "--max_new_tokens", 4, "--max_len", 400)
    few = ("--batch_size", 2, "--num_generations", 2, "--min_prompt", 32, "--max_steps", 1, "--fixed_prompts", 1)
    kat("train-grpo", run, "--reward", run / "rm", "--policy", model, *small, *few)
    kat("evaluate-policy", run / "dpo", run, "--reward", run / "rm", *small, "--prompts", 1)
    kat("sample", run, "--budget", 20, "--out", run / "ids.txt")
    kat("export", model, "--out", run / "exported")
    return folder, said


@pytest.fixture
def run(made, tmp_path):
    """A copy of the run, which names the pairs and models beside it as the first did."""
    return shutil.copytree(made[0], tmp_path / "copy") / "run"


def snapshot(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def blocks(text, folder):
    """What each label said, without times and next steps, the folder's name left out."""
    told, label = {}, None
    for line in text.splitlines():
        line = re.sub(r" +\d+\.\d s$", "", line.replace(str(folder), "FOLDER"))
        if match := re.match(r"[a-z][a-z-]+(?= )", line):
            label = match[0]
        told.setdefault(label, []).append(line)
    return told


def test_what_was_said_is_said_again(made, kat_cli):
    before = snapshot(made[0])
    ran = kat_cli("show", made[0] / "run")
    assert (ran.rc, ran.stderr) == (0, "")
    again = blocks(ran.stdout, made[0])
    assert "damaged" not in again
    compared = set()
    for text in made[1].values():
        for label, lines in blocks(text, made[0]).items():
            if label in ("next", "demo-data", "report", "export", "no"):
                continue
            # Kept nowhere: of how many texts something was left out, and what an export met in conversations.
            expected = [line for line in lines if not re.search("boilerplate keep|all exported", line)]
            shown = again[label][:-1] if again[label][-1] == "" and expected[-1] != "" else again[label]
            assert shown == expected, label
            compared.add(label)
    assert compared >= {"prefixes", "embed", "neighbors", "density", "weigh-pairs", "export-weights"}
    assert compared >= {"train-rm", "train-dpo", "train-grpo", "evaluate-rm", "evaluate-policy", "score", "sample"}
    assert "export         a model as a Hugging Face folder" in ran.stdout
    assert "report         a page of" in ran.stdout
    order = ["prefixes", "embed", "neighbors", "density", "weigh-pairs", "train-rm", "train-dpo", "train-grpo"]
    order += ["score", "evaluate-rm", "evaluate-policy", "export-weights", "export", "sample", "report", "weights"]
    assert [label for label in again if label in order] == order
    assert snapshot(made[0]) == before


def test_the_heaviest_and_lightest_with_their_nearest(run, kat_cli):
    said = kat_cli("show", run).stdout.partition("\nweights ")[2]
    ids = json.loads((run / "density" / "ids.json").read_text())
    w = np.load(run / "density" / "density_weights.npy")
    x = np.load(run / "density" / "embeddings.npy").astype(np.float64)
    openings = {
        row["id"]: row["prefix"]["messages"]
        for row in map(json.loads, (run / "prefixes_all.jsonl").open(encoding="utf-8"))
    }
    ends = re.findall(r"^    +(\d+\.\d{3})  (\w{16})  (.+)$", said, re.M)
    assert len(ends) == 10
    for i, (weight, name, text) in enumerate(ends):
        row = ids.index(name)
        assert float(weight) == pytest.approx(w[row], abs=6e-4)
        assert (w > w[row]).sum() <= i if i < 5 else (w < w[row]).sum() <= i - 5
        asked = next(one["content"] for one in openings[name] if one["role"] == "user")
        assert " ".join(asked.split()).startswith(text.rstrip("…"))
    nearest = re.findall(r"^        +(\d+\.\d{4})  (\w{16})  ", said, re.M)
    assert len(nearest) == 20
    for i, (distance, name) in enumerate(nearest):
        row = ids.index(ends[i // 2][1])
        apart = np.linalg.norm(x - x[row], axis=1)
        assert float(distance) == pytest.approx(apart[ids.index(name)], abs=2e-3)
        apart[row] = np.inf
        assert float(distance) == pytest.approx(np.sort(apart)[i % 2], abs=2e-3)


def test_shares_are_those_of_the_file(run, kat_cli):
    """By source and by density bin; and whoever has under half of their share is named, nobody else."""
    said = kat_cli("show", run / "pair_weights.parquet").stdout.partition("\nweights ")[2]
    rows = [row for row in pq.read_table(run / "pair_weights.parquet").to_pylist() if row["split"] == "train"]
    paying = set()
    for column, kind in (("src", 'source "{}"'), ("bin", "density bin {}")):
        for value in {row[column] for row in rows}:
            own = [row["v"] for row in rows if row[column] == value]
            pairs, weight = len(own) / len(rows), sum(own) / sum(row["v"] for row in rows)
            name = bin_name(value) if column == "bin" else value
            row = re.search(rf"^  {name} +(\d+) +([\d.]+)% +([\d.]+)% +([\d.]+)$", said, re.M)
            assert int(row[1]) == len(own)
            assert [float(row[2]), float(row[3])] == pytest.approx([100 * pairs, 100 * weight], abs=0.06)
            if weight < pairs / 2:
                paying.add(kind.format(value))
    named = set(re.findall(r"^  (.+) has .+% of the pairs and .+% of the weight$", said, re.M))
    assert named == paying
    assert ("nobody pays that much" in said) == (not paying)


def part(value, pairs, weight):
    return {"value": value, "pairs": int(1000 * pairs), "share_of_pairs": pairs, "share_of_weight": weight}


def test_who_pays_in_words():
    bins = [part("bin 4", 0.3, 0.149), part("bin 3", 0.2, 0.1), part("bin 0", 0.5, 0.751)]
    sources = [part("x\x1b", 0.12, 0.05), part("", 0.003, 0.0001), part("y", 0.877, 0.9499)]
    assert paying_lines({"bin": bins, "src": sources}) == [
        "  density bin 4 has 30% of the pairs and 15% of the weight",
        '  source "x\\x1b" has 12% of the pairs and 5.0% of the weight',
        "  source (none) has 0.3% of the pairs and less than 0.1% of the weight",
    ]
    nobody = paying_lines({"bin": bins[1:], "src": sources[2:]})
    assert nobody == ["  nobody pays that much:", "  each density bin and source has half of its share or more"]
    many = [part(f"s{i}", (50 - i) / 5000, 0.0) for i in range(50)]
    lines = paying_lines({"src": many})
    assert len(lines) == 11
    assert [re.search(r"s\d+", line)[0] for line in lines[:10]] == [f"s{i}" for i in range(10)]
    assert "40 more" in lines[-1]
    assert len(share_lines({"src": many})) < 30
    assert any('of one source, "y"' in line for line in share_lines({"src": [part("y", 1.0, 1.0)]}))


def test_weights_without_pair_weights(run, kat_cli):
    """Shares are then of the openings, by density bin; and how to get those of the pairs is said."""
    said = kat_cli("show", run / "density").stdout
    assert list(blocks(said, run)) == ["neighbors", "density", "weights"]
    w = np.load(run / "density" / "density_weights.npy")
    density = np.load(run / "density" / "log_density.npy")
    edges = np.quantile(density, [0.2, 0.4, 0.6, 0.8])
    bins = np.searchsorted(edges, density, side="right")
    for b in range(5):
        row = re.search(rf"^  {bin_name(b)} +(\d+) +[\d.]+% +([\d.]+)%", said, re.M)
        assert int(row[1]) == (bins == b).sum()
        assert float(row[2]) == pytest.approx(100 * w[bins == b].sum() / w.sum(), abs=0.06)
    assert "of openings" in said
    assert f"kat weigh-pairs {run / 'density'}" in said


@pytest.mark.parametrize(
    "name", ["rm", "dpo", "evaluation", "scores.jsonl", "ids.txt", "embeddings", "trl", "exported"]
)
def test_one_output_alone(run, kat_cli, name):
    ran = kat_cli("show", run / name)
    assert (ran.rc, ran.stderr) == (0, "")
    [label, *more] = [one for one in blocks(ran.stdout, run.parent) if one != "next"]
    assert not more
    assert blocks(kat_cli("show", run).stdout, run.parent)[label][0] == ran.stdout.splitlines()[0].replace(
        str(run.parent), "FOLDER"
    )


DAMAGES = [
    "prefixes_all.stats.json",
    "prefixes_all.jsonl.manifest.json",
    "embeddings/lengths.npy",
    "embeddings/manifest.json",
    "density/embeddings_metadata.json",
    "density/density_weights.npy",
    "density/neighbors/indices.npy",
    "pair_weights.stats.json",
    "pair_weights.parquet.manifest.json",
    "rm/training.json",
    "evaluation/evaluation.json",
    "evaluation/manifest.json",
    "ids.txt.probabilities.jsonl",
]


@pytest.mark.parametrize("how", ["deleted", "changed"])
@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_damaged_is_a_line_and_the_rest_is_shown(run, kat_cli, name, how):
    whole = kat_cli("show", run).stdout
    path = run / name
    content = path.read_bytes()
    path.unlink()
    if how == "changed":
        path.write_bytes(content.replace(b"1", b"7", 3) if b"1" in content else content[:-1] + b"\x7f")
    ran = kat_cli("show", run)
    assert (ran.rc, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    gone = how == "deleted" and name == "evaluation/manifest.json"  # nothing says that this is one of kat's
    assert bool([line for line in lines if line.startswith("damaged ")]) == (not gone)
    kept = [line for line in whole.splitlines() if line.startswith(("train-dpo ", "score ", "export-weights "))]
    assert len(kept) == 3
    assert [line for line in kept if line not in lines and not line.startswith("export-weights ")] == []


def test_shares_without_the_report_of_pair_weights(run, kat_cli):
    """The table tells the same."""
    table = run / "pair_weights.parquet"
    both = []
    for _ in range(2):
        said = kat_cli("show", table).stdout.partition("\nweights ")[2]
        both.append(sorted(re.findall(r"^  (?:crowd|s0|s1|bin \d) .*$", said, re.M)))
        (run / "pair_weights.stats.json").unlink(missing_ok=True)
    assert both[0] == both[1] != []


def test_pair_weights_away_from_their_run(run, kat_cli, tmp_path):
    shutil.copyfile(run / "pair_weights.parquet", tmp_path / "w.parquet")
    assert "nothing that kat wrote" in kat_cli("show", tmp_path / "w.parquet").failed()
    (run / "away").mkdir()
    moved = [path for path in run.iterdir() if path.name.startswith("pair_weights.")]
    for path in moved:
        path.rename(run / "away" / path.name)
    ran = kat_cli("show", run / "away" / "pair_weights.parquet")
    assert (ran.rc, ran.stderr) == (0, "")
    assert "texts are not known" in ran.stdout
    assert "damaged" not in ran.stdout
    assert "of weight" in ran.stdout.partition("\nweights ")[2]


def test_texts_that_are_not_there(run, kat_cli):
    (run / "prefixes_all.jsonl").unlink()
    ran = kat_cli("show", run)
    assert ran.rc == 0
    assert "prefixes_all.jsonl" in "".join(line for line in ran.stdout.splitlines() if line.startswith("damaged "))
    assert "heaviest openings" in ran.stdout


def test_nothing_to_show(run, kat_cli, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "some.txt").write_text("x")
    for name, word in (("empty", "nothing that kat wrote"), ("some.txt", "nothing"), ("nowhere", "does not exist")):
        assert word in kat_cli("show", tmp_path / name).failed()
    (run / "evaluation" / "evaluation.json").write_text("{}")
    ran = kat_cli("show", run / "evaluation")
    assert "evaluation.json" in ran.failed()
    assert ran.stdout == ""


def test_a_report_of_another_form(run, kat_cli):
    """As a later version might write it, with a manifest that vouches for it."""
    path = run / "evaluation" / "evaluation.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pairs_without_opening": "many"}))
    vouch(path.parent)
    ran = kat_cli("show", run)
    assert ran.rc == 0
    assert "evaluate-rm " not in ran.stdout
    assert "\ndamaged " in ran.stdout


def test_weights_of_vectors_from_elsewhere(kat_cli, tmp_path, monkeypatch):
    """Hostile ids are shown escaped, what is not known is left out, and 60 columns are enough."""
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.chdir(tmp_path)
    vectors = np.random.default_rng(0).normal(size=(60, 5))
    ids = [f"{i}\x1b[2J\u202e\n" for i in range(60)]
    pq.write_table(pa.table({"id": ids, "embedding": vectors.tolist()}), "v.parquet")
    assert kat_cli("density", "v.parquet", "--out", "d").rc == 0
    ran = kat_cli("show", "d")
    assert ran.rc == 0
    assert not {"\x1b", "\u202e"} & set(ran.stdout)
    said = ran.stdout.partition("\nweights ")[2]
    assert "\\x1b[2J" in said
    assert max(len(line) for line in said.splitlines() if " has " not in line) <= 60
    shutil.rmtree("d/neighbors")
    (tmp_path / "d" / "manifest.json").unlink()
    said = kat_cli("show", "d").stdout
    assert "no neighbours are kept" in said
    assert "5 heaviest openings" in said


def test_a_run_says_how_to_find_out_about_the_encoder(made):
    last = made[1]["run"].splitlines()[-2:]
    assert "encoder" in last[0]
    assert last[1].endswith(f"kat compare-weights {made[0] / 'run'} OTHER")
