"""The leak audit: every kind of planted leak is found, counted as by a naive audit, and named; no false alarms."""

import copy
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mlens.audit import shown as audit_shown
from mlens.audit.audit import audit, find_leaks
from mlens.audit.leaks import KINDS
from mlens.data import chunked as blocks
from mlens.data import stage as data_stage
from mlens.data.rating_table import RatingTable
from mlens.data.split import METHODS, STAGES, Split
from mlens.data.stage import Stage, make_stage
from mlens.errors import UserError
from mlens.history.all_previous import AllPrevious
from mlens.history.decay import Decay
from mlens.history.fit import Histories
from mlens.history.fixed_count import FixedCount
from mlens.history.fixed_ratio import FixedRatio
from mlens.history.none import NoHistory
from mlens.history.random import Random
from mlens.history.recent_similar import RecentSimilar
from mlens.history.same_genre import SameGenre
from mlens.history.similar import Similar
from mlens.history.similarity import RatingSimilarity
from mlens.history.spread import Spread
from mlens.prompt.context import Context
from tests.helpers.cases import STRATEGIES, Case, make_case, small_table
from tests.helpers.reference import dated, make_table, naive_day, naive_turns, user_ratings
from tests.helpers.runs import FAST, composed, train_here
from tests.helpers.tokenizers_for_tests import ABLATIONS

SPLITS = st.builds(
    Split,
    method=st.sampled_from(METHODS),
    val_ratio=st.just(0.3),
    test_ratio=st.just(0.3),
    min_ratings=st.sampled_from([1, 3]),
    eval_history=st.just("all"),
    ties=st.sampled_from(["order", "strict", "day"]),
    max_train_targets_per_user=st.sampled_from([None, 4, None]),
)
SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def plans(draw, split=SPLITS, strategy=STRATEGIES, ablations=tuple(ABLATIONS), rooms=(1000, 90, 40, 0)):
    """Draw cases of users with up to nine ratings, over all settings of a run, with at least one nonempty stage."""
    chosen = draw(split)
    if chosen.method != "user" and draw(st.booleans()):
        chosen = replace(chosen, eval_history="train")
    table = small_table(draw(SEEDS), draw(st.sampled_from([9, 5])))
    if chosen.ties == "day":
        table = dated(table)
    case = make_case(
        table,
        draw(strategy),
        ablation=draw(st.sampled_from(ablations)),
        split=chosen,
        room=draw(st.sampled_from(rooms)),
        epoch=draw(st.sampled_from([0, 1])),
        max_context=draw(st.sampled_from([1, 3])),
    )
    assume(case.datasets)
    return case


def table_of(case: Case) -> RatingTable:
    return next(iter(case.datasets.values())).table


