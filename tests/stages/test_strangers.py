"""No command touches a file that kat did not write, and a move that stopped midway is ended by the same command."""

import json
import shutil
from pathlib import Path

import pytest
from making import jsonl, pair, write
from making_training import tiny_chat_model

from kat.artifacts import manifest, manifest_bytes, move_note, write_folder_manifest
from kat.errors import OutputError
from kat.outputs import Own, check_strangers, output_folder, own_names

STRANGER = b"somebody else's\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of a few pairs with weights, scores of them, and a model with a folder inside."""
    from kat.cli import main as cli

    folder = tmp_path_factory.mktemp("strangers")
    words = ["red", "green", "blue", "grey"]
    rows = [pair(f"Why is {a} {b} number {i}?", f"{a} it is", f"{b}?") for i in range(3) for a in words for b in words]
    rows.append({"prompt": 7})
    write(folder / "pairs.jsonl", jsonl(*rows))
    model = Path(tiny_chat_model(folder / "tiny", texts=[json.dumps(row) for row in rows]))
    (model / "1_Pooling").mkdir()
    (model / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    told = ["--model", str(model), "--device", "cpu", "--max_bad_rows", "1"]
    cli.main(["run", str(folder / "pairs.jsonl"), "--out", str(folder / "run"), *told])
    cli.main(["weigh-pairs", str(folder / "run"), "--max_bad_rows", "1", "--validation_share", "0.3"])
    names = [{"pair_id": row, "chosen": 1.0, "rejected": float(i % 2)} for i, row in enumerate(pair_ids(folder))]
    write(folder / "scores.jsonl", jsonl(*names, {"pair_id": 3}))
    return folder


def pair_ids(folder):
    import kat

    return kat.read_pair_weights(folder / "run" / "pair_weights.parquet").pair_id.tolist()


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


COMMANDS = {
    "prefixes": ("prefixes", "pairs.jsonl", "--max_bad_rows", "1", "--out", "new/p.jsonl"),
    "embed": ("embed", "run/prefixes_all.jsonl", "--model", "tiny", "--device", "cpu", "--out", "new/e"),
    "density": ("density", "run/embeddings", "--device", "cpu", "--out", "new/d"),
    "sample": ("sample", "run", "--budget", "5", "--out", "new/s.txt"),
    "weigh-pairs": ("weigh-pairs", "run", "--max_bad_rows", "1", "--validation_share", "0.3", "--out", "new/w.parquet"),
    "trl": ("export-weights", "run", "--to", "trl", "--out", "new/trl"),
    "parquet": ("export-weights", "run", "--to", "parquet", "--out", "new/rows"),
    "evaluate-rm": (
        *("evaluate-rm", "scores.jsonl", "--pair_weights", "run/pair_weights.parquet", "--split", "all"),
        *("--missing_scores", "all", "--max_bad_rows", "1", "--replicates", "20", "--out", "new/v"),
    ),
    "export": ("export", "tiny", "--out", "new/m"),
}


def command(folder, name):
    """A command of the table, its paths inside a folder."""
    inputs = {"pairs.jsonl", "scores.jsonl", "tiny", "run"}
    return [str(folder / word) if word.split("/")[0] in {*inputs, "new"} else word for word in COMMANDS[name]]


def put(path, content):
    """A file with the folders that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write(path, content)


def contents(folder):
    """The bytes of every file below a folder, by name."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_name_that_is_taken_is_refused_and_left(name, folder, kat_cli):
    ran = kat_cli(*command(folder, name))
    assert ran.rc == 0, ran.stderr
    written = contents(folder / "new")
    assert not [one for one in written if ".kat-" in one]
    for taken in written:
        shutil.rmtree(folder / "new")
        put(folder / "new" / taken, STRANGER)
        said = kat_cli(*command(folder, name)).failed()
        assert Path(taken).name in said, (taken, said)
        assert (folder / "new" / taken).read_bytes() == STRANGER
        left = [one for one in contents(folder / "new") if one != taken and "unfinished" not in one]
        assert not [one for one in left if not one.startswith("d/neighbors/")], (taken, left)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_replaced_output_leaves_what_is_not_kats(name, folder, kat_cli):
    words = command(folder, name)
    assert kat_cli(*words).rc == 0
    beside = [folder / "new" / "notes.txt"]
    out = Path(words[-1])
    if out.is_dir():
        beside += [out / "notes.txt", out / "1_Pooling" / "notes.txt", out / "neighbors" / "notes.txt"]
    for path in beside:
        put(path, STRANGER)
    for path in out.rglob("*.json") if out.is_dir() else [out]:
        path.write_bytes(b"{}")  # damaged, so that it is made again
    assert "--overwrite" in kat_cli(*words).failed()
    again = kat_cli(*words, "--overwrite")
    assert again.rc == 0, again.stderr
    assert all(path.read_bytes() == STRANGER for path in beside)


def test_a_file_that_is_written_no_more_goes_and_no_other_of_its_name(folder, kat_cli):
    words = command(folder, "export")
    assert kat_cli(*words).rc == 0
    out = folder / "new" / "m"
    assert (out / "1_Pooling" / "config.json").is_file()
    shutil.rmtree(folder / "tiny" / "1_Pooling")
    (folder / "tiny" / "generation_config.json").write_text("{}")
    assert kat_cli(*words, "--overwrite").rc == 0
    assert (out / "config.json").is_file()
    assert not (out / "1_Pooling").exists()
    assert own_names(out).files == set(contents(out))


def test_bad_rows_of_a_stranger_stay_where_there_are_none_now(folder, kat_cli):
    rejected = put(folder / "new" / "p.jsonl.rejected.jsonl", STRANGER)
    rows = (folder / "pairs.jsonl").read_bytes().splitlines(keepends=True)[:-1]
    (folder / "pairs.jsonl").write_bytes(b"".join(rows))
    assert rejected.name in kat_cli(*command(folder, "prefixes")).failed()
    assert kat_cli(*command(folder, "prefixes"), "--overwrite").rc == 0
    assert rejected.read_bytes() == STRANGER


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("density", "run/embeddings", "--out", "run/embeddings", "--overwrite"), "run/embeddings"),
        (("density", "run/embeddings", "--out", "run/embeddings/d"), "lies inside"),
        (("density", "run/embeddings", "--out", "run/embeddings/d/e", "--overwrite"), "lies inside"),
        (("sample", "run", "--budget", "5", "--out", "run/density/s.txt"), "lies inside"),
        (("sample", "run", "--budget", "5", "--out", "run/density/neighbors/s.txt", "--overwrite"), "lies inside"),
        (("weigh-pairs", "run", "--out", "run/density/w.parquet"), "lies inside"),
        (("score", "tiny", "pairs.jsonl", "--out", "tiny/s.jsonl"), "lies inside"),
        (("embed", "run/prefixes_all.jsonl", "--model", "tiny", "--out", "tiny/e.pt"), "lies inside"),
        (("export", "tiny", "--out", "tiny/sub"), "lies inside"),
        (("embed", "run/prefixes_all.jsonl", "--model", "tiny", "--out", "."), "tiny, which is read"),
        (("export", "tiny", "--out", "tiny/sub", "--overwrite"), "lies inside"),
        (("embed", "run/prefixes_all.jsonl", "--model", "tiny", "--out", "tiny/e"), "lies inside"),
        (("train-rm", "run", "--model", "tiny", "--out", "tiny/rm"), "lies inside"),
        (("export", "tiny", "--out", "."), "tiny, which is read"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, tuple) else "",
)
def test_an_output_keeps_apart_from_what_is_read(folder, kat_cli, words, said):
    before = contents(folder)
    known = {"run", "tiny", "pairs.jsonl", "."}
    told = [str(folder / word) if word.split("/")[0] in known else word for word in words]
    assert said in kat_cli(*told).failed()
    assert contents(folder) == before


