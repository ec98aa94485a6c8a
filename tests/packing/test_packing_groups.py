"""How groups of targets are cut, packed into rows and sharded to ranks: lengths and costs only."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlens.errors import UserError
from mlens.packing.packed import PackedRows
from mlens.packing.prefix_group import Shapes
from mlens.packing.reference import ReferenceRows

row_collators = st.builds(
    PackedRows,
    row_tokens=st.integers(1, 300),
    share=st.sampled_from(["auto", "never"]),
    pair_cost=st.sampled_from([0.0, 0.001, 0.1]),
)
collators = st.one_of(st.just(ReferenceRows()), row_collators)
worlds = st.integers(1, 4)


def make_shapes(columns) -> Shapes:
    """Shapes of (group, prefix, suffix) triples; the prefixes of a group ascend as a user's history does."""
    key, prefix, suffix = (np.array(column, dtype=np.int64) for column in zip(*columns, strict=True))
    for one in set(key.tolist()):
        prefix[key == one] = np.sort(prefix[key == one])
    return Shapes(key, prefix, suffix)


@st.composite
def shapes(draw, most=40):
    keys = draw(st.sampled_from([1, 3, 100]))
    triple = st.tuples(st.integers(-2, keys), st.integers(1, 150), st.integers(1, 60))
    return make_shapes(draw(st.lists(triple, min_size=1, max_size=most)))


def unshared(lengths) -> Shapes:
    return make_shapes([(i, length, 0) for i, length in enumerate(lengths)])


def tokens_of(shapes, group) -> int:
    """The longest prefix of the group, and every suffix."""
    return int(max(shapes.prefix[i] for i in group) + sum(shapes.suffix[i] for i in group))


def cost_of(shapes, group, pair_cost) -> float:
    """The tokens of a group, and pair_cost for each pair.

    A token of a prefix sees half of the prefix on average. A token of a suffix sees its part of the prefix and, on
    average, half of the suffix.
    """
    prefix = max(int(shapes.prefix[i]) for i in group)
    cost = prefix + pair_cost * prefix * prefix / 2
    for i in group:
        suffix, seen = int(shapes.suffix[i]), int(shapes.prefix[i])
        cost += suffix + pair_cost * suffix * (seen + suffix / 2)
    return cost


def as_lists(packed):
    return [[[group.tolist() for group in row] for row in rows] for rows in packed]


@given(collators, shapes(), worlds)
def test_every_target_is_packed_once_and_all_ranks_get_equally_many_rows(collator, shapes, world):
    packed = as_lists(collator.pack(shapes, world))
    assert len(packed) == world
    assert len({len(rows) for rows in packed}) == 1
    groups = [group for rows in packed for row in rows for group in row]
    assert sorted(i for group in groups for i in group) == list(range(len(shapes.group)))
    assert all(group and group == sorted(group) for group in groups)
    assert all(len({int(shapes.group[i]) for i in group}) == 1 for group in groups)
    assert packed == as_lists(collator.pack(shapes, world))


@given(collators, worlds)
def test_no_targets_make_no_rows_on_any_rank(collator, world):
    empty = np.zeros(0, dtype=np.int64)
    assert collator.pack(Shapes(empty, empty, empty), world) == [[]] * world


@given(row_collators, shapes(), worlds)
def test_no_row_exceeds_row_tokens_except_with_a_single_target(collator, shapes, world):
    for row in (row for rows in collator.pack(shapes, world) for row in rows):
        tokens = sum(tokens_of(shapes, group) for group in row)
        assert tokens <= collator.row_tokens or [len(group) for group in row] == [1]


@given(row_collators, shapes())
def test_targets_with_a_common_prefix_are_one_group_if_it_fits_in_a_row(collator, shapes):
    (rows,) = collator.pack(shapes, 1)
    groups = {tuple(group.tolist()) for row in rows for group in row}
    if collator.share == "never":
        assert all(len(group) == 1 for group in groups)
        return
    for key in set(shapes.group.tolist()):
        group_of_key = np.flatnonzero(shapes.group == key)
        if tokens_of(shapes, group_of_key) <= collator.row_tokens:
            assert tuple(group_of_key.tolist()) in groups


def best_cuts(shapes, group, collator) -> dict[int, float]:
    """Of all cuts into pieces that fit in rows, the lowest maximum cost of a piece, by the number of pieces."""

    def fits(piece):
        return len(piece) == 1 or tokens_of(shapes, piece) <= collator.row_tokens

    best: dict[int, dict[int, float]] = defaultdict(dict)  # target -> pieces before it -> their highest cost
    best[0][0] = 0.0
    for last in range(1, len(group) + 1):
        for first in range(last):
            piece = group[first:last]
            if fits(piece):
                cost = cost_of(shapes, piece, collator.pair_cost)
                for n, highest in best[first].items():
                    best[last][n + 1] = min(max(highest, cost), best[last].get(n + 1, np.inf))
    return best[len(group)]


PAIR_COSTS = st.sampled_from([0.0, 0.001, 0.1])
NEARLY = 1 + 1e-4


