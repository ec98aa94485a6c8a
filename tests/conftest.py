"""What all tests share."""

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Every test fills a cache of its own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MLENS_CACHE", str(folder))
    return folder
