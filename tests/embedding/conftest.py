"""One thread a process: threads that wait for each other on a busy machine make tests ten times slower."""

import pytest
from making import tiny


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory) -> str:
    """A random model of two layers whose words are w0 … w97."""
    return tiny(tmp_path_factory.mktemp("tiny"), "Llama", pad_token_id=1)
