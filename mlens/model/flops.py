"""The floating-point operations of a model's passes over rows: the usual count of its matrix products.

A product of [a, b] and [b, c] counts 2·a·b·c; norms, activations and softmax don't count (Chowdhery et al., "PaLM",
2022, appendix B; Kaplan et al., "Scaling laws for neural language models", 2020). Doesn't import torch.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model that the cost of a pass depends on.

    layers: the number of layers.
    attention: the width of all query heads together.
    body: the weights of the matrices that every token passes through (in a mixture of experts, those of its active
        experts), adapters included.
    trained: how many of these are trained.
    head: the weights of the output layer, which only tokens with a label pass through.
    head_trained: whether the output layer is trained.
    row: the multiplications of matrix products that a row makes once, without gradients: those of DoRA's norms.
    """

    layers: int
    attention: int
    body: int
    trained: int
    head: int
    head_trained: bool = True
    row: int = 0


@dataclass(frozen=True)
class Passes:
    """The input of passes.

    tokens: how many tokens are read.
    pairs: how many pairs there are of a token and one that it sees, itself included.
    logits: of how many tokens logits are computed.
    rows: how many rows they are in.
    """

    tokens: float = 0.0
    pairs: float = 0.0
    logits: float = 0.0
    rows: float = 0.0

    def __add__(self, other: Passes) -> Passes:
        return Passes(
            self.tokens + other.tokens,
            self.pairs + other.pairs,
            self.logits + other.logits,
            self.rows + other.rows,
        )

    def times(self, factor: float) -> Passes:
        return Passes(self.tokens * factor, self.pairs * factor, self.logits * factor, self.rows * factor)


def forward_flops(sizes: Sizes, passes: Passes) -> float:
    """The operations of forward passes: 2 for each weight and token, and 4 · layers · width for each pair (its score,
    and its part of the result), and those that a row makes once.

    >>> sizes = Sizes(layers=2, attention=8, body=100, trained=100, head=50)
    >>> forward_flops(sizes, Passes(tokens=10, pairs=55, logits=3))
    5820.0
    """
    return (
        2.0 * sizes.body * passes.tokens
        + 4.0 * sizes.layers * sizes.attention * passes.pairs
        + 2.0 * sizes.head * passes.logits
        + 2.0 * sizes.row * passes.rows
    )


def training_flops(sizes: Sizes, passes: Passes, checkpointing: bool = False) -> float:
    """The operations of forward and backward passes.

    Each product has two gradients, each as expensive as the product; a frozen matrix has only the gradient of its
    input. With `checkpointing` the layers are computed once more: the most that hardware does (model FLOPs utilisation
    is counted without it).
    """
    forward = forward_flops(sizes, passes)
    frozen = 2.0 * (sizes.body - sizes.trained) * passes.tokens + 4.0 * sizes.row * passes.rows
    if not sizes.head_trained:
        frozen += 2.0 * sizes.head * passes.logits
    again = forward - 2.0 * sizes.head * passes.logits if checkpointing else 0.0
    return 3.0 * forward - frozen + again
