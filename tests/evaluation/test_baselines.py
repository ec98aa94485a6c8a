"""Baselines: by hand, compared with loops, and independent of held-out ratings."""

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlens.data.split import TEST, TRAIN, VAL, Split, assign_roles
from mlens.data.stage import make_stage
from mlens.evaluation import baselines, lenskit_models
from mlens.evaluation.baselines import fit, measure_baselines, predictions
from mlens.evaluation.shown_ratings import full_history, shown_blocks, strategy_history
from mlens.history.fixed_count import FixedCount
from mlens.history.random import Random
from tests.helpers.cases import make_case
from tests.helpers.reference import dated, make_table, naive_visible, tables
from tests.helpers.shown_lists import FixedHistories, last_visible, shown_to

WITHOUT_LENSKIT = ["global_mean", "movie_mean", "user_mean_so_far", "biases", "recent_biases"]
# The constants of mlens/evaluation/biases.py.
DAMPING, MOVIE, USER, RECENT, RECENCY = 5, 4, 3, 1, 10

# User 0 is trained on; all of user 1 is test, with a movie that was never trained on.
BY_HAND = make_table([[(0, 5.0, 1), (1, 1.0, 2)], [(0, 4.0, 1), (1, 2.0, 2), (2, 3.5, 3)]])
ROLES = np.array([TRAIN, TRAIN, TEST, TEST, TEST])


@pytest.fixture(autouse=True)
def without_lenskit(monkeypatch):
    """Leave out LensKit's baselines, which have separate tests."""
    monkeypatch.setattr(baselines, "lenskit_version", lambda: None)


def test_predictions_by_hand():
    stage = make_stage(BY_HAND, ROLES, Split("temporal"), "test")
    (shown,) = shown_blocks(BY_HAND, stage, full_history(stage))
    predicted = predictions(fit(BY_HAND, ROLES), shown)
    assert list(predicted) == WITHOUT_LENSKIT
    # mu is 3, and user 0's bias 0: the movies' are 2/5 and -2/5, and 0 for the one without training ratings.
    assert predicted["global_mean"].tolist() == [3, 3, 3]
    assert predicted["movie_mean"] == pytest.approx([3 + 2 / 6, 3 - 2 / 6, 3])
    assert predicted["user_mean_so_far"] == pytest.approx([3, (15 + 4) / 6, (15 + 6) / 7])
    # User 1's history is empty, then has a rating 0.6 above mu and the movie's bias, then also one 0.6 below.
    assert predicted["biases"] == pytest.approx([3.4, 2.6 + 0.6 / 4, 3.0])
    older = math.exp(-1 / 10)
    assert predicted["recent_biases"] == pytest.approx([3.4, 2.6 + 0.6 / 2, 3 + 0.6 * (older - 1) / (older + 1 + 1)])


def test_errors_by_hand():
    stage = make_stage(BY_HAND, ROLES, Split("temporal"), "test")
    measured = measure_baselines(BY_HAND, ROLES, {"test": FixedHistories(stage, [[], [], [2]])})
    of_mean = measured["test"]["full_history"]["global_mean"]
    assert list(of_mean) == ["rmse", "mae", "level", "taste", "auc", "ndcg_10"]
    assert of_mean["rmse"] == pytest.approx(math.sqrt((1 + 1 + 0.25) / 3))
    assert of_mean["mae"] == pytest.approx(2.5 / 3)
    assert of_mean["auc"] == 0.5  # all predictions are tied
    assert measured["test"]["full_history"]["biases"]["mae"] == pytest.approx((0.6 + 0.75 + 0.5) / 3)
    # With that history: 3.4, 2.6 and 3.15 for 4, 2 and 3.5.
    assert measured["test"]["own_history"]["biases"]["mae"] == pytest.approx((0.6 + 0.6 + 0.35) / 3)
    assert measured["test"]["own_history"]["movie_mean"] == measured["test"]["full_history"]["movie_mean"]


def naive_movie_biases(table, trained):
    """Solve the normal equations of the ridge regression for movies and users at once; returns mu and {movie: bias}."""
    names = sorted({("m", table.movie[i]) for i in trained} | {("u", table.user[i]) for i in trained})
    mu = sum(float(table.rating[i]) for i in trained) / len(trained)
    left = np.diag([float(MOVIE if kind == "m" else USER) for kind, _ in names])
    right = np.zeros(len(names))
    for i in trained:
        pair = [names.index(("m", table.movie[i])), names.index(("u", table.user[i]))]
        for a in pair:
            right[a] += float(table.rating[i]) - mu
            for b in pair:
                left[a, b] += 1
    solved = np.linalg.solve(left, right)
    return mu, {name: value for (kind, name), value in zip(names, solved, strict=True) if kind == "m"}


