"""Rows that share beginnings train and score as every sample alone does, over everything that a run can choose."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import Case, cases, make_case, plain_steps, score_rows, told_table, train_steps
from hypothesis import given, settings
from hypothesis import strategies as st
from small_model import assert_close_gradients, gradients, model_once, plain_score, row_scores
from trees import check_row, prompts

from mlens.data.split import Split
from mlens.history.all_previous import AllPrevious
from mlens.history.fixed_count import FixedCount
from mlens.history.fixed_ratio import FixedRatio
from mlens.history.none import NoHistory
from mlens.history.random import Random
from mlens.model.attention import ROW_ATTENTION
from mlens.packing.packed import PackedRows
from mlens.packing.reference import ReferenceRows
from mlens.packing.row import Row

REFERENCE = ReferenceRows()
# Of a loss, and of a gradient. Qwen3's norms compute in float32 in either case.
TOLERANCE = {torch.float64: (1e-6, 2e-6), torch.float32: (1e-5, 2e-4)}
VOCABULARY = 700
dtypes = st.sampled_from(list(TOLERANCE))


def model(attention: str, dtype: torch.dtype):
    return model_once(attention, dtype, VOCABULARY)


def same(row: Row) -> Row:
    return row


def check_training(case: Case, dtype: torch.dtype, change: Callable[[Row], Row] = same) -> None:
    """Each step's labels, loss and gradients, over all ranks' rows (each changed by `change`), and those of reference
    rows, are those of one ordinary forward pass a sample."""
    of_loss, of_gradient = TOLERANCE[dtype]
    shared, plain = model(ROW_ATTENTION, dtype), model("sdpa", dtype)
    steps = zip(plain_steps(case, plain), train_steps(case), train_steps(case, REFERENCE), strict=True)
    for step, rows, alone in steps:
        want = gradients(plain, step.loss)
        for built, own in ((rows, shared), (alone, plain)):
            assert sorted(t for one in built for t in one.targets) == step.targets
            assert [one.labels for one in built] == pytest.approx([step.labels] * len(built))
            changed = [change(one.row) if own is shared else one.row for one in built if one.targets]
            loss = -sum((row_scores(own, row) * row.weight).sum() for row in changed) / step.labels
            assert loss.item() == pytest.approx(step.loss.item(), rel=of_loss)
            assert_close_gradients(gradients(own, loss), want, of_gradient)


def check_scores(case: Case, stage: str, dtype: torch.dtype, change: Callable[[Row], Row] = same) -> None:
    """Every legal rating's score after every prompt of a stage, as by one ordinary forward pass of both."""
    shared, plain = model(ROW_ATTENTION, dtype), model("sdpa", dtype)
    dataset, answers = case.datasets[stage], case.answers
    with torch.no_grad():
        want = [[plain_score(plain, sample.prompt, a).item() for a in answers] for sample in dataset]
        for collator, own in ((case.collator, shared), (REFERENCE, plain)):
            got = np.full((len(dataset), len(answers)), np.nan)
            for one in score_rows(case, stage, collator):
                if one.targets:
                    assert np.isnan(got[one.targets]).all()
                    scores = row_scores(own, change(one.row) if own is shared else one.row)
                    got[one.targets] = scores.view(-1, len(answers)).numpy()
            assert got == pytest.approx(np.array(want), rel=10 * TOLERANCE[dtype][0])


STRATEGIES = [
    NoHistory(),
    AllPrevious(),
    Random(0.6),
    Random(0.6, "per_user"),
    FixedRatio(0.5),
    FixedCount(3),
]


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_every_strategy_trains_and_scores_as_plain_forwards_do(strategy, world):
    table = told_table(seed=3, ratings=16)
    case = make_case(table, strategy, world=world, split=Split("temporal", test_ratio=0.2), room=200)
    check_training(case, torch.float64)
    check_scores(case, "test", torch.float64)


@settings(max_examples=12)
@given(cases(ratings=7), dtypes)
def test_a_steps_loss_and_gradients_are_those_of_plain_forwards(case, dtype):
    check_training(case, dtype)


@settings(max_examples=12)
@given(cases(), dtypes, st.data())
def test_every_legal_ratings_score_is_that_of_a_plain_forward(case, dtype, data):
    check_scores(case, data.draw(st.sampled_from(list(case.datasets)[::-1])), dtype)


@pytest.mark.slow
@settings(max_examples=300)
@given(cases(ratings=12), dtypes)
def test_many_more_cases_train_and_score_as_plain_forwards_do(case, dtype):
    check_training(case, dtype)
    for stage in case.datasets:
        check_scores(case, stage, dtype)


# without a model


@settings(max_examples=40)
@given(cases(), st.data())
def test_rows_hold_the_targets_own_prompts_and_see_nothing_else(case, data):
    """Spans, positions, labels and layouts; and what a branch sees, joined with its own, is its target's prompt."""
    built = [(one, None) for step in train_steps(case) for one in step]
    stage = data.draw(st.sampled_from(list(case.datasets)))
    built += [(one, case.answers) for one in score_rows(case, stage)]
    for one, answers in built:
        if not one.targets:
            assert not one.trees and one.row.scores == 0
            continue
        dataset = case.train if answers is None else case.datasets[stage]
        samples = [dataset[i] for i in one.targets]
        assert prompts(one.trees) == [(s.prompt.tolist(), s.answer.tolist()) for s in samples]
        check_row(one.row, one.trees, answers)


@given(cases(), st.data())
def test_shapes_say_what_trees_hold(case, data):
    dataset = case.datasets[data.draw(st.sampled_from(list(case.datasets)))]
    chosen = np.array(sorted(data.draw(st.sets(st.integers(0, len(dataset) - 1), min_size=1))))
    shapes, samples = dataset.shapes(chosen), [dataset[int(i)] for i in chosen]
    assert shapes.prompts.tolist() == [len(sample.prompt) for sample in samples]
    assert dataset.prompt_lengths(chosen).tolist() == shapes.prompts.tolist()
    for key in set(shapes.key.tolist()):
        own = np.flatnonzero(shapes.key == key)
        tree = dataset.tree(chosen[own])
        assert [branch.seen for branch in tree.branches] == shapes.trunk[own].tolist()
        assert [len(branch.ids) for branch in tree.branches] == shapes.rest[own].tolist()
        assert len(tree.trunk) == shapes.trunk[own].max() == tree.branches[-1].seen
        # The longest beginning that could be shared: all but the target and its context.
        assert all(np.array_equal(samples[i].prompt[: shapes.trunk[i]], tree.trunk[: shapes.trunk[i]]) for i in own)
    longer = shapes.longer_by(np.arange(len(chosen)))
    assert (longer.prompts - shapes.prompts).tolist() == list(range(len(chosen)))


@settings(max_examples=30)
@given(cases())
def test_a_step_reads_a_common_beginning_once_where_one_row_holds_it(case):
    case = replace(case, collator=PackedRows(10**6), world=1)
    for (one,) in train_steps(case):
        shapes = case.train.shapes(np.array(sorted(one.targets)))
        trunks = {key: shapes.trunk[shapes.key == key].max() for key in shapes.key.tolist()}
        answers = sum(len(case.train[i].answer) - 1 for i in one.targets)
        assert one.row.useful == sum(trunks.values()) + shapes.rest.sum() + answers
        assert len(one.trees) == len(trunks)
