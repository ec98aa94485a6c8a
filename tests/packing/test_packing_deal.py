"""How trees of targets are cut, filled into rows and dealt to ranks: lengths and costs alone."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlens.errors import UserError
from mlens.packing.packed import PackedRows
from mlens.packing.reference import ReferenceRows
from mlens.packing.tree import Shapes

row_collators = st.builds(
    PackedRows,
    row_tokens=st.integers(1, 300),
    share=st.sampled_from(["auto", "never"]),
    pair_cost=st.sampled_from([0.0, 0.001, 0.1]),
)
collators = st.one_of(st.just(ReferenceRows()), row_collators)
worlds = st.integers(1, 4)


def make_shapes(columns) -> Shapes:
    """From (key, trunk, rest) each; of one key, trunks ascend as a user's history does."""
    key, trunk, rest = (np.array(column, dtype=np.int64) for column in zip(*columns, strict=True))
    for one in set(key.tolist()):
        trunk[key == one] = np.sort(trunk[key == one])
    return Shapes(key, trunk, rest)


@st.composite
def shapes(draw, most=40):
    keys = draw(st.sampled_from([1, 3, 100]))
    own = st.tuples(st.integers(-2, keys), st.integers(1, 150), st.integers(1, 60))
    return make_shapes(draw(st.lists(own, min_size=1, max_size=most)))


def lone(lengths) -> Shapes:
    return make_shapes([(i, length, 0) for i, length in enumerate(lengths)])


def tokens_of(shapes, tree) -> int:
    """Its longest trunk once, and every branch."""
    return int(max(shapes.trunk[i] for i in tree) + sum(shapes.rest[i] for i in tree))


def cost_of(shapes, tree, pair_cost) -> float:
    """Tokens, and pair_cost for each pair: a trunk's tokens see half of it on average, a branch's their part of the
    trunk and half of the branch."""
    trunk = max(int(shapes.trunk[i]) for i in tree)
    cost = trunk + pair_cost * trunk * trunk / 2
    for i in tree:
        rest, seen = int(shapes.rest[i]), int(shapes.trunk[i])
        cost += rest + pair_cost * rest * (seen + rest / 2)
    return cost


def as_lists(dealt):
    return [[[tree.tolist() for tree in row] for row in rows] for rows in dealt]


@given(collators, shapes(), worlds)
def test_every_target_is_dealt_once_and_every_rank_gets_as_many_rows(collator, shapes, world):
    dealt = as_lists(collator.deal(shapes, world))
    assert len(dealt) == world
    assert len({len(rows) for rows in dealt}) == 1
    trees = [tree for rows in dealt for row in rows for tree in row]
    assert sorted(i for tree in trees for i in tree) == list(range(len(shapes.key)))
    assert all(tree and tree == sorted(tree) for tree in trees)
    assert all(len({int(shapes.key[i]) for i in tree}) == 1 for tree in trees)
    assert dealt == as_lists(collator.deal(shapes, world))


@given(collators, worlds)
def test_no_targets_make_no_rows_on_any_rank(collator, world):
    nothing = np.zeros(0, dtype=np.int64)
    assert collator.deal(Shapes(nothing, nothing, nothing), world) == [[]] * world


@given(row_collators, shapes(), worlds)
def test_no_row_passes_row_tokens_but_for_one_target_alone(collator, shapes, world):
    for row in (row for rows in collator.deal(shapes, world) for row in rows):
        tokens = sum(tokens_of(shapes, tree) for tree in row)
        assert tokens <= collator.row_tokens or [len(tree) for tree in row] == [1]


@given(row_collators, shapes())
def test_targets_with_a_common_beginning_are_one_tree_where_a_row_holds_it(collator, shapes):
    (rows,) = collator.deal(shapes, 1)
    trees = {tuple(tree.tolist()) for row in rows for tree in row}
    if collator.share == "never":
        assert all(len(tree) == 1 for tree in trees)
        return
    for key in set(shapes.key.tolist()):
        whole = np.flatnonzero(shapes.key == key)
        if tokens_of(shapes, whole) <= collator.row_tokens:
            assert tuple(whole.tolist()) in trees


def best_cuts(shapes, tree, collator) -> dict[int, float]:
    """By trying all cuts into stretches that rows hold: the lowest price of the most expensive one, by their number."""

    def holds(stretch):
        return len(stretch) == 1 or tokens_of(shapes, stretch) <= collator.row_tokens

    best: dict[int, dict[int, float]] = defaultdict(dict)  # target -> stretches before it -> their highest price
    best[0][0] = 0.0
    for last in range(1, len(tree) + 1):
        for first in range(last):
            stretch = tree[first:last]
            if holds(stretch):
                price = cost_of(shapes, stretch, collator.pair_cost)
                for n, highest in best[first].items():
                    best[last][n + 1] = min(max(highest, price), best[last].get(n + 1, np.inf))
    return best[len(tree)]


PAIR_COSTS = st.sampled_from([0.0, 0.001, 0.1])
NEARLY = 1 + 1e-4


