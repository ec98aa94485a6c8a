"""The targets of each step, and the rows of each rank."""

from collections import Counter
from itertools import groupby
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from mlens.data import draws
from mlens.data.split import Split
from mlens.history.all_previous import AllPrevious
from mlens.history.fixed_count import FixedCount
from mlens.history.none import NoHistory
from mlens.history.random import Random
from mlens.packing.dataset import RatingDataset
from mlens.packing.epoch_plan import (
    RowLoader,
    answer_lengths,
    epoch_order,
    plan_epoch,
    plan_scoring,
    steps_per_epoch,
    targets_together,
)
from mlens.packing.packed import PackedRows
from mlens.packing.reference import ReferenceRows
from mlens.packing.steps import Steps
from mlens.prompt.renderer import make_renderer
from tests.helpers.reference import HALF_STARS, make_table, stage_of
from tests.helpers.tokenizers_for_tests import HISTORY, style, tiny

PACKED = PackedRows(row_tokens=400)
COLLATORS = pytest.mark.parametrize(
    "collator", [PACKED, PackedRows(400, share="never"), ReferenceRows()], ids=["shared", "packed", "reference"]
)
STEPS = Steps(targets=7, pieces=2)


def dataset(strategy=None, stage="train", users=3, max_tokens=300):
    rows = [[(m, HALF_STARS[(m + u) % 10], m) for m in range(10 + 5 * u)] for u in range(users)]
    table = make_table(rows)
    renderer = make_renderer(table, style(max_tokens=max_tokens), HISTORY, tiny())
    return RatingDataset(table, stage_of(table, Split("temporal"), stage), strategy or AllPrevious(), renderer, seed=5)