@contextmanager
def small_blocks(block=6, most=None):
    """Have the audit work in several blocks, and with `most` on samples, on small tables too."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(blocks, "BLOCK", block)
        patched.setattr(audit_shown, "BLOCK", block)
        for name in ("MAX_TARGETS", "MAX_DRAWN", "MAX_TAGGED") if most else ():
            patched.setattr(audit_shown, name, most)
        yield


def found(datasets, roles, split) -> dict[str, int]:
    """Return the number of leaks of each kind that the audit finds."""
    return {leak.kind: leak.prompts for leak in find_leaks(datasets, roles, split).leaks}


def changed(dataset, **attributes):
    """Return a copy of the dataset with other attributes, valid or not."""
    other = copy.copy(dataset)
    for name, value in attributes.items():
        setattr(other, name, value)
    return other


def put(array, index, value):
    """Return a copy of the array with another value at `index`."""
    other = np.array(array)
    other[index] = value
    return other


# A naive audit.


def naive_visible(table, roles, split, stage) -> dict[str, set]:
    kinds = defaultdict(set)
    role = STAGES.index(stage.name)
    for t, target in enumerate(stage.targets.tolist()):
        ratings = user_ratings(table, table.user[target])
        if roles[target] != role:
            kinds["other_stage"].add(t)
        if stage.user[t] != table.user[target]:
            kinds["another_user"].add(t)
            continue
        start, stop = stage.visible_offsets[stage.user[t] : stage.user[t] + 2]
        if not 0 <= stage.count[t] <= stop - start:
            kinds["plan"].add(t)
            continue
        for rating in stage.visible[start : start + stage.count[t]].tolist():
            if rating not in ratings:
                kinds["another_user"].add(t)
                continue
            if stage.name == "train" and roles[rating] != 0:
                kinds["held_out_in_training"].add(t)
            elif stage.name == "val" and roles[rating] == 2:
                kinds["test_in_validation"].add(t)
            elif split.eval_history == "train" and roles[rating] != 0:
                kinds["held_out_in_evaluation"].add(t)
            if rating == target:
                kinds["itself"].add(t)
            elif ratings.index(rating) > ratings.index(target):
                kinds["later"].add(t)
            elif split.ties == "strict" and table.timestamp[rating] == table.timestamp[target]:
                kinds["same_second"].add(t)
            elif split.ties == "day" and naive_day(table, rating) == naive_day(table, target):
                kinds["same_day"].add(t)
    # A target is counted as same_second or same_day only if it sees neither itself nor later ratings.
    for kind in ("same_second", "same_day"):
        kinds[kind] -= {t for t in kinds["later"] | kinds["itself"] if _newest(stage, t) >= stage.targets[t]}
    return {kind: targets for kind, targets in kinds.items() if targets}


def _newest(stage, t) -> int:
    return max(stage.visible_to(t).tolist())


def naive_split(table, roles, split) -> dict[str, int]:
    kinds = defaultdict(int)
    users = [user_ratings(table, u) for u in range(len(table.users))]
    for ratings in users:
        if split.method == "user":
            kinds["cold_start"] += len({int(roles[i]) for i in ratings}) > 1
        if split.method in ("temporal", "leave_last"):
            kinds["split_order"] += sum(roles[b] < roles[a] for a, b in pairwise(ratings))
    if split.method == "global_time":
        cut = [i for ratings in users if len(ratings) >= split.min_ratings for i in ratings]
        for early, late in ((0, 1), (0, 2), (1, 2)):
            since = min((table.timestamp[i] for i in cut if roles[i] == late), default=np.inf)
            kinds["split_order"] += sum(table.timestamp[i] >= since for i in cut if roles[i] == early)
    return {kind: count for kind, count in kinds.items() if count}


def naive_shown(dataset) -> dict[str, int]:
    """Count the leaks in the histories of a stage without leaks."""
    kinds, stage = defaultdict(set), dataset.stage
    for t in range(len(stage)):
        indices = dataset.histories.shown(t).tolist()
        if any(not 0 <= index < stage.count[t] for index in indices):
            kinds["not_visible"].add(t)
        if any(b <= a for a, b in pairwise(indices)):
            kinds["out_of_order"].add(t)
    return {kind: len(targets) for kind, targets in kinds.items() if targets}


def naive_tags(dataset) -> dict[str, int]:
    table, template, kinds = dataset.table, dataset.renderer.template, defaultdict(int)
    context = template.context
    for target in dataset.stage.targets.tolist():
        shown = [context.texts[turn] for turn in context.turns(table, target, template.style.max_context)]
        wrong = set(shown) - set(naive_turns(table, target, 10**6))
        movie = table.movies["title"][int(table.movie[target])]
        kinds["target_tag"] += any(text.startswith(f"{movie} (") or text.startswith(f"{movie}: ") for text in wrong)
        kinds["later_tag"] += any(not text.startswith((f"{movie} (", f"{movie}: ")) for text in wrong)
    return {kind: count for kind, count in kinds.items() if count}


def summed(*kinds: dict) -> dict[str, int]:
    total = defaultdict(int)
    for one in kinds:
        for kind, targets in one.items():
            total[kind] += targets if isinstance(targets, int | np.integer) else len(targets)
    return dict(total)


# No false alarm.


@given(plans(), st.sampled_from([None, 2]))
def test_valid_plans_have_no_leak(case, most):
    with small_blocks(most=most):
        result = audit(case.datasets, case.roles, case.split)
        for dataset in case.datasets.values():
            assert naive_shown(dataset) == {}
    assert result["leaks"] == dict.fromkeys(KINDS, 0)
    for name, dataset in case.datasets.items():
        checked = result["stages"][name]
        assert checked["targets"] == len(dataset)
        assert checked["visible"] == sum(len(dataset.stage.visible_to(t)) for t in range(len(dataset)))
        if most is None:
            histories = [dataset.histories.shown(t) for t in range(len(dataset))]
            assert checked["shown"]["prompts"] == len(dataset)
            assert checked["shown"]["ratings"] == sum(map(len, histories))
            # The prompts have the same histories as the audit.
            for t, indices in enumerate(histories):
                assert dataset.history(t).tolist() == dataset.stage.visible_to(t)[indices].tolist()
        else:
            assert checked["shown"]["prompts"] == min(most, len(dataset))


EACH = {
    "none": NoHistory(),
    "all_previous": AllPrevious(),
    "fixed_ratio": FixedRatio(0.3),
    "fixed_count": FixedCount(2),
    "random": Random(0.5, "per_target"),
    "random per_user": Random(0.5, "per_user"),
    "decay": Decay(2, 3.0),
    "same_genre": SameGenre(2),
    "similar": Similar(2),
    "recent_similar": RecentSimilar(1, 1),
    "spread by text": Spread(2, 0.5, "text"),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("strategy", EACH)
def test_no_split_tie_rule_or_strategy_gives_a_false_alarm(strategy):
    for method in METHODS:
        for ties in ("order", "strict", "day"):
            for eval_history in ("all", "train") if method != "user" else ("all",):
                split = Split(method, 0.3, 0.3, 1, eval_history, ties)
                case = make_case(dated(small_table(3)), EACH[strategy], split=split)
                assert set(case.datasets) >= {"train", "test"}
                assert audit(case.datasets, case.roles, split)["leaks"] == dict.fromkeys(KINDS, 0)


# Leaks in what a strategy is fitted on.


def rated_case(**fields):
    """A case of users who have rated the same films, so that similarities are large."""
    random = np.random.default_rng(1)
    users = [
        [(int(film), float(random.integers(1, 11)) / 2, time) for time, film in enumerate(random.permutation(30))]
        for _ in range(8)
    ]
    return make_case(make_table(users, profile=["age: 1"] * 8), Similar(3), split=Split("temporal", 0.2, 0.2), **fields)


def test_a_fit_on_the_users_own_fold_is_found(monkeypatch):
    case = rated_case()
    assert audit(case.datasets, case.roles, case.split)["fits"] == 6
    fit = RatingSimilarity.fit

    def fit_on_all(table, trained):
        """As if no fold were left out: each user's own is one that nobody has."""
        found = fit(table, trained)
        return replace(found, ratings=replace(found.ratings, fold=(found.ratings.fold + 1) % 10))

    monkeypatch.setattr(RatingSimilarity, "fit", fit_on_all)
    case = rated_case()
    assert set(found(case.datasets, case.roles, case.split)) == {"fitted_on_its_user"}
    with pytest.raises(UserError, match=r"the train target \(user \d+, movie \d+\): a history by a strategy that is"):
        audit(case.datasets, case.roles, case.split)


