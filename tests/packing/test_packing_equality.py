"""Packed rows with shared prefixes train and score as separate samples do, with all settings of a run."""

from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlens.data.split import Split
from mlens.history.all_previous import AllPrevious
from mlens.history.fixed_count import FixedCount
from mlens.history.fixed_ratio import FixedRatio
from mlens.history.none import NoHistory
from mlens.history.random import Random
from mlens.packing.dataset import RatingDataset
from mlens.packing.packed import PackedRows
from mlens.packing.steps import Steps
from mlens.prompt.renderer import WholePromptRenderer
from tests.helpers.cases import cases, make_case, score_rows, small_table, train_steps
from tests.helpers.equality import check_scores, check_training, dtypes
from tests.helpers.prefix_groups import check_row, prompts
from tests.helpers.reference import dated
from tests.helpers.tokenizers_for_tests import plain, tiny

STRATEGIES = [
    NoHistory(),
    AllPrevious(),
    Random(0.6, "per_target"),
    Random(0.6, "per_user"),
    FixedRatio(0.5),
    FixedCount(3),
]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("strategy", "world"), zip(STRATEGIES, cycle([1, 2]), strict=False), ids=str)
def test_every_strategy_trains_and_scores_as_plain_forwards_do(strategy, world):
    table = small_table(seed=3, ratings=12)
    case = make_case(table, strategy, world=world, split=Split("temporal", test_ratio=0.2), room=200)
    check_training(case, torch.float64)
    check_scores(case, "test", torch.float64)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("order", ["time", "newest_first"])
def test_prompts_with_dates_train_and_score_as_plain_forwards_do(order):
    """In time order they share their histories; newest first, none but the task of targets without history."""
    table, weight = dated(small_table(seed=3, ratings=12)), 0.5 if order == "time" else 0.0
    case = make_case(table, AllPrevious(), steps=Steps(100, 1, weight), room=300, dates=True, order=order)
    built = [one for step in train_steps(case) for one in step]
    shared = [group.suffixes for one in built for group in one.groups if len(group.suffixes) > 1]
    growing = [suffixes for suffixes in shared if suffixes[-1].seen > suffixes[0].seen]
    assert bool(growing) == (order == "time")
    check_training(case, torch.float64)
    check_scores(case, "test", torch.float64)


@settings(max_examples=4)
@given(cases(ratings=7), dtypes)
def test_a_steps_loss_and_gradients_are_those_of_plain_forwards(case, dtype):
    check_training(case, dtype)


@settings(max_examples=6)
@given(cases(), dtypes, st.data())
def test_every_legal_ratings_score_is_that_of_a_plain_forward(case, dtype, data):
    check_scores(case, data.draw(st.sampled_from(list(case.datasets)[::-1])), dtype)


@pytest.mark.slow
@settings(max_examples=100)
@given(cases(ratings=12), dtypes)
def test_many_more_cases_train_and_score_as_plain_forwards_do(case, dtype):
    check_training(case, dtype)
    for stage in case.datasets:
        check_scores(case, stage, dtype)


# without a model


@settings(max_examples=4)
@given(cases(), st.data())
def test_rows_contain_the_prompts_of_their_targets_and_see_nothing_else(case, data):
    """Spans, positions, labels and layouts; and what a suffix sees, joined with its tokens, is its target's prompt."""
    built = [(one, None) for step in train_steps(case) for one in step]
    stage = data.draw(st.sampled_from(list(case.datasets)))
    built += [(one, case.answers) for one in score_rows(case, stage)]
    for one, answers in built:
        if not one.targets:
            assert not one.groups and one.row.scores == 0
            continue
        dataset = case.train if answers is None else case.datasets[stage]
        samples = [dataset[i] for i in one.targets]
        assert prompts(one.groups) == [(s.prompt.tolist(), s.answer.tolist()) for s in samples]
        check_row(one.row, one.groups, answers)


@settings(max_examples=4)
@given(cases(), st.data())
def test_shapes_are_the_token_counts_of_the_prefix_groups(case, data):
    dataset = case.datasets[data.draw(st.sampled_from(list(case.datasets)))]
    chosen = np.array(sorted(data.draw(st.sets(st.integers(0, len(dataset) - 1), min_size=1))))
    shapes, samples = dataset.shapes(chosen), [dataset[int(i)] for i in chosen]
    assert shapes.prompts.tolist() == [len(sample.prompt) for sample in samples]
    assert dataset.prompt_lengths(chosen).tolist() == shapes.prompts.tolist()
    for key in set(shapes.group.tolist()):
        members = np.flatnonzero(shapes.group == key)
        group = dataset.prefix_group(chosen[members])
        assert [suffix.seen for suffix in group.suffixes] == shapes.prefix[members].tolist()
        assert [len(suffix.ids) for suffix in group.suffixes] == shapes.suffix[members].tolist()
        assert len(group.prefix) == shapes.prefix[members].max() == group.suffixes[-1].seen
        # The longest prefix that can be shared: all but the target and its context.
        assert all(
            np.array_equal(samples[i].prompt[: shapes.prefix[i]], group.prefix[: shapes.prefix[i]]) for i in members
        )
    longer = dataset.shapes(chosen, answer_tokens=np.arange(len(chosen)))
    assert (longer.prompts - shapes.prompts).tolist() == list(range(len(chosen)))


@settings(max_examples=4)
@given(cases())
def test_a_step_reads_a_common_prefix_once_if_it_fits_in_one_row(case):
    case = replace(case, collator=PackedRows(10**6), world=1)
    for (one,) in train_steps(case):
        shapes = case.train.shapes(np.array(sorted(one.targets)))
        prefixes = {key: shapes.prefix[shapes.group == key].max() for key in shapes.group.tolist()}
        answers = sum(len(case.train[i].answer) - 1 for i in one.targets)
        assert one.row.useful == sum(prefixes.values()) + shapes.suffix.sum() + answers
        assert len(one.groups) == len(prefixes)


def test_without_joining_pieces_no_target_shares_a_prefix():
    """No prefix is shared, and the tokens of ratings are unknown."""
    case = make_case(small_table(seed=3, ratings=12), AllPrevious(), room=200)
    dataset = case.train
    renderer = WholePromptRenderer(dataset.renderer.template, plain(tiny()))
    case.datasets["train"] = RatingDataset(dataset.table, dataset.stage, dataset.strategy, renderer, seed=7)
    built = [one for step in train_steps(case) for one in step]
    assert all(len(group.suffixes) == 1 and not len(group.lines) for one in built for group in one.groups)
    for one in built:
        samples = [case.train[i] for i in one.targets]
        assert prompts(one.groups) == [(s.prompt.tolist(), s.answer.tolist()) for s in samples]
        check_row(one.row, one.groups)
        assert one.labels == sum(len(sample.answer) for sample in case.train)
    assert [sample.prompt.tolist() for sample in case.train] == [sample.prompt.tolist() for sample in dataset]
    targets = np.arange(len(dataset))
    assert case.train.prompt_lengths(targets).tolist() == dataset.prompt_lengths(targets).tolist()
    assert case.train.prefix_groups(targets).tolist() == [-1] * len(dataset)
