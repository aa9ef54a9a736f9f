"""Stopped trainings against uninterrupted ones: bit by bit, after any step and after kills."""

import json
import signal
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from making_training import random_tokens, reward_model, tiny_chat_model

from kat.errors import OutputError
from kat.training.checkpoint import TrainingCheckpoint
from kat.training.loop import Progress
from kat.training.train import fit
from kat.training_config import RewardOptions

ASKED = {"stage": "train-rm", "kat_version": "1", "inputs": {"pairs": "0" * 64}, "options": {"seed": 0}}
SIZES = [3, 1, 5, 2, 4, 3, 6]
OPTIONS = {"train": "last:1", "batch_size": 4, "epochs": 2, "save_every": 1, "precision": "float32", "grad_clip": 0.5}


class Stopped(Exception):
    """What stops a training between two steps."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_chat_model(tmp_path_factory.mktemp("tiny"), blocks=1)


def training(tiny, folder, *, after=None, **more):
    """Train with a checkpoint, stopping after a step; return parameters, log and facts."""
    model, data = reward_model(tiny), random_tokens(0, SIZES)
    v = np.exp(np.random.default_rng(0).normal(size=len(data)))

    taken = []

    def on_step(numbers):
        checkpoint.add(numbers)
        taken.append(numbers["step"])
        if numbers["step"] == after:
            raise Stopped

    with TrainingCheckpoint(folder, ASKED) as checkpoint:
        facts = fit(model, data, v, RewardOptions(**OPTIONS | more), checkpoint=checkpoint, on_step=on_step)
        log = list(checkpoint.log)
    facts.pop("seconds")
    facts["taken_now"] = taken
    return {name: p.detach().clone() for name, p in model.model.named_parameters()}, log, facts


@pytest.fixture(scope="module")
def uninterrupted(tiny, tmp_path_factory):
    return training(tiny, tmp_path_factory.mktemp("whole"))


def same(resumed, whole, *, first=None):
    """The same bits, log and facts; `first` is the step that a resumed training went on with."""
    assert all(torch.equal(resumed[0][name], p) for name, p in whole[0].items())
    assert resumed[1] == whole[1]
    now, all_steps = resumed[2].pop("taken_now"), whole[2]["taken_now"]
    assert resumed[2] == {name: fact for name, fact in whole[2].items() if name != "taken_now"}
    assert now == all_steps[(now[0] if first is None else first) - 1 :]


def test_a_stop_after_any_step_ends_with_the_same_bits(tiny, uninterrupted, tmp_path):
    total = uninterrupted[2]["steps"]
    assert [n["step"] for n in uninterrupted[1]] == list(range(1, total + 1))
    for after in range(1, total + 1):
        folder = tmp_path / str(after)
        with pytest.raises(Stopped):
            training(tiny, folder, after=after)
        same(training(tiny, folder), uninterrupted, first=after)


@pytest.mark.parametrize("train", ["head", "all"])
def test_steps_after_the_last_save_are_taken_again_and_stand_once_in_the_log(tiny, tmp_path, train):
    whole = training(tiny, tmp_path / "whole", train=train, save_every=3)
    for after in (5, 8):  # of which 3 and 6 were saved
        with pytest.raises(Stopped):
            training(tiny, tmp_path / "cut", after=after, train=train, save_every=3)
    with (tmp_path / "cut" / "log.jsonl").open("ab") as log:
        log.write(b'{"step": 9, "lo')  # a line that a kill cut off
    same(training(tiny, tmp_path / "cut", train=train, save_every=3), whole, first=7)


CHILD = """
import sys, time
import torch
torch.set_num_threads(1)
sys.path[:0] = [{tests!r}, {here!r}]
import test_checkpoint
from kat.training.checkpoint import TrainingCheckpoint
add = TrainingCheckpoint.add
def slow(self, numbers):
    add(self, numbers)
    time.sleep(0.02)