def test_a_fit_on_held_out_ratings_is_found(monkeypatch):
    fit = RatingSimilarity.fit
    monkeypatch.setattr(RatingSimilarity, "fit", lambda table, trained: fit(table, np.ones_like(trained)))
    case = rated_case()
    assert set(found(case.datasets, case.roles, case.split)) == {"fitted_on_held_out"}


def test_fits_are_checked_without_training_targets_and_not_where_no_history_is_shown():
    case = rated_case()
    held_out = {name: dataset for name, dataset in case.datasets.items() if name != "train"}
    assert audit(held_out, case.roles, case.split)["fits"] == 1
    case = rated_case(ablation="profile_only")
    assert audit(case.datasets, case.roles, case.split)["fits"] == 0


# Leaks in the lists and the split.


def mutated(draw, stage, table):
    """Return the stage with one changed value in one of its columns."""
    column = draw(st.sampled_from(["count", "visible", "user", "visible_offsets", "targets"]))
    value = getattr(stage, column)
    assume(len(value))
    index = draw(st.integers(0, len(value) - 1))
    if column in ("count", "visible_offsets"):
        new = value[index] + draw(st.integers(-3, 3))
    else:
        new = draw(st.integers(0, len(table.users) - 1) if column == "user" else st.integers(-1, len(table)))
    return replace(stage, **{column: put(value, index, new)})


