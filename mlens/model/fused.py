"""The loss without its logits: [labels, vocabulary] is by far the largest tensor of a row with many labels.

Liger's fused linear cross-entropy (Hsu et al., "Liger Kernel", 2024) makes them in pieces, forwards and backwards.
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

# Earlier ones give all labels the gradient of the first one's weight.
LEAST = "0.8.5"
# Models that do nothing between the output layer and the loss: no caps, no scaling.
PLAIN = (Qwen3ForCausalLM, Qwen3MoeForCausalLM)


def liger_is_here() -> bool:
    try:
        return Version(version("liger-kernel")) >= Version(LEAST)
    except PackageNotFoundError:
        return False


class LabelHead(torch.nn.Linear):
    """An output layer that gives labels' log-probabilities in the place of logits while it is asked for them: in its
    own forward pass, where ZeRO-3 has its weight gathered."""

    _asked: tuple[torch.Tensor, torch.Tensor] | None = None

    @contextmanager
    def asked(self, slot: torch.Tensor, label: torch.Tensor) -> Iterator[None]:
        """Inside, forward gives [m] float32: the log-probability of label[i] after hidden state slot[i]."""
        self._asked = slot, label
        try:
            yield
        finally:
            self._asked = None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self._asked is None:
            return super().forward(hidden)
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        slot, label = self._asked
        return -LigerFusedLinearCrossEntropyLoss(reduction="none")(self.weight, hidden.flatten(0, 1)[slot], label)


def fuse(model: PreTrainedModel) -> None:
    """Give the model a LabelHead with its output layer's own parameter, where nothing else stands behind that layer."""
    head = model.get_output_embeddings()
    if isinstance(model, PLAIN) and type(head) is torch.nn.Linear and head.bias is None:
        fused = LabelHead(head.in_features, head.out_features, bias=False, device="meta")
        fused.weight = head.weight
        model.set_output_embeddings(fused)


def label_head(model: Any) -> LabelHead | None:
    """The model's LabelHead; None where it has none, or an adapter around it."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return head if isinstance(head, LabelHead) else None
