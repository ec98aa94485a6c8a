import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Two cores may be shared."""
    torch.set_num_threads(1)
