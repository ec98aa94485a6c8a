import pytest
import torch
import torch._dynamo


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Two cores may be shared."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def torch_compiles():
    """An engine with Muon on a CPU turns compiling off for its process; FlexAttention can't do without."""
    with torch._dynamo.config.patch(disable=False):
        yield
