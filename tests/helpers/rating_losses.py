"""Losses over the legal ratings of one target, written from their definitions."""

import torch

LOSSES = ("expected", "ordinal", "ce+expected")


def plain_rating_loss(
    kind: str, weight: float, log_probabilities: torch.Tensor, ratings: list[float], truth: int
) -> torch.Tensor:
    """Return the loss of one target.

    weight: of the second part of `ce+expected`.
    log_probabilities [scale]: of every legal answer, not normalised.
    ratings [scale]: in stars, ascending.
    truth: the index of the true rating.
    """
    masses = log_probabilities.double().exp()
    probabilities = list(masses / masses.sum())
    if kind == "ordinal":  # the area between the two cumulative distributions
        area, below = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for k in range(len(ratings) - 1):
            below = below + probabilities[k]
            area = area + (ratings[k + 1] - ratings[k]) * (below - float(truth <= k)).abs()
        return area
    expected = torch.stack([p * rating for p, rating in zip(probabilities, ratings, strict=True)]).sum()
    squared_error = (expected - ratings[truth]) ** 2
    return squared_error if kind == "expected" else weight * squared_error - log_probabilities[truth]
