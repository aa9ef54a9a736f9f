"""Each test runs on the processor, where a mistake in it shows, and on a CUDA device if this machine has one."""

import pytest
import torch


@pytest.fixture(params=["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
def device(request) -> str:
    return request.param


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tensors are tiny: on a busy machine threads that wait for each other take most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
