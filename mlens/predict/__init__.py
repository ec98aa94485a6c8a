"""A trained model -> ratings of movies for users with their histories, in Python and as a command."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlens.predict.predictor import Predictor, Prompter

__all__ = ["Predictor", "Prompter"]


def __getattr__(name: str) -> Any:
    """What is asked for from here is imported then: it takes torch, which `--help` needn't."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mlens.predict import predictor

    return getattr(predictor, name)