TrainingCheckpoint.add = slow
parameters, log, facts = test_checkpoint.training({tiny!r}, test_checkpoint.Path({folder!r}))
torch.save((parameters, log, facts), {folder!r} + ".done")
"""


def test_kills_at_random_moments_end_with_the_same_bits(tiny, tmp_path, process):
    """The uninterrupted run is a process of its own too: bits are promised for one machine and one setting."""
    here, draw = Path(__file__).parent, np.random.default_rng()

    def start(name):
        folder = str(tmp_path / name)
        code = CHILD.format(tests=str(here.parent), here=str(here), tiny=tiny, folder=folder)
        return process("-c", code, env={"OMP_NUM_THREADS": "1"})

    def finished(child):
        _, err = child.communicate(timeout=120)
        assert child.returncode == 0, err.decode()

    whole = start("whole")
    reached = 0
    for _ in range(3):
        child, until = start("killed"), time.monotonic() + 60
        while reached_steps(tmp_path / "killed") <= reached and child.poll() is None and time.monotonic() < until:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.03))
        child.send_signal(signal.SIGKILL)
        _, err = child.communicate(timeout=60)
        assert child.returncode in (-signal.SIGKILL, 0), err.decode()
        reached = min(reached_steps(tmp_path / "killed"), 9)
    finished(start("killed"))
    finished(whole)
    resumed, whole_run = (torch.load(tmp_path / f"{name}.done", weights_only=True) for name in ("killed", "whole"))
    assert resumed[2]["taken_now"][0] >= reached
    same(resumed, whole_run)


def reached_steps(folder):
    path = folder / "log.jsonl"
    return len(path.read_bytes().splitlines()) if path.is_file() else 0


def test_a_checkpoint_of_something_else_is_refused_until_overwritten(tiny, tmp_path):
    with pytest.raises(Stopped):
        training(tiny, tmp_path / "c", after=2)
    other = ASKED | {"options": {"seed": 1}}
    with pytest.raises(OutputError, match=r"holds the checkpoint of a training that .*seed.*--overwrite"):
        TrainingCheckpoint(tmp_path / "c", other)
    assert (tmp_path / "c" / "state.pt").is_file()
    with TrainingCheckpoint(tmp_path / "c", other, overwrite=True) as checkpoint:
        assert checkpoint.load("cpu") is None
        assert checkpoint.log == []
    assert json.loads((tmp_path / "c" / "manifest.json").read_text())["options"] == {"seed": 1}


def test_a_checkpoint_without_a_state_is_begun_again_with_other_options(tmp_path):
    """Where the message of a failure says to add an option, adding it is enough."""
    with TrainingCheckpoint(tmp_path / "c", ASKED) as checkpoint:
        checkpoint.add({"step": 1})
    with TrainingCheckpoint(tmp_path / "c", ASKED | {"options": {"seed": 1}}) as checkpoint:
        assert checkpoint.load("cpu") is None
        assert checkpoint.log == []
    assert json.loads((tmp_path / "c" / "manifest.json").read_text())["options"] == {"seed": 1}


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_same_work_is_gone_on_with_even_if_told_to_overwrite(tiny, tmp_path, overwrite):
    with pytest.raises(Stopped):
        training(tiny, tmp_path / "c", after=3)
    with TrainingCheckpoint(tmp_path / "c", ASKED, overwrite=overwrite) as checkpoint:
        assert checkpoint.load("cpu")["progress"]["step"] == 2
        assert [n["step"] for n in checkpoint.log] == [1, 2]


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"no state at all"])
def test_a_damaged_state_says_what_to_do(tiny, tmp_path, damage):
    with pytest.raises(Stopped):
        training(tiny, tmp_path / "c", after=3)
    state = tmp_path / "c" / "state.pt"
    state.write_bytes(damage(state.read_bytes()))
    with pytest.raises(OutputError, match=r"state.pt is damaged.*Remove .*c to start over") as error:
        training(tiny, tmp_path / "c")
    assert "weights_only" not in str(error.value)  # torch advises to run what is in the file


def test_a_state_cannot_run_code(tmp_path):
    class Runs:
        def __reduce__(self):
            return (Path.write_text, (tmp_path / "ran", "x"))

    with TrainingCheckpoint(tmp_path / "c", ASKED) as checkpoint:
        torch.save({"progress": Runs()}, tmp_path / "c" / "state.pt")
        with pytest.raises(OutputError, match="damaged"):
            checkpoint.load("cpu")
    assert not (tmp_path / "ran").exists()


def test_a_second_process_is_refused_while_one_is_at_work(tmp_path, python):
    code = (
        "import sys; from pathlib import Path; from kat.training.checkpoint import TrainingCheckpoint as C\n"
        "from kat.errors import OutputError\n"
        f"try: C(Path({str(tmp_path / 'c')!r}), {ASKED!r}, overwrite=True)\n"
        "except OutputError as error: print(error); sys.exit(3)"
    )
    with TrainingCheckpoint(tmp_path / "c", ASKED):
        ran = python("-c", code)
        assert (ran.rc, "is being written by another process" in ran.stdout) == (3, True), ran
    assert python("-c", code).rc == 0


def test_removing_leaves_what_is_somebody_elses(tmp_path):
    for name, is_shared in (("a", False), ("b", True)):
        with TrainingCheckpoint(tmp_path / name, ASKED) as checkpoint:
            checkpoint.add({"step": 1})
            checkpoint.save({"x": torch.ones(2)})
        if is_shared:
            (tmp_path / name / "notes.txt").write_text("mine")
        checkpoint.remove()
        assert (tmp_path / name).exists() == is_shared
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["notes.txt"]


def test_a_state_that_was_gone_on_from_is_not_held_any_longer(tiny, tmp_path):
    with pytest.raises(Stopped):
        training(tiny, tmp_path, after=3)
    states = []

    class Watched(TrainingCheckpoint):
        def load(self, device):
            state = super().load(device)
            states.extend(weakref.ref(tensor) for tensor in state["parameters"])
            return state

    data = random_tokens(0, SIZES)
    held = []
    with Watched(tmp_path, ASKED) as checkpoint:
        v, options = np.ones(len(data)), RewardOptions(**OPTIONS)
        fit(
            reward_model(tiny),
            data,
            v,
            options,
            checkpoint=checkpoint,
            on_step=lambda _: held.append(any(s() is not None for s in states)),
        )
    assert states
    assert held
    assert not any(held)


def test_progress_is_read_back_wherever_its_tensors_lie():
    progress = Progress(step=3, pairs=7, clipped=1, seen=np.asarray([True, False]))
    progress.lost[2] = 0.5
    state = progress.state()
    if torch.cuda.is_available():
        state = {name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in state.items()}
    again = Progress.of(state)
    assert (again.step, again.pairs, again.clipped, again.seen.tolist()) == (3, 7, 1, [True, False])
    assert again.lost.tolist() == progress.lost.tolist()
