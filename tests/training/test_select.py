"""`--select best`: the step of the lowest loss on pairs that do not train, and nothing of those that validate."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from making_training import random_tokens, reward_model, tiny_chat_model

import kat
from kat.errors import OptionError
from kat.stages.pair_report import _selects
from kat.training.train import Scored, fit, score_tokens
from kat.training_config import RewardOptions

TOLD = {"train": "all", "batch_size": 4, "epochs": 4, "schedule": "constant", "warmup": 0.0, "eval_every": 1}
RATES = {"learning_rate": 0.02, "backbone_lr": 0.02}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_chat_model(tmp_path_factory.mktemp("tiny") / "model")


def parts(data):
    some = data.prompt < 4
    return data.select(np.flatnonzero(some)), data.select(np.flatnonzero(~some))


def test_the_loss_is_that_of_its_definition():
    scored = Scored(["a", "b"], np.asarray([1.0, -40.0], np.float32), np.asarray([0.5, 60.0], np.float32))
    assert scored.loss == pytest.approx((math.log(1 + math.exp(-0.5)) + 100.0) / 2)


def test_the_parameters_are_those_of_the_best_step(tiny):
    train, selection = parts(random_tokens(3, [3, 2, 3, 2, 4]))
    model, log = reward_model(tiny), []
    facts = fit(
        model, train, np.ones(len(train)), RewardOptions(**TOLD, **RATES), on_step=log.append, selection=selection
    )
    losses = [one["selection_loss"] for one in log]
    best = int(np.argmin(losses)) + 1
    assert facts["best_step"] == best < len(log)  # rates this high forget again
    assert score_tokens(model, selection).loss == pytest.approx(min(losses), abs=1e-6)
    stopped = reward_model(tiny)
    fit(stopped, train, np.ones(len(train)), RewardOptions(**TOLD, **RATES, max_steps=best))
    for (name, kept), (_, parameter) in zip(
        model.model.named_parameters(), stopped.model.named_parameters(), strict=True
    ):
        assert torch.equal(kept, parameter), name


def test_the_selection_takes_the_pairs_margins_and_no_weights(tiny):
    train, selection = parts(random_tokens(3, [3, 2, 3, 2, 4]))
    selection = replace(selection, margins=np.linspace(0, 2, len(selection)).astype(np.float32))
    told, log = RewardOptions(**TOLD | {"epochs": 1}, **RATES, max_steps=1), []
    weights = np.linspace(0.5, 1.5, len(train))
    fit(model := reward_model(tiny), train, weights, told, on_step=log.append, selection=selection)
    scored = score_tokens(model, selection)
    z = (scored.chosen - scored.rejected).astype(np.float64) - selection.margins
    assert log[0]["selection_loss"] == pytest.approx(np.log1p(np.exp(-z)).mean(), rel=1e-5)
    assert log[0]["selection_loss"] != pytest.approx(scored.loss, rel=1e-2)


class Kept:
    def __init__(self):
        self.states = {}
        self.start = None

    def load(self, device):
        return self.start

    def save(self, state):
        import io

        file = io.BytesIO()
        torch.save(dict(state), file)
        file.seek(0)
        self.states[state["progress"]["step"]] = torch.load(file, weights_only=True)


def test_a_resumed_training_remembers_the_best(tiny):
    train, selection = parts(random_tokens(3, [3, 2, 3, 2, 4]))
    options, ones = RewardOptions(**TOLD, **RATES, save_every=1), np.ones(len(train))
    whole, kept, again = reward_model(tiny), Kept(), reward_model(tiny)
    facts = fit(whole, train, ones, options, checkpoint=kept, selection=selection)
    kept.start = kept.states[max(step for step in kept.states if step > facts["best_step"])]
    resumed = fit(again, train, ones, options, checkpoint=kept, selection=selection)
    assert resumed["best_step"] == facts["best_step"]
    for (name, one), (_, other) in zip(whole.model.named_parameters(), again.model.named_parameters(), strict=True):
        assert torch.equal(one, other), name


def test_groups_are_held_out_of_training_and_validation_is_left_alone(tmp_path, kat_cli):
    assert kat_cli("demo-data", "--out", tmp_path / "p.jsonl", "--pairs", "200").rc == 0
    model = tiny_chat_model(tmp_path / "tiny", texts=(tmp_path / "p.jsonl").read_text().splitlines(), vocabulary=900)
    assert kat_cli("run", tmp_path / "p.jsonl", "--out", tmp_path / "run", "--model", model, "--device", "cpu").rc == 0
    assert kat_cli("weigh-pairs", tmp_path / "run").rc == 0
    told = ("--model", model, "--train", "head", "--precision", "float32", "--device", "cpu", "--max_len", "400")
    told += ("--min_prompt", "32", "--batch_size", "16")
    ran = kat_cli("train-rm", tmp_path / "run", *told, "--select", "best", "--eval_every", "2")
    assert ran.rc == 0, ran.stderr
    report = json.loads((tmp_path / "run" / "rm" / "training.json").read_text())
    table = kat.read_pair_weights(tmp_path / "run" / "pair_weights.parquet")
    trains = table.split == "train"
    held = np.asarray([_selects(str(group)) for group in table.group.tolist()])
    dropped = sum(sum(bins.values()) for bins in report["dropped_by_bin"].values())
    assert dropped == 0
    assert report["selection_pairs"] == int((trains & held).sum()) > 0
    assert report["train_pairs"] == int((trains & ~held).sum())
    assert report["validation_pairs"] == int((table.split == "validation").sum())
    assert report["training"]["best_step"] >= 1
    log = [json.loads(x) for x in (tmp_path / "run" / "rm" / "training_log.jsonl").read_text().splitlines()]
    measured = {one["step"]: one["selection_loss"] for one in log if "selection_loss" in one}
    assert set(measured) == {*range(2, len(log) + 1, 2), len(log)}
    assert report["training"]["best_step"] == min(measured, key=measured.get)
    assert "skip" in kat_cli("train-rm", tmp_path / "run", *told, "--select", "best", "--eval_every", "2").stdout
    assert (
        "--overwrite" in kat_cli("train-rm", tmp_path / "run", *told, "--select", "best", "--eval_every", "3").failed()
    )
    # Groups, not pairs, are held out.
    assert not set(table.group[trains & held].tolist()) & set(table.group[trains & ~held].tolist())


def test_steps_that_are_measured_are_recorded_where_one_is_selected():
    assert RewardOptions(eval_every=7).recorded_too == {}
    assert RewardOptions(select="best", eval_every=7).recorded_too == {"eval_every": 7}


def test_what_cannot_select_is_refused(tiny):
    with pytest.raises(OptionError, match="eval_every"):
        RewardOptions(select="best", eval_every=0)
    with pytest.raises(OptionError, match="kat train-rm"):
        kat.train_reward_model([], model=tiny, select="best")
