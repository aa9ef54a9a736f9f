"""Whether there is a CUDA device to run this folder's tests on; without one they run on the processor alone."""

import pytest
import torch

from kat.devices import multiplies_bfloat16, pick_device

if not torch.cuda.is_available():
    pytest.skip("this machine has no CUDA device: tests/gpu runs on the processor alone", allow_module_level=True)


def test_it_is_taken_by_itself():
    assert pick_device("auto") == "cuda"
    has_circuits = torch.cuda.get_device_capability()[0] >= 8
    assert multiplies_bfloat16("cuda") == multiplies_bfloat16("cuda:0") == has_circuits
