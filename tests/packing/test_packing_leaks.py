"""The checks of equality fail if one token sees one token that it shouldn't."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mlens.model.attention.cpu_layout import CpuLayout, Product, with_cpu_layout
from mlens.packing.packed import PackedRows
from mlens.packing.row import Row, dense_mask
from tests.helpers.cases import cases, limited, score_rows, train_steps
from tests.helpers.equality import check_scores, check_training
from tests.helpers.prefix_groups import ANSWERS, check_layout, check_row, prefix_group_lists, token_indices


def densely(row: Row) -> Row:
    """The row with a layout of one dense mask."""
    everything = slice(0, len(row.spans))
    return replace(row, layout=CpuLayout((Product(everything, (everything,), dense_mask(row.spans)[None, None]),)))


# A token of a suffix sees one more token of its prefix (or of what follows it), one of a prefix its successor, one of a
# chain the chain before it: the tokens, the span that is widened, its end, and by how much.
LEAKS = {
    "suffix": (lambda spans: spans[:, 0, 1] > spans[:, 0, 0], 0, 1, 1),
    "prefix": (lambda spans: spans[:, 0, 1] == spans[:, 0, 0], 2, 1, 1),
    "chain": (lambda spans: spans[:, 1, 1] > spans[:, 1, 0], 2, 0, -1),
}


def leaky(row: Row, leak: str, choice: int) -> Row | None:
    """The row with a span of one token widened by a token that it doesn't see; None if there is none."""
    tokens, span, end, by = LEAKS[leak]
    sees = dense_mask(row.spans)
    leaked = row.spans[:, span, end].long() - int(end == 0)
    inside = (leaked >= 0) & (leaked < len(sees))
    new = ~sees[torch.arange(len(sees)), leaked.clamp(0, len(sees) - 1)]
    candidates = torch.nonzero(tokens(row.spans) & inside & new)[:, 0]
    if not len(candidates):
        return None
    spans = row.spans.clone()
    spans[candidates[choice % len(candidates)], span, end] += by
    return densely(replace(row, spans=spans))


def planted(leak: str, choice: int, rows: list[Row]) -> Callable[[Row], Row]:
    """Return a function that plants a leak in one of these rows."""
    able = [row for row in rows if leaky(row, leak, choice)]
    assume(able)
    chosen = able[choice % len(able)]

    def change(row: Row) -> Row:
        is_chosen = torch.equal(row.input_ids, chosen.input_ids) and torch.equal(row.spans, chosen.spans)
        return (leaky(row, leak, choice) if is_chosen else None) or densely(row)

    return change


# The same examples each time: it is very unlikely, but possible, that a leak makes no significant difference.
@settings(max_examples=3, derandomize=True)
@given(cases(ratings=6), st.sampled_from(["suffix", "prefix"]), st.integers(0, 10**6))
def test_a_leak_changes_a_steps_loss_or_gradients(case, leak, choice):
    check_training(case, torch.float64, densely)
    change = planted(leak, choice, [one.row for step in train_steps(case) for one in step if one.targets])
    with pytest.raises(AssertionError):
        check_training(case, torch.float64, change)


@settings(max_examples=3, derandomize=True)
@given(cases(ratings=6), st.sampled_from(list(LEAKS)), st.integers(0, 10**6))
def test_a_leak_changes_scores(case, leak, choice):
    stage = list(case.datasets)[-1]
    check_scores(case, stage, torch.float64, densely)
    change = planted(leak, choice, [one.row for one in score_rows(case, stage) if one.targets])
    with pytest.raises(AssertionError):
        check_scores(case, stage, torch.float64, change)


@given(prefix_group_lists(), st.booleans(), st.sampled_from(list(LEAKS)), st.integers(0, 10**6))
def test_a_leak_is_detected_in_the_spans(groups, scoring, leak, choice):
    answers = ANSWERS if scoring else None
    row = PackedRows().score_row(groups, answers) if scoring else PackedRows().train_row(groups)
    check_row(densely(row), groups, answers)
    changed = leaky(row, leak, choice)
    assume(changed)
    with pytest.raises(AssertionError):
        check_row(changed, groups, answers)


@given(prefix_group_lists(), st.integers(0, 10**6))
def test_a_leak_in_a_layouts_masks_is_detected(groups, choice):
    """One pair more, or one less, in the masks that attention uses."""
    row = with_cpu_layout(PackedRows().score_row(groups, ANSWERS))
    tokens = len(row.spans)
    pairs = [
        (n, tuple(pair))
        for n, product in enumerate(row.layout.products)
        if product.mask is not None
        for pair in np.argwhere(
            (token_indices(product.query) < tokens)[:, None, :, None] | np.zeros(product.mask.shape, bool)
        )
    ]
    n, pair = pairs[choice % len(pairs)]
    products = list(row.layout.products)
    mask = products[n].mask.clone()
    mask[pair] = ~mask[pair]
    products[n] = replace(products[n], mask=mask)
    with pytest.raises(AssertionError):
        check_layout(replace(row, layout=CpuLayout(tuple(products))))


@given(prefix_group_lists(prefix=20, suffix=4), st.integers(0, 10**6))
def test_a_bundle_that_sees_more_of_its_prefix_is_detected(groups, choice):
    with limited({"LONG": 1, "BUNDLE": 8}):
        row = with_cpu_layout(PackedRows().train_row(groups))
    products = list(row.layout.products)
    bundles = [n for n, product in enumerate(products) if product.common is not None]
    assume(bundles)
    n = bundles[choice % len(bundles)]
    common = products[n].common
    products[n] = replace(products[n], common=slice(common.start, common.stop + 1))
    with pytest.raises(AssertionError):
        check_layout(replace(row, layout=CpuLayout(tuple(products))))
