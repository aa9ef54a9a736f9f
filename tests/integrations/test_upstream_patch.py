"""The patch that docs/upstream offers to TRL: a patched copy of the installed one, against TRL as it is, the closed
form and kat's own trainers."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from making import tiny

pytest.importorskip("trl", reason="TRL is not installed: pip install 'trl>=1'")

from datasets import disable_progress_bars
from making_trl import pairs, policy_of, trained
from making_weight_column import KINDS, UNEVEN, plain

from kat.integrations._trl_dpo import LOSSES_OF_PAIRS

disable_progress_bars()

ROOT = Path(__file__).resolve().parents[2]
PATCH = ROOT / "docs/upstream/trl-weight-column.patch"
DOCUMENT = PATCH.with_suffix(".md")


def patched_copy(folder: Path) -> Path:
    """A folder with the installed package trl, patched; skips where the patch is for another version."""
    version = re.search(r"TRL (\d+\.\d+\.\d+)", DOCUMENT.read_text(encoding="utf-8")).group(1)
    if (installed := importlib.metadata.version("trl")) != version:
        pytest.skip(f"the patch is for TRL {version}; {installed} is installed")
    source = Path(importlib.util.find_spec("trl").origin).parent
    shutil.copytree(source, folder / "trl", ignore=shutil.ignore_patterns("__pycache__"))
    if shutil.which("patch"):
        command = ["patch", "-p1", "--fuzz=0", "--input", str(PATCH)]
    elif shutil.which("git"):
        command = ["git", "apply", str(PATCH)]
    else:
        pytest.skip("neither patch nor git is there to apply the patch")
    # git leaves alone, without a word, what lies in a repository and not in its index: let it see none above.
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folders of a reward model's base and of a policy, by kind."""
    model = tiny(tmp_path_factory.mktemp("tiny"), "Llama", pad_token_id=1)
    return dict(zip(KINDS, (model, policy_of(model, tmp_path_factory.mktemp("policy"))), strict=True))


@pytest.fixture(scope="module")
def results(tmp_path_factory, folders):
    """What `making_weight_column` found in a process of its own, where `import trl` is the patched copy."""
    site = patched_copy(tmp_path_factory.mktemp("site"))
    out = tmp_path_factory.mktemp("results")
    search = [str(site), str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, search))}
    command = [sys.executable, str(ROOT / "tests/making_weight_column.py"), *folders.values(), str(out)]
    done = subprocess.run(command, env=environment, cwd=out, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    values = torch.load(out / "results.pt", weights_only=False)
    assert Path(values["trl"]).parent == site / "trl"
    return values


def assert_the_same(one, other):
    """Losses and parameters, bit for bit."""
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    for name in one[1]:
        assert torch.equal(one[1][name], other[1][name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_no_column_and_weights_of_one_are_trl_as_it_is(results, folders, tmp_path, one_thread, kind):
    """Two steps of two batches each, the last batch not full, by the unpatched trainer in this process."""
    expected = trained(plain(kind, folders[kind], tmp_path, pairs(n=13), **UNEVEN))
    assert len(expected[0]) == 2
    assert_the_same(results[kind]["without"], expected)
    assert_the_same(results[kind]["ones"], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_of_two_doubles_the_part_of_its_pair(results, kind):
    """Of two identical pairs each has half of the gradient g: weights of 2 and 1 are 1.5 g, of 0 and 1 are g / 2."""
    gradients = results[kind]["identical"]
    assert max(g.abs().max() for g in gradients["1,1"]) > 1e-3
    for both, doubled, alone in zip(*(gradients[weights] for weights in ("1,1", "2,1", "0,1")), strict=True):
        close = {"rtol": 0, "atol": 1e-5 * both.abs().max().item()}  # entries are sums that cancel
        torch.testing.assert_close(doubled, 1.5 * both, **close)
        torch.testing.assert_close(alone, 0.5 * both, **close)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_train_as_kats_trainers_do(results, kind):
    """The option is precompute_ref_log_probs for DPO, and the centring of rewards, which is not weighed."""
    of = results[kind]
    assert_the_same(of["patched"], of["kat"])
    assert_the_same(of["patched, option"], of["kat, option"])
    name = next(iter(of["patched"][1]))
    assert not torch.equal(of["patched"][1][name], of["without"][1][name])


@pytest.mark.parametrize("kind", KINDS)
def test_accumulated_batches_take_the_step_of_a_large_one(results, kind):
    large, small = results[kind]["patched"][1], results[kind]["patched in small batches"][1]
    for name in large:
        torch.testing.assert_close(small[name], large[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss_type", LOSSES_OF_PAIRS)
def test_every_loss_that_is_a_sum_over_pairs_is_weighed(results, loss_type):
    (loss, gradients), (other, theirs) = results["loss types"][loss_type]
    assert torch.equal(loss, other)
    assert any(bool(g.any()) for g in gradients)
    assert all(map(torch.equal, gradients, theirs))


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_does_not_see_weights(results, kind):
    without, weighed = results[kind]["evaluated"]
    assert without == weighed


def test_what_cannot_be_weighed_is_refused(results):
    for loss_type, error in results["refused"].items():
        assert error.startswith("NotImplementedError: A `weight` column"), loss_type
    for kind in KINDS:
        for case in ("negative", "missing"):
            assert results[kind][case].startswith("ValueError: The `weight` of a pair must be"), results[kind][case]


def test_the_document_names_tests_that_exist():
    code = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    names = re.findall(r"`(test_\w+)`", DOCUMENT.read_text(encoding="utf-8"))
    assert len(names) > 10
    for name in names:
        assert f"def {name}(" in code, name
