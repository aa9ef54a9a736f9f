"""Stages compare what they read with what its manifest says, and notice what changes; verify sees a mixture."""

import contextlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from making import jsonl, pair, vouch, write
from making_training import tiny_chat_model

from kat.atomic import temporary_name
from kat.digests import sha256_file
from kat.errors import InputError, OutputError
from kat.inputs import HashedInput
from kat.locks import lock_path, locked
from kat.stages.stage import stage


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    from kat.cli import main as cli

    folder = tmp_path_factory.mktemp("integrity")
    words = ["red", "green", "blue", "grey"]
    rows = [pair(f"Why is {a} {b} number {i}?", f"{a} it is", f"{b}?") for i in range(3) for a in words for b in words]
    write(folder / "pairs.jsonl", jsonl(*rows, {"prompt": 7}))
    model = tiny_chat_model(folder / "tiny", texts=[str(row) for row in rows])
    told = ["--model", model, "--device", "cpu", "--max_bad_rows", "1"]
    cli.main(["run", str(folder / "pairs.jsonl"), "--out", str(folder / "run"), *told])
    cli.main(["weigh-pairs", str(folder / "run"), "--max_bad_rows", "1", "--validation_share", "0.3"])
    cli.main(["export-weights", str(folder / "run"), "--to", "trl", "--out", str(folder / "run" / "trl")])
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


def harm(path):
    """Change one byte, which no check of types or counts sees."""
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.unlink()  # hard links of it stay as they are
    path.write_bytes(data)


READ = {
    "prefixes_all.jsonl": ("embed", "run/prefixes_all.jsonl", "--model", "tiny", "--device", "cpu", "--out", "new/e"),
    "embeddings/embeddings.npy": ("density", "run/embeddings", "--device", "cpu", "--out", "new/d"),
    "embeddings/ids.json": ("density", "run/embeddings", "--device", "cpu", "--out", "new/d"),
    "embeddings/lengths.npy": ("density", "run/embeddings", "--device", "cpu", "--out", "new/d"),
    "embeddings/manifest.json": ("density", "run/embeddings", "--device", "cpu", "--out", "new/d"),
    "density/density_weights.npy": ("sample", "run", "--budget", "5", "--out", "new/s.txt"),
    "density/ids.json": ("sample", "run", "--budget", "5", "--out", "new/s.txt"),
    "density/log_density.npy": ("weigh-pairs", "run", "--max_bad_rows", "1", "--out", "new/w.parquet"),
    "density/neighbors/distances.npy": ("weigh-pairs", "run", "--max_bad_rows", "1", "--out", "new/w.parquet"),
    "density/embeddings_metadata.json": ("weigh-pairs", "run", "--max_bad_rows", "1", "--out", "new/w.parquet"),
    "density/manifest.json": ("weigh-pairs", "run", "--max_bad_rows", "1", "--out", "new/w.parquet"),
    "pair_weights.parquet": ("export-weights", "run", "--to", "trl", "--out", "new/t"),
    "pair_weights.parquet.manifest.json": ("export-weights", "run", "--to", "trl", "--out", "new/t"),
}


def command(folder, words):
    return [str(folder / word) if word.split("/")[0] in ("run", "tiny", "new") else word for word in words]


@pytest.mark.parametrize("name", READ)
def test_a_harmed_file_is_refused_by_who_reads_it(folder, kat_cli, name):
    harm(folder / "run" / name)
    said = kat_cli(*command(folder, READ[name])).failed()
    assert str(folder / "run" / name) in said
    assert "--overwrite" in said
    assert not (folder / "new").exists()


@pytest.mark.parametrize("name", ["embeddings/lengths.npy", "density/embeddings_metadata.json"])
def test_a_file_that_may_be_missing_is_missed_where_a_manifest_lists_it(folder, kat_cli, name):
    (folder / "run" / name).unlink()
    assert "is missing, which kat wrote" in kat_cli(*command(folder, READ[name])).failed()


