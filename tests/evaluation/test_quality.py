"""Warnings about a model that has not learned."""

import numpy as np
import pytest

from mlens.evaluation.metrics import measure
from mlens.evaluation.quality import quality_warnings
from mlens.evaluation.score import Predictions

GOOD = {"illegal_mass": 0.001, "expected_std": 0.6, "rmse": 0.85}


@pytest.mark.parametrize(
    ("metrics", "warnings"),
    [
        (GOOD, []),
        (
            {"illegal_mass": 0.9914},
            [
                "the model has not learned the answer format: 99.1% of its probability is on other texts than ratings; "
                "its predictions mean little, unless it was trained with trainer.loss=expected or ordinal"
            ],
        ),
        (GOOD | {"illegal_mass": 0.9914}, []),  # trained with trainer.loss=expected
        (
            GOOD | {"expected_std": 0.002},
            ["the model predicts the same rating for everything: its predictions have a standard deviation of 0.0020"],
        ),
        (
            GOOD | {"rmse": 1.2},
            [
                "the model is worse than predicting the global mean (RMSE 1.2000 against 1.0400): it has learned "
                "nothing from the data; the best baseline, recent biases, has 0.8700"
            ],
        ),
        (dict.fromkeys(GOOD), []),  # null in summary.json
        ({}, []),
    ],
)
def test_each_warning(metrics, warnings):
    assert quality_warnings(metrics, 1.04, ("recent_biases", 0.87)) == warnings


def test_without_baselines_the_other_warnings_are_given():
    assert len(quality_warnings({"illegal_mass": 1.0, "expected_std": 0.0, "rmse": 9.0})) == 2


def test_expected_std_is_a_metric_and_is_nan_for_one_target():
    flat = Predictions(np.array([[0.2, 0.8], [0.2, 0.8]]), np.ones(2))
    measured = measure(flat, np.array([0, 1]), np.array([0, 0]), (1.0, 2.0))
    assert measured["expected_std"] == 0 and len(quality_warnings(measured)) == 1
    one = Predictions(flat.probability[:1], flat.legal[:1])
    assert quality_warnings(measure(one, np.array([0]), np.array([0]), (1.0, 2.0))) == []