@given(shapes(most=12), st.integers(60, 400), PAIR_COSTS)
def test_a_group_too_long_for_a_row_is_cut_into_the_fewest_pieces_of_lowest_maximum_cost(shapes, row_tokens, pair_cost):
    collator = PackedRows(row_tokens, pair_cost=pair_cost)
    (rows,) = collator.pack(shapes, 1)
    groups = [group.tolist() for row in rows for group in row]
    for key in set(shapes.group.tolist()):
        group_of_key = np.flatnonzero(shapes.group == key).tolist()
        pieces = sorted(group for group in groups if shapes.group[group[0]] == key)
        assert [i for piece in pieces for i in piece] == group_of_key
        count, highest = min(best_cuts(shapes, group_of_key, collator).items())
        assert len(pieces) == count
        assert max(cost_of(shapes, piece, pair_cost) for piece in pieces) <= highest * NEARLY


@given(
    st.lists(st.tuples(st.just(0), st.integers(1, 150), st.integers(1, 60)), min_size=1, max_size=12),
    worlds,
    PAIR_COSTS,
)
def test_the_only_group_of_a_step_is_distributed_over_the_ranks_as_evenly_as_possible(columns, world, pair_cost):
    """Its pieces repeat the prefix. The highest cost of a rank is the lowest that any cut allows."""
    one, collator = make_shapes(columns), PackedRows(10**6, pair_cost=pair_cost)
    packed = collator.pack(one, world)
    costs = [sum(cost_of(one, group, pair_cost) for row in rows for group in row) for rows in packed if any(rows)]
    cuts = best_cuts(one, list(range(len(columns))), collator)
    assert max(costs) <= min(highest for n, highest in cuts.items() if n <= world) * NEARLY


@pytest.mark.parametrize("world", [2, 3, 4, 8])
def test_a_group_of_one_user_is_distributed_over_the_ranks(world):
    """One long history in a step: its pieces repeat the prefix and are of equal cost."""
    one = make_shapes([(0, 20 * i + 1, 30) for i in range(200)])
    collator = PackedRows(row_tokens=10**6)
    packed = collator.pack(one, world)
    costs = [sum(cost_of(one, group, collator.pair_cost) for row in rows for group in row) for rows in packed]
    assert max(costs) < 1.05 * np.mean(costs)
    assert max(costs) < 0.65 * cost_of(one, range(200), collator.pair_cost)
    assert all(len(rows) == 1 for rows in packed)


@given(shapes(), worlds)
def test_a_group_that_costs_at_most_a_ranks_share_is_not_cut(shapes, world):
    collator = PackedRows(row_tokens=10**6)
    groups = [np.flatnonzero(shapes.group == key) for key in set(shapes.group.tolist())]
    costs = [cost_of(shapes, group, collator.pair_cost) for group in groups]
    packed = {tuple(group.tolist()) for rows in collator.pack(shapes, world) for row in rows for group in row}
    for group, cost in zip(groups, costs, strict=True):
        if world == 1 or cost < 1.49 * sum(costs) / world:
            assert tuple(group.tolist()) in packed


@given(st.lists(st.integers(1, 100), min_size=1, max_size=80))
def test_rows_are_well_filled(lengths):
    """At most twice as many rows as the tokens need, and no empty row."""
    (rows,) = PackedRows(100).pack(unshared(lengths), 1)
    assert len(rows) <= 2 * -(-sum(lengths) // 100)
    assert all(len(row) for row in rows)


def test_rows_of_a_step_cost_about_the_same():
    draw = np.random.default_rng(0)
    columns = [(key, 40 * i + 5, 30) for key in range(60) for i in range(draw.integers(1, 12))]
    shapes, collator = make_shapes(columns), PackedRows(3000)
    rows = [row for rows in collator.pack(shapes, 4) for row in rows]
    costs = [sum(cost_of(shapes, group, collator.pair_cost) for group in row) for row in rows]
    assert len(rows) >= 8
    assert max(costs) < 1.1 * min(costs)


def test_the_most_expensive_groups_are_placed_first():
    """Each row has expensive and cheap groups."""
    (rows,) = PackedRows(100).pack(unshared([50, 50, 40, 40, 10, 10]), 1)
    assert sorted(sorted(int(group[0]) for group in row) for row in rows) in (
        [[0, 2, 4], [1, 3, 5]],
        [[0, 2, 5], [1, 3, 4]],
    )


def test_a_higher_pair_cost_makes_later_pieces_shorter():
    """The more expensive attention is, the fewer of a user's later targets are in one piece."""
    one = make_shapes([(0, 10 * i + 1, 20) for i in range(100)])

    def sizes(pair_cost):
        (groups,) = zip(*PackedRows(10**6, pair_cost=pair_cost).pack(one, 4), strict=True)
        return [len(group) for (group,) in sorted(groups, key=lambda row: row[0][0])]

    low, high = sizes(0.001), sizes(0.1)
    assert sum(low) == sum(high) == 100
    assert high == sorted(high, reverse=True) and high[0] - high[-1] > low[0] - low[-1] >= 0


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"row_tokens": 0}, "row_tokens"),
        ({"share": "some"}, "share"),
        ({"pair_cost": -1.0}, "pair_cost"),
        ({"pair_cost": float("nan")}, "pair_cost"),
    ],
)
def test_wrong_settings_are_refused_by_name(fields, key):
    with pytest.raises(UserError, match=rf"packing\.{key}"):
        PackedRows(**fields)