@COLLATORS
@pytest.mark.parametrize("pieces", [1, 2, 50])
def test_the_targets_of_a_step_are_the_same_for_every_world_size(collator, pieces):
    data = dataset()
    made_of, seen = Steps(7, pieces), {}
    for world in (1, 2, 3):
        rows = [list(plan_epoch(data, collator, made_of, 1, 0, rank, world)) for rank in range(world)]
        assert len({len(rank_rows) for rank_rows in rows}) == 1
        for step in range(steps_per_epoch(len(data), 7)):
            step_rows = [[row for row in rows[rank] if row.step == step] for rank in range(world)]
            assert len({len(part) for part in step_rows}) == 1
            assert all([row.last for row in part] == [False] * (len(part) - 1) + [True] for part in step_rows)
            targets = sorted(t for part in step_rows for row in part for t in row.targets)
            labels = sum(len(data[t].answer) for t in targets)
            assert {(row.labels, row.step_targets) for part in step_rows for row in part} == {(labels, len(targets))}
            assert seen.setdefault(step, targets) == targets
    assert sorted(t for targets in seen.values() for t in targets) == list(range(len(data)))
    assert [len(targets) for targets in seen.values()] == [7] * (len(data) // 7) + [len(data) % 7] * (len(data) % 7 > 0)


def as_lists(planned):
    return [
        (row.step, [group.tolist() for group in row.groups], row.targets, row.last, row.labels, row.step_targets)
        for row in planned
    ]


@pytest.mark.parametrize("first", [0, 1, 3, 100])
def test_a_resumed_epoch_continues_where_it_stopped(first):
    data = dataset()
    full = as_lists(plan_epoch(data, PACKED, STEPS, 1, 2, 1, 2))
    assert as_lists(plan_epoch(data, PACKED, STEPS, 1, 2, 1, 2, first)) == [row for row in full if row[0] >= first]


# the order


def naive_order(prefixes, users, keys, most, seed, epoch):
    """Runs of consecutive targets with one prefix, cut into the fewest pieces of at most `most` and about equal size.

    The pieces are in the order of their random words: the nth piece of a user has the nth word of that user.
    """
    pieces = []
    for prefix, run in groupby(range(len(prefixes)), key=lambda i: prefixes[i]):
        members = list(run)
        if prefix < 0:
            pieces += [[i] for i in members]
            continue
        n = -(-len(members) // most)
        pieces += [[t for place, t in enumerate(members) if place * n // len(members) == piece] for piece in range(n)]
    assert all(0 < len(piece) <= most for piece in pieces)
    words, seen = [], Counter()
    for piece in pieces:
        user = users[piece[0]]
        seen[user] += 1
        words.append(int(draws.words(seen[user], draws.ORDER, seed, keys[user], epoch)[-1]))
    return [t for piece in sorted(range(len(pieces)), key=words.__getitem__) for t in pieces[piece]]


class Numbered:
    """A dataset of which only the prefix groups and the users of the targets are known."""

    def __init__(self, numbers, users, keys):
        self.numbers = np.array(numbers, dtype=np.int64)
        self.stage = SimpleNamespace(user=np.array(users, dtype=np.int32))
        self.table = SimpleNamespace(user_keys=np.array(keys, dtype=np.uint64))

    def __len__(self):
        return len(self.numbers)

    def prefix_groups(self, targets):
        return self.numbers[targets]


runs = st.lists(st.tuples(st.sampled_from([-1, 0, 1, 2]), st.integers(1, 30)), max_size=8)


@given(runs, st.integers(1, 40), st.integers(1, 50), st.integers(0, 3), st.integers(0, 3))
def test_an_epoch_visits_pieces_of_consecutive_targets_in_a_random_order(drawn, targets, pieces, seed, epoch):
    # Each run is of another user, except that targets that share nothing are of the user before.
    prefixes, users = [], []
    for number, length in drawn:
        user = users[-1] + (number >= 0) if users else 0
        prefixes += [user * 10 + number if number >= 0 else -1] * length
        users += [user] * length
    keys = [7 * user + 3 for user in range(9)]
    order = epoch_order(Numbered(prefixes, users, keys), Steps(targets, pieces), seed, epoch)
    assert order.tolist() == naive_order(prefixes, users, keys, max(1, targets // pieces), seed, epoch)
    assert sorted(order.tolist()) == list(range(len(prefixes)))


@pytest.mark.parametrize("strategy", [NoHistory(), Random(0.5, "per_target"), Random(1.0, "per_target")])
def test_targets_that_share_nothing_are_visited_in_a_plain_permutation(strategy):
    data = dataset(strategy)
    users, targets = np.unique(data.stage.user, return_counts=True)
    words = [draws.words(n, draws.ORDER, 3, data.table.user_keys[u], 2) for u, n in zip(users, targets, strict=True)]
    assert epoch_order(data, Steps(512, 8), 3, 2).tolist() == np.argsort(np.concatenate(words)).tolist()


def test_the_order_depends_only_on_seed_and_epoch():
    data = dataset()
    orders = [epoch_order(data, STEPS, seed, epoch).tolist() for seed, epoch in ((1, 0), (1, 0), (2, 0), (1, 1))]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == list(range(len(data))) for order in orders)


def test_more_pieces_share_less():
    data = dataset(users=12)
    tokens = [
        sum(planned_tokens(data, planned) for planned in plan_epoch(data, PACKED, Steps(24, pieces), 0, 0, 0, 1))
        for pieces in (1, 24)
    ]
    assert tokens[0] < 0.7 * tokens[1]


def test_targets_together_are_those_in_a_piece_of_a_step_and_in_a_prefix_group():
    data = dataset(users=3, max_tokens=2000)  # all targets of a user share one history
    of_users = Counter(data.stage.user[data.stage.count > 0].tolist()).values()
    alone = int((data.stage.count == 0).sum())  # a target without history is in no group
    possible = (sum(n * n for n in of_users) + alone) / len(data)
    assert targets_together(data, Steps(1000, 1)) == (pytest.approx(possible),) * 2
    together, still_possible = targets_together(data, Steps(8, 4))
    assert 1 < together <= 2 and still_possible == pytest.approx(possible)
    assert targets_together(data, Steps(8, 8)) == (1, pytest.approx(possible))
    assert targets_together(dataset(Random(draw="per_target")), Steps(1000, 1)) == (1, 1)


def planned_tokens(data, planned):
    return PACKED.train_row([data.prefix_group(group) for group in planned.groups]).useful


@given(st.integers(1, 200), st.integers(1, 50))
def test_an_epoch_has_as_many_steps_as_it_takes(targets, per_step):
    assert steps_per_epoch(targets, per_step) == len(range(0, targets, per_step))


# scoring, loading


@COLLATORS
@pytest.mark.parametrize("world", [1, 2, 3])
def test_scoring_takes_every_target_once_with_equally_many_rows_on_every_rank(collator, world):
    data = dataset(stage="test")
    rows = [plan_scoring(data, collator, rank, world) for rank in range(world)]
    assert len({len(rank_rows) for rank_rows in rows}) == 1
    assert sorted(int(t) for rank_rows in rows for row in rank_rows for group in row for t in group) == list(
        range(len(data))
    )


@pytest.mark.sampled(7)
@pytest.mark.parametrize("strategy", [AllPrevious(), Random(0.6, "per_target"), Random(0.6, "per_user"), FixedCount(4)])
@pytest.mark.parametrize("share", ["auto", "never"])
@pytest.mark.parametrize("world", [1, 2])
def test_planned_rows_are_as_long_as_planned_and_within_row_tokens(strategy, share, world):
    data, collator = dataset(strategy), PackedRows(400, share)
    for rank in range(world):
        for planned in plan_epoch(data, collator, STEPS, 0, 0, rank, world):
            if len(planned.targets):
                row = collator.train_row([data.prefix_group(group) for group in planned.groups])
                assert row.useful == row.input_ids.numel() == planned_length(data, planned.groups)
                assert row.useful <= 400
    answers = data.renderer.template.answers
    for groups in plan_scoring(data, collator, 0, world):
        row = collator.score_row([data.prefix_group(group) for group in groups], answers)
        assert row.input_ids.numel() <= 400
    assert answer_lengths(data).tolist() == [len(answer) for answer in answers]


def planned_length(data, groups):
    shapes = data.shapes(np.arange(len(data)))
    read = {t: int(shapes.suffix[t]) + len(data[t].answer) - 1 for group in groups for t in group}
    return sum(int(shapes.prefix[group].max()) + sum(read[t] for t in group) for group in groups)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("draw", ["per_target", "per_user"])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_loader_workers_change_nothing(draw, workers):
    data = dataset(Random(0.5, draw)).with_epoch(1)
    planned = list(plan_epoch(data, PACKED, STEPS, 1, 1, 0, 1))
    loader = DataLoader(RowLoader(data, PACKED.train_row), sampler=iter(planned), batch_size=None, num_workers=workers)
    for (got, row), want in zip(loader, planned, strict=True):
        assert as_lists([got]) == as_lists([want])
        expected = PACKED.train_row([data.prefix_group(group) for group in want.groups])
        assert row.input_ids.tolist() == expected.input_ids.tolist()
        assert row.label.tolist() == expected.label.tolist()
        assert row.spans.tolist() == expected.spans.tolist()


def test_another_epoch_has_other_histories_of_the_same_targets():
    data = dataset(Random(0.5, "per_target"))
    first, second, again = data.with_epoch(0), data.with_epoch(1), data.with_epoch(0)
    assert [s.target for s in first] == [s.target for s in second]
    assert [s.history.tolist() for s in first] != [s.history.tolist() for s in second]
    assert [s.history.tolist() for s in first] == [s.history.tolist() for s in again]
