"""Numbers reach a tracker as they stand in the log, and a tracker that is not installed is named."""

import importlib.util
from pathlib import Path

import pytest

from kat.errors import MissingExtraError
from kat.training import trackers
from kat.training.trackers import Tracker


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_what_is_not_installed_is_named(name, monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda package: None if package == name else True)
    with pytest.raises(MissingExtraError, match=f"--report_to {name} needs {name}.*pip install {name}"):
        Tracker(name, Path("x"), "run", {})


def test_none_hears_of_nothing():
    with Tracker("none", Path("x"), "run", {}) as tracker:
        tracker.log({"step": 1, "loss": 0.5})


@pytest.mark.parametrize(("name", "in_a_folder"), [("tensorboard", True), ("wandb", False)])
def test_a_run_is_begun_told_and_ended(name, in_a_folder, monkeypatch, tmp_path):
    tracking = pytest.importorskip("accelerate.tracking")
    heard = []

    class Listener:
        requires_logging_directory = in_a_folder

        def __init__(self, run, **more):
            heard.append((run, more))

        def start(self):
            heard.append("started")

        def store_init_configuration(self, values):
            heard.append(values)

        def log(self, values, step):
            heard.append((step, values))

        def finish(self):
            heard.append("finished")

    real = importlib.util.find_spec
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda p: True if p == name else real(p))
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, name, Listener)
    with Tracker(name, tmp_path, "rm", {"epochs": 2, "max_steps": None}) as tracker:
        tracker.log({"step": 3, "loss": 0.5})
    where = {"logging_dir": tmp_path} if in_a_folder else {}
    assert heard == [("rm", where), "started", {"epochs": 2, "max_steps": "None"}, (3, {"loss": 0.5}), "finished"]