@given(plans(strategy=st.just(AllPrevious()), ablations=("history_only",)), st.data())
def test_for_any_change_of_lists_or_roles_it_finds_the_same_as_the_naive_audit(case, data):
    name = data.draw(st.sampled_from(list(case.datasets)))
    dataset, roles = case.datasets[name], case.roles
    stage, table = dataset.stage, dataset.table
    if data.draw(st.integers(0, 3)):
        stage = mutated(data.draw, stage, table)
    if data.draw(st.booleans()):
        roles = put(roles, data.draw(st.integers(0, len(roles) - 1)), data.draw(st.integers(0, 2)))
    ascending = (np.diff(stage.targets) > 0).all() and set(stage.targets.tolist()) <= set(range(len(table)))
    lists = (np.diff(stage.visible_offsets) >= 0).all()
    ends = stage.visible_offsets[0] == 0 and stage.visible_offsets[-1] == len(stage.visible)
    expected = summed(naive_split(table, roles, case.split))
    if ascending and lists and ends:
        expected = summed(expected, naive_visible(table, roles, case.split, stage))
    with small_blocks():
        got = found({name: changed(dataset, stage=stage)}, roles, case.split)
    if not (ascending and lists and ends):
        assert got.pop("plan") > 0
    if expected:
        assert got == expected
    else:
        # The lists have no leak; the histories, which were chosen for the unchanged lists, may have.
        of_lists = {"another_user", "itself", "later", "same_second", "same_day", "plan", "cold_start", "split_order"}
        assert not set(got) & of_lists


PLAIN = {"strategy": st.just(AllPrevious()), "ablations": ("history_only",)}


@dataclass(frozen=True)
class Lists:
    """A stage of a case to plant a leak in.

    choice: number that selects one of the possible leaks.
    """

    case: Case
    name: str
    choice: int

    @property
    def stage(self) -> Stage:
        return self.case.datasets[self.name].stage

    @property
    def roles(self) -> np.ndarray:
        return self.case.roles

    def pick(self, candidates):
        """Return the candidate that `choice` selects."""
        candidates = list(candidates)
        assume(candidates)
        return candidates[self.choice % len(candidates)]

    def replaced(self, other: Callable[[int, int], bool]) -> Stage:
        """Return the stage with a visible rating of a target replaced by one that satisfies other(target, rating)."""
        stage, n = self.stage, len(self.roles)
        pairs = [(t, v) for t in range(len(stage)) if stage.count[t] for v in range(n) if other(stage.targets[t], v)]
        t, rating = self.pick(pairs)
        index = stage.visible_offsets[stage.user[t]] + self.choice % int(stage.count[t])
        return replace(stage, visible=put(stage.visible, index, rating))

    def same_user(self, target: int, rating: int) -> bool:
        return table_of(self.case).user[target] == table_of(self.case).user[rating]

    def shown(self, rating: int) -> bool:
        most = 0 if self.case.split.eval_history == "train" else STAGES.index(self.name)
        return self.roles[rating] <= most


def shifted_count(lists: Lists):
    stage = lists.stage
    lengths = np.diff(stage.visible_offsets)[stage.user]
    t = lists.pick(np.flatnonzero(stage.count < lengths))
    return replace(stage, count=put(stage.count, t, stage.count[t] + 1)), lists.roles


def too_long_count(lists: Lists):
    stage = lists.stage
    t = lists.pick(range(len(stage)))
    past = int(np.diff(stage.visible_offsets)[stage.user[t]]) + 1
    return replace(stage, count=put(stage.count, t, lists.pick([past, -1]))), lists.roles


