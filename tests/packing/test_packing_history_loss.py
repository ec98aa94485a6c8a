"""Ratings in histories carry loss at most once an epoch, and count as planned, with any packing."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlens.data.split import TRAIN, Split
from mlens.history.all_previous import AllPrevious
from mlens.history.fixed_count import FixedCount
from mlens.history.random import Random
from mlens.model.attention.cpu import ROW_ATTENTION
from mlens.packing.packed import PackedRows
from mlens.packing.steps import Steps
from tests.helpers.cases import BuiltRow, Case, cases, make_case, small_table, train_steps
from tests.helpers.equality import line_tokens, model, rating_tokens
from tests.helpers.small_model import assert_close_gradients, gradients, row_scores

weights = st.sampled_from([0.25, 1.0])


def places_of(case: Case, i: int) -> dict[int, range]:
    return rating_tokens(case.train.renderer, int(case.train.stage.targets[i]), case.train.history(i))


def supervised(case: Case, built: BuiltRow) -> list[int]:
    """The ratings whose lines carry loss in a row; no line does partly."""
    ratings, first = [], 0
    for group in built.groups:
        last = built.targets[first + len(group.suffixes) - 1]
        first += len(group.suffixes)
        lines = set(group.lines.tolist())
        assert len(lines) == len(group.lines)
        for rating, places in places_of(case, last).items():
            if lines.issuperset(places):
                ratings.append(rating)
                lines -= {*places}
        assert not lines
    return ratings


@settings(max_examples=6)
@given(cases(), weights)
def test_each_training_rating_carries_loss_as_a_line_once_an_epoch_at_most(case, weight):
    case = replace(case, steps=replace(case.steps, history_loss_weight=weight))
    shown_first = Counter(
        rating
        for i in range(len(case.train))
        for rating, places in places_of(case, i).items()
        if {*places} <= {*line_tokens(case, i)}
    )
    for share in ("auto", "never"):
        packed = replace(case, collator=replace(case.collator, share=share))
        count = Counter(r for step in train_steps(packed) for one in step for r in supervised(packed, one))
        assert count == shown_first
        assert set(count.values()) <= {1}
        assert all(case.roles[rating] == TRAIN for rating in count)


@settings(max_examples=6)
@given(cases(), weights)
def test_the_planned_labels_are_those_of_the_rows(case, weight):
    case = replace(case, steps=replace(case.steps, history_loss_weight=weight))
    for step in train_steps(case):
        weighed = sum(float(one.row.weight[one.row.owner].sum()) for one in step)
        assert [one.labels for one in step] == pytest.approx([weighed] * len(step))


@pytest.mark.parametrize("most", [None, 3])
def test_with_all_of_its_history_every_rating_but_the_last_carries_loss(most):
    """Also with fewer targets: the ratings between two targets are new to the later one."""
    split = Split("temporal", max_train_targets_per_user=most)
    case = make_case(small_table(seed=5, ratings=20), AllPrevious(), split=split)
    table, stage = case.train.table, case.train.stage
    count = Counter(r for step in train_steps(case) for one in step for r in supervised(case, one))
    last = {int(table.user[t]): int(t) for t in stage.targets}
    assert len(stage) == sum(min(most or 99, int((case.roles[table.user == u] == TRAIN).sum())) for u in last)
    before = [r for u, t in last.items() for r in range(table.user_offsets[u], t) if case.roles[r] == TRAIN]
    assert count == Counter(before)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize(
    "strategy", [AllPrevious(), Random(0.6, "per_user"), Random(0.6, "per_target"), FixedCount(3)], ids=str
)
def test_loss_and_gradients_do_not_depend_on_sharing(strategy, world):
    row_model = model(ROW_ATTENTION, torch.float64)
    case = make_case(small_table(seed=1, ratings=14), strategy, steps=Steps(9, 2, 0.5), world=world)
    shared, apart = (train_steps(replace(case, collator=PackedRows(600, share))) for share in ("auto", "never"))
    for one, other in list(zip(shared, apart, strict=True))[:2]:
        assert {built.labels for built in one} == {built.labels for built in other}
        losses = [
            -sum((row_scores(row_model, built.row) * built.row.weight).sum() for built in step if built.targets)
            for step in (one, other)
        ]
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
        assert_close_gradients(*(gradients(row_model, loss) for loss in losses), relative=2e-6)
