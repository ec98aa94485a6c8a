"""The placement of a target in its row: what its tokens see, in the order of positions, is exactly its prompt."""

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
from mlens.show.row_placement import RowPlacement, make_token_ranges, place_in_evaluation, place_in_training
from tests.helpers.cases import cases, make_case, score_rows, small_table, train_steps


def read(placement: RowPlacement, row: Row) -> np.ndarray:
    """Return the ids that the target's last token sees, in the order of positions, including its id at the end."""
    last = placement.token_ranges[-1]
    assert row.position_ids.shape[0] == 1
    indices = [at for start, stop in [*last.sees, (last.causal_start, last.stop)] for at in range(start, stop)]
    positions = row.position_ids[0].numpy()[indices]
    assert positions.tolist() == list(range(len(indices)))
    return row.input_ids[0].numpy()[indices]


def check(placement: RowPlacement, row: Row, sample) -> None:
    assert np.array_equal(read(placement, row), [*sample.prompt, *sample.answer[:-1]])
    assert [token for _, token in placement.labels] == sample.answer.tolist()
    indices = [index for index, _ in placement.labels]
    first = len(sample.prompt) - 1
    assert row.position_ids[0].numpy()[indices].tolist() == list(range(first, first + len(sample.answer)))
    seen = torch.zeros(placement.tokens, dtype=torch.bool)
    last = placement.token_ranges[-1]
    for start, stop in [*last.sees, (last.causal_start, last.stop)]:
        seen[start:stop] = True
    assert torch.equal(dense_mask(row.spans)[last.stop - 1], seen)


@given(cases(), st.booleans())
@settings(max_examples=4)
def test_in_training_the_placement_of_every_target_is_that_of_the_plan(case, over_ratings):
    case = replace(case, world=1)
    if over_ratings:
        case = replace(case, steps=replace(case.steps, history_loss_weight=0.0, loss="expected"))
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
@settings(max_examples=4)
def test_in_evaluation_every_target_is_placed_with_its_true_answer(case):
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


def test_a_suffix_is_placed_with_its_prefix():
    """A user with nine ratings, all training targets except the held-out ones, that share one prefix."""
    case = make_case(small_table(0), AllPrevious(), steps=Steps(100, 1))
    dataset = case.train
    groups = dataset.prefix_groups(np.arange(len(dataset)))
    user = int(np.bincount(dataset.stage.user).argmax())
    members = [int(i) for i in np.flatnonzero(dataset.stage.user == user) if groups[i] >= 0]
    placement = [place_in_training(dataset, case.collator, case.steps, i) for i in members]
    shared = [one for one in placement if one.prefix is not None]
    assert len(shared) > 2
    assert len({one.prefix for one in shared}) == 1 and len({one.suffixes for one in shared}) == 1
    assert [one.suffix for one in shared] == sorted(one.suffix for one in shared)
    for i, one in zip(members, placement, strict=True):
        if one.prefix is not None:
            prefix = dataset.renderer.template.prefix(dataset.stage.user[i], dataset.history(i))
            ((start, stop),) = one.token_ranges[0].sees
            assert (start, stop - start) == (one.prefix[0], prefix.tokens)
            assert stop <= one.prefix[1]


def test_in_reference_rows_each_target_has_a_separate_row():
    case = make_case(small_table(3), AllPrevious(), lambda _: ReferenceRows(), steps=Steps(4, 1))
    dataset = case.train
    for i in range(len(dataset)):
        sample = dataset[i]
        for placement in (
            place_in_training(dataset, case.collator, case.steps, i),
            place_in_evaluation(dataset, case.collator, i),
        ):
            (tokens,) = placement.token_ranges
            assert (tokens.first, tokens.position, tokens.sees, tokens.causal_start) == (0, 0, (), 0)
            assert tokens.stop == len(sample.prompt) + len(sample.answer) - 1
            assert [token for _, token in placement.labels] == sample.answer.tolist()
            assert placement.labels[0][0] == len(sample.prompt) - 1 and placement.prefix is None


def test_of_a_long_evaluation_only_the_users_targets_are_packed(monkeypatch):
    case = make_case(small_table(1), AllPrevious(), lambda most: PackedRows(most))
    dataset = case.datasets["test"]
    monkeypatch.setattr(row_placement, "MAX_PACKED", 0)
    for i in range(len(dataset)):
        placement = place_in_evaluation(dataset, case.collator, i)
        assert placement.packed == np.count_nonzero(dataset.stage.user == dataset.stage.user[i])
        assert [token for _, token in placement.labels] == dataset[i].answer.tolist()


@given(st.integers(0, 2**32 - 1))
def test_token_ranges_are_equivalent_to_the_spans(seed):
    random = np.random.default_rng(seed)
    n = 12
    borders = np.sort(random.integers(0, n, (n, 2, 2)), axis=2)[random.integers(0, n, n)]
    causal_starts = np.minimum(np.arange(n), random.integers(0, n, n)[random.integers(0, 3, n)])
    spans = np.concatenate([borders, np.stack([causal_starts, np.arange(n) + 1], axis=1)[:, None]], axis=1)
    tokens = np.flatnonzero(random.random(n) < 0.8)
    positions = random.integers(0, 3, n) + np.arange(n)
    if not len(tokens):
        return
    ranges = make_token_ranges(spans, positions, tokens)
    assert [at for one in ranges for at in range(one.first, one.stop)] == tokens.tolist()
    mask = dense_mask(torch.from_numpy(spans)).numpy()
    for one in ranges:
        for k, at in enumerate(range(one.first, one.stop)):
            assert positions[at] == one.position + k
            seen = {j for start, stop in [*one.sees, (one.causal_start, at + 1)] for j in range(start, stop)}
            assert seen == set(np.flatnonzero(mask[at]).tolist())
