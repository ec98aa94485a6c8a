"""The loss without logits, whose tensor [labels, vocabulary] is by far the largest of a row with many labels.

Liger's fused linear cross-entropy (Hsu et al., "Liger Kernel", 2024) computes them in chunks, forwards and backwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from packaging.version import Version
from transformers import Qwen3ForCausalLM, Qwen3MoeForCausalLM
from transformers.modeling_utils import PreTrainedModel

# Earlier versions give all labels the gradient of the first one's weight.
OLDEST = "0.8.5"
# Models without caps or scaling between the output layer and the loss.
SUPPORTED = (Qwen3ForCausalLM, Qwen3MoeForCausalLM)


def liger_is_installed() -> bool:
    try:
        return Version(version("liger-kernel")) >= Version(OLDEST)
    except PackageNotFoundError:
        return False


class LabelHead(torch.nn.Linear):
    """An output layer that returns log-probabilities of labels instead of logits inside `scoring`. They are computed in
    its forward pass, for which ZeRO-3 gathers its weight."""

    _labels: tuple[torch.Tensor, torch.Tensor] | None = None

    @contextmanager
    def scoring(self, slot: torch.Tensor, label: torch.Tensor) -> Iterator[None]:
        """Inside, forward returns [m] float32: the log-probability of label[i] given hidden state slot[i]."""
        self._labels = slot, label
        try:
            yield
        finally:
            self._labels = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self._labels is None:
            return super().forward(hidden)
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        slot, label = self._labels
        return -LigerFusedLinearCrossEntropyLoss(reduction="none")(self.weight, hidden.flatten(0, 1)[slot], label)


def fuse(model: PreTrainedModel) -> None:
    """Replace the model's output layer by a LabelHead with the same parameter, where the model supports it."""
    head = model.get_output_embeddings()
    if isinstance(model, SUPPORTED) and type(head) is torch.nn.Linear and head.bias is None:
        fused = LabelHead(head.in_features, head.out_features, bias=False, device="meta")
        fused.weight = head.weight
        model.set_output_embeddings(fused)


def label_head(model: Any) -> LabelHead | None:
    """The model's LabelHead; None where it has none, or where an adapter wraps it."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return head if isinstance(head, LabelHead) else None
