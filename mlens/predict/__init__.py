"""Predict users' ratings of movies with a trained model, from Python and from the command line."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlens.predict.predictor import Predictor, Prompter

__all__ = ["Predictor", "Prompter"]


def __getattr__(name: str) -> Any:
    """Import the classes on first use: they import torch, which `--help` doesn't need."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mlens.predict import predictor

    return getattr(predictor, name)
