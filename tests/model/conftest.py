import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Two cores may be shared."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def torch_compiles(monkeypatch):
    """An engine with Muon on a CPU turns compiling off for its process; FlexAttention can't do without."""
    monkeypatch.setattr(torch._dynamo.config, "disable", False)