def test_an_export_into_the_folder_of_its_own_input_is_refused(folder, kat_cli):
    assert kat_cli(*command(folder, "trl")).rc == 0
    kept = folder / "new" / "trl"
    [source] = [path for path in kept.rglob("*train*") if path.is_file()][:1]
    run = folder / "second"
    told = ("--model", folder / "tiny", "--device", "cpu")
    assert kat_cli("run", source, "--out", run, *told).rc == 0
    assert kat_cli("weigh-pairs", run).rc == 0
    before = contents(kept)
    said = kat_cli("export-weights", run, "--to", "trl", "--out", kept, "--overwrite").failed()
    assert "is the input" in said
    assert contents(kept) == before


@pytest.mark.parametrize("name", COMMANDS)
def test_a_move_that_stops_at_any_file_is_ended_by_the_same_command(name, folder, kat_cli, monkeypatch):
    words = command(folder, name)
    assert kat_cli(*words).rc == 0
    first = contents(folder / "new")
    replace, at = Path.replace, 0
    while True:
        shutil.rmtree(folder / "new")
        calls = iter(range(1000))

        def failing(path, target, calls=calls, at=at):
            if next(calls) == at:
                raise OSError(5, "Input/output error", str(target))
            return replace(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", failing)
            ended = kat_cli(*words).rc == 0
        if ended:
            break
        again = kat_cli(*words)
        assert again.rc == 0, (at, again.stderr)
        left = contents(folder / "new")
        assert set(left) == set(first), at
        assert all(left[one] == first[one] for one in first if "manifest" not in one), at
        at += 1
    assert at >= 3


def test_what_a_stopped_move_was_to_replace_is_still_a_strangers(tmp_path):
    """A command with --overwrite was killed before a file of somebody else's was replaced."""
    note = {"files": ["a.npy", "b.npy"], "beside": ["out.rejected.jsonl", "out.txt"], "replaced": ["a.npy", "out.txt"]}
    folder = tmp_path / "out"
    folder.mkdir()
    move_note(folder).write_text(json.dumps(note))
    assert own_names(folder) == Own({"manifest.json", "b.npy"}, {"out.rejected.jsonl"})
    for name in ("a.npy", "b.npy"):
        (folder / name).write_bytes(STRANGER)
    with pytest.raises(OutputError, match=r"a.npy is there, and nothing says that kat wrote it"):
        check_strangers(folder, ["a.npy", "b.npy"], own_names(folder).files, overwrite=False)


@pytest.mark.parametrize("name", ["prefixes", "sample", "weigh-pairs"])
def test_a_link_that_leads_nowhere_is_somebody_elses_too(folder, kat_cli, name):
    out = folder / COMMANDS[name][-1]
    out.parent.mkdir()
    out.symlink_to(folder / "nowhere")
    assert f"{out} is there, and nothing says that kat wrote it" in kat_cli(*command(folder, name)).failed()
    assert out.is_symlink()
    assert not (folder / "nowhere").exists()


def write_shard(folder, name, inputs=()):
    with output_folder(folder, inputs=inputs) as (scratch, _):
        (scratch / name).write_bytes(name.encode())
        write_folder_manifest(scratch, manifest("sample", {}, {}))


@pytest.mark.parametrize("named", ["written", "outdated"])
def test_a_name_that_is_known_only_at_the_end_is_no_input(tmp_path, named):
    """The names in a folder are not all known before: what is read is replaced by none of them, nor removed."""
    folder = tmp_path / "out"
    write_shard(folder, "shard-0.npy")
    before = contents(folder)
    with pytest.raises(OutputError, match=r"shard-0.npy is the input"):
        write_shard(folder, "shard-0.npy" if named == "written" else "shard-1.npy", inputs=[folder / "shard-0.npy"])
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["../victim", "a/../../victim", "{folder}/victim", ""])
def test_a_manifest_that_names_files_elsewhere_has_none_removed(tmp_path, name):
    victim, folder = write(tmp_path / "victim", STRANGER), tmp_path / "out"
    folder.mkdir()
    told = {"outputs": {name.format(folder=tmp_path): "0" * 64, "x.npy": "0" * 64}}
    (folder / "manifest.json").write_bytes(manifest_bytes(manifest("sample", {}, {}) | told))
    assert own_names(folder).files == {"manifest.json", "x.npy"}
    with output_folder(folder) as (scratch, _):
        (scratch / "new.npy").write_bytes(b"new")
        write_folder_manifest(scratch, manifest("sample", {}, {}))
    assert victim.read_bytes() == STRANGER