def test_a_sample_reads_no_vectors_and_asks_for_none(folder, kat_cli):
    harm(folder / "run" / "density" / "embeddings.npy")
    assert kat_cli("sample", folder / "run", "--budget", 5, "--out", folder / "new" / "s.txt").rc == 0


@pytest.mark.parametrize("how", ["other rows", "cut and filled again"])
@pytest.mark.parametrize("name", ["prefixes", "weigh-pairs", "export-weights"])
def test_pairs_that_change_while_they_are_read(folder, kat_cli, monkeypatch, name, how):
    from kat.data.pairs import PairReader

    pairs = folder / "pairs.jsonl"
    original, real = pairs.read_bytes(), PairReader._read

    def changing(reader, rows):
        for number, one in enumerate(real(reader, rows)):
            if number == 5:
                pairs.write_bytes(original[:-100] if how == "other rows" else b"")
                pairs.write_bytes(original if how != "other rows" else original[:-100])
            yield one

    words = {
        "prefixes": ("prefixes", pairs, "--max_bad_rows", "1", "--out", folder / "new" / "p.jsonl"),
        "weigh-pairs": ("weigh-pairs", folder / "run", "--max_bad_rows", "1", "--out", folder / "new" / "w.parquet"),
        "export-weights": ("export-weights", folder / "run", "--to", "trl", "--out", folder / "new" / "t"),
    }[name]
    with monkeypatch.context() as patch:
        patch.setattr(PairReader, "_read", changing)
        assert "changed while" in kat_cli(*words).failed()
    assert not (folder / "new").exists()
    pairs.write_bytes(original)
    assert kat_cli(*words).rc == 0


def test_a_model_that_changes_while_texts_are_embedded(folder, kat_cli, monkeypatch):
    from kat.embedding import encoder

    real = encoder.Encoder.encode_into

    def changing(*args, **told):
        harm(folder / "tiny" / "config.json")
        return real(*args, **told)

    monkeypatch.setattr(encoder.Encoder, "encode_into", changing)
    said = kat_cli(*command(folder, READ["prefixes_all.jsonl"])).failed()
    assert "tiny/config.json changed while it was read" in said
    assert not (folder / "new").exists()


def test_two_writers(folder, kat_cli):
    (folder / "new").mkdir()
    for words, held in ((READ["density/ids.json"], "new/s.txt"), (READ["embeddings/ids.json"], "new/d")):
        with locked(folder / held):
            pass  # a lock that was let go holds nobody off
        assert kat_cli(*command(folder, words)).rc == 0


def test_verify_sees_a_mixture(folder, kat_cli):
    """Embeddings made again, and the density of before: each is what it says, and together they are no run."""
    run = folder / "run"
    path = run / "embeddings" / "embeddings.npy"
    vectors = np.ascontiguousarray(np.load(path)[:, ::-1])
    path.unlink()
    np.save(path, vectors)
    vouch(run / "embeddings")
    assert kat_cli("verify", run / "embeddings").rc == 0
    assert "density was not made from" in kat_cli("verify", run).failed(1)
    assert "density was not made from" in kat_cli("verify", run / "density").failed(1)


@pytest.mark.parametrize("name", ["pairs.jsonl", "tiny/config.json", "tiny/model.safetensors"])
def test_verify_sees_inputs_that_changed_and_says_which_are_gone(folder, kat_cli, name):
    harm(folder / name)
    assert "as it is now" in kat_cli("verify", folder / "run").failed(1)
    if name == "pairs.jsonl":
        (folder / name).unlink()
        ran = kat_cli("verify", folder / "run")
        assert ran.rc == 0, ran.stderr
        assert f"its input {folder / name} is not there now" in ran.stdout


def test_verify_covers_all_that_is_in_a_run(folder, kat_cli):
    run = folder / "run"
    assert str(run / "trl") in kat_cli("verify", run).stdout
    write(run / "mine.txt", b"mine")
    assert "no manifest speaks of mine.txt" in kat_cli("verify", run).stdout
    rejected = run / "prefixes_all.jsonl.rejected.jsonl"
    kept = rejected.read_bytes()
    rejected.write_bytes(kept + b"\n")
    assert rejected.name in kat_cli("verify", run).failed(1)
    rejected.unlink()
    assert f"{rejected.name} is not there any more" in kat_cli("verify", run).stdout
    [exported] = [path for path in (run / "trl").rglob("*train*") if path.is_file()][:1]
    harm(exported)
    assert exported.name in kat_cli("verify", run).failed(1)


