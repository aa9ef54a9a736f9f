"""The main job from end to end: the formats on disk, what is skipped, and what verification catches."""

import json
import random
import shutil

import numpy as np
import orjson
import pytest
import torch
from making import vouch

import kat
from kat.cli.main import main
from kat.config import DensityOptions, EmbedOptions, RunOptions, SampleOptions
from kat.demo.check import check_demo
from kat.demo.grammar import demo_pairs
from kat.digests import sha256_file
from kat.errors import InputError, MismatchError, OptionError, OutputError
from kat.stages.density import compute_offline, explain, weigh_openings
from kat.stages.embed import embed_file
from kat.stages.run import run as run_stages
from kat.stages.sample import sample_openings
from kat.stages.verify import verify
from kat.statistics import effective_sample_size

FLOAT32 = EmbedOptions(precision="float32")


def write_pairs(path, n=300, seed=0, order=None):
    rows = list(demo_pairs(n, seed, topics=8))
    if order is not None:
        random.Random(order).shuffle(rows)
    path.write_bytes(b"".join(orjson.dumps(r) + b"\n" for r in rows))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One run, never changed by a test."""
    folder = tmp_path_factory.mktemp("made")
    pairs = write_pairs(folder / "pairs_all.jsonl")
    run_stages(pairs, folder / "run", FLOAT32, DensityOptions(), RunOptions())
    return folder / "run"


@pytest.fixture
def run(made, tmp_path):
    """A copy to damage."""
    return shutil.copytree(made, tmp_path / "run")


def test_the_four_files_are_plain_and_agree(made):
    folder = made / "density"
    ids = json.loads((folder / "ids.json").read_text())
    vectors = np.load(folder / "embeddings.npy", allow_pickle=False)
    weights = np.load(folder / "density_weights.npy", allow_pickle=False)
    meta = json.loads((folder / "embeddings_metadata.json").read_text())
    lines = [json.loads(line) for line in (made / "prefixes_all.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ids
    assert vectors.dtype == weights.dtype == np.float32
    assert vectors.shape == (len(ids), 384)
    assert weights.shape == (len(ids),)
    assert weights.mean(dtype=np.float64) == pytest.approx(1, abs=1e-6)
    assert (meta["n_items"], meta["embedding_dim"], meta["k"], meta["metric"]) == (len(ids), 384, 20, "cosine")
    assert meta["effective_sample_size"] == pytest.approx(effective_sample_size(weights), rel=1e-5)
    assert meta["effective_sample_share"] >= 0.5
    assert meta["weight"]["max"] == weights.max()
    assert meta["model"]["name"] == "minilm"
    assert len(meta["model"]["sha256"]) == 64
    assert meta["input"]["items"] == sha256_file(made / "prefixes_all.jsonl")
    heaviest = [h["id"] for h in meta["heaviest"]]
    assert heaviest[0] == ids[int(np.argmax(weights))]
    assert len(heaviest) == 20
    needed = {"estimator", "temperature", "temperature_bound", "cap", "kat_version", "truncated", "duplicate_vectors"}
    assert needed <= set(meta)


def test_the_run_is_what_the_python_api_gives(made):
    prefixes = list(kat.open_prefixes(made / "prefixes_all.jsonl").values())
    embeddings = kat.encode(prefixes, precision="float32")
    weights = kat.weigh(kat.estimate_density(kat.find_neighbors(embeddings, k=20)))
    mapping = kat.load_density_mapping(made / "prefixes_all.jsonl", made / "density" / "density_weights.npy")
    assert list(mapping) == weights.ids
    np.testing.assert_allclose(list(mapping.values()), weights.values, rtol=1e-4)


def test_permuting_the_pairs_changes_nothing_but_line_order(made, tmp_path):
    pairs = write_pairs(tmp_path / "shuffled.jsonl", order=1)
    run_stages(pairs, tmp_path / "run", FLOAT32, DensityOptions(), RunOptions())
    lines = [sorted((r / "prefixes_all.jsonl").read_bytes().splitlines()) for r in (made, tmp_path / "run")]
    assert lines[0] == lines[1]
    one, other = (
        kat.load_density_mapping(r / "prefixes_all.jsonl", r / "density" / "density_weights.npy")
        for r in (made, tmp_path / "run")
    )
    assert list(one) != list(other)
    assert {i: pytest.approx(w, rel=1e-3) for i, w in one.items()} == other


def skipped(capsys) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.split()[1:2] == ["skipped:"]]


def test_a_second_run_is_skipped_and_other_options_need_leave(run, capsys):
    pairs = run.parent / "pairs_all.jsonl"
    write_pairs(pairs)
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()}
    run_stages(pairs, run, FLOAT32, DensityOptions(), RunOptions())
    assert len(skipped(capsys)) == 5  # prefixes, embed, neighbors, density, contexts
    assert {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file()} == before
    with pytest.raises(OutputError, match=r"ess = 0\.5, not 0\.8.*--overwrite"):
        run_stages(pairs, run, FLOAT32, DensityOptions(ess=0.8), RunOptions())
    assert len(skipped(capsys)) == 3
    run_stages(pairs, run, FLOAT32, DensityOptions(ess=0.8), RunOptions(overwrite=True))
    assert len(skipped(capsys)) == 4
    assert json.loads((run / "density" / "embeddings_metadata.json").read_text())["effective_sample_share"] >= 0.8
    write_pairs(pairs, seed=5)
    with pytest.raises(OutputError, match="made from another pairs"):
        run_stages(pairs, run, FLOAT32, DensityOptions(), RunOptions())


def test_a_damaged_output_is_not_taken_for_done(run):
    pairs = write_pairs(run.parent / "pairs_all.jsonl")
    with (run / "embeddings" / "embeddings.npy").open("r+b") as file:
        file.seek(5000)
        file.write(b"\0\0\0\0")
    with pytest.raises(OutputError, match=r"damaged \(embeddings\.npy does not hash"):
        run_stages(pairs, run, FLOAT32, DensityOptions(), RunOptions())


def test_kat_embed_writes_one_safe_file(tmp_path):
    data = tmp_path / "my_data.jsonl"
    rows = [{"id": 7, "prompt": "bread"}, {"prompt": "no id"}]
    rows.append({"id": "c", "prefix": {"messages": [{"role": "user", "content": "bread"}]}})
    data.write_bytes(b"".join(orjson.dumps(r) + b"\n" for r in rows))
    out = tmp_path / "my_embeddings.pt"
    embed_file(data, out, FLOAT32, RunOptions())
    found = torch.load(out, weights_only=True)
    assert found["ids"] == ["7", kat.opening_id("no id"), "c"]
    assert found["emb"].dtype == torch.float32
    assert found["emb"].shape == (3, 384)
    torch.testing.assert_close(found["emb"].norm(dim=1), torch.ones(3))
    assert (found["emb"][0] == found["emb"][2]).all()
    weigh_openings(out, tmp_path / "density", DensityOptions(), RunOptions())
    assert json.loads((tmp_path / "density" / "ids.json").read_text()) == found["ids"]
    verify(tmp_path / "density")


def test_the_offline_command_keeps_its_embeddings_when_weights_change(tmp_path, capsys):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_bytes(b"".join(orjson.dumps({"id": i, "prompt": f"question {i * i}"}) + b"\n" for i in range(40)))
    out = tmp_path / "embeddings_offline"
    compute_offline(prompts, out, FLOAT32, DensityOptions(), RunOptions())
    compute_offline(prompts, out, FLOAT32, DensityOptions(k=5), RunOptions(overwrite=True))
    assert "embed          skipped" in capsys.readouterr().out
    assert json.loads((out / "embeddings_metadata.json").read_text())["k"] == 5
    verify(out)


def test_few_rows(tmp_path, capsys):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"id": "a", "prompt": "x"}\n{"id": "b", "prompt": "y"}\n')
    compute_offline(prompts, tmp_path / "two", FLOAT32, DensityOptions(), RunOptions())
    assert capsys.readouterr().out.count("k is 1, not 20") == 1
    prompts.write_text('{"id": "a", "prompt": "x"}\n')
    compute_offline(prompts, tmp_path / "one", FLOAT32, DensityOptions(), RunOptions())
    assert np.load(tmp_path / "one" / "density_weights.npy").tolist() == [1.0]
    prompts.write_text("")
    with pytest.raises(InputError, match="no rows"):
        compute_offline(prompts, tmp_path / "none", FLOAT32, DensityOptions(), RunOptions())


@pytest.mark.parametrize("command", ["embed", "run"])
def test_a_model_name_is_judged_before_anything_is_read(tmp_path, capsys, command):
    with pytest.raises(SystemExit) as stopped:
        main([command, str(write_pairs(tmp_path / "p.jsonl")), "--out", str(tmp_path / "o"), "--model", "nonsense"])
    assert stopped.value.code == 2
    assert "minilm" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_missing_file_is_said_before_an_unknown_model(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["run", str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "o"), "--model", "nonsense"])
    assert "none.jsonl does not exist" in capsys.readouterr().err


# --- verification -----------------------------------------------------------------------------------------------------


def test_a_whole_run_verifies(made):
    assert any("weights, finite, positive, of mean 1.000000" in line for line in verify(made))


def damage_weights(run, row, value):
    path = run / "density" / "density_weights.npy"
    weights = np.load(path)
    weights[row] = value
    path.unlink()
    np.save(path, weights)


@pytest.mark.parametrize("value", [np.nan, 0.0, -1.0, np.inf])
def test_a_wrong_weight_is_named(run, value):
    damage_weights(run, 5, value)
    name = json.loads((run / "density" / "ids.json").read_text())[5]
    with pytest.raises(MismatchError, match=rf"row 5 \(id {name}\)"):
        verify(run / "density")


def test_a_wrong_mean_is_seen(run):
    damage_weights(run, 3, 50.0)
    with pytest.raises(MismatchError, match="mean weight"):
        verify(run / "density")


def test_a_vector_of_another_length_is_named(run):
    path = run / "density" / "embeddings.npy"
    vectors = np.load(path)
    vectors[9] *= 2
    path.unlink()
    np.save(path, vectors)
    with pytest.raises(MismatchError, match=r"row 9 .* has length 2"):
        verify(run / "density")


def test_a_row_that_is_its_own_neighbour_is_named(run):
    path = run / "density" / "neighbors" / "indices.npy"
    near = np.load(path)
    near[4, 2] = 4
    path.unlink()
    np.save(path, near)
    with pytest.raises(MismatchError, match=r"row 4 .* itself"):
        verify(run / "density")


def test_swapped_and_repeated_ids_are_named(run):
    path = run / "density" / "ids.json"
    ids = json.loads(path.read_text())
    path.write_text(json.dumps([ids[0], ids[2], ids[1], *ids[3:]]))
    with pytest.raises(MismatchError, match="Row 1 is"):
        verify(run / "density")
    path.write_text(json.dumps([*ids[:-1], ids[0]]))
    with pytest.raises(MismatchError, match=f"repeats the id {ids[0]}"):
        verify(run / "density")


def test_a_change_that_keeps_every_rule_is_seen_by_its_hash(run):
    path = run / "density" / "embeddings.npy"
    vectors = np.load(path)
    vectors[[1, 2]] = vectors[[2, 1]]
    path.unlink()
    np.save(path, vectors)
    with pytest.raises(MismatchError, match=r"embeddings\.npy does not hash"):
        verify(run / "density")


@pytest.mark.parametrize(
    "name", ["density/density_weights.npy", "density/ids.json", "density/manifest.json", "embeddings/embeddings.npy"]
)
def test_a_missing_file_is_seen(run, name):
    (run / name).unlink()
    with pytest.raises(MismatchError):
        verify(run)


def test_another_prefixes_file_is_seen(run):
    lines = (run / "prefixes_all.jsonl").read_bytes().splitlines(keepends=True)
    (run / "prefixes_all.jsonl").write_bytes(b"".join(lines[::-1]))
    with pytest.raises(MismatchError, match="Row 0 is"):
        verify(run / "density")


def test_no_such_folder_is_exit_2_and_a_damaged_one_exit_1(run, tmp_path, capsys):
    damage_weights(run, 5, np.nan)
    for folder, status in ((tmp_path / "none", 2), (tmp_path, 2), (run, 1)):
        with pytest.raises(SystemExit) as stopped:
            main(["verify", str(folder)])
        assert stopped.value.code == status
    assert "row 5" in capsys.readouterr().err


def test_a_mapping_joins_by_id_and_raises_on_a_miss(run):
    prompts, weights = run / "prefixes_all.jsonl", run / "density" / "density_weights.npy"
    assert len(kat.load_density_mapping(prompts, weights)) == len(np.load(weights))
    prompts.write_bytes(b"".join(prompts.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(MismatchError, match="ids"):
        kat.load_density_mapping(prompts, weights)


# --- the demo ---------------------------------------------------------------------------------------------------------


def test_the_demo_check_can_fail(tmp_path):
    pairs = tmp_path / "pairs_all.jsonl"
    pairs.write_bytes(b"".join(orjson.dumps(r) + b"\n" for r in demo_pairs(1500, 0, topics=15)))
    run_stages(pairs, tmp_path / "run", EmbedOptions(), DensityOptions(), RunOptions())
    check = check_demo(pairs, tmp_path / "run")
    assert check.recovered, check.rank_correlation
    weights = tmp_path / "run" / "density" / "density_weights.npy"
    upside_down = 1 / np.load(weights)
    weights.unlink()
    np.save(weights, upside_down / upside_down.mean())
    vouch(weights.parent)
    assert not check_demo(pairs, tmp_path / "run").recovered


# --- explanations and samples -----------------------------------------------------------------------------------------


def test_explain_agrees_with_the_folder(made):
    weights = np.load(made / "density" / "density_weights.npy")
    ids = json.loads((made / "density" / "ids.json").read_text())
    row = int(np.argmax(weights))
    text = "\n".join(explain(made / "density", ids[row]))
    opening = kat.open_prefixes(made / "prefixes_all.jsonl")[ids[row]].opening
    assert f"{weights[row]:.3f}" in text
    assert " ".join(opening.split())[:40] in text
    assert text.count("at k = ") == 3
    nearest = np.load(made / "density" / "neighbors" / "indices.npy")[row, :5]
    assert all(ids[i] in text for i in nearest)
    with pytest.raises(InputError, match="No opening has the id nobody"):
        explain(made / "density", "nobody")


def test_weights_at_another_k_reuse_the_neighbours(run, capsys):
    weigh_openings(run / "embeddings", run / "density", DensityOptions(k=50), RunOptions(overwrite=True))
    assert "neighbors      skipped" in capsys.readouterr().out
    verify(run)


def test_sample_writes_ids_and_probabilities(made, tmp_path):
    out = tmp_path / "ids.txt"
    sample_openings(made / "density", out, SampleOptions(50, 1), overwrite=False)
    drawn = out.read_text().split()
    rows = [json.loads(line) for line in (tmp_path / "ids.txt.probabilities.jsonl").read_text().splitlines()]
    assert [r["id"] for r in rows] == json.loads((made / "density" / "ids.json").read_text())
    assert sum(r["probability"] for r in rows) == pytest.approx(50)
    assert len(drawn) == 50
    assert set(drawn) <= {r["id"] for r in rows}
    before = out.read_bytes()
    sample_openings(made / "density", tmp_path / "again.txt", SampleOptions(50, 1), overwrite=False)
    assert (tmp_path / "again.txt").read_bytes() == before
    with pytest.raises(OptionError, match="N = "):
        sample_openings(made / "density", tmp_path / "x.txt", SampleOptions(10**6, 1), overwrite=False)
