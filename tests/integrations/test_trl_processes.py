"""TRL's trainers with weights in two processes."""

from pathlib import Path

import pytest
import torch
from making import tiny

pytest.importorskip("trl", reason="TRL is not installed: pip install 'trl>=1'")

import making_trl
from making_trl import policy_of


@pytest.mark.parametrize("kind", ["weighted", "weighted_dpo"])
def test_two_processes_take_the_step_of_one(tmp_path, python, kind):
    """The weighed loss is divided by the pairs of the global batch: eight in one process, or four in each of two."""
    folder = tiny(tmp_path / "tiny", "Llama", pad_token_id=1)
    if kind == "weighted_dpo":
        folder = policy_of(folder, tmp_path / "policy")
    script = tmp_path / "step.py"
    script.write_text(
        f"import sys; sys.path[:0] = {[str(Path(making_trl.__file__).parent)]!r}\n"
        "import os, pathlib, torch, making_trl as t\n"
        "size, out = int(sys.argv[1]), pathlib.Path(sys.argv[2])\n"
        f"tokenizer = t.tokenizer_of({folder!r})\n"
        f"trainer = t.{kind}({folder!r}, tokenizer, out.parent / 'trained', t.drawn(n=8), t.pairs(n=8),\n"
        "                     per_device_train_batch_size=size, max_steps=1)\n"
        "trainer.train()\n"
        "if os.environ.get('RANK', '0') == '0':\n"
        "    torch.save({n.removeprefix('module.'): p.detach() for n, p in trainer.model.named_parameters()}, out)\n"
        # A gloo thread that drops a tensor while Python shuts down aborts the process: no shutting down. What fails
        # before still ends with its own status.
        "if torch.distributed.is_initialized():\n"
        "    torch.distributed.barrier()\n"
        "sys.stdout.flush(); sys.stderr.flush(); os._exit(0)\n"
    )
    alone = python(script, 8, tmp_path / "one.pt")
    assert alone.rc == 0, alone.stderr
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2)
    both = python(*launch, script, 4, tmp_path / "two.pt", env={"OMP_NUM_THREADS": "1"})
    assert both.rc == 0, both.stderr
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one.pt", "two.pt"))
    for name, parameter in one.items():
        torch.testing.assert_close(two[name], parameter, rtol=1e-5, atol=2e-6)
