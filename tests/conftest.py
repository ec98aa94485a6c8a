"""What all tests share."""

import gc
import signal
from collections import defaultdict
from itertools import count

import mlens  # noqa: F401  sets how threads wait, before anything imports torch

# isort: split
import pytest
from hypothesis import settings

from mlens.engine.stop import SIGNALS

# A slow example is no failure on a busy machine. `pytest --hypothesis-profile=thorough` draws more examples.
settings.register_profile("mlens", deadline=None, max_examples=8)
settings.register_profile("thorough", deadline=None, max_examples=100)
settings.load_profile("mlens")


# With the longest tests: started last, one of them would leave the other workers idle.
FIRST = ("test_train.py", "test_launcher_sweep.py")


@pytest.hookimpl(tryfirst=True)  # before tests are selected by marks
def pytest_collection_modifyitems(items):
    _mark_slow_parameters(items)
    items.sort(key=lambda item: item.path.name not in FIRST)


def _mark_slow_parameters(items):
    """Of the parameters of a test that is marked `sampled(n)`, mark all as slow but n, evenly spaced.

    If a single parameter is given by its id, it runs.
    """
    of_test = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sampled"):
            of_test[item.nodeid.partition("[")[0]].append(item)
    for same in of_test.values():
        (n,) = same[0].get_closest_marker("sampled").args
        for i, item in enumerate(same):
            if i * n // len(same) == (i - 1) * n // len(same):
                item.add_marker("slow")


def pytest_collection_finish():
    """Leave the imported modules out of garbage collection, which takes a tenth of the time with them, and collect less
    often what the tests leave."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Several workers may share the cores."""
    import torch  # not above: the process that starts the workers doesn't need it

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def composing_once():
    """Composing takes a third of a second: configs of the same choices are composed once."""
    from tests.helpers.runs import compose_once

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mlens.compose.compose", compose_once)
        yield


@pytest.fixture(autouse=True, scope="session")
def shared_cache(tmp_path_factory):
    """What fixtures of a whole module make isn't left in the user's own cache."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MLENS_CACHE", str(tmp_path_factory.mktemp("shared_cache")))
        yield


@pytest.fixture(scope="session")
def caches(tmp_path_factory):
    """Names of folders for caches."""
    folder = tmp_path_factory.mktemp("caches")
    return (folder / str(number) for number in count())


@pytest.fixture(autouse=True)
def cache(caches, monkeypatch):
    """Every test fills a cache of its own."""
    folder = next(caches)
    folder.mkdir()
    monkeypatch.setenv("MLENS_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def signals():
    """A run leaves its signals ignored, as a process that ends should; and tests may run under nohup."""
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGINT)}
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def no_width_is_asked_for(monkeypatch):
    """Workers of pytest-xdist are given the width of its terminal."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="session")
def all_previous(tmp_path_factory):
    """A run whose histories are cut, and its model."""
    from tests.helpers.predicting_runs import predicting_run

    return predicting_run(tmp_path_factory.mktemp("runs") / "all", "history=all_previous")
