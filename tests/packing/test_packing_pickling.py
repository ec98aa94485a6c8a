"""A row from a worker equals the row that it built, and is sent by value."""

import pickle
from dataclasses import fields
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch

from mlens.model.attention.cuda_layout import with_cuda_layout
from mlens.packing.row import Row
from tests.helpers.steps import parts


def leaves(value):
    """All tensors and plain values of a row, in order."""
    if isinstance(value, tuple):
        return [leaf for item in value for leaf in leaves(item)]
    if hasattr(value, "__dataclass_fields__"):
        return [leaf for field in fields(value) for leaf in leaves(getattr(value, field.name))]
    return [value]


@pytest.fixture(scope="module")
def made():
    return parts("prompt.max_tokens=512", "packing.row_tokens=2048")


@pytest.mark.parametrize("kind", ["packed", "scored", "blocks", "filler"])
def test_a_sent_row_is_equal_and_uses_no_file_in_shared_memory(made, kind):
    dataset, answers = made.datasets["train"], made.datasets["train"].renderer.template.answers
    groups = [dataset.prefix_group(np.array(targets)) for targets in ([0, 1, 2, 3], [20], [40])]
    row: Row = {
        "packed": lambda: made.collator.train_row(groups, 0.5),
        "scored": lambda: made.collator.score_row(groups, answers),
        "blocks": lambda: with_cuda_layout(made.collator.train_row(groups)),
        "filler": lambda: made.collator.train_row([]),
    }[kind]()
    sent = bytes(ForkingPickler.dumps(row))
    assert b"rebuild_storage" not in sent
    received = pickle.loads(sent)
    before, after = leaves(row), leaves(received)
    assert len(before) == len(after) and sum(isinstance(leaf, torch.Tensor) for leaf in before) > 5
    for one, other in zip(before, after, strict=True):
        if isinstance(one, torch.Tensor):
            assert one.dtype == other.dtype and torch.equal(one, other)
            other.copy_(one)  # may be written to
        else:
            assert one == other
