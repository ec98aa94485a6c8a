"""The forward pass of a row: the log-probabilities of its labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from mlens.errors import RunFailed
from mlens.model.attention.cpu_layout import with_cpu_layout
from mlens.model.attention.cuda_layout import with_cuda_layout
from mlens.model.fused import LabelHead
from mlens.packing.row import Row


def prepare_row(row: Row, device: torch.device) -> Row:
    """Return the row on `device`, with the layout that attention needs there."""
    if device.type != "cuda" or row.spans is None:
        return with_cpu_layout(row).to(device)
    row = with_cuda_layout(row).to(device)
    _ = row.layout.mask  # made here, since compiled layers can't make it
    return row


def row_scores(model: Callable[..., Any], row: Row, autocast: bool, head: LabelHead | None = None) -> torch.Tensor:
    """Compute the log-probabilities of a prepared row: [row.scores] float32, or a single 0 that depends on the
    parameters where the row has no scores.

    autocast: whether to compute in bfloat16.
    head: the model's LabelHead, to compute them without logits.
    """
    fused = head is not None and row.scores > 0
    scoring = head.scoring(row.slot, row.label) if head is not None and fused else nullcontext()
    layout = {} if row.layout is None else {"layout": row.layout}
    with torch.autocast(row.input_ids.device.type, dtype=torch.bfloat16, enabled=autocast), scoring:
        output = model(
            input_ids=row.input_ids,
            position_ids=row.position_ids,
            logits_to_keep=row.keep,
            use_cache=False,
            **layout,
        )
    if fused:
        return torch.zeros(row.scores, device=output.logits.device).index_add(0, row.owner, output.logits)
    logits = output.logits.float().flatten(0, 1)
    if row.scores == 0:
        return logits.sum()[None] * 0
    token = logits[row.slot, row.label] - logits.logsumexp(dim=-1)[row.slot]
    return torch.zeros(row.scores, device=logits.device).index_add(0, row.owner, token)


@contextmanager
def explain_out_of_memory(row: Row, remedy: str) -> Iterator[None]:
    """Turn running out of memory inside into a RunFailed that names the row's size and the remedy."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        out = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
        if not out:
            raise
        size = f"a row of {row.input_ids.shape[1]:,} tokens with {row.scores:,} answers"
        raise RunFailed(f"out of memory in {size}: {remedy}") from error
