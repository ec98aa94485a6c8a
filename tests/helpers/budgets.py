"""Random stages with random token prices."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from hypothesis import strategies as st

from mlens.data.rating_table import RatingTable
from mlens.data.split import METHODS, STAGES, Split
from mlens.data.stage import Stage
from mlens.history.budget import Budget
from tests.helpers.reference import stage_of, tables


@dataclass(frozen=True)
class Case:
    """A stage with a budget.

    lines: tokens of each visible line.
    numbers: tokens of line number 1, 2, …
    """

    table: RatingTable
    stage: Stage
    budget: Budget
    lines: list[int]
    numbers: list[int]


def section(case: Case, t: int, chosen: list[int]) -> int:
    """Return the tokens of the history section with these lines of target t's list."""
    if not chosen:
        return 0
    first = int(case.stage.visible_offsets[case.stage.user[t]])
    return case.budget.header + sum(case.lines[first + i] + case.numbers[k] for k, i in enumerate(chosen))


def assert_fits(case: Case, histories) -> None:
    """Assert the invariants of the histories of every strategy.

    A target is shown visible ratings that the strategy chose, in time order and within its budget. Targets of one
    prefix group are of one user, and the history of one is a prefix of the other's.
    """
    everyone = np.arange(len(case.stage))
    wanted, shown = ([of(t).tolist() for t in everyone] for of in (histories.wanted, histories.shown))
    for t, c in enumerate(case.stage.count.tolist()):
        assert set(shown[t]) <= set(wanted[t]) <= set(range(c))
        assert all(indices == sorted(set(indices)) for indices in (wanted[t], shown[t]))
    lengths = [section(case, t, indices) for t, indices in enumerate(shown)]
    assert all(length <= room for length, room in zip(lengths, case.budget.room, strict=True))
    groups = histories.prefix_groups(everyone)
    assert groups.dtype == np.int64
    for of, expected in ((histories.section_lengths, lengths), (histories.prefix_groups, groups.tolist())):
        assert of(everyone).tolist() == expected
        assert of(everyone[::-2]).tolist() == expected[::-2]
    for a, b in combinations(everyone, 2):
        if groups[a] == groups[b] != -1:
            shorter, longer = sorted((shown[a], shown[b]), key=len)
            assert case.stage.user[a] == case.stage.user[b]
            assert longer[: len(shorter)] == shorter


def assert_groups(histories, keys: list) -> None:
    """Assert that two targets are in one prefix group if and only if their keys are equal and not None."""
    groups = histories.prefix_groups(np.arange(len(keys)))
    for a, b in combinations(range(len(keys)), 2):
        assert (groups[a] == groups[b] != -1) == (keys[a] == keys[b] is not None)
    assert ((groups == -1) == [key is None for key in keys]).all()


@st.composite
def budgets(draw, room=None, name=None):
    """Draw a stage with a budget.

    room: tokens that every target has for its history; drawn if None.
    name: of the stage; drawn if None.
    """
    table = draw(tables(most_users=4, most_ratings=25))
    split = Split(
        draw(st.sampled_from(METHODS)), 0.2, 0.3, min_ratings=2, ties=draw(st.sampled_from(["order", "strict", "day"]))
    )
    stage = stage_of(table, split, name or draw(st.sampled_from(STAGES)))
    case = price(draw, table, stage)
    return case if room is None else Case(table, stage, with_room(case.budget, room), case.lines, case.numbers)


def price(draw, table: RatingTable, stage: Stage) -> Case:
    """Draw token prices and budgets for a stage."""
    costs = np.random.default_rng(draw(st.integers(0, 10**6)))
    lines = costs.integers(1, draw(st.sampled_from([2, 12])), len(stage.visible)).tolist()
    numbers = sorted(costs.integers(1, 4, int(np.diff(table.user_offsets).max())).tolist())
    most = draw(st.sampled_from([3, 15, 40, 200]))
    left = costs.integers(0, most, len(stage))
    context = (left * costs.random(len(stage)) * draw(st.sampled_from([0, 1]))).astype(np.int64)
    bound = draw(st.sampled_from([10**9, most // 2]))
    budget = Budget(
        line_ends=np.cumsum([0, *lines]),
        number_ends=np.cumsum([0, *numbers]),
        header=draw(st.integers(0, 5)),
        room=np.minimum(left, bound),
        room_after_context=np.minimum(left - context, bound),
    )
    return Case(table, stage, budget, lines, numbers)


def with_room(budget: Budget, room: int) -> Budget:
    """Return the budget with the same room for every target."""
    rooms = np.full_like(budget.room, room)
    return Budget(budget.line_ends, budget.number_ends, budget.header, rooms, rooms)
