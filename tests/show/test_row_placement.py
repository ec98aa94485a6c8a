"""Where a target lands: what its tokens see there, in the order of their positions, is its prompt and nothing else."""

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlens.history.all_previous import AllPrevious
from mlens.packing.packed import PackedRows
from mlens.packing.reference import ReferenceRows
from mlens.packing.row import Row, dense_mask
from mlens.packing.steps import Steps
from mlens.show import row_placement
from mlens.show.row_placement import RowPlacement, place_in_evaluation, place_in_training, stretches_of
from tests.helpers.cases import cases, make_case, score_rows, small_table, train_steps


def read(placement: RowPlacement, row: Row) -> np.ndarray:
    """The ids that the target's last token sees, in the order of their positions, itself the last."""
    last = placement.stretches[-1]
    assert row.position_ids.shape[0] == 1
    places = [at for start, stop in [*last.sees, (last.own, last.stop)] for at in range(start, stop)]
    positions = row.position_ids[0].numpy()[places]
    assert positions.tolist() == list(range(len(places)))
    return row.input_ids[0].numpy()[places]


def check(placement: RowPlacement, row: Row, sample) -> None:
    assert np.array_equal(read(placement, row), [*sample.prompt, *sample.answer[:-1]])
    assert [token for _, token in placement.labels] == sample.answer.tolist()
    places = [place for place, _ in placement.labels]
    first = len(sample.prompt) - 1
    assert row.position_ids[0].numpy()[places].tolist() == list(range(first, first + len(sample.answer)))
    seen = torch.zeros(placement.tokens, dtype=torch.bool)
    for start, stop in [*placement.stretches[-1].sees, (placement.stretches[-1].own, placement.stretches[-1].stop)]:
        seen[start:stop] = True
    assert torch.equal(dense_mask(row.spans)[placement.stretches[-1].stop - 1], seen)


@given(case=cases())
@settings(max_examples=8)
def test_in_training_every_target_lands_where_the_plan_has_it(case):
    case = replace(case, world=1)
    dataset, planned = case.train, train_steps(case)
    for step, rows in enumerate(planned):
        for at, built in enumerate(rows):
            for i in built.targets:
                placement = place_in_training(dataset, case.collator, case.steps, i)
                assert (placement.step, placement.steps, placement.row, placement.rows) == (
                    step,
                    len(planned),
                    at,
                    len(rows),
                )
                assert (placement.targets, placement.groups) == (len(built.targets), len(built.groups))
                assert placement.tokens == built.row.input_ids.shape[1]
                check(placement, built.row, dataset[i])


@given(case=cases())
@settings(max_examples=6)
def test_in_evaluation_every_target_lands_with_its_true_answer(case):
    case = replace(case, world=1)
    for name, dataset in case.datasets.items():
        rows = score_rows(case, name)
        for at, built in enumerate(rows):
            for i in built.targets:
                placement = place_in_evaluation(dataset, case.collator, i)
                assert (placement.step, placement.row, placement.rows, placement.packed) == (
                    None,
                    at,
                    len(rows),
                    len(dataset),
                )
                check(placement, built.row, dataset[i])


def test_a_branch_is_told_with_its_trunk():
    """Nine ratings, all targets of training but the held-out ones, on one prefix."""
    case = make_case(small_table(0), AllPrevious(), steps=Steps(100, 1))
    dataset = case.train
    groups = dataset.prefix_groups(np.arange(len(dataset)))
    user = int(np.bincount(dataset.stage.user).argmax())
    own = [int(i) for i in np.flatnonzero(dataset.stage.user == user) if groups[i] >= 0]
    placement = [place_in_training(dataset, case.collator, case.steps, i) for i in own]
    shared = [one for one in placement if one.prefix is not None]
    assert len(shared) > 2
    assert len({one.prefix for one in shared}) == 1 and len({one.suffixes for one in shared}) == 1
    assert [one.suffix for one in shared] == sorted(one.suffix for one in shared)
    for i, one in zip(own, placement, strict=True):
        if one.prefix is not None:
            prefix = dataset.renderer.template.prefix(dataset.stage.user[i], dataset.history(i))
            ((start, stop),) = one.stretches[0].sees
            assert (start, stop - start) == (one.prefix[0], prefix.tokens)
            assert stop <= one.prefix[1]


def test_in_reference_rows_a_target_is_a_row_of_its_own():
    case = make_case(small_table(3), AllPrevious(), lambda _: ReferenceRows(), steps=Steps(4, 1))
    dataset = case.train
    for i in range(len(dataset)):
        sample = dataset[i]
        for placement in (
            place_in_training(dataset, case.collator, case.steps, i),
            place_in_evaluation(dataset, case.collator, i),
        ):
            (stretch,) = placement.stretches
            assert (stretch.first, stretch.position, stretch.sees, stretch.own) == (0, 0, (), 0)
            assert stretch.stop == len(sample.prompt) + len(sample.answer) - 1
            assert [token for _, token in placement.labels] == sample.answer.tolist()
            assert placement.labels[0][0] == len(sample.prompt) - 1 and placement.prefix is None


def test_of_a_long_evaluation_only_the_users_own_targets_are_packed(monkeypatch):
    case = make_case(small_table(1), AllPrevious(), lambda most: PackedRows(most))
    dataset = case.datasets["test"]
    monkeypatch.setattr(row_placement, "MOST", 0)
    for i in range(len(dataset)):
        placement = place_in_evaluation(dataset, case.collator, i)
        assert placement.packed == np.count_nonzero(dataset.stage.user == dataset.stage.user[i])
        assert [token for _, token in placement.labels] == dataset[i].answer.tolist()


@given(st.integers(0, 2**32 - 1))
def test_stretches_say_the_same_as_the_spans(seed):
    random = np.random.default_rng(seed)
    n = 12
    borders = np.sort(random.integers(0, n, (n, 2, 2)), axis=2)[random.integers(0, n, n)]
    own = np.minimum(np.arange(n), random.integers(0, n, n)[random.integers(0, 3, n)])
    spans = np.concatenate([borders, np.stack([own, np.arange(n) + 1], axis=1)[:, None]], axis=1)
    tokens = np.flatnonzero(random.random(n) < 0.8)
    positions = random.integers(0, 3, n) + np.arange(n)
    if not len(tokens):
        return
    told = stretches_of(spans, positions, tokens)
    assert [at for one in told for at in range(one.first, one.stop)] == tokens.tolist()
    mask = dense_mask(torch.from_numpy(spans)).numpy()
    for one in told:
        for k, at in enumerate(range(one.first, one.stop)):
            assert positions[at] == one.position + k
            seen = {j for start, stop in [*one.sees, (one.own, at + 1)] for j in range(start, stop)}
            assert seen == set(np.flatnonzero(mask[at]).tolist())
