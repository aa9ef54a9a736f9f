"""Runs that are stopped: killed at random moments and ended byte by byte alike, refused for other questions, flat in
memory."""

import json
import os
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from making import tiny

from kat.artifacts import MANIFEST, manifest
from kat.config import EmbedOptions, RunOptions
from kat.embedding import encoder as encoders
from kat.embedding.checkpoint import EmbeddingCheckpoint, checkpoint_path, discard
from kat.errors import InputError, OutputError
from kat.journal import computing
from kat.stages import embed as stage

KILLS = 30
FILES = ("embeddings.npy", "ids.json", "lengths.npy", MANIFEST)

# A process that imports once and forks a run for each kill: 30 starts of Python would take minutes.
_KILLER = """
import functools, os, random, signal, sys, time
from pathlib import Path
import torch, transformers.models.llama.modeling_llama
import kat.embedding.encoder as encoders
from kat.stages import embed as stage
from kat.config import EmbedOptions, RunOptions
from kat.packing import budget

data, model, out, kills = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
encoders.windows = functools.partial(budget.windows, most=700)
journal = out.with_name(out.name + ".unfinished") / "journal"
draw = random.Random(0)

def size():
    return journal.stat().st_size if journal.exists() else 0

for kill in range(kills):
    child = os.fork()
    if child == 0:
        stage.embed_folder(data, out, EmbedOptions(model, batch_size=8, processes=1), RunOptions(device="cpu"))
        os._exit(0)
    start, lines, began = size(), draw.randrange(8) * 12, time.monotonic()
    patience = draw.random() if lines == 0 else 60  # some die before they have done anything
    while size() < start + lines and time.monotonic() - began < patience:
        time.sleep(0.0005)
    time.sleep(draw.random() * 0.004)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, "it ended before it was killed"
    print(size())
stage.embed_folder(data, out, EmbedOptions(model, batch_size=8, processes=1), RunOptions(device="cpu"))
"""


def items(path, count: int, most: int = 12):
    draw = random.Random(1)
    with path.open("w") as file:
        for i in range(count):
            words = " ".join(f"w{draw.randrange(98)}" for _ in range(draw.randint(0, most)))
            file.write(json.dumps({"id": f"i{i}", "prompt": f"{words} w{i % 97}"}) + "\n")
    return path


