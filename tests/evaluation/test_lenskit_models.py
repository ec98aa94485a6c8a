"""The baselines that LensKit fits: their predictions are those of LensKit's scorers."""

import warnings

import numpy as np
import pytest
import torch

from mlens.data.split import TRAIN, Split, assign_roles
from mlens.data.stage import make_stage
from mlens.evaluation import lenskit_models
from mlens.evaluation.baselines import WITHOUT_HISTORY, fit, measure_baselines, predictions
from mlens.evaluation.lenskit_models import (
    factor_predictions,
    fit_factors,
    fit_neighbours,
    lenskit_version,
    neighbour_predictions,
)
from tests.helpers.reference import make_table
from tests.helpers.shown_lists import last_visible, shown_to

pytest.importorskip("lenskit", reason="needs LensKit: pip install -e '.[lenskit]'")


def planted_factors(users=40, ratings=30, movies=50, seed=0):
    """Make a table whose ratings follow from two factors of users and movies."""
    random = np.random.default_rng(seed)
    user, movie = random.normal(size=(users, 2)), random.normal(size=(movies, 2))
    rows = []
    for u in range(users):
        chosen = random.permutation(movies)[:ratings]
        rating = np.clip(np.round(2 * (3.3 + movie[chosen] @ user[u])) / 2, 0.5, 5.0)
        rows.append([(int(m), float(r), time) for time, (m, r) in enumerate(zip(chosen, rating, strict=True))])
    return make_table(rows)


@pytest.fixture(scope="module")
def table():
    return planted_factors()


@pytest.fixture(scope="module")
def roles(table):
    """Assign roles such that two movies have no training ratings."""
    roles = assign_roles(table, Split("temporal", 0.2, 0.2))
    roles[np.isin(table.movie, [7, 11]) & (roles == TRAIN)] = 1
    return roles


@pytest.fixture(scope="module")
def queries(table, roles):
    """Return the test targets, and for each its last 1, 4, 12 or 100 visible ratings."""
    stage = make_stage(table, roles, Split("temporal"), "test")
    histories = [stage.visible_to(t).tolist()[-(1, 4, 12, 100)[t % 4] :] for t in range(len(stage))]
    return stage.targets.tolist(), histories


def trained(scorer, table, roles):
    """Train LensKit's scorer on the training ratings."""
    import pandas as pd
    from lenskit.data import from_interactions_df
    from lenskit.training import TrainingOptions

    training = roles == TRAIN
    columns = {"user_id": table.user, "item_id": table.movie, "rating": table.rating}
    frame = pd.DataFrame({name: column[training] for name, column in columns.items()})
    scorer.train(from_interactions_df(frame), TrainingOptions(rng=lenskit_models.SEED))
    return scorer


def lenskit_score(scorer, table, target, history):
    from lenskit.data import ItemList, RecQuery

    shown = ItemList(item_ids=table.movie[history], rating=table.rating[history])
    return float(scorer(RecQuery(history_items=shown), ItemList(item_ids=[table.movie[target]])).scores()[0])


def test_folding_in_a_user_gives_lenskits_predictions(table, roles, queries):
    from lenskit.als import BiasedMFScorer

    scorer = trained(
        BiasedMFScorer(
            embedding_size=lenskit_models.FACTORS,
            epochs=lenskit_models.EPOCHS,
            regularization=lenskit_models.FACTOR_REGULARISATION,
            damping=lenskit_models.BIAS_DAMPING,
        ),
        table,
        roles,
    )
    predicted = factor_predictions(fit_factors(table, roles == TRAIN), shown_to(table, *queries))
    compared = 0
    for value, target, history in zip(predicted, *queries, strict=True):
        if table.movie[target] not in (7, 11):
            assert value == pytest.approx(lenskit_score(scorer, table, target, history), abs=1e-4)
            compared += 1
    assert compared > 200 and any(set(table.movie[history]) & {7, 11} for history in queries[1])