def swapped_role(lists: Lists):
    stage = lists.stage
    rating = lists.pick({v for t in range(len(stage)) for v in stage.visible_to(t).tolist()})
    return stage, put(lists.roles, rating, 2)


def other_users(lists: Lists):
    return lists.replaced(lambda target, v: not lists.same_user(target, v)), lists.roles


def itself(lists: Lists):
    return lists.replaced(lambda target, v: v == target and lists.shown(v)), lists.roles


def later(lists: Lists):
    return lists.replaced(lambda target, v: v > target and lists.same_user(target, v) and lists.shown(v)), lists.roles


def same_second(lists: Lists):
    time = table_of(lists.case).timestamp
    assume(lists.case.split.ties == "strict")

    def tied(target, v):
        return v < target and lists.same_user(target, v) and lists.shown(v) and time[v] == time[target]

    return lists.replaced(tied), lists.roles


def same_day(lists: Lists):
    table = table_of(lists.case)
    assume(lists.case.split.ties == "day")

    def tied(target, v):
        same = naive_day(table, v) == naive_day(table, target)
        return v < target and lists.same_user(target, v) and lists.shown(v) and same

    return lists.replaced(tied), lists.roles


def both_sides(lists: Lists):
    table = table_of(lists.case)
    assume(lists.case.split.method == "user")
    rating = lists.pick(i for i in range(len(table)) if len(user_ratings(table, table.user[i])) > 1)
    return lists.stage, put(lists.roles, rating, (lists.roles[rating] + 1 + lists.choice % 2) % 3)


def other_list(lists: Lists):
    stage, users = lists.stage, len(table_of(lists.case).users)
    assume(users > 1)
    t = lists.pick(range(len(stage)))
    return replace(stage, user=put(stage.user, t, (stage.user[t] + 1) % users)), lists.roles


# The planted leaks, and the kinds as which each may be found.
IN_LISTS = {
    shifted_count: ("itself", "later", "same_second", "same_day"),
    too_long_count: ("plan",),
    swapped_role: ("held_out_in_training", "test_in_validation", "held_out_in_evaluation"),
    other_users: ("another_user",),
    other_list: ("another_user",),
    itself: ("itself",),
    later: ("later",),
    same_second: ("same_second",),
    same_day: ("same_day",),
    both_sides: ("cold_start",),
}


def splits(plant) -> st.SearchStrategy[Split]:
    """Return splits in which the leak can be planted."""
    if plant is both_sides:
        return SPLITS.map(lambda split: replace(split, method="user"))
    ties = {same_second: "strict", same_day: "day"}.get(plant)
    return SPLITS if ties is None else SPLITS.map(lambda split: replace(split, ties=ties))


@pytest.mark.parametrize("plant", IN_LISTS, ids=lambda plant: plant.__name__)
@settings(max_examples=4)
@given(st.data())
def test_a_leak_in_the_lists_is_found_and_named(plant, data):
    case = data.draw(plans(splits(plant), **PLAIN))
    # A test target may see all earlier ratings, except under eval_history=train.
    names = [n for n in case.datasets if plant is not swapped_role or n != "test" or case.split.eval_history == "train"]
    assume(names)
    name = data.draw(st.sampled_from(names))
    stage, roles = plant(Lists(case, name, data.draw(SEEDS)))
    dataset = changed(case.datasets[name], stage=stage)
    by_target = naive_visible(table_of(case), roles, case.split, stage)
    expected = summed(naive_split(table_of(case), roles, case.split), by_target)
    (kind, *_) = [kind for kind in IN_LISTS[plant] if kind in expected]
    with small_blocks():
        assert found({name: dataset}, roles, case.split) == expected
        with pytest.raises(UserError) as raised:
            audit({**case.datasets, name: dataset}, roles, case.split)
    line = str(raised.value)
    assert "\n" not in line
    assert f"{kind}: {expected[kind]} found" in line or len(case.datasets) > 1
    assert f"({kind}: " in line
    if kind in by_target:
        target = stage.targets[min(by_target[kind])]
        assert table_of(case).named(target) in line
    if plant in (itself, later, other_users, same_second):
        (rating,) = set(stage.visible[stage.visible != case.datasets[name].stage.visible].tolist())
        assert table_of(case).named(rating) in line


