"""The status of each rating, compared with lists made from the rules, over all settings of a run."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings

from mlens.data.split import STAGES, Split
from mlens.history.all_previous import AllPrevious
from mlens.history.by_similarity import BySimilarity
from mlens.history.fixed_count import FixedCount
from mlens.history.fixed_ratio import FixedRatio
from mlens.history.none import NoHistory
from mlens.history.random import Random
from mlens.history.recent_similar import RecentSimilar
from mlens.history.similar import Similar
from mlens.history.spread import Spread
from mlens.show.rating_status import CHOSEN, DROPPED, HIDDEN, NOT_CHOSEN, TARGET, count_kinds, rating_statuses
from tests.helpers.cases import cases, make_case
from tests.helpers.reference import make_table, naive_k, naive_visible, user_ratings


def naive_wanted(strategy, visible: list[int]) -> list[int] | None:
    """Return the ratings that a strategy without draws chooses from the visible ones, None for one with draws."""
    c = len(visible)
    if isinstance(strategy, AllPrevious):
        return visible
    if isinstance(strategy, NoHistory):
        return []
    if isinstance(strategy, FixedCount):
        return visible[max(0, c - strategy.count) // strategy.stride * strategy.stride :]
    if isinstance(strategy, FixedRatio):
        return visible[c - naive_k(strategy.ratio, c) :]
    return None


@given(case=cases())
@settings(max_examples=8)
def test_every_rating_of_the_user_has_the_right_status(case):
    for dataset in case.datasets.values():
        strategy = dataset.strategy if dataset.renderer.template.ablation.history else NoHistory()
        for i, target in enumerate(dataset.stage.targets.tolist()):
            table = dataset.table
            statuses = rating_statuses(dataset, case.roles, case.split, i)
            ratings = user_ratings(table, table.user[target])
            assert [status.rating for status in statuses] == ratings
            assert [status.t for status in statuses] == list(range(len(ratings)))
            assert [status.role for status in statuses] == [STAGES[case.roles[rating]] for rating in ratings]
            of = {kind: [status.rating for status in statuses if status.kind == kind] for kind in count_kinds(statuses)}
            assert [status.rating for status in statuses if status.kind == TARGET] == [target]
            assert of[CHOSEN] == dataset[i].history.tolist()
            lines = [status.line for status in statuses if status.kind == CHOSEN]
            newest_first = dataset.renderer.template.style.order == "newest_first"
            assert lines == list(range(1, 1 + len(of[CHOSEN])))[:: -1 if newest_first else 1]
            assert len(of[DROPPED]) == dataset[i].dropped
            visible = naive_visible(table, case.roles, target, case.split.eval_history, case.split.ties)
            assert sorted([*of[CHOSEN], *of[DROPPED], *of[NOT_CHOSEN]]) == visible
            assert all(status.reason for status in statuses if status.kind == HIDDEN)
            wanted = naive_wanted(strategy, visible)
            if wanted is not None:
                assert sorted([*of[CHOSEN], *of[DROPPED]]) == wanted
            elif isinstance(strategy, BySimilarity):
                assert len(of[CHOSEN]) + len(of[DROPPED]) == min(strategy.unfitted.most, len(visible))
                assert all(status.reason for status in statuses if status.kind in (CHOSEN, DROPPED))
            elif strategy.draw == "per_target":
                assert len(of[CHOSEN]) + len(of[DROPPED]) == naive_k(strategy.ratio, len(visible))


# t = 0 to 9, one rating per second except 6 and 7 in the same second; 6 and 7 are validation, 8 and 9 test ratings.
USER = [(m, 0.5 + m / 2, 100 + m - (m == 7)) for m in range(10)]
SPLIT = Split("temporal", val_ratio=0.2, test_ratio=0.2)


def kinds_and_reasons(strategy, stage, t, split=SPLIT, users=(USER,), **fields):
    """Return the kinds of the first user's ratings for the target at `t`, a letter each, and {t: reason}."""
    case = make_case(make_table([list(user) for user in users]), strategy, split=split, **fields)
    dataset = case.datasets[stage]
    i = dataset.stage.targets.tolist().index(t)
    letters = {TARGET: "T", CHOSEN: "c", DROPPED: "d", NOT_CHOSEN: "n", HIDDEN: "h"}
    statuses = rating_statuses(dataset, case.roles, split, i)
    return "".join(letters[status.kind] for status in statuses), {
        status.t: status.reason for status in statuses if status.reason
    }


LATER = "later"


@pytest.mark.parametrize(
    ("strategy", "stage", "t", "kinds"),
    [
        (AllPrevious(), "train", 4, "ccccThhhhh"),
        (AllPrevious(), "val", 7, "cccccccThh"),
        (AllPrevious(), "test", 9, "cccccccccT"),
        (NoHistory(), "test", 9, "nnnnnnnnnT"),
        (FixedCount(3), "test", 8, "nnnnncccTh"),
        (FixedRatio(0.5), "test", 9, "nnnnnccccT"),
        (FixedRatio(1.0), "train", 0, "Thhhhhhhhh"),
    ],
)
def test_each_strategy_where_everything_fits(strategy, stage, t, kinds):
    assert kinds_and_reasons(strategy, stage, t)[0] == kinds


