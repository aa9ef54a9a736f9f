"""What several processes need of the backend that joins them, which on a GPU is NCCL."""

from types import SimpleNamespace

import pytest
import torch

from kat.training.ranks import SeveralRanks

accelerate = pytest.importorskip("accelerate")


@pytest.fixture
def told(monkeypatch):
    """What accelerate is told, of a process that is the second of two, on a device without memory."""
    told = {}

    def state(**given):
        told.update(given)
        place = {"process_index": 1, "num_processes": 2, "device": torch.device("meta")}
        return SimpleNamespace(**place, destroy_process_group=lambda: None)

    monkeypatch.setattr(accelerate, "PartialState", state)
    return told


def test_numbers_on_the_processor_are_summed_where_the_process_is(told, monkeypatch):
    devices = []

    def all_reduce(tensor):
        devices.append(tensor.device.type)
        raise InterruptedError  # nothing can be copied back from where there is no memory

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    with pytest.raises(InterruptedError):
        SeveralRanks("auto").sum([torch.zeros(3, dtype=torch.float64)])
    assert devices == ["meta"]


def test_the_others_wait_for_hours_while_the_first_measures(told):
    SeveralRanks("auto")
    assert told["timeout"].total_seconds() > 24 * 3600
