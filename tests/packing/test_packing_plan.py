"""Which targets make a step, and how they are dealt to rows and ranks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import HALF_STARS, make_table, stage_of
from tokenizers_for_tests import HISTORY, style, tiny
from torch.utils.data import DataLoader

from mlens.data.split import Split
from mlens.errors import UserError
from mlens.history.all_previous import AllPrevious
from mlens.history.random import Random
from mlens.packing.dataset import RatingDataset
from mlens.packing.packed import PackedRows
from mlens.packing.plan import RowLoader, answer_lengths, epoch_order, plan_epoch, plan_scoring, steps_per_epoch
from mlens.packing.reference import ReferenceRows
from mlens.prompt.renderer import make_renderer

PACKED = PackedRows(row_tokens=400)
collators = st.one_of(st.just(ReferenceRows()), st.integers(1, 300).map(PackedRows))


def dataset(strategy=None, stage="train", users=3):
    rows = [[(m, HALF_STARS[(m + u) % 10], m) for m in range(10 + 5 * u)] for u in range(users)]
    table = make_table(rows)
    renderer = make_renderer(table, style(max_tokens=300), HISTORY, tiny())
    return RatingDataset(table, stage_of(table, Split("temporal"), stage), strategy or AllPrevious(), renderer, seed=5)


@given(collators, st.lists(st.integers(1, 400), max_size=60), st.integers(1, 4))
def test_every_sample_is_dealt_once_and_every_rank_gets_as_many_rows(collator, lengths, world):
    lengths = np.array(lengths, dtype=np.int64)
    dealt = collator.deal(lengths, world)
    assert len(dealt) == world
    assert len({len(rows) for rows in dealt}) == 1
    assert sorted(int(i) for rows in dealt for row in rows for i in row) == list(range(len(lengths)))
    assert all(list(row) == sorted(row) for rows in dealt for row in rows)
    again = collator.deal(lengths, world)
    assert [[row.tolist() for row in rows] for rows in dealt] == [[row.tolist() for row in rows] for rows in again]


@given(st.integers(1, 300), st.lists(st.integers(1, 400), min_size=1, max_size=60), st.integers(1, 4))
def test_no_row_of_several_samples_passes_row_tokens(capacity, lengths, world):
    lengths = np.array(lengths)
    for rows in PackedRows(capacity).deal(lengths, world):
        assert all(len(row) <= 1 or lengths[row].sum() <= capacity for row in rows)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=80))
def test_rows_are_well_filled(lengths):
    """Never twice as many rows as tokens need, and none that could stand in another."""
    lengths = np.array(lengths)
    (rows,) = PackedRows(100).deal(lengths, 1)
    assert len(rows) <= 2 * -(-lengths.sum() // 100)
    assert all(len(row) for row in rows)


def test_rows_of_a_step_are_about_as_long():
    lengths = np.random.default_rng(0).integers(10, 100, 400)
    totals = [lengths[row].sum() for rows in PackedRows(1000).deal(lengths, 4) for row in rows]
    assert max(totals) < 1.1 * min(totals)


@pytest.mark.parametrize("collator", [PACKED, ReferenceRows()])
def test_the_targets_of_a_step_are_the_same_for_every_world_size(collator):
    data = dataset()
    steps = {}
    for world in (1, 2, 3):
        rows = [list(plan_epoch(data, collator, 7, 1, 0, rank, world)) for rank in range(world)]
        assert len({len(own) for own in rows}) == 1
        for step in range(steps_per_epoch(len(data), 7)):
            own = [[row for row in rows[rank] if row.step == step] for rank in range(world)]
            assert len({len(part) for part in own}) == 1
            assert all([row.last for row in part] == [False] * (len(part) - 1) + [True] for part in own)
            targets = sorted(int(t) for part in own for row in part for t in row.targets)
            labels = sum(len(data[t].answer) for t in targets)
            assert {(row.labels, row.step_targets) for part in own for row in part} == {(labels, len(targets))}
            steps.setdefault(step, targets)
            assert steps[step] == targets
    assert sorted(t for targets in steps.values() for t in targets) == list(range(len(data)))
    assert [len(targets) for targets in steps.values()] == [7] * (len(data) // 7) + [len(data) % 7] * (
        len(data) % 7 > 0
    )


def as_lists(planned):
    return [(row.step, row.targets.tolist(), row.last, row.labels, row.step_targets) for row in planned]


@pytest.mark.parametrize("first", [0, 1, 3, 100])
def test_a_resumed_epoch_goes_on_where_it_was(first):
    data = dataset()
    whole = as_lists(plan_epoch(data, PACKED, 7, 1, 2, 1, 2))
    assert as_lists(plan_epoch(data, PACKED, 7, 1, 2, 1, 2, first)) == [row for row in whole if row[0] >= first]


def test_the_order_depends_on_seed_and_epoch_alone():
    orders = [epoch_order(50, seed, epoch).tolist() for seed, epoch in ((1, 0), (1, 0), (2, 0), (1, 1))]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == list(range(50)) for order in orders)


@given(st.integers(1, 200), st.integers(1, 50))
def test_an_epoch_has_as_many_steps_as_it_takes(targets, per_step):
    assert steps_per_epoch(targets, per_step) == len(range(0, targets, per_step))


@pytest.mark.parametrize("collator", [PACKED, ReferenceRows()])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_scoring_takes_every_target_once_with_as_many_rows_on_every_rank(collator, world):
    data = dataset(stage="test")
    rows = [plan_scoring(data, collator, rank, world) for rank in range(world)]
    assert len({len(own) for own in rows}) == 1
    assert sorted(int(t) for own in rows for row in own for t in row) == list(range(len(data)))


@pytest.mark.parametrize("world", [1, 2])
def test_planned_rows_are_as_long_as_planned_and_within_row_tokens(world):
    data = dataset(Random(0.6))
    for rank in range(world):
        for planned in plan_epoch(data, PACKED, 9, 0, 0, rank, world):
            if len(planned.targets):
                row = PACKED.train_row([data[i] for i in planned.targets])
                assert row.useful == row.input_ids.numel()
                assert row.useful <= 400
    answers = data.renderer.answers
    for targets in plan_scoring(data, PACKED, 0, world):
        row = PACKED.score_row([data[i] for i in targets], answers)
        assert row.input_ids.numel() <= 400
    assert answer_lengths(data).tolist() == [len(answer) for answer in answers]


@pytest.mark.parametrize("draw", ["per_target", "per_user"])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_loader_workers_change_nothing(draw, workers):
    data = dataset(Random(0.5, draw)).at(1)
    planned = list(plan_epoch(data, PACKED, 7, 1, 1, 0, 1))
    loader = DataLoader(RowLoader(data, PACKED.train_row), sampler=iter(planned), batch_size=None, num_workers=workers)
    for (got, row), want in zip(loader, planned, strict=True):
        assert got.targets.tolist() == want.targets.tolist()
        expected = PACKED.train_row([data[i] for i in want.targets])
        assert row.input_ids.tolist() == expected.input_ids.tolist()
        assert row.label.tolist() == expected.label.tolist()


def test_another_epoch_has_other_histories_of_the_same_targets():
    data = dataset(Random(0.5))
    first, second, again = data.at(0), data.at(1), data.at(0)
    assert [s.target for s in first] == [s.target for s in second]
    assert [s.history.tolist() for s in first] != [s.history.tolist() for s in second]
    assert [s.history.tolist() for s in first] == [s.history.tolist() for s in again]


def test_a_row_of_no_tokens_is_refused():
    with pytest.raises(UserError, match=r"packing\.row_tokens"):
        PackedRows(0)
