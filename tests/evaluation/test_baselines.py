"""Baselines against loops over targets: fitted on training ratings, given what each target may see."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import naive_visible, tables

from mlens.data.split import TEST, TRAIN, VAL, Split, assign_roles
from mlens.data.stage import make_stage
from mlens.evaluation.baselines import mean_predictions, measure_baselines

DAMPING = 5


@given(tables(), st.sampled_from(["temporal", "random"]), st.sampled_from(["order", "strict"]))
def test_means_equal_loops(table, method, ties):
    split = Split(method, 0.2, 0.2, min_ratings=3, ties=ties)
    roles = assign_roles(table, split)
    train = [float(table.rating[i]) for i in range(len(table)) if roles[i] == TRAIN]
    overall = sum(train) / len(train)
    for name, role in (("val", VAL), ("test", TEST)):
        stage = make_stage(table, roles, split, name)
        predicted = mean_predictions(table, roles, stage)
        assert set(predicted) == {"global_mean", "movie_mean", "user_mean_so_far"}
        for t, target in enumerate(stage.targets):
            assert roles[target] == role
            of_movie = [
                float(table.rating[i])
                for i in range(len(table))
                if roles[i] == TRAIN and table.movie[i] == table.movie[target]
            ]
            seen = [float(table.rating[i]) for i in naive_visible(table, roles, target, ties=ties)]
            assert predicted["global_mean"][t] == pytest.approx(overall)
            for key, ratings in (("movie_mean", of_movie), ("user_mean_so_far", seen)):
                damped = (sum(ratings) + DAMPING * overall) / (len(ratings) + DAMPING)
                assert predicted[key][t] == pytest.approx(damped)
        if len(stage):
            measured = measure_baselines(table, roles, stage)
            errors = [overall - float(table.rating[i]) for i in stage.targets]
            assert measured["global_mean"]["rmse"] == pytest.approx(math.sqrt(sum(e * e for e in errors) / len(errors)))
            assert measured["global_mean"]["mae"] == pytest.approx(sum(map(abs, errors)) / len(errors))
