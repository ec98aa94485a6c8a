"""Scoring of rows with a trained model on this process, without DeepSpeed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from mlens.engine.engine import check_on_all
from mlens.engine.ranks import Ranks
from mlens.model.attention.prefix_cache import CachedPrefix, reuse_prefix
from mlens.model.load import ParamPlacement, Trained, load_trained
from mlens.model.scores import explain_out_of_memory, prepare_row, row_scores
from mlens.packing.row import Row

REMEDY = (
    "lower packing.row_tokens (mlens predict takes it from the model's mlens.json, mlens evaluate as an override), "
    "or take a device with more memory"
)


@dataclass
class LocalScorer:
    """A complete model on this process.

    model: in evaluation form, on the device of `ranks`.
    ranks: this process's; every rank has the complete model.
    autocast: whether to compute in bfloat16.
    prefix: the last prefix that was computed, which the next row often begins with.
    """

    model: torch.nn.Module
    ranks: Ranks
    autocast: bool
    prefix: CachedPrefix | None = None

    def train(self, training: bool = True) -> None:
        self.model.train(training)

    @torch.no_grad()
    def score(self, row: Row) -> torch.Tensor:
        """The log-probabilities of the row's scores: [row.scores] float32, on the CPU."""
        with explain_out_of_memory(row, REMEDY):
            row, prefix = reuse_prefix(prepare_row(row, self.ranks.device), self.prefix)
            scores = row_scores(self.model, row, self.autocast).cpu()[: row.scores]
        self.prefix = prefix  # complete only now
        return scores


def load_local_scorer(
    trained: Trained,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    dtype: str,
    bf16_parameters: bool,
    base_digest: str | None,
    ranks: Ranks,
) -> LocalScorer:
    """Load the model that was exported to `folder`, complete on the device of each rank.

    trained: the settings that it was trained with.
    tokenizer: the exported one.
    dtype: what it computes in.
    bf16_parameters: whether its parameters are in bfloat16.
    base_digest: the digest of the model that an adapter was trained on.

    Raises UserError where the model can't be loaded, or its check fails on this machine.
    """
    placement = ParamPlacement(bf16_parameters, ranks.device.type)
    model: torch.nn.Module = load_trained(trained, folder, tokenizer, placement, base_digest)
    model, autocast = model.to(ranks.device), dtype == "bfloat16" and not bf16_parameters
    check_on_all(model, model, trained.prompt.max_tokens, autocast, ranks)
    return LocalScorer(model, ranks, autocast)
