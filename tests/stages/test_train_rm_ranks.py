"""Several processes train what one does: the same steps, the same losses, one folder, and one that prints."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from making_training import tiny_chat_model
from safetensors.torch import load_file

pytest.importorskip("accelerate")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    from kat.cli import main as cli

    folder = tmp_path_factory.mktemp("ranks")
    cli.main(["demo-data", "--out", str(folder / "pairs.jsonl"), "--pairs", "60"])
    texts = (folder / "pairs.jsonl").read_text().splitlines()
    model = tiny_chat_model(folder / "tiny", texts=texts, vocabulary=800)
    cli.main(["run", str(folder / "pairs.jsonl"), "--out", str(folder / "run"), "--model", model, "--device", "cpu"])
    cli.main(["weigh-pairs", str(folder / "run"), "--validation_share", "0.2"])
    return folder


def train(folder, out, processes, *more):
    command = ["-m", "kat.cli", "train-rm", str(folder / "run"), "--model", str(folder / "tiny"), "--out", str(out)]
    command += ["--precision", "float32", "--device", "cpu", "--batch_size", "16", "--row_tokens", "400", *more]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    prefix = [sys.executable, *(launcher if processes > 1 else [])]
    return subprocess.run(
        [*prefix, *command], env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize("what", ["all", "head"])
def test_two_processes_do_what_one_does(made, tmp_path, what):
    told = ("--train", what, "--epochs", "2", "--learning_rate", "0.01", "--backbone_lr", "0.003")
    ran = [train(made, tmp_path / str(n), n, *told) for n in (1, 2)]
    for one in ran:
        assert one.returncode == 0, one.stderr
    assert [one.stdout.count("train-rm  ") for one in ran] == [1, 1]  # one process speaks
    assert [one.stdout.count("next  ") for one in ran] == [1, 1]
    logs = [
        [json.loads(line) for line in (tmp_path / str(n) / "training_log.jsonl").read_text().splitlines()]
        for n in (1, 2)
    ]
    assert len(logs[0]) == len(logs[1]) > 4
    for alone, together in zip(*logs, strict=True):
        assert together["pairs"] == alone["pairs"]
        for name in ("loss", "weighted_loss", "gradient_norm", "margin"):
            assert together[name] == pytest.approx(alone[name], rel=1e-4, abs=1e-5), name
    first, second = (load_file(tmp_path / str(n) / "model.safetensors") for n in (1, 2))
    start = load_file(made / "tiny" / "model.safetensors")
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=1e-4)
    if what == "all":
        moved = max(float((first[f"model.{name}"] - tensor).abs().max()) for name, tensor in start.items())
        assert moved > 1e-3  # it did train


def test_two_processes_go_on_from_a_checkpoint(made, tmp_path):
    told = ("--train", "all", "--epochs", "2", "--save_every", "2")
    whole = train(made, tmp_path / "whole", 1, *told)
    assert whole.returncode == 0, whole.stderr
    # A checkpoint as a stop leaves it: that of a training with fewer steps allowed has other options, so cut one short.
    script = (
        "import kat.training.train as t, kat.training.checkpoint as c, sys\n"
        "save = c.TrainingCheckpoint.save\n"
        "def stop(self, state):\n"
        "    save(self, state)\n"
        "    if state['progress']['step'] == 4: raise KeyboardInterrupt\n"
        "c.TrainingCheckpoint.save = stop\n"
        "from kat.cli.main import main\n"
        "main(sys.argv[1:])\n"
    )
    command = ["train-rm", str(made / "run"), "--model", str(made / "tiny"), "--out", str(tmp_path / "two")]
    command += ["--precision", "float32", "--device", "cpu", "--batch_size", "16", "--row_tokens", "400", *told]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    stopped = subprocess.run(
        [sys.executable, "-c", script, *command], env=environment, capture_output=True, text=True, check=False
    )
    assert stopped.returncode == 130, stopped.stderr
    assert (tmp_path / "two.unfinished" / "state.pt").is_file()
    resumed = train(made, tmp_path / "two", 2, *told)
    assert resumed.returncode == 0, resumed.stderr
    assert "goes on at step 4" in resumed.stderr
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "two"))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=1e-4)
    shutil.rmtree(tmp_path / "two")


def test_the_processes_leave_their_group_before_they_end(tmp_path):
    script = tmp_path / "leaving.py"
    script.write_text(
        "import atexit, os, pathlib, torch\n"
        "file = pathlib.Path(__file__).with_name('rank' + os.environ['RANK'])\n"  # two ranks' prints would mix
        "atexit.register(lambda: file.write_text(str(torch.distributed.is_initialized())))\n"  # runs last
        "from kat.training.ranks import SeveralRanks\n"
        "ranks = SeveralRanks('cpu')\n"
        "ones = torch.ones(3)\n"
        "ranks.sum([ones])\n"
        "assert ones.tolist() == [2, 2, 2] and torch.distributed.is_initialized()\n"
    )
    ran = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert [(tmp_path / f"rank{rank}").read_text() for rank in range(2)] == ["False", "False"]