@given(shapes(most=12), st.integers(60, 400), PAIR_COSTS)
def test_a_tree_too_long_for_a_row_is_cut_into_the_fewest_pieces_of_most_equal_cost(shapes, row_tokens, pair_cost):
    collator = PackedRows(row_tokens, pair_cost=pair_cost)
    (rows,) = collator.deal(shapes, 1)
    trees = [tree.tolist() for row in rows for tree in row]
    for key in set(shapes.key.tolist()):
        whole = np.flatnonzero(shapes.key == key).tolist()
        pieces = sorted(tree for tree in trees if shapes.key[tree[0]] == key)
        assert [i for piece in pieces for i in piece] == whole
        count, highest = min(best_cuts(shapes, whole, collator).items())
        assert len(pieces) == count
        assert max(cost_of(shapes, piece, pair_cost) for piece in pieces) <= highest * NEARLY


@given(
    st.lists(st.tuples(st.just(0), st.integers(1, 150), st.integers(1, 60)), min_size=1, max_size=12),
    worlds,
    PAIR_COSTS,
)
def test_a_tree_alone_in_a_step_is_spread_over_the_ranks_as_evenly_as_can_be(columns, world, pair_cost):
    """Its pieces repeat the trunk; the rank that works longest works as little as any cut allows."""
    one, collator = make_shapes(columns), PackedRows(10**6, pair_cost=pair_cost)
    dealt = collator.deal(one, world)
    costs = [sum(cost_of(one, tree, pair_cost) for row in rows for tree in row) for rows in dealt if any(rows)]
    cuts = best_cuts(one, list(range(len(columns))), collator)
    assert max(costs) <= min(highest for n, highest in cuts.items() if n <= world) * NEARLY


@pytest.mark.parametrize("world", [2, 3, 4, 8])
def test_a_tree_of_one_user_is_spread_over_the_ranks(world):
    """One long history alone in a step: its pieces repeat the trunk, and cost alike."""
    one = make_shapes([(0, 20 * i + 1, 30) for i in range(200)])
    collator = PackedRows(row_tokens=10**6)
    dealt = collator.deal(one, world)
    costs = [sum(cost_of(one, tree, collator.pair_cost) for row in rows for tree in row) for rows in dealt]
    assert max(costs) < 1.05 * np.mean(costs)
    assert max(costs) < 0.65 * cost_of(one, range(200), collator.pair_cost)
    assert all(len(rows) == 1 for rows in dealt)


@given(shapes(), worlds)
def test_a_tree_that_costs_no_more_than_a_ranks_share_stays_whole(shapes, world):
    collator = PackedRows(row_tokens=10**6)
    trees = [np.flatnonzero(shapes.key == key) for key in set(shapes.key.tolist())]
    costs = [cost_of(shapes, tree, collator.pair_cost) for tree in trees]
    dealt = {tuple(tree.tolist()) for rows in collator.deal(shapes, world) for row in rows for tree in row}
    for tree, cost in zip(trees, costs, strict=True):
        if world == 1 or cost < 1.49 * sum(costs) / world:
            assert tuple(tree.tolist()) in dealt


@given(st.lists(st.integers(1, 100), min_size=1, max_size=80))
def test_rows_are_well_filled(lengths):
    """Never twice as many rows as tokens need, and none that is empty."""
    (rows,) = PackedRows(100).deal(lone(lengths), 1)
    assert len(rows) <= 2 * -(-sum(lengths) // 100)
    assert all(len(row) for row in rows)


def test_rows_of_a_step_cost_about_the_same():
    draw = np.random.default_rng(0)
    columns = [(key, 40 * i + 5, 30) for key in range(60) for i in range(draw.integers(1, 12))]
    shapes, collator = make_shapes(columns), PackedRows(3000)
    rows = [row for rows in collator.deal(shapes, 4) for row in rows]
    costs = [sum(cost_of(shapes, tree, collator.pair_cost) for tree in row) for row in rows]
    assert len(rows) >= 8
    assert max(costs) < 1.1 * min(costs)


def test_the_most_expensive_trees_are_placed_first():
    """The rows that a rank gets hold dear and cheap trees together, not one after the other."""
    (rows,) = PackedRows(100).deal(lone([50, 50, 40, 40, 10, 10]), 1)
    assert sorted(sorted(int(tree[0]) for tree in row) for row in rows) in (
        [[0, 2, 4], [1, 3, 5]],
        [[0, 2, 5], [1, 3, 4]],
    )


def test_dearer_pairs_make_later_pieces_shorter():
    """The dearer attention is, the fewer of a user's later targets stand in one piece."""
    one = make_shapes([(0, 10 * i + 1, 20) for i in range(100)])

    def sizes(pair_cost):
        (trees,) = zip(*PackedRows(10**6, pair_cost=pair_cost).deal(one, 4), strict=True)
        return [len(tree) for (tree,) in sorted(trees, key=lambda row: row[0][0])]

    cheap, dear = sizes(0.001), sizes(0.1)
    assert sum(cheap) == sum(dear) == 100
    assert dear == sorted(dear, reverse=True) and dear[0] - dear[-1] > cheap[0] - cheap[-1] >= 0


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"row_tokens": 0}, "row_tokens"),
        ({"share": "some"}, "share"),
        ({"pair_cost": -1.0}, "pair_cost"),
        ({"pair_cost": float("nan")}, "pair_cost"),
    ],
)
def test_wrong_settings_are_refused_by_name(fields, named):
    with pytest.raises(UserError, match=rf"packing\.{named}"):
        PackedRows(**fields)
