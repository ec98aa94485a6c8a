"""The training loss of a row, from the log-probabilities of its scores."""

from __future__ import annotations

import torch

from mlens.packing.row import Row


def row_loss(scores: torch.Tensor, row: Row) -> torch.Tensor:
    """Return the loss of a row, a float32 scalar: summed over its label tokens in nats, or over its targets.

    scores: [row.scores], as `row_scores` returns them; of a row without scores a single 0, which is its loss.

    With a RatingLoss, p(r) is the softmax of a target's scores over the legal ratings r, as in evaluation, and y is its
    true rating. The losses of a target are
        expected: (sum_r p(r) r - y)^2, in squared stars (Lukasik et al., "Better autoregressive regression with LLMs
            via regression-aware fine-tuning", ICLR 2025);
        ordinal: sum_r p(r) |r - y|, in stars: the Wasserstein-1 distance of p and y, which is the area between their
            cumulative distributions (compare Zausinger et al., "Regress, don't guess: a regression-like loss on number
            tokens for language models", arXiv 2411.02083, 2024);
        ce+expected: -log P(y), of all tokens of the answer over the whole vocabulary in nats, plus `expected` times its
            weight.
    """
    if not row.scores:
        return scores.sum()
    loss = row.rating_loss
    if loss is None:
        return -(scores * row.weight).sum()
    scores = scores.view(len(loss.truth), len(loss.ratings))
    probability, true = scores.softmax(dim=1), loss.ratings[loss.truth]
    if loss.kind == "ordinal":
        return (probability * (loss.ratings - true[:, None]).abs()).sum()
    squared_error = (((probability * loss.ratings).sum(dim=1) - true) ** 2).sum()
    if loss.kind == "expected":
        return squared_error
    return loss.expected_weight * squared_error - scores.gather(1, loss.truth[:, None]).sum()