@pytest.mark.parametrize("kept", [1000, 15])
def test_neighbours_give_lenskits_predictions(table, roles, queries, monkeypatch, kept):
    from lenskit.knn import ItemKNNScorer

    monkeypatch.setattr(lenskit_models, "MOST_PAIRS", kept * len(table.movies))
    monkeypatch.setattr(lenskit_models, "NEIGHBOURS", 6)
    monkeypatch.setattr(lenskit_models, "LEAST_NEIGHBOURS", 3)
    scorer = trained(ItemKNNScorer(max_nbrs=6, min_nbrs=3, save_nbrs=kept), table, roles)
    otherwise = np.full(len(queries[0]), -1.0)
    predicted = neighbour_predictions(fit_neighbours(table, roles == TRAIN), shown_to(table, *queries), otherwise)
    found = []
    for value, target, history in zip(predicted, *queries, strict=True):
        # LensKit's scorer panics on movies without training ratings.
        known = [i for i in history if table.movie[i] not in (7, 11)]
        if table.movie[target] in (7, 11):
            assert value == -1
        elif known:
            score = lenskit_score(scorer, table, target, known)
            assert value == pytest.approx(-1.0 if np.isnan(score) else score, abs=1e-4)
            found.append(not np.isnan(score))
    assert 0.2 < np.mean(found) < 1


def test_with_an_empty_history_the_prediction_is_the_movies_bias(table, roles):
    movies = [int(np.flatnonzero(table.movie == movie)[0]) for movie in (0, 7)]
    model = fit_factors(table, roles == TRAIN)
    predicted = factor_predictions(model, shown_to(table, movies, [[], []]))
    assert predicted == pytest.approx([model.overall + model.bias[0], model.overall])


def test_solving_in_batches_gives_the_same_predictions(table, roles, queries, monkeypatch):
    model, shown = fit_factors(table, roles == TRAIN), shown_to(table, *queries)
    at_once = factor_predictions(model, shown)
    monkeypatch.setattr(lenskit_models, "TARGETS_AT_ONCE", 7)
    assert factor_predictions(model, shown) == pytest.approx(at_once)


def test_planted_factors_are_found(table, roles):
    stage = make_stage(table, roles, Split("temporal"), "test")
    measured = measure_baselines(table, roles, {"test": last_visible(stage, 3)})["test"]
    for column in measured.values():
        assert list(column)[-2:] == ["factors", "item_knn"]
    full, strategy = (measured[column] for column in ("full_history", "own_history"))
    assert max(full[name]["rmse"] for name in ("factors", "item_knn")) < full["biases"]["rmse"] - 0.1
    assert full["factors"]["rmse"] < strategy["factors"]["rmse"]
    for name in WITHOUT_HISTORY:
        assert full[name] == strategy[name]


def test_fits_are_reproducible_and_leave_thread_settings_unchanged(table, roles, queries):
    torch.set_num_threads(1)
    sharing = torch.multiprocessing.get_sharing_strategy()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        first = predictions(fit(table, roles), shown_to(table, *queries))
    again = predictions(fit(table, roles), shown_to(table, *queries))
    assert all((first[name] == again[name]).all() for name in first)
    assert torch.get_num_threads() == 1 and torch.multiprocessing.get_sharing_strategy() == sharing


def test_fits_depend_on_training_ratings_alone(table, roles, queries):
    rating = np.array(table.rating)
    rating[roles != TRAIN] = 0.5
    other = make_table(
        [
            [(int(table.movie[i]), float(rating[i]), int(table.timestamp[i])) for i in np.flatnonzero(table.user == u)]
            for u in range(len(table.users))
        ]
    )
    shown = shown_to(table, *queries)
    first, again = (predictions(fit(of, roles), shown) for of in (table, other))
    assert all((first[name] == again[name]).all() for name in first)


def test_the_later_of_two_ratings_of_a_movie_is_used():
    rows = [[(0, 1.0, 0), (1, 2.0, 1), (0, 5.0, 2)], [(0, 4.0, 0), (1, 3.0, 1)], [(1, 1.0, 0), (0, 3.0, 1)]]
    trained = np.full(7, True)
    once = trained.copy()
    once[0] = False
    assert fit_neighbours(make_table(rows), trained).mean.tolist() == [4.0, 2.0]
    twice, single = (fit_factors(make_table(rows), of) for of in (trained, once))
    assert (twice.vectors == single.vectors).all() and twice.overall == pytest.approx(18 / 6)


def test_the_version_is_found():
    assert lenskit_version()[0].isdigit()
