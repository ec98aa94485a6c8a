"""Model cards of runs that never were."""

from __future__ import annotations

from mlens.data.terms import USER_DATA, Terms
from mlens.training.card import METRICS, model_card
from tests.helpers.runs import checked

BASELINE = {"full_history": {"global_mean": {"rmse": 1.0}}, "own_history": {"global_mean": {"rmse": 1.0}}}
TEST = {name: 0.1 * number for number, name in enumerate(METRICS, 1)} | {"targets": 9}


def make_card(*overrides: str, terms: Terms = USER_DATA, **test: float | None) -> str:
    """Make the card of a run with these overrides; test metrics are those of TEST or `test`."""
    summary = {
        "metrics": {"test": TEST | test},
        "baselines": {"test": BASELINE},
        "counts": {"ratings": 10, "movies": 3, "users": 2, "parameters": 5},
        "training": {"step": 1, "best_step": 1},
        "data_notes": [],
        "made_up_data": False,
        "fingerprint": "0" * 16,
        "versions": {},
        "overrides": list(overrides),
    }
    return model_card(checked(*overrides), terms, "none", 1, summary)