def run_script(script: str, *arguments: object, **more: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | more
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done


def test_thirty_kills_and_the_same_bytes(tmp_path, tiny_llama):
    data = items(tmp_path / "items.jsonl", 3000)
    for name, kills in (("calm", 0), ("killed", KILLS)):
        done = run_script(_KILLER, data, tiny_llama, tmp_path / name, kills)
    sizes = [int(line) for line in done.stdout.splitlines() if line.isdigit()]
    assert len(sizes) == KILLS
    assert sum(b > a for a, b in pairwise(sizes)) > KILLS // 2  # most of them had got on
    assert "goes on" in done.stdout
    for name in FILES:
        assert (tmp_path / "calm" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name
    assert not list(tmp_path.glob("*.unfinished"))
    assert sorted(p.name for p in (tmp_path / "killed").iterdir()) == sorted(FILES)


_TWO = """
import os, signal, sys, threading, time
from pathlib import Path
import kat.embedding.encoder as encoders
from kat.stages import embed as stage
from kat.config import EmbedOptions, RunOptions

encoders.WORTHWHILE = 0
data, model, out, kill = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4] == "kill"
journal = out.with_name(out.name + ".unfinished") / "journal"

def watch():
    while not journal.exists() or journal.stat().st_size < 200:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)

if kill:
    threading.Thread(target=watch, daemon=True).start()
stage.embed_file(data, out, EmbedOptions(model, batch_size=8, processes=2), RunOptions(device="cpu"))
"""


def test_a_kill_with_two_workers_and_the_same_bytes(tmp_path, tiny_llama):
    data = items(tmp_path / "items.jsonl", 2000)
    calm, killed = tmp_path / "calm.pt", tmp_path / "killed.pt"
    run_script(_TWO, data, tiny_llama, calm, "calm")
    with pytest.raises(AssertionError):
        run_script(_TWO, data, tiny_llama, killed, "kill")
    assert not killed.exists()
    assert checkpoint_path(killed).is_dir()
    assert "goes on" in run_script(_TWO, data, tiny_llama, killed, "calm").stdout
    assert calm.read_bytes() == killed.read_bytes()


_WATCHED = """
import re, sys, threading, time
from pathlib import Path
from kat.stages import embed as stage
from kat.config import EmbedOptions, RunOptions

peak, done = 0, threading.Event()

def watch():
    global peak
    while not done.is_set():
        peak = max(peak, int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]))
        time.sleep(0.003)

watcher = threading.Thread(target=watch)
watcher.start()
try:
    options = EmbedOptions(sys.argv[2], processes=1)
    stage.embed_folder(Path(sys.argv[1]), Path(sys.argv[3]), options, RunOptions(device="cpu"))
finally:
    done.set()
print(peak)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc here to tell anonymous memory by")
def test_memory_does_not_grow_with_the_rows(tmp_path, tiny_llama):
    peaks = []
    for count in (20_000, 200_000):
        data = items(tmp_path / f"{count}.jsonl", count)
        done = run_script(_WATCHED, data, tiny_llama, tmp_path / str(count), MALLOC_ARENA_MAX="2")
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] < 1.1 * peaks[0], peaks


WANTED = manifest("embed", {"items": "a"}, {"max_tokens": 256})
PLAN = [np.asarray([1, 2]), np.asarray([0, 3])]


def begin(folder, **more) -> EmbeddingCheckpoint:
    return EmbeddingCheckpoint(folder, more.pop("wanted", WANTED), (4, 3), **more)


def begun(folder):
    """Work in which pack 0 is done."""
    with begin(folder) as work:
        pooled, left = work.begin_window(0, PLAN, 4)
        assert left == [0, 1]
        pooled[PLAN[0]] = 7
        work.pack_done(0, 0, PLAN[0])
    return folder


def left(folder) -> list[int]:
    with begin(folder) as work:
        return work.begin_window(0, PLAN, 4)[1]


def test_what_was_done_is_not_done_again(tmp_path):
    folder = begun(tmp_path / "o.unfinished")
    assert left(folder) == [1]
    with begin(folder) as work:
        assert work.resumed
        pooled, _ = work.begin_window(0, PLAN, 4)
        assert (pooled[PLAN[0]] == 7).all()
        assert not work.is_complete(0, slice(0, 4))
        work.vectors[:], work.lengths[:] = 1, 2
        work.complete_window(0, slice(0, 4))
    with begin(folder) as work:
        assert work.is_complete(0, slice(0, 4))
        work.vectors[2, 1] = 5
        assert not work.is_complete(0, slice(0, 4))


@pytest.mark.parametrize("tail", [b"0 1 0000", b"0 1 00000000", b"0 ", b"\xff\n", b"0 whole\n"])
def test_a_line_that_was_cut_off_says_nothing(tmp_path, tail):
    folder = begun(tmp_path / "o.unfinished")
    with (folder / "journal").open("ab") as file:
        file.write(tail)
    assert left(folder) == [1]
    assert left(folder) == [1]  # and does not spoil the next one


def test_vectors_that_did_not_reach_the_disk_are_computed_again(tmp_path):
    folder = begun(tmp_path / "o.unfinished")
    np.lib.format.open_memmap(folder / "pooled-0.npy", "r+")[1] = 0
    assert left(folder) == [0, 1]
    (folder / "pooled-0.npy").write_bytes((folder / "pooled-0.npy").read_bytes()[:-5])
    assert left(folder) == [0, 1]


@pytest.mark.parametrize(
    ("wanted", "difference"),
    [
        (manifest("embed", {"items": "b"}, {"max_tokens": 256}), "another items"),
        (manifest("embed", {"items": "a"}, {"max_tokens": 99}), "max_tokens = 256, not 99"),
    ],
)
def test_another_question_is_refused_by_name_and_begins_anew_when_told(tmp_path, wanted, difference):
    folder = begun(tmp_path / "o.unfinished")
    (folder / "mine.txt").write_text("kept")
    with pytest.raises(OutputError, match=f"{difference}.*--overwrite"):
        begin(folder, wanted=wanted)
    assert left(folder) == [1]
    with begin(folder, wanted=wanted, overwrite=True) as work:
        assert not work.resumed
        assert work.begin_window(0, PLAN, 4)[1] == [0, 1]
    assert (folder / "mine.txt").read_text() == "kept"


def test_two_processes_do_not_share_it(tmp_path):
    folder = tmp_path / "o.unfinished"
    with begin(folder), pytest.raises(OutputError, match="another process"):
        begin(folder)
    begin(folder).__exit__()


def test_only_work_on_the_same_output_is_discarded(tmp_path):
    out = tmp_path / "o"
    other = manifest("embed", {"items": "b"}, {"max_tokens": 256})
    for wanted, stays in ((WANTED, False), (other, True)):
        begin(checkpoint_path(out), wanted=computing(wanted, "float32 on cpu"), overwrite=True).__exit__()
        discard(out, WANTED)
        assert checkpoint_path(out).exists() == stays


def test_a_full_disk_is_said_before_the_work(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutputError, match="No space left"):
        begin(tmp_path / "o.unfinished")


def embed(data, model, out, **how) -> None:
    stage.embed_folder(data, out, EmbedOptions(str(model), precision="float32"), RunOptions(device="cpu", **how))


def test_an_input_named_like_an_output_is_never_lost(tmp_path, tiny_llama):
    data = items(tmp_path / "o.rejected.jsonl", 3)
    before = data.read_bytes()
    with pytest.raises(OutputError, match="is the input"):
        embed(data, tiny_llama, tmp_path / "o")
    for name in ("p.pt.rejected.jsonl", "p.pt.manifest.json"):
        data = data.rename(tmp_path / name)
        with pytest.raises(OutputError, match="is the input"):
            stage.embed_file(data, tmp_path / "p.pt", EmbedOptions(tiny_llama), RunOptions(device="cpu"))
        assert data.read_bytes() == before


def test_items_that_change_under_way_make_nothing(tmp_path, tiny_llama, monkeypatch):
    data, encode_into = items(tmp_path / "d.jsonl", 5), encoders.Encoder.encode_into

    def change(self, work, found, **more):
        encode_into(self, work, found, **more)
        data.write_bytes(b"".join(reversed(data.read_bytes().splitlines(keepends=True))))

    monkeypatch.setattr(encoders.Encoder, "encode_into", change)
    with pytest.raises(InputError, match=r"d\.jsonl changed"):
        embed(data, tiny_llama, tmp_path / "o")
    assert not (tmp_path / "o" / MANIFEST).exists()
    assert not checkpoint_path(tmp_path / "o").exists()


def test_weights_saved_over_a_model_are_read_again(tmp_path):
    data, model = items(tmp_path / "d.jsonl", 5), tmp_path / "model"
    vectors = []
    for size in (64, 96):
        tiny(model, "Llama", pad_token_id=1, intermediate_size=size)
        embed(data, model, tmp_path / str(size))
        vectors.append(np.load(tmp_path / str(size) / "embeddings.npy"))
        found = json.loads((tmp_path / str(size) / MANIFEST).read_bytes())
        assert found["model"]["sha256"] == found["inputs"]["model"]
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_work_with_another_tokenizer_is_not_gone_on_with(tmp_path):
    data, model = items(tmp_path / "d.jsonl", 5), tmp_path / "model"
    tiny(model, "Llama", pad_token_id=1)
    embed(data, model, tmp_path / "o")
    (model / "tokenizer_config.json").write_text("{}")
    with pytest.raises(OutputError, match="another model_settings"):
        embed(data, model, tmp_path / "o")


def test_a_finished_output_is_no_work(tmp_path, tiny_llama):
    data = items(tmp_path / "d.jsonl", 5)
    for name in ("o", "o.unfinished", "o"):
        embed(data, tiny_llama, tmp_path / name)
    assert (tmp_path / "o.unfinished" / MANIFEST).exists()


def test_what_others_keep_in_the_folder_stays(tmp_path):
    folder = checkpoint_path(tmp_path / "o")
    begin(folder, wanted=computing(WANTED, "float32 on cpu")).__exit__()
    (folder / "mine.txt").write_text("kept")
    discard(tmp_path / "o", WANTED)
    assert [p.name for p in folder.iterdir()] == ["mine.txt"]
    (folder / "embeddings.npy").write_text("theirs")
    with pytest.raises(OutputError, match="did not begin"):
        begin(folder)
    assert (folder / "embeddings.npy").read_text() == "theirs"
    (folder / MANIFEST).write_text('{"options": [1]}')
    discard(tmp_path / "o", WANTED)


def test_a_disk_that_was_full_is_looked_at_again(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(os, "posix_fallocate", lambda *given: asked.append(given[2]))
    begin(tmp_path / "o.unfinished").__exit__()
    begin(tmp_path / "o.unfinished").__exit__()
    assert len(asked) == 4  # two arrays, twice


def test_the_current_folder_can_be_the_output(tmp_path, tiny_llama, monkeypatch):
    data = items(tmp_path / "d.jsonl", 5)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    embed(data, tiny_llama, Path("."))
    assert (tmp_path / "here" / MANIFEST).exists()
    assert not list(tmp_path.glob("*.unfinished"))
