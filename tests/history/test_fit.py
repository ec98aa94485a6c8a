"""Wishes become histories: whatever a strategy wants, what holds of histories holds, and what can't be is refused."""

import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_history_random import last_targets

from mlens.errors import UserError
from mlens.history.budget import Budget
from mlens.history.fit import fit
from mlens.history.random import Random
from mlens.history.strategy import Newest, Ranked, Thinned
from tests.helpers.budgets import Case, assert_fits, budgets, section

SEEDS = st.integers(0, 2**32 - 1)
TRIMS = st.sampled_from(["strided", "exact"])


@dataclass(frozen=True)
class Wishing:
    """A strategy that wants what it is given: of every target by its place in the whole stage."""

    made: Any

    def wish(self, table, stage, seed, epoch):
        return self.made(stage) if callable(self.made) else self.made


def newest(seed):
    """Counts that follow no rule."""
    return Wishing(lambda stage: Newest(np.random.default_rng(seed).integers(0, stage.count + 1)))


def ranked(seed):
    """Some of the visible ratings of each target, in any order."""

    def order(stage, t):
        random = np.random.default_rng([seed, int(stage.targets[t])])
        return random.permutation(stage.count[t])[: random.integers(0, stage.count[t] + 1)].tolist()

    return Wishing(lambda stage: Ranked(lambda t: order(stage, t)))


def thinned(seed, levels=(-1, 0, 0.01, 0.2, 0.7, 1.4, 3, 9)):
    """Few different levels, some of them far below the cut-off, some far above it."""
    random = np.random.default_rng(seed)
    few, keep = random.choice(levels, 1 + seed % 8), random.choice([0.02, 0.7, 2, 8])
    return Wishing(lambda stage: Thinned(random.choice(few, len(stage.visible)), float(keep)))


KINDS = [newest, ranked, thinned]


@pytest.mark.parametrize("kind", KINDS)
@given(case=budgets(), seed=SEEDS, trim=TRIMS, separate=st.booleans())
def test_whatever_is_wanted_it_fits_and_what_is_shared_is_a_common_beginning(kind, case, seed, trim, separate):
    assert_fits(case, fit(kind(seed), case.table, case.stage, case.budget, trim, 0, 0, separate))


@given(budgets(), SEEDS)
def test_the_least_wanted_of_a_ranking_are_dropped(case, seed):
    strategy = ranked(seed)
    histories, wish = fit(strategy, case.table, case.stage, case.budget, "exact", 0, 0), strategy.made(case.stage)
    for t in range(len(case.stage)):
        kept = list(wish.order(t))
        assert histories.wanted(t).tolist() == sorted(kept)
        while section(case, t, sorted(kept)) > case.budget.room[t]:
            kept.pop()
        assert histories.shown(t).tolist() == sorted(kept)


@given(budgets(), SEEDS)
def test_a_users_cut_off_is_halved_until_what_is_below_it_fits_and_stays_halved(case, seed):
    stage, wish = case.stage, thinned(seed, (0.01, 0.2, 0.7, 1.4, 3, 9)).made(case.stage)
    histories = fit(Wishing(wish), case.table, stage, case.budget, "exact", 0, 0)
    user, cut = None, wish.keep
    for t in range(len(stage)):
        start = stage.visible_offsets[stage.user[t]]
        levels = wish.level[start : start + stage.count[t]]
        user, cut = stage.user[t], cut if stage.user[t] == user else wish.keep
        assert histories.wanted(t).tolist() == np.flatnonzero(levels < wish.keep).tolist()
        while section(case, t, np.flatnonzero(levels < cut).tolist()) > case.budget.room[t]:
            cut /= 2
        assert histories.shown(t).tolist() == np.flatnonzero(levels < cut).tolist()


def alone(case: Case, t: int) -> Case:
    """The case with this target alone."""
    own = np.array([t])
    rooms = {"room": case.budget.room[own], "room_after_context": case.budget.room_after_context[own]}
    return Case(case.table, case.stage.keep(own), Budget(**{**vars(case.budget), **rooms}), case.lines, case.numbers)


@pytest.mark.parametrize("kind", KINDS)
@given(case=budgets(), seed=SEEDS, trim=TRIMS)
def test_separate_targets_are_shown_what_each_is_shown_alone_and_equal_histories_are_shared(kind, case, seed, trim):
    stage, wish = case.stage, kind(seed).made(case.stage)
    histories = fit(Wishing(wish), case.table, stage, case.budget, trim, 0, 0, separate=True)
    shown = []
    for t in range(len(stage)):
        own = wish
        if isinstance(wish, Newest):
            own = Newest(wish.count[[t]])
        elif isinstance(wish, Ranked):
            own = Ranked(lambda _, t=t: wish.order(t))
        one = alone(case, t)
        by_itself = fit(Wishing(own), one.table, one.stage, one.budget, trim, 0, 0)
        shown.append((stage.user[t], *by_itself.shown(0)))
        assert histories.shown(t).tolist() == by_itself.shown(0).tolist()
        assert histories.wanted(t).tolist() == by_itself.wanted(0).tolist()
    groups = histories.prefix_groups(np.arange(len(stage))).tolist()
    assert [groups.index(group) for group in groups] == [shown.index(history) for history in shown]


FIRST = r"the history strategy Wishing is wrong about the \w+ target \(user \S+, movie \S+\): it wants "
WRONG = {
    "more than there are": (lambda stage: Newest(stage.count + 1), FIRST + "the newest"),
    "fewer than none": (lambda stage: Newest(stage.count * 0 - 1), FIRST + "the newest -1 of"),
    "one count for all": (lambda stage: Newest(1), r"must give each of the \d+ targets a count"),
    "a place beyond": (lambda stage: Ranked(lambda t: [stage.count[t]]), FIRST + r"\[\d+\], which aren't"),
    "a negative place": (lambda stage: Ranked(lambda t: [-1]), FIRST + r"\[-1\], which aren't"),
    "a place twice": (lambda stage: Ranked(lambda t: [0, 0]), FIRST + r"\[0, 0\], which aren't"),
    "levels of others": (lambda stage: Thinned(np.zeros(len(stage.visible) + 1), 1), "as its level"),
    "a level that is no number": (lambda stage: Thinned(np.full(len(stage.visible), np.nan), 1), "as its level"),
    "a keep of nothing": (lambda stage: Thinned(np.zeros(len(stage.visible)), 0), "a keep above 0"),
    "no wish": (None, "the history strategy Wishing must return Newest, Ranked or Thinned .*, not None"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wish_that_cannot_be_is_refused_by_the_strategys_name(name):
    (made, message), case = WRONG[name], last_targets(2, 3)
    with pytest.raises(UserError, match=message):
        fit(Wishing(made), case.table, case.stage, case.budget, "exact", 0, 0).section_lengths(np.array([1]))


def test_worker_processes_can_be_sent_what_random_wants():
    case = last_targets(2, 9)
    for draw in ("per_target", "per_user"):
        histories = fit(Random(0.5, draw), case.table, case.stage, case.budget, "exact", 3, 0)
        sent = pickle.loads(pickle.dumps(histories))
        assert [sent.shown(t).tolist() for t in (0, 1)] == [histories.shown(t).tolist() for t in (0, 1)]