@given(plans(SPLITS.filter(lambda split: split.method in ("temporal", "leave_last", "global_time")), **PLAIN), SEEDS)
def test_roles_out_of_time_order_are_found(case, choice):
    """The plan is made with the swapped roles, so that the lists are consistent with them."""
    pairs = [(a, b) for a in range(len(case.roles)) for b in range(a) if case.roles[a] != case.roles[b]]
    assume(pairs)
    a, b = pairs[choice % len(pairs)]
    roles = put(put(case.roles, a, case.roles[b]), b, case.roles[a])
    expected = naive_split(table_of(case), roles, case.split)
    assume(expected)
    datasets = {
        name: changed(dataset, stage=make_stage(table_of(case), roles, case.split, name))
        for name, dataset in case.datasets.items()
    }
    with small_blocks():
        assert found(datasets, roles, case.split) == expected


@given(plans(**PLAIN), SEEDS, st.sampled_from(["timestamp", "user"]))
def test_a_table_out_of_order_is_found(case, choice, column):
    table = table_of(case)
    index = choice % len(table)
    value = int(table.timestamp[index]) + choice % 7 - 3 if column == "timestamp" else (table.user[index] + 1)
    changed_table = replace(table, **{column: put(getattr(table, column), index, value)})
    datasets = {name: changed(dataset, table=changed_table) for name, dataset in case.datasets.items()}
    leaks = found(datasets, case.roles, case.split)
    users = [user_ratings(table, u) for u in range(len(table.users))]
    time = changed_table.timestamp
    descends = sum(time[b] < time[a] for ratings in users for a, b in pairwise(ratings))
    assert leaks.get("table", 0) == (descends if column == "timestamp" else 1)


# Leaks in histories.


@dataclass(frozen=True)
class ChangedHistories:
    """Histories in which that of target t is replaced by `indices`."""

    original: Histories
    t: int
    indices: list[int]

    @property
    def drawn(self):
        return self.original.drawn

    def wanted(self, t):
        return self.original.wanted(t)

    def shown(self, t):
        return np.array(self.indices, dtype=np.int64) if t == self.t else self.original.shown(t)


WITH_HISTORY = tuple(name for name, ablation in ABLATIONS.items() if ablation.history)
SHOWING = {"ablations": WITH_HISTORY}

# For each leak: the least number of shown ratings, their replacement given a list of c ratings, and the kind.
IN_HISTORIES = {
    "a negative index": (1, lambda shown, c: [-1, *shown[1:]], "not_visible"),
    "an index after the end": (0, lambda shown, c: [*shown, c], "not_visible"),
    "reversed": (2, lambda shown, c: shown[::-1], "out_of_order"),
    "repeated": (1, lambda shown, c: np.repeat(shown, 2).tolist(), "out_of_order"),
}


@pytest.mark.parametrize("plant", IN_HISTORIES)
@settings(max_examples=4)
@given(st.data())
def test_a_leak_in_a_history_is_found_and_named(plant, data):
    least, change, kind = IN_HISTORIES[plant]
    strategies = STRATEGIES.filter(lambda strategy: strategy != NoHistory())
    case = data.draw(plans(strategy=strategies, rooms=(1000, 200), **SHOWING))
    name = data.draw(st.sampled_from(list(case.datasets)))
    histories, stage = case.datasets[name].histories, case.datasets[name].stage
    able = [t for t in range(len(stage)) if len(histories.shown(t)) >= least]
    assume(able)
    t = data.draw(st.sampled_from(able))
    wrong = ChangedHistories(histories, t, change(histories.shown(t).tolist(), int(stage.count[t])))
    dataset = changed(case.datasets[name], histories=wrong)
    expected = naive_shown(dataset)
    assert kind in expected
    with small_blocks():
        assert found({name: dataset}, case.roles, case.split) == expected
        with pytest.raises(UserError) as raised:
            audit({name: dataset}, case.roles, case.split)
    assert f"({kind}: " in str(raised.value)
    assert table_of(case).named(dataset.stage.targets[t]) in str(raised.value)