def test_an_output_that_is_midway_is_read_by_nobody(folder, kat_cli):
    run = folder / "run"
    (run / "density" / "manifest.json").unlink()
    write(run / "density" / ".kat-moving-manifest.json", b'{"files": ["density_weights.npy"], "beside": []}')
    said = kat_cli("sample", run, "--budget", 5, "--out", folder / "s.txt").failed()
    assert "is not complete" in said
    assert "is not complete" in kat_cli("verify", run).failed(1)


def test_how_an_output_is_made_is_no_part_of_it(folder, kat_cli):
    """Also where a manifest of before says by how many processes."""
    words = command(folder, READ["prefixes_all.jsonl"])
    assert kat_cli(*words, "--processes", 1).rc == 0
    assert "skipped" in kat_cli(*words, "--processes", 2).stdout
    told = json.loads((folder / "new" / "e" / "manifest.json").read_bytes())
    assert "processes" not in told["options"]
    vouch(folder / "new" / "e", options=told["options"] | {"processes": None})
    assert "skipped" in kat_cli(*words).stdout
    vouch(folder / "new" / "e", options=told["options"] | {"render": "chat"})
    assert "was made with render = 'chat', not 'plain'" in kat_cli(*words).failed()


def write_numbers(out, options=None, source=None):
    """A stage that writes its option to a file."""
    inputs = {} if source is None else {"source": source}
    with stage("sample", out, inputs=inputs, options=options or {"n": 1}, overwrite=False) as job:
        if not job.done:
            job.file.write(json.dumps(options or {"n": 1}).encode())
        return job


@pytest.mark.parametrize("is_there", [False, True])
def test_a_stage_whose_output_another_process_writes(tmp_path, is_there):
    out = tmp_path / "out.txt"
    if is_there:
        write_numbers(out)
    hold = "import sys, pathlib; from kat.locks import locked\n"
    hold += "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        if is_there:
            assert write_numbers(out).done  # nothing is written: nobody is in the way
            holder.kill()
            return
        with pytest.raises(OutputError, match=f"is being written by process {holder.pid}"):
            write_numbers(out)
        holder.kill()
    assert not out.exists()
    assert not write_numbers(out).done


def test_what_a_killed_process_left_beside_a_complete_output_goes(tmp_path):
    out = tmp_path / "out.txt"
    write_numbers(out)
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    left = temporary_name().replace(f"-{os.getpid()}-", f"-{dead.pid}-")
    for name in (f"{left}out.txt", lock_path(out).name):
        (tmp_path / name).write_bytes(b"left")
    mine = write(tmp_path / f"{temporary_name()}other", b"being written by this process")
    assert write_numbers(out).done
    assert {p.name for p in tmp_path.iterdir()} == {"out.txt", "out.txt.manifest.json", mine.name}


def test_what_another_process_ended_meanwhile_is_done(tmp_path, monkeypatch):
    """Between the question whether it is done and the lock."""
    import kat.stages.stage as protocol

    out = tmp_path / "out.txt"

    @contextlib.contextmanager
    def late(path):
        monkeypatch.setattr(protocol, "locked", locked)
        write_numbers(out)
        with locked(path):
            yield

    monkeypatch.setattr(protocol, "locked", late)
    assert write_numbers(out).done


def test_a_hash_that_was_taken_before_is_compared(tmp_path):
    source = write(tmp_path / "in.txt", b"something")
    digest = sha256_file(source)
    assert not write_numbers(tmp_path / "out.txt", source=HashedInput(source, digest)).done
    source.write_bytes(b"something else")
    with pytest.raises(InputError, match=r"in.txt changed while it was read\. Give the same command again"):
        write_numbers(tmp_path / "other.txt", source=HashedInput(source, digest))