def test_random_chooses_half_and_always_the_same():
    kinds, _ = kinds_and_reasons(Random(0.5, "per_target"), "test", 9)
    assert (
        Counter(kinds) == {"c": 4, "n": 5, "T": 1}
        and kinds_and_reasons(Random(0.5, "per_target"), "test", 9)[0] == kinds
    )


@pytest.mark.parametrize("trim", ["exact", "strided"])
def test_ratings_over_the_budget_are_dropped_from_the_start(trim):
    """A history line of these movies has at least 8 tokens."""
    roomy, _ = kinds_and_reasons(FixedCount(8), "test", 9, trim=trim)
    tight, _ = kinds_and_reasons(FixedCount(8), "test", 9, trim=trim, room=90)
    assert roomy == "nccccccccT"
    shown = tight.count("c")
    assert 0 < shown < 8 and tight == "n" + "d" * (8 - shown) + "c" * shown + "T"


def test_a_strided_window_drops_more_than_an_exact_one():
    exact, _ = kinds_and_reasons(AllPrevious(), "test", 9, trim="exact", room=90)
    strided, _ = kinds_and_reasons(AllPrevious(), "test", 9, trim="strided", room=90)
    assert exact.count("c") > strided.count("c") > 0


def test_a_random_history_over_the_budget_drops_the_end_of_its_draw():
    roomy, _ = kinds_and_reasons(Random(1.0, "per_target"), "test", 9)
    tight, _ = kinds_and_reasons(Random(1.0, "per_target"), "test", 9, room=90)
    assert roomy == "cccccccccT" and set(tight) == {"c", "d", "T"}
    # Not the oldest: with this seed and these ids an older one is kept while a newer one is dropped.
    assert "cd" in tight


def test_reasons_why_ratings_are_chosen():
    """Movie 9 is a comedy, as every third of these movies is."""
    kinds, reasons = kinds_and_reasons(Similar(3, "text"), "test", 9)
    assert kinds == "cnncnncnnT" and [reasons[t][:12] for t in (0, 3, 6)] == ["similarity 0"] * 3
    kinds, reasons = kinds_and_reasons(RecentSimilar(2, 1, "text"), "test", 9)
    assert kinds == "nnnnnncccT" and reasons[7] == reasons[8] == "one of the newest 2"
    reasons = kinds_and_reasons(Spread(2, 0.5, "text"), "test", 9)[1]
    assert sorted("chosen before" in reason for reason in reasons.values()) == [False, True]


def test_reasons_why_ratings_are_hidden():
    assert kinds_and_reasons(AllPrevious(), "train", 5)[1] == dict.fromkeys(range(6, 10), LATER)
    assert kinds_and_reasons(AllPrevious(), "val", 6)[1] == {
        7: "later in the same second, in the data's order",
        8: LATER,
        9: LATER,
    }
    strict = Split("temporal", val_ratio=0.2, test_ratio=0.2, ties="strict")
    kinds, reasons = kinds_and_reasons(AllPrevious(), "val", 7, strict)
    assert kinds == "cccccchThh" and reasons[6] == "the target's second (split.ties=strict)"
    # Seven hours between ratings: 0 to 3 are of one day, 4 to 6 of the next, 7 to 9 of the third.
    user = [(m, 3.0, 889_747_200 + 7 * 3600 * m) for m in range(10)]
    day = Split("temporal", val_ratio=0.2, test_ratio=0.2, ties="day")
    kinds, reasons = kinds_and_reasons(AllPrevious(), "val", 6, day, [user])
    assert kinds == "cccchhThhh" and reasons[5] == "the target's day (split.ties=day)" and reasons[7] == LATER


def test_the_reason_names_the_role_of_a_held_out_rating():
    train_only = Split("temporal", val_ratio=0.2, test_ratio=0.2, eval_history="train")
    kinds, reasons = kinds_and_reasons(AllPrevious(), "test", 9, train_only)
    assert kinds == "cccccchhhT"
    assert reasons[6] == "a val rating (split.eval_history=train)"
    assert reasons[8] == "a test rating (split.eval_history=train)"


def test_a_random_split_hides_held_out_ratings_between_training_ones():
    split = Split("random", val_ratio=0.2, test_ratio=0.2)
    case = make_case(make_table([USER]), AllPrevious(), split=split)
    dataset = case.datasets["train"]
    last = len(dataset) - 1
    statuses = rating_statuses(dataset, case.roles, split, last)
    target = int(dataset.stage.targets[last])
    between = [status for status in statuses if status.t < target and status.role != "train"]
    assert between, "this seed draws a held-out rating before the last training one"
    for status in between:
        assert (status.kind, status.reason) == (HIDDEN, f"held out as {status.role}")
    assert np.array_equal([f.rating for f in statuses if f.kind == CHOSEN], np.flatnonzero(case.roles[:target] == 0))