@given(
    st.one_of(tables(), tables().map(dated)),
    st.sampled_from(["temporal", "random", "user"]),
    st.sampled_from(["order", "strict", "day"]),
    st.integers(0, 4),
)
def test_baselines_equal_loops(table, method, ties, count):
    split = Split(method, 0.2, 0.2, min_ratings=3, ties=ties)
    roles = assign_roles(table, split)
    trained = [i for i in range(len(table)) if roles[i] == TRAIN]
    if not trained:
        return
    mu, bias = naive_movie_biases(table, trained)
    fitted = fit(table, roles)
    for name, role in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        stage = make_stage(table, roles, split, name)
        # All visible ratings, or the last `count`.
        chosen = last_visible(stage, count) if count else None
        blocks = list(shown_blocks(table, stage, strategy_history(chosen) if chosen else full_history(stage)))
        assert sum(map(len, blocks)) == len(stage) == int((roles == role).sum())
        if not blocks:
            continue
        (predicted,) = [predictions(fitted, shown) for shown in blocks]
        for t, target in enumerate(stage.targets):
            seen = naive_visible(table, roles, target, ties=ties)
            if count:
                seen = seen[-count:]
            rest = [float(table.rating[i]) - mu - bias.get(table.movie[i], 0.0) for i in seen]
            weights = [math.exp(-(len(seen) - 1 - k) / RECENCY) for k in range(len(seen))]
            movie_bias = bias.get(table.movie[target], 0.0)
            of_movie = [float(table.rating[i]) for i in trained if table.movie[i] == table.movie[target]]
            of_user = [float(table.rating[i]) for i in seen]
            expected = {
                "global_mean": mu,
                "movie_mean": (sum(of_movie) + DAMPING * mu) / (len(of_movie) + DAMPING),
                "user_mean_so_far": (sum(of_user) + DAMPING * mu) / (len(of_user) + DAMPING),
                "biases": mu + movie_bias + sum(rest) / (len(rest) + USER),
                "recent_biases": mu
                + movie_bias
                + sum(w * r for w, r in zip(weights, rest, strict=True)) / (sum(weights) + RECENT),
            }
            for key, value in expected.items():
                assert predicted[key][t] == pytest.approx(min(max(value, 0.5), 5.0), abs=1e-4)


def test_predictions_are_clipped_to_the_scale():
    """A movie with high ratings and a user who rates above all others; and the reverse."""
    table = make_table([[(0, 5.0, 1), (1, 0.5, 2)]] * 10 + [[(1, 5.0, m) for m in range(9)], [(0, 0.5, 1)] * 9])
    roles = np.array([TRAIN] * 20 + [TEST] * 18)
    shown = shown_to(table, [0, 1], [list(range(20, 29)), list(range(29, 38))])
    predicted = predictions(fit(table, roles), shown)
    assert predicted["biases"].tolist() == predicted["recent_biases"].tolist() == [5.0, 0.5]


@given(tables(), st.sampled_from(["temporal", "random", "user"]), st.integers(0, 2**32 - 1))
def test_held_out_ratings_have_an_effect_only_through_visible_histories(table, method, seed):
    """Changing all held-out ratings that a target doesn't see, including its rating, doesn't change its predictions."""
    roles = assign_roles(table, Split(method, 0.2, 0.2, min_ratings=3))
    if not (roles == TRAIN).any():
        return
    held_out = np.flatnonzero(roles != TRAIN)
    rating = np.array(table.rating)
    rating[held_out] = np.random.default_rng(seed).choice(table.scale, len(held_out))
    other = replace(table, rating=rating)
    for name in ("val", "test"):
        stage = make_stage(table, roles, Split(method), name)
        for t in range(len(stage)):
            hidden = replace(table, rating=rating.copy())
            seen = stage.visible_to(t)
            hidden.rating[seen] = table.rating[seen]
            one = stage.keep(np.array([t]))
            (shown,), (expected,) = (list(shown_blocks(of, one, full_history(one))) for of in (table, hidden))
            predicted, again = predictions(fit(table, roles), shown), predictions(fit(hidden, roles), expected)
            for key in predicted:
                assert predicted[key].tolist() == again[key].tolist()
    stage = make_stage(table, roles, Split("temporal", eval_history="train"), "test")
    for shown, expected in zip(*(shown_blocks(t, stage, full_history(stage)) for t in (table, other)), strict=True):
        assert (shown.rating == expected.rating).all()


@pytest.mark.parametrize("strategy", [FixedCount(3), Random(0.5, "per_target")], ids=["fixed_count", "random"])
def test_strategy_history_is_that_of_the_dataset(strategy):
    rows = [[(m, 3.0 + m % 3, m) for m in range(n)] for n in (30, 20, 4)]
    case = make_case(make_table(rows), strategy, split=Split("temporal", 0.2, 0.3), room=60)
    dataset = case.datasets["test"]
    index, offsets = strategy_history(dataset)(slice(2, len(dataset)))
    for k, i in enumerate(range(2, len(dataset))):
        assert index[offsets[k] : offsets[k + 1]].tolist() == dataset.history(i).tolist()
    assert len(index) == offsets[-1] < dataset.stage.count[2:].sum()
    measured = measure_baselines(dataset.table, case.roles, {"test": dataset})["test"]
    assert measured["full_history"].keys() == measured["own_history"].keys()
    assert measured["full_history"]["biases"] != measured["own_history"]["biases"]
    # The mean over several draws, and each draw.
    mean = measure_baselines(dataset.table, case.roles, {"test": dataset}, draws=3)["test"]
    drawn = [measure_baselines(dataset.table, case.roles, {"test": dataset.with_epoch(n)})["test"] for n in range(3)]
    assert mean["full_history"] == measured["full_history"]
    for name, errors in mean["own_history"].items():
        for metric, value in errors.items():
            assert value == pytest.approx(sum(one["own_history"][name][metric] for one in drawn) / 3)
    assert (mean["own_history"] == measured["own_history"]) == (strategy == FixedCount(3))


def test_a_broken_lenskit_is_an_error(monkeypatch):
    """LensKit that is installed but can't be imported is not ignored."""
    monkeypatch.setattr(baselines, "lenskit_version", lambda: "1")
    monkeypatch.setitem(sys.modules, "lenskit.als", None)
    with pytest.raises(ImportError):
        fit(BY_HAND, ROLES)


def test_lenskit_is_absent_where_it_cannot_be_found(monkeypatch):
    monkeypatch.setattr(lenskit_models, "find_spec", lambda name: None)
    assert lenskit_models.lenskit_version() is None