@given(plans(strategy=STRATEGIES, **SHOWING), st.data())
def test_targets_share_a_prefix_only_if_each_sees_complete_lines_that_it_may_see(case, data):
    dataset = case.datasets[data.draw(st.sampled_from(list(case.datasets)))]
    stage, template = dataset.stage, dataset.renderer.template
    a, b = (data.draw(st.integers(0, len(dataset) - 1)) for _ in range(2))
    indices = dataset.histories.shown(b)
    lines = stage.visible_to(b)[indices]
    prefixes = [template.pieces.tokens(template.prefix(stage.user[b], lines[:k]).pieces) for k in range(len(lines) + 1)]
    tokens = len(data.draw(st.sampled_from(prefixes))) + data.draw(st.sampled_from([0, 0, 0, 1]))
    complete = [k for k, prefix in enumerate(prefixes) if len(prefix) == tokens]
    right = bool(complete) and set(lines[: complete[0]].tolist()) <= set(stage.visible_to(a).tolist())
    if right and not complete[0]:
        right = np.array_equal(prefixes[0], template.pieces.tokens(template.prefix(stage.user[a], lines[:0]).pieces))
    prefix, seen = template.prefix(stage.user[b], lines), np.array([tokens, len(prefixes[-1])])
    assert dataset._are_prefixes(np.array([a, b]), indices, prefix, seen) == right


# Leaks in the tags above a target.


def with_context(dataset, context: Context):
    template = replace(dataset.renderer.template, context=context)
    return changed(dataset, renderer=replace(dataset.renderer, template=template))


@dataclass(frozen=True)
class AllTags(Context):
    """A context with leaks.

    any_time: show tags of any time.
    any_movie: show tags of the target movie too.
    """

    any_time: bool = False
    any_movie: bool = False

    def turns(self, table, target, most):
        tags = slice(self.owner_offsets[table.user[target]], self.owner_offsets[table.user[target] + 1])
        shown = (self.time[tags] < table.timestamp[target]) | self.any_time
        shown &= (self.movie[tags] != table.movie[target]) | self.any_movie
        return self.turn[tags][shown][-most:]


@given(plans(strategy=st.just(AllPrevious()), ablations=("history_and_context",)), st.booleans(), st.booleans())
def test_a_later_tag_or_one_of_the_target_movie_is_found(case, any_time, any_movie):
    for name, dataset in case.datasets.items():
        context = AllTags(**vars(dataset.renderer.template.context), any_time=any_time, any_movie=any_movie)
        dataset = with_context(dataset, context)
        expected = naive_tags(dataset)
        assert any_time or "later_tag" not in expected
        assert any_movie or "target_tag" not in expected
        assert found({name: dataset}, case.roles, case.split) == expected


@given(plans(ablations=("history_and_context",)), SEEDS, st.sampled_from(["time", "movie", "turn", "owner_offsets"]))
def test_a_tag_that_differs_from_the_tables_is_found(case, choice, column):
    dataset = next(iter(case.datasets.values()))
    context = dataset.renderer.template.context
    value = getattr(context, column)
    assume(len(context.turn) and (column != "turn" or len(context.texts) > 1))
    index = choice % len(value)
    new = (value[index] + 1) % len(context.texts) if column == "turn" else value[index] - 1
    wrong = replace(context, **{column: put(value, index, new)})
    dataset = with_context(dataset, wrong)
    with small_blocks():
        assert found({dataset.stage.name: dataset}, case.roles, case.split)["tags"] >= 1


# A run.


def test_a_leak_ends_a_run_before_anything_is_trained_or_written(tmp_path, monkeypatch):
    real = data_stage.make_stage

    def leaky(table, roles, split, name):
        stage = real(table, roles, split, name)
        return replace(stage, count=stage.count + (stage.count > 0)) if name == "train" else stage

    monkeypatch.setattr(data_stage, "make_stage", leaky)
    with pytest.raises(UserError, match=r"the train target \(user \d+, movie \d+\) sees the train rating .*itself"):
        train_here(composed(*FAST, f"output_dir={tmp_path / 'run'}"))
    assert not (tmp_path / "run").exists()
