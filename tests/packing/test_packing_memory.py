"""No step stores pairs of tokens: neither its rows, nor attention in the forward and backward pass."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mlens.model.attention.cpu import row_attention
from mlens.model.attention.cpu_layout import with_cpu_layout
from mlens.packing.packed import PackedRows
from mlens.packing.row import Row
from tests.helpers.prefix_groups import ANSWERS, lone_groups, make_group
from tests.helpers.runs import ROOT, command

# A user of 250 lines with a suffix for each target, users of 20 lines likewise, and targets that share nothing.
ROWS = {
    "one user": [make_group(5000, [(20 * i, 24) for i in range(1, 251)])],
    "many users": [make_group(400, [(20 * i, 24) for i in range(1, 21)], seed) for seed in range(10)],
    "apart": lone_groups(np.random.default_rng(0).integers(30, 400, 40)),
}


class Largest(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                # An expanded tensor has the storage of the original.
                self.numbers = max(self.numbers, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


def tensors(row: Row) -> list[torch.Tensor]:
    found = [value for value in vars(row).values() if isinstance(value, torch.Tensor)]
    for product in row.layout.products:
        found += [part for part in (product.query, *product.key, product.mask) if isinstance(part, torch.Tensor)]
    return found


@pytest.mark.parametrize("scoring", [False, True])
@pytest.mark.parametrize("name", ROWS)
def test_a_rows_tensors_are_much_smaller_than_pairs_of_its_tokens(name, scoring):
    row = PackedRows().score_row(ROWS[name], ANSWERS) if scoring else PackedRows().train_row(ROWS[name], 0.5)
    row = with_cpu_layout(row)
    tokens = len(row.spans)
    assert tokens > 7_000
    assert sum(tensor.numel() for tensor in tensors(row)) < tokens**2 / 15


@pytest.mark.parametrize("name", ROWS)
def test_attention_makes_no_tensor_of_pairs_of_tokens(name):
    row = with_cpu_layout(PackedRows().train_row(ROWS[name]))
    tokens, heads, d = len(row.spans), 1, 4
    q, k, v = (torch.randn(1, heads, tokens, d, requires_grad=True) for _ in range(3))
    with Largest() as largest:
        row_attention(None, q, k, v, None, 0.5, layout=row.layout)[0].square().sum().backward()
    assert tokens * d <= largest.numbers < tokens**2 / 15


@pytest.mark.slow
def test_a_step_with_sharing_takes_less_memory_than_a_padded_batch_of_its_targets():
    grown, losses = {}, {}
    for kind in ("shared", "padded"):
        result = command(str(ROOT / "tests" / "helpers" / "step_memory.py"), kind)
        assert result.returncode == 0, result.stderr
        grown[kind], losses[kind] = int(result.stdout), float(result.stderr.split()[-1])
    assert losses["shared"] == pytest.approx(losses["padded"], rel=1e-5)
    assert 0 < grown["shared"] < grown["padded"] / 20
