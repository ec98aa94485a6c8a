"""What ranks say: other libraries' warnings once, and that several of them have no GPU."""

import logging
import warnings

import pytest

from mlens.engine.ranks import _warn_of_shared_cores, quiet_libraries

DEPRECATED = (
    "`torch.distributed.all_gather_into_tensor` is deprecated. Please use `torch.distributed.all_gather_single`"
)


@pytest.mark.parametrize(
    ("main", "message", "module", "shown"),
    [
        (True, DEPRECATED, "torch.distributed.c10d_logger", False),
        (True, "lr_scheduler.step() before optimizer.step()", "torch.optim", True),
        (False, "lr_scheduler.step() before optimizer.step()", "torch.optim", False),
        (False, "overflow encountered in exp", "numpy", True),
    ],
)
def test_rank_0_alone_shows_warnings_of_libraries_but_noise(main, message, module, shown, monkeypatch):
    for name in ("DeepSpeed", "transformers"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.WARNING)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet_libraries(main)
        warnings.warn_explicit(message, FutureWarning, "file.py", 1, module)
    assert [str(warning.message) for warning in caught] == [message] * shown


@pytest.mark.parametrize(("rank", "ranks", "said"), [("0", 8, True), ("1", 8, False), ("0", 1, False)])
def test_ranks_without_a_gpu_are_warned_of_once(rank, ranks, said, monkeypatch, capsys):
    monkeypatch.setenv("RANK", rank)
    _warn_of_shared_cores(ranks)
    line = capsys.readouterr().err
    assert (line.startswith("WARNING: torch finds no GPU: 8 ranks share ") and line.count("\n") == 1) == said
    assert said or not line
